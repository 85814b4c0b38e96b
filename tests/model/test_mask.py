"""Masks: exact in count, disjoint, ascending, reproducible, for every masker and any number of axes."""

from dataclasses import dataclass
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ext.model.mask import Mask, draw_mask, from_scores, num_keep
from mae_ext.model.maskers import BlockMasker, ForegroundMasker, GridMasker, RandomMasker
from mae_ext.plugins import maskers
from mae_ext.rng import rng

GRIDS = [(53,), (11, 13), (3, 7, 5), (2, 5, 3, 7)]
RATIOS = {"block": 0.6}
WHOLE = {"tube", "frame"}  # round to whole groups of tokens, and have tests of their own for it
FEW = {"grid": 2, "frame": 1, "running_cell": 1, "causal": 0}  # have few masks to choose from, or one, on a small grid
SEEDS = range(200)
BUILTINS = sorted(maskers.builtins)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def hidden_map(masker, grid, seed):
    """(*grid) bool."""
    mask = from_scores(masker.scores(grid, generator(seed))[None], masker.num_keep(grid))
    hidden = torch.zeros(prod(grid), dtype=torch.bool)
    hidden[mask.pred[0]] = True
    return hidden.view(grid)


def bounding_box(hidden):
    return [(int(axis.min()), int(axis.max()) + 1) for axis in hidden.nonzero().unbind(1)]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", BUILTINS)
def test_every_builtin_is_exact_disjoint_ascending_and_reproducible(name, grid):
    ratio = RATIOS.get(name, 0.75)
    masker = maskers.build(name, {"ratio": ratio})
    if name == "tube" and len(grid) == 1:
        pytest.skip("the only tube is the whole grid")
    keep, total = masker.num_keep(grid), prod(grid)
    assert 0 < keep < total
    assert keep == num_keep(total, ratio) or name in WHOLE
    scores = torch.stack([masker.scores(grid, generator(seed)) for seed in SEEDS])
    mask = from_scores(scores, keep)
    assert scores.shape == (200, *grid) and scores.dtype == torch.float32
    assert mask.keep.shape == (200, keep) and mask.pred.shape == (200, total - keep)
    assert mask.keep.dtype == mask.pred.dtype == torch.int64
    assert (mask.keep.diff(dim=1) > 0).all() and (mask.pred.diff(dim=1) > 0).all()
    everything = torch.cat([mask.keep, mask.pred], 1).sort(1).values
    assert torch.equal(everything, torch.arange(total).expand(200, -1))
    assert torch.equal(mask.hidden(), mask.pred)
    again = torch.stack([masker.scores(grid, generator(seed)) for seed in reversed(SEEDS)]).flip(0)
    assert torch.equal(scores, again)
    assert len({tuple(row) for row in mask.keep.tolist()}) > FEW.get(name, 4)


@pytest.mark.parametrize("name", BUILTINS)
def test_drawing_a_mask_uses_the_given_generator_alone(name):
    torch.manual_seed(1)
    first = maskers.build(name, {}).scores((5, 7), generator(3))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    torch.rand(3)
    assert torch.equal(first, maskers.build(name, {}).scores((5, 7), generator(3)))
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", BUILTINS)
def test_a_row_of_a_batch_is_the_mask_drawn_alone(name):
    masker = maskers.build(name, {"ratio": 0.6})
    scores = torch.stack([masker.scores((5, 7), generator(seed)) for seed in range(6)])
    batch, alone = from_scores(scores, 14), from_scores(scores[3:4], 14)
    assert torch.equal(batch.keep[3:4], alone.keep) and torch.equal(batch.pred[3:4], alone.pred)


@pytest.mark.parametrize(
    ("tokens", "ratio", "keep"),
    [(196, 0.75, 49), (196, 0.9, 19), (100, 0.8, 20), (1568, 0.9, 156), (10, 0.9, 1), (7, 0.0, 7), (216, 0.125, 189)],
)
def test_counts_are_floors_that_float_error_does_not_move(tokens, ratio, keep):
    """int(100 * (1 - .8)) is 19, and L - int(L * r) is 20 for L = 196, r = .9: published code disagrees with itself."""
    assert num_keep(tokens, ratio) == keep


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(1, 10_000), st.integers(0, 99))
def test_a_ratio_in_percent_gives_the_exact_floor(tokens, percent):
    exact = tokens * (100 - percent) // 100
    if exact == 0:
        with pytest.raises(ValueError, match="keeps none of"):
            num_keep(tokens, percent / 100)
    else:
        assert num_keep(tokens, percent / 100) == exact


@pytest.mark.parametrize("ratio", [1.0, 1.5, -0.01, float("nan"), float("inf")])
def test_a_ratio_outside_its_range_is_refused(ratio):
    with pytest.raises(ValueError, match=r"is not in \[0, 1\)"):
        num_keep(100, ratio)


