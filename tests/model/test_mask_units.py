"""Units of several tokens are hidden, kept and answered whole, in exact counts, by every masker."""

import pytest
import torch

from mae_ext.config import load_config, parse_config
from mae_ext.errors import ConfigError
from mae_ext.model.mask import draw_mask, num_decoded
from mae_ext.model.maskers import BlockMasker, ForegroundMasker, RandomMasker
from mae_ext.plugins import maskers
from mae_ext.rng import rng

GRID, UNIT, UNITS = (4, 6, 8), [1, 2, 4], (4, 3, 2)


def hidden_of(mask):
    """(B, *grid) bool."""
    hidden = torch.zeros(len(mask.keep), torch.Size(mask.grid).numel())
    return hidden.scatter(1, mask.hidden(), 1).bool().view(-1, *mask.grid)


def by_unit(values, unit=UNIT):
    """(B, *grid) -> (B, units, tokens of one)."""
    a, b, c = unit
    _, d, h, w = values.shape
    split = values.view(-1, d // a, a, h // b, b, w // c, c)
    return split.permute(0, 1, 3, 5, 2, 4, 6).reshape(len(values), -1, a * b * c)


@pytest.mark.parametrize("name", sorted(maskers.builtins))
def test_every_masker_hides_units_whole_as_many_as_it_hides_tokens_of_a_grid_of_units(name):
    coarse = maskers.build(name, {"ratio": 0.5, "unit": UNIT})
    plain = maskers.build(name, {"ratio": 0.5})
    assert coarse.num_keep(GRID) == 8 * plain.num_keep(UNITS)
    mask = draw_mask(coarse, None, GRID, [rng(0, "mask", slot) for slot in range(50)])
    units = by_unit(hidden_of(mask))
    assert (units.all(-1) == units.any(-1)).all() and (units.all(-1).sum(1) == 24 - plain.num_keep(UNITS)).all()
    assert name == "causal" or len({tuple(row.tolist()) for row in units.all(-1)}) > 1


def test_without_a_unit_the_random_masker_draws_what_it_always_drew():
    assert torch.equal(RandomMasker(0.5).scores(GRID, rng(0, "a")), torch.rand(GRID, generator=rng(0, "a")))
    assert torch.equal(
        hidden_of(draw_mask(RandomMasker(0.5, unit=[1, 1, 1]), None, GRID, [rng(0, "a")])),
        hidden_of(draw_mask(RandomMasker(0.5), None, GRID, [rng(0, "a")])),
    )


def test_a_block_of_units_is_cut_to_the_exact_count_in_whole_units():
    mask = draw_mask(BlockMasker(0.75, unit=[2, 2]), None, (8, 8), [rng(0, slot) for slot in range(30)])
    units = by_unit(hidden_of(mask)[:, None], (1, 2, 2))
    assert mask.keep.shape[1] == 16 and (units.all(-1).sum(1) == 12).all()


def test_what_counts_in_a_unit_is_the_mean_of_its_tokens():
    """Of two units that count at all, one has the 0.75 that it takes to be body: it alone is hidden, always."""
    valid = torch.zeros(4, 4)
    valid[:2, :2] = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    valid[2, 2] = 1.0
    masker = ForegroundMasker(ratio=0.25, body_ratio=1.0, min_share=0.5, unit=[2, 2])
    mask = draw_mask(masker, None, (4, 4), [rng(0, slot) for slot in range(20)], [valid] * 20)
    assert mask.pred.tolist() == [[0, 1, 4, 5]] * 20


@pytest.mark.parametrize(
    ("mask", "decode", "answered"),
    [
        ({"name": "random", "ratio": 0.75, "unit": [2, 2]}, {"name": "random", "unit": [2, 2]}, 24),
        ({"name": "random", "ratio": 0.75, "unit": [4, 4]}, {"name": "random", "unit": [2, 2]}, 24),
        ({"name": "random", "ratio": 0.75, "unit": [2, 2]}, {"name": "running_cell", "unit": [2, 2]}, 24),
        ({"name": "random", "ratio": 0.75, "unit": [2, 2]}, {"name": "random", "ratio": 0.5}, 24),
        ({"name": "frame", "ratio": 0.5, "unit": [2, 1]}, {"name": "random", "unit": [2, 4]}, 16),
        ({"name": "frame", "ratio": 0.5, "unit": [2, 1]}, {"name": "frame", "unit": [2, 1]}, 16),
    ],
)
def test_of_hidden_units_whole_ones_are_answered(mask, decode, answered):
    build = (maskers.build(one.pop("name"), {"ratio": 0.5} | one) for one in (dict(mask), dict(decode)))
    masker, second = build
    drawn = draw_mask(masker, second, (8, 8), [rng(0, "m", s) for s in range(20)], None, [rng(0, s) for s in range(20)])
    assert drawn.pred.shape[1] == answered
    seen = torch.zeros(20, 64).scatter(1, drawn.pred, 1).bool().view(20, 1, 8, 8)
    units = by_unit(seen, (1, *decode.get("unit", (1, 1))))
    assert (units.all(-1) == units.any(-1)).all()


@pytest.mark.parametrize("mask", [{}, {"unit": [1, 2]}, {"unit": [2, 1]}])
def test_units_are_not_answered_where_parts_of_them_are_hidden(mask):
    with pytest.raises(ValueError, match=r"whole units of \[2, 2\] tokens, and the mask hides others"):
        num_decoded(RandomMasker(0.5, **mask), RandomMasker(0.5, unit=[2, 2]), (8, 8))


@pytest.mark.parametrize(
    ("unit", "told"),
    [
        ([3, 2], "does not divide the grid of [4, 4] tokens on axis 0 (4 / 3); choose a unit that does"),
        ([2], "unit=[2] has 1 axes, and the grid has 2"),
        ([2, 0], "unit=[2, 0] must be a whole number of tokens"),
        ([2, 1.5], "unit=[2, 1.5] must be a whole number"),
        (2, "unit=2 must be a whole number of tokens"),
        ([4, 4], "keeps none of 1 tokens; it may be at most 0 (its tokens are units of [4, 4]"),
    ],
)
def test_a_unit_that_leaves_ragged_edges_or_is_none_is_refused_by_name(tiny, unit, told):
    with pytest.raises(ConfigError) as refused:
        load_config(tiny({"modalities.image.mask": {"name": "random", "ratio": 0.75, "unit": unit}}))
    assert "modalities.image.mask: " in str(refused.value) and told in str(refused.value)


def test_a_unit_has_to_fit_the_grid_of_every_size():
    image = {"size": [16, 16], "patch": [4, 4], "batch": 4, "sizes": [[0, [12, 12]], [0.5, [16, 16]]]}
    model = {"width": 24, "depth": 1, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}
    for unit, refused in (([2, 2], True), ([1, 1], False)):
        mask = {"name": "random", "ratio": 0.75, "unit": unit}
        values = {"modalities": {"image": image | {"mask": mask}}, "model": model, "train": {"steps": 4}}
        if refused:
            with pytest.raises(ConfigError, match=r"does not divide the grid of \[3, 3\].*at \[12, 12\] of sizes"):
                parse_config(values)
        else:
            assert parse_config(values).modalities["image"].grid == (4, 4)
