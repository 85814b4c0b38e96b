"""Masks along one axis: whole tubes, whole slices, a beginning, cells that move."""

from math import prod

import pytest
import torch

from mae_ext.model.mask import from_scores, num_decoded
from mae_ext.model.mask_axis import CausalMasker, FrameMasker, RunningCellMasker, TubeMasker, whole_keep
from mae_ext.model.maskers import RandomMasker

GRIDS = [(2, 3), (5, 3, 7), (3, 2, 5, 4)]


def generator(seed):
    return torch.Generator().manual_seed(seed)


def kept_map(masker, grid, seed):
    """(*grid) bool."""
    mask = from_scores(masker.scores(grid, generator(seed))[None], masker.num_keep(grid))
    kept = torch.zeros(prod(grid), dtype=torch.bool)
    kept[mask.keep[0]] = True
    return kept.view(grid)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.75, 0.9, 0.999])
def test_a_tube_is_visible_throughout_or_nowhere(grid, axis, ratio):
    for seed in range(20):
        kept = kept_map(TubeMasker(ratio, axis), grid, seed)
        first = kept.select(axis, 0)
        assert torch.equal(kept, first.unsqueeze(axis).expand(grid) if axis >= 0 else first[..., None].expand(grid))
        tubes = prod(grid) // grid[axis]
        assert first.sum() == max(1, tubes - int(tubes * ratio + 1e-6))


def test_tubes_are_counted_as_videomae_does():
    """160 of 1568 tokens at .9 (int(.9 * 196) tubes hidden), where single tokens would be 156."""
    assert TubeMasker(0.9).num_keep((8, 14, 14)) == 160
    assert TubeMasker(0.75).num_keep((8, 14, 14)) == 49 * 8
    assert whole_keep(100, 0.8) == 20  # and not 19 by float error


def test_a_ratio_that_hides_no_whole_group_is_refused():
    for groups, ratio in ((1, 0.9), (8, 0.1)):
        with pytest.raises(ValueError, match=f"hides none of {groups}"):
            whole_keep(groups, ratio)
    assert whole_keep(8, 0.0) == 8


def test_every_tube_is_hidden_alike():
    hidden = sum((~kept_map(TubeMasker(0.75), (2, 4, 5), seed))[0].float() for seed in range(1000)) / 1000
    assert ((hidden - 0.75).abs() < 0.06).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.875])
def test_a_slice_is_visible_as_a_whole_or_hidden_as_a_whole(axis, ratio):
    grid, seen = (8, 6, 7), set()
    for seed in range(60):
        kept = kept_map(FrameMasker(ratio, axis), grid, seed).movedim(axis, 0).flatten(1)
        assert ((kept.all(1)) | (~kept.any(1))).all()
        assert kept.any(1).sum() == grid[axis] - int(grid[axis] * ratio + 1e-6)
        seen.add(tuple(kept.any(1).tolist()))
    assert len(seen) > 5


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.8])
def test_nothing_visible_comes_after_something_hidden(grid, axis, ratio):
    for seed in range(20):
        kept = kept_map(CausalMasker(ratio, axis), grid, seed).movedim(axis, 0).flatten(1)
        share = kept.float().mean(1)
        assert (share.diff() <= 0).all()
        assert ((share > 0) & (share < 1)).sum() <= 1


def test_a_long_axis_does_not_blur_the_border():
    kept = kept_map(CausalMasker(0.5), (4096, 3), 0)
    assert kept[:2048].all() and not kept[2048:].any()


