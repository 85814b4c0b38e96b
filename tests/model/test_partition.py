"""Several masks of one sample hide every place equally often, exactly, whatever the numbers."""

from collections import Counter

import pytest
import torch

from mae_ext.model.mask_axis import FrameMasker
from mae_ext.model.maskers import RandomMasker
from mae_ext.model.partition import fitting, partitions, shown, units_of
from mae_ext.rng import rng


@pytest.mark.parametrize("ratio", [0.5, 0.6, 0.75, 0.9])
@pytest.mark.parametrize(("grid", "masks"), [((6, 6), 4), ((3, 4, 3), 16), ((5, 7), 3), ((2, 2), 16)])
def test_each_token_is_seen_by_equally_many_masks_and_predicted_by_all_others(grid, masks, ratio):
    units = torch.arange(torch.Size(grid).numel()).view(grid)
    show = shown(masks, ratio, units.numel())
    drawn = partitions(units, masks, show, rng(0, "test"))
    assert len(drawn) == masks
    for mask in drawn:
        assert sorted(mask.keep[0].tolist() + mask.pred[0].tolist()) == list(range(units.numel()))
        assert mask.keep[0].tolist() == sorted(set(mask.keep[0].tolist())) and len(mask.pred[0])
    seen = Counter(token for mask in drawn for token in mask.keep[0].tolist())
    assert set(seen.values()) == {show} and len(seen) == units.numel()
    counts = {mask.keep.shape[1] for mask in drawn}
    assert max(counts) - min(counts) <= 1


def test_masks_are_a_function_of_their_key_and_differ_between_rounds():
    units = torch.arange(64).view(8, 8)
    one, again, other = (partitions(units, 16, 4, rng(0, "test", key)) for key in (1, 1, 2))
    assert all(torch.equal(a.keep, b.keep) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a.keep, b.keep) for a, b in zip(one, other, strict=True))
    assert len({tuple(mask.keep[0].tolist()) for mask in one}) == 16


def test_what_moves_is_hidden_in_tubes_and_what_a_run_hides_whole_stays_whole():
    tubes = units_of(RandomMasker(), (3, 2, 2), moves=True)
    for mask in partitions(tubes, 4, 1, rng(0, "test")):
        assert [token - mask.keep[0, 0].item() for token in mask.keep[0].tolist()] == [0, 4, 8]
    frames = units_of(FrameMasker(), (4, 2, 2), moves=True)
    assert frames.flatten().tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert units_of(RandomMasker(), (2, 3), moves=False).flatten().tolist() == list(range(6))


@pytest.mark.parametrize(
    ("ratio", "masks", "show"), [(0.75, 4, 1), (0.9, 10, 1), (0.5, 2, 1), (0.6, 5, 2), (0.25, 4, 3)]
)
def test_the_fewest_masks_that_hide_the_share_of_a_run_are_taken(ratio, masks, show):
    assert fitting(ratio, 100) == masks and shown(masks, ratio, 100) == show


@pytest.mark.parametrize(("masks", "units"), [(1, 10), (4, 1)])
def test_what_cannot_hide_each_place_and_show_another_is_refused(masks, units):
    with pytest.raises(ValueError, match=f"{masks} masks of {units} places"):
        shown(masks, 0.75, units)