def test_a_ratio_that_keeps_nothing_is_answered_with_one_that_keeps_something():
    for tokens in (3, 20, 196, 1568, 3136):
        with pytest.raises(ValueError, match=f"keeps none of {tokens} tokens; it may be at most") as info:
            num_keep(tokens, 0.99999)
        assert num_keep(tokens, float(str(info.value).split()[-1])) == 1


def test_the_lowest_scores_stay_visible_and_ties_go_to_the_lower_token():
    mask = from_scores(torch.tensor([[[0.5, 0.1, 0.9], [0.1, 0.5, 0.5]]]), 3)
    assert mask.keep.tolist() == [[0, 1, 3]] and mask.pred.tolist() == [[2, 4, 5]] and mask.grid == (2, 3)
    assert from_scores(torch.zeros(1, 50), 10).keep.tolist() == [list(range(10))]


def test_a_row_of_a_mask_is_a_function_of_its_own_generators_and_of_what_counts_in_its_sample():
    masker, decode, grid = ForegroundMasker(0.5, body_ratio=1.0), RandomMasker(0.5), (4, 4)
    left = torch.arange(16).view(4, 4) % 4 < 2
    whole = draw_mask(
        masker, decode, grid, [generator(s) for s in (1, 2)], [left.float(), None], [generator(s) for s in (3, 4)]
    )
    assert whole.keep[0].tolist() == (~left).flatten().nonzero()[:, 0].tolist()  # all of the body is hidden
    for row, valid in enumerate((left.float(), None)):
        alone = draw_mask(masker, decode, grid, [generator(1 + row)], [valid], [generator(3 + row)])
        assert torch.equal(alone.keep[0], whole.keep[row]) and torch.equal(alone.pred[0], whole.pred[row])
    assert whole.pred.shape == (2, 4) and set(whole.pred[0].tolist()) < set(whole.hidden()[0].tolist())


def test_a_decode_masker_without_generators_of_its_own_draws_after_the_other():
    masker, decode, one = RandomMasker(0.5), RandomMasker(0.5), generator(7)
    mask = draw_mask(masker, decode, (4, 5), [generator(7)])
    scores, chances = masker.scores((4, 5), one), decode.scores((4, 5), one)
    expected = from_scores(scores[None], 10, chances[None], 5)
    assert torch.equal(mask.keep, expected.keep) and torch.equal(mask.pred, expected.pred)
    assert torch.equal(draw_mask(masker, None, (4, 5), [generator(7)]).pred, mask.hidden())


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.9])
def test_decoder_masking_asks_for_an_exact_part_of_the_hidden_tokens(grid, ratio):
    keep, total = num_keep(prod(grid), 0.75), prod(grid)
    scores, decode = torch.rand(50, *grid, generator=generator(0)), torch.rand(50, *grid, generator=generator(1))
    whole, mask = from_scores(scores, keep), from_scores(scores, keep, decode, num_keep(total - keep, ratio))
    assert torch.equal(mask.keep, whole.keep)
    assert mask.pred.shape == (50, num_keep(total - keep, ratio))
    assert (mask.pred.diff(dim=1) > 0).all()
    assert torch.equal(mask.hidden(), whole.pred)
    for asked, hidden, chances in zip(mask.pred, whole.pred, decode.flatten(1), strict=True):
        assert set(asked.tolist()) <= set(hidden.tolist())
        others = sorted(set(hidden.tolist()) - set(asked.tolist()))
        assert not others or chances[asked].max() < chances[others].min()


def test_moving_a_mask_moves_both_parts_and_keeps_the_grid():
    mask = Mask(torch.tensor([[0, 2]]), torch.tensor([[1, 3]]), (2, 2))
    moved = mask.each(lambda t: t + 10)
    assert moved.keep.tolist() == [[10, 12]] and moved.pred.tolist() == [[11, 13]] and moved.grid == (2, 2)


def test_random_hides_every_token_alike():
    counts = sum(hidden_map(RandomMasker(0.75), (4, 5), seed).float() for seed in range(1000))
    # 1000 draws: the standard error of a frequency is 0.014.
    assert ((counts / 1000 - 0.75).abs() < 0.06).all()