@pytest.mark.parametrize(
    ("grid", "axis"), [((8, 4, 6), 0), ((4, 8, 6), 1), ((4, 6, 8), -1), ((8, 6), 0), ((4, 2, 4, 6), 0)]
)
def test_running_cells_ask_for_half_of_every_cell_and_move_on_with_every_slice(grid, axis):
    for seed in range(20):
        kept = kept_map(RunningCellMasker(0.5, axis), grid, seed).movedim(axis, 0)
        steps, *plane = kept.shape
        cells = kept
        for i in range(len(plane)):
            cells = cells.unflatten(1 + 2 * i, (plane[i] // 2, 2))
        order = [0, *(1 + 2 * i for i in range(len(plane))), *(2 + 2 * i for i in range(len(plane)))]
        cells = cells.permute(order).reshape(steps, -1, 2 ** len(plane))
        assert (cells.sum(-1) == 2 ** len(plane) // 2).all()
        assert (cells == cells[:, :1]).all()  # the same in all cells of a slice
        pattern = cells[:, 0]
        assert all(torch.equal(pattern[t + 1], pattern[t].roll(1)) for t in range(steps - 1))
        # Within one round every place is asked for equally often.
        counts = pattern[: 2 ** len(plane)].sum(0)
        assert len(pattern) < 2 ** len(plane) or (counts == counts[0]).all()


def test_running_cells_begin_at_every_phase():
    phases = {tuple(kept_map(RunningCellMasker(), (4, 4, 4), seed)[0, :2, :2].flatten().tolist()) for seed in range(60)}
    assert len(phases) == 4


def test_running_cells_choose_what_is_decoded_of_what_any_masker_hid():
    grid, decode = (8, 14, 14), RunningCellMasker(0.5)
    for masker in (TubeMasker(0.9), RandomMasker(0.9)):
        scores, chances = masker.scores(grid, generator(1)), decode.scores(grid, generator(2))
        mask = from_scores(scores[None], masker.num_keep(grid), chances[None], num_decoded(masker, decode, grid))
        hidden = 1568 - masker.num_keep(grid)
        assert mask.pred.shape[1] == hidden // 2
        per_slice = torch.bincount(mask.pred[0] // 196, minlength=8)
        assert per_slice.max() - per_slice.min() < 0.15 * hidden / 16  # as much of every slice, nearly


@pytest.mark.parametrize("kind", [TubeMasker, FrameMasker, CausalMasker, RunningCellMasker])
def test_an_axis_that_is_not_there_and_a_ratio_outside_are_refused(kind):
    for axis in (3, -4):
        with pytest.raises(ValueError, match=f"axis={axis} does not exist"):
            kind(axis=axis).num_keep((2, 3, 4))
    for ratio in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"is not in \[0, 1\)"):
            kind(ratio=ratio).num_keep((2, 3, 4))


GRID = (4, 3, 5)


@pytest.mark.parametrize(
    ("masker", "decode", "groups", "size"),
    [
        (TubeMasker(0.6, 0), TubeMasker(0.5, 0), 9, 4),  # 9 hidden tubes of 4: half of an odd number
        (FrameMasker(0.75, 0), FrameMasker(0.5, 0), 3, 15),
        (TubeMasker(0.6, 0), FrameMasker(0.4, 0), 4, 9),  # of each of 4 frames the 9 hidden tokens
        (FrameMasker(0.75, 0), TubeMasker(0.4, 0), 15, 3),
        (TubeMasker(0.6, -1), TubeMasker(0.5, 2), 8, 5),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_decoder_that_answers_groups_answers_whole_ones_of_what_is_hidden(masker, decode, groups, size, seed):
    count = num_decoded(masker, decode, GRID)
    assert count == whole_keep(groups, decode.ratio) * size
    scores, chances = masker.scores(GRID, generator(seed)), decode.scores(GRID, generator(seed + 50))
    mask = from_scores(scores[None], masker.num_keep(GRID), chances[None], decoded=count)
    assert mask.pred.shape[1] == count
    answered = decode.groups(GRID).flatten()[mask.pred[0]].bincount()
    assert set(answered[answered > 0].tolist()) == {size}


@pytest.mark.parametrize("masker", [RandomMasker(0.75), TubeMasker(0.6, 1), CausalMasker(0.5)])
def test_a_decoder_of_groups_is_refused_where_the_mask_hides_no_such_groups(masker):
    with pytest.raises(ValueError, match="it answers whole groups of tokens along axis 0"):
        num_decoded(masker, TubeMasker(0.5, 0), GRID)


def test_a_decoder_of_single_tokens_answers_as_many_as_ever():
    assert num_decoded(TubeMasker(0.6), RunningCellMasker(0.5), GRID) == 18
    assert num_decoded(RandomMasker(0.75), RandomMasker(0.5), GRID) == 22
