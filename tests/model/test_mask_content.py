"""Masks by content: what is measured, what is kept of it, and that maskers that do not ask hear of nothing."""

from dataclasses import dataclass

import pytest
import torch

from mae_ext.config import load_config
from mae_ext.data.loading.batches import ModalityData, content_in
from mae_ext.data.sample import Sample
from mae_ext.errors import ConfigError
from mae_ext.model.mask import draw_mask
from mae_ext.model.mask_content import ContentMasker
from mae_ext.plugins import maskers
from mae_ext.rng import rng


def drawn(masker, samples, patch, decode=None):
    grid = tuple(s // p for s, p in zip(samples[0].x.shape[1:], patch, strict=True))
    generators = [rng(0, "mask", slot) for slot in range(len(samples))]
    return draw_mask(masker, decode, grid, generators, content=content_in(samples, patch))


def test_change_is_the_mean_step_in_time_and_the_first_frame_has_that_of_the_second():
    """Frames of 0, 0, 3, 4 on the left, and a right that never changes; patches of two frames."""
    x = torch.zeros(1, 4, 2, 4)
    x[0, :, :, :2] = torch.tensor([0.0, 0.0, 3.0, 4.0]).view(4, 1, 1)
    content = ContentMasker(measure="change").content_of(x, (2, 2, 2))
    assert content.tolist() == [[[0.0, 0.0]], [[2.0, 0.0]]]
    across = ContentMasker(measure="change", axis=-1).content_of(x[:, :1], (1, 2, 2))
    assert across.shape == (1, 1, 2)


def test_contrast_is_the_deviation_and_entropy_the_bits_of_grey_levels():
    flat, halves, quarters = torch.full((4, 4), 7.0), torch.zeros(4, 4), torch.zeros(4, 4)
    halves[2:], quarters[0], quarters[1], quarters[2] = 16.0, 4.0, 8.0, 16.0
    x = torch.cat([flat, halves, quarters], 1)[None]
    contrast = ContentMasker(measure="contrast").content_of(x, (4, 4))
    torch.testing.assert_close(contrast, torch.tensor([[0.0, 8.0, 35.0**0.5]]))
    torch.testing.assert_close(ContentMasker(measure="entropy").content_of(x, (4, 4)), torch.tensor([[0.0, 1.0, 2.0]]))
    assert ContentMasker(measure="entropy").content_of(torch.ones(2, 4, 4), (2, 2)).eq(0).all()


@pytest.mark.parametrize(("keep", "kept"), [("high", [0, 1, 2, 3]), ("low", [12, 13, 14, 15])])
def test_what_holds_most_is_kept_or_hidden_and_without_chance_always(keep, kept):
    content = torch.arange(16.0, 0.0, -1.0).view(4, 4)
    x = content.repeat_interleave(2, 0).repeat_interleave(2, 1)[None] * torch.tensor([1.0, -1.0]).repeat(4)
    sample = Sample(x, "a")
    mask = drawn(ContentMasker(keep=keep, mix=0.0), [sample] * 5, (2, 2))
    assert mask.keep.tolist() == [kept] * 5
    mixed = drawn(ContentMasker(keep=keep, mix=0.5), [sample] * 200, (2, 2))
    often = torch.zeros(16).index_add(0, mixed.keep.flatten(), torch.ones(800)) / 200
    order = often if keep == "high" else often.flip(0)
    assert mixed.keep.shape == (200, 4) and order[:4].mean() > 0.5 > 0.1 > order[12:].mean()


def test_all_chance_is_the_random_masker_and_so_is_no_sample():
    x = Sample(torch.rand(1, 8, 8, generator=rng(1)), "a")
    chance = torch.rand(4, 4, generator=rng(0, "mask", 0))
    expected = chance.flatten().argsort()[:4].sort().values.tolist()
    assert drawn(ContentMasker(mix=1.0), [x], (2, 2)).keep.tolist() == [expected]
    assert draw_mask(ContentMasker(mix=0.0), None, (4, 4), [rng(0, "mask", 0)]).keep.tolist() == [expected]


def test_where_nothing_differs_chance_decides_evenly():
    mask = drawn(ContentMasker(ratio=0.5, mix=0.0), [Sample(torch.zeros(1, 8, 8), "a")] * 400, (2, 2))
    often = torch.zeros(16).index_add(0, mask.keep.flatten(), torch.ones(3200)) / 400
    assert often.min() > 0.38 and often.max() < 0.62  # five standard deviations


def test_of_hidden_tokens_those_that_hold_most_are_answered():
    x = torch.zeros(1, 8, 8)
    x[0, 6:, 4:] = torch.tensor([[0.0, 9.0], [9.0, 0.0]]).repeat(1, 2)
    mask = drawn(ContentMasker(0.5, "low", 0.0), [Sample(x, "a")] * 20, (2, 2), ContentMasker(0.75, "high", 0.0))
    assert ((mask.pred == 14) | (mask.pred == 15)).sum(1).eq(2).all() and mask.pred.shape == (20, 2)


def test_stored_numbers_are_looked_at_in_units():
    """A scan as it is stored, with a slope of each channel: what is measured is in the reader's units."""
    levels = torch.tensor([[0.5, 0.0, 0.0, 1.0, -1e6, 1e6]], dtype=torch.float64)
    x = torch.tensor([[[0, 8], [0, 8]]], dtype=torch.int16)
    asked = ContentMasker()
    assert content_in([Sample(x, "a", levels=levels)], (2, 2))(asked, 0).tolist() == [[2.0]]


def test_in_training_it_sees_the_samples_that_are_trained_on(tiny, photos):
    masker = {"name": "content", "ratio": 0.75, "mix": 0.0, "measure": "entropy"}
    config = load_config(tiny({"modalities.image.data.path": str(photos), "modalities.image.mask": masker}))
    batch = ModalityData(config.seed, "image", config.modalities["image"]).batch(2)
    for x, keep in zip(batch.x, batch.mask.keep, strict=True):
        bits = ContentMasker(measure="entropy").content_of(x.float() / 255, (4, 4)).flatten()
        assert bits[keep].min() >= bits.sort(descending=True).values[3] - 1e-6


def test_a_masker_that_does_not_ask_is_called_as_ever():
    @dataclass(frozen=True)
    class Older:
        ratio: float = 0.5

        def num_keep(self, grid):
            return 2

        def scores(self, grid, generator, valid=None):
            return torch.arange(4.0).view(grid)

    assert drawn(Older(), [Sample(torch.zeros(1, 4, 4), "a")], (2, 2)).keep.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"mix": 1.5}, "mix=1.5 must be a share"),
        ({"keep": "most"}, "keep='most': expected 'high' or 'low'"),
        ({"measure": "motion"}, "measure='motion': expected one of change, contrast, entropy"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(arguments, told):
    with pytest.raises(ConfigError, match=told):
        maskers.build("content", arguments, "modalities.clip.mask")


def test_an_axis_that_samples_do_not_have_is_refused_before_any_is_read():
    with pytest.raises(ValueError, match="axis=5 does not exist in a sample of 2 axes; expected 0 to 1"):
        ContentMasker(measure="change", axis=5).num_keep((4, 4))
    assert ContentMasker(measure="change", axis=-2).num_keep((4, 4)) == 4