@pytest.mark.parametrize(
    ("grid", "share"),
    [
        ((12,), 1 / 4),
        ((8, 8), 1 / 4),
        ((6, 10), 1 / 4),
        ((8, 8, 8), 1 / 8),
        ((4, 8, 12), 1 / 8),
        ((4, 4, 6, 8), 1 / 16),
    ],
    ids=str,
)
def test_one_block_is_one_full_box_of_the_share_asked_for(grid, share):
    masker = BlockMasker(ratio=share, min_share=share, max_share=share, aspect=1)
    places = set()
    for seed in range(50):
        box = bounding_box(hidden_map(masker, grid, seed))
        # As many hidden tokens as the box around them has: it is full.
        assert [b - a for a, b in box] == [round(g * share ** (1 / len(grid))) for g in grid]
        places.add(tuple(box))
    assert len(places) > 4
    starts = [[place[axis][0] for place in places] for axis in range(len(grid))]
    assert all(
        min(s) == 0 and max(s) == g - round(g * share ** (1 / len(grid))) for s, g in zip(starts, grid, strict=True)
    )


def test_blocks_have_different_shapes_and_stretch_at_most_as_far_as_allowed():
    masker = BlockMasker(ratio=0.2, min_share=0.2, max_share=0.2, aspect=3)
    shapes = set()
    for seed in range(200):
        height, width = (b - a for a, b in bounding_box(hidden_map(masker, (30, 30), seed)))
        shapes.add((height, width))
        assert 1 / 3.4 < height / width < 3.4  # 3, and the rounding of edges
    assert len(shapes) > 10 and any(h > 1.8 * w for h, w in shapes) and any(w > 1.8 * h for h, w in shapes)


@pytest.mark.parametrize("grid", [(64,), (14, 14), (8, 8, 8), (5, 6, 7, 6)], ids=str)
def test_neighbours_share_their_fate_in_blocks_and_not_at_random(grid):
    def agreement(masker):
        shares = []
        for seed in range(30):
            hidden = hidden_map(masker, grid, seed)
            for axis, extent in enumerate(grid):
                shares.append((hidden.narrow(axis, 0, extent - 1) == hidden.narrow(axis, 1, extent - 1)).float().mean())
        return torch.stack(shares).mean()

    assert agreement(RandomMasker(0.5)) < 0.55
    assert agreement(BlockMasker(0.5)) > 0.65


@pytest.mark.parametrize("ratio", [0.01, 0.5, 0.98])
def test_blocks_reach_extreme_ratios_exactly(ratio):
    masker = BlockMasker(ratio)
    assert hidden_map(masker, (10, 10), 0).sum() == 100 - masker.num_keep((10, 10))


@pytest.mark.parametrize(
    "arguments",
    [
        {"min_share": 0},
        {"min_share": 0.5},
        {"max_share": 1.1},
        {"aspect": 0.9},
        {"aspect": float("nan")},
        {"min_share": float("nan")},
    ],
    ids=str,
)
def test_blocks_that_cannot_be_are_refused(arguments):
    with pytest.raises(ValueError, match="block"):
        BlockMasker(**arguments)


@pytest.mark.parametrize("grid", [(14, 14), (8, 12), (6, 4)], ids=str)
def test_grid_keeps_exactly_one_corner_of_every_cell_and_the_same_in_all(grid):
    corners = set()
    for seed in range(40):
        kept = ~hidden_map(GridMasker(0.75), grid, seed)
        cells = kept.view(grid[0] // 2, 2, grid[1] // 2, 2).permute(0, 2, 1, 3).reshape(-1, 4)
        assert (cells.sum(1) == 1).all() and (cells == cells[0]).all()
        corners.add(int(cells[0].int().argmax()))
    assert corners == {0, 1, 2, 3}


def test_grid_does_the_same_along_one_axis_and_in_a_volume():
    kept = ~hidden_map(GridMasker(0.75), (20,), 0)
    assert (kept.view(5, 4).sum(1) == 1).all()
    kept = ~hidden_map(GridMasker(0.875), (4, 6, 8), 0)
    assert (kept.view(2, 2, 3, 2, 4, 2).sum((1, 3, 5)) == 1).all()


def test_a_masker_of_a_third_party_needs_scores_and_a_count_only():
    @dataclass(frozen=True)
    class Left:
        ratio: float = 0.5

        def num_keep(self, grid):
            return num_keep(prod(grid), self.ratio)

        def scores(self, grid, generator, valid=None):
            return torch.arange(grid[-1]).expand(grid).float()

    assert not hidden_map(Left(), (3, 4), 0)[:, :2].any()


@pytest.mark.parametrize("grid", [(40,), (5, 8), (2, 4, 5)])
def test_of_the_block_that_overshoots_chance_decides_what_is_hidden(grid):
    """One block is the whole grid, of which half is hidden: every token as often as any other."""
    masker = BlockMasker(ratio=0.5, min_share=1.0, max_share=1.0, aspect=1.0)
    hidden = torch.stack([masker.scores(grid, rng(0, "block", i)).flatten() >= 1 for i in range(400)])
    assert (hidden.sum(1) == 20).all()
    often = hidden.float().mean(0)
    assert often.min() > 0.38 and often.max() < 0.62  # five standard deviations
