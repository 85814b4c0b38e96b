"""What of a sample counts: the loss is about its valid pixels, and about no others."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from model.painted_patches import CLIP, IMAGE, NORMALIZE, boxes, paint, shake

from mae_ext.model.grid import patchify
from mae_ext.model.mask import Mask

# What is valid


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_all_valid_is_the_same_as_not_saying(build, draw, normalize):
    model = shake(build(clip=CLIP | {"target": {"name": "pixel", "normalize": normalize}}))
    x, mask = draw(model.modality())
    assert torch.allclose(model(x, mask), model(x, mask, valid=torch.ones_like(x[:, :1]).bool()), rtol=1e-6)


def test_invalid_pixels_have_no_influence(build, draw):
    model = shake(build(clip=CLIP | {"target": {"name": "pixel", "normalize": "none"}}))
    modality = model.modality()
    x, mask = draw(modality)
    valid = torch.rand(2, 1, *modality.size, generator=torch.Generator().manual_seed(3)) < 0.4
    hidden = paint(torch.zeros_like(x), mask.pred, modality, 1.0).bool()
    other = torch.where(hidden & ~valid, 1e6 * torch.rand(x.shape), x)
    assert torch.equal(model(x, mask, valid=valid), model(other, mask, valid=valid))
    assert not torch.equal(model(x, mask), model(other, mask))


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_a_patch_with_no_valid_pixel_has_no_influence_under_any_target(build, draw, normalize):
    model = shake(build(clip=CLIP | {"target": {"name": "pixel", "normalize": normalize}}))
    modality = model.modality()
    x, mask = draw(modality)
    gone = mask.pred[:, ::3]
    valid = paint(torch.ones_like(x[:, :1]), gone, modality, 0).bool()
    shorter = Mask(mask.keep, torch.stack([row[[i for i in range(len(row)) if i % 3]] for row in mask.pred]), mask.grid)
    loss = model(x, mask, valid=valid)
    assert torch.allclose(loss, model(paint(x, gone, modality, 0.9), mask, valid=valid), rtol=1e-6)
    # Mask tokens see one another, so asking for fewer changes the answers a little; the loss is about the same patches.
    assert torch.allclose(loss, model(x, shorter), rtol=0.2)


def test_valid_pixels_are_weighed_exactly(build, draw):
    model = build(image=IMAGE | {"target": {"name": "pixel", "normalize": "none"}})
    modality = model.modality()
    torch.nn.init.zeros_(modality.predict.weight)
    x, mask = draw(modality)
    valid = torch.zeros(2, 1, *modality.size, dtype=torch.bool)
    expected = []
    for sample, share in enumerate((3, 5)):
        pixels = []
        for box in boxes(mask.pred[sample], modality):
            corner = (slice(box[0].start, box[0].start + share), slice(box[1].start, box[1].start + 2))
            valid[(sample, 0, *corner)] = True
            pixels.append(x[(sample, slice(None), *corner)].flatten())
        expected.append(torch.cat(pixels).square().mean())
    # Sample by sample: a sample with few valid pixels counts as much as one with many.
    assert torch.allclose(model(x, mask, valid=valid), torch.stack(expected).mean(), rtol=1e-5)


def test_a_sample_without_a_valid_pixel_counts_as_zero_and_gives_no_gradient(build, draw):
    model = shake(build(image=IMAGE))
    x, mask = draw(model.modality())
    nowhere = torch.zeros_like(x[:, :1]).bool()
    half = nowhere.clone()
    half[0] = True
    only = Mask(mask.keep[:1], mask.pred[:1], mask.grid)
    assert torch.allclose(model(x, mask, valid=half), model(x[:1], only) / 2, rtol=1e-5)
    loss = model(x, mask, valid=nowhere)
    loss.backward()
    assert loss.item() == 0 and all((p.grad == 0).all() for p in model.parameters())


@pytest.mark.parametrize("with_valid", [False, True])
@pytest.mark.parametrize("cuts", [[4], [1, 3], [2, 2], [1, 1, 1, 1]], ids=str)
def test_a_batch_is_the_mean_of_its_parts_in_loss_and_gradient(build, draw, with_valid, cuts):
    model = shake(build(image=IMAGE))
    x, mask = draw(model.modality(), batch=4)
    chance, share = (
        torch.rand(4, 1, 24, 20, generator=torch.Generator().manual_seed(3)),
        torch.tensor([0.1, 0.5, 0.9, 1]),
    )
    valid = chance < share.view(4, 1, 1, 1) if with_valid else None

    def step(rows):
        part = mask.each(lambda t: t[rows])
        loss = model(x[rows], part, valid=None if valid is None else valid[rows])
        return loss, torch.autograd.grad(loss, list(model.parameters()))

    loss, gradient = step(slice(None))
    starts = np.cumsum([0, *cuts])
    parts = [step(slice(a, b)) for a, b in pairwise(starts)]
    assert torch.allclose(loss, sum(p[0] * c / 4 for p, c in zip(parts, cuts, strict=True)), rtol=1e-5)
    for i, whole in enumerate(gradient):
        assert torch.allclose(whole, sum(p[1][i] * c / 4 for p, c in zip(parts, cuts, strict=True)), atol=1e-5)


@pytest.mark.parametrize("normalize", ["mae", "channel", "layernorm"])
def test_a_patch_that_is_valid_in_part_has_a_target_of_variance_one_whatever_lies_beside(build, draw, normalize):
    """A model that always answers 0: what is left is the mean square of the target over what is valid."""
    model = build(image=IMAGE | {"target": {"name": "pixel", "normalize": normalize}})
    modality = model.modality()
    torch.nn.init.zeros_(modality.predict.weight)
    x, mask = draw(modality)
    valid = torch.ones(2, 1, *modality.size, dtype=torch.bool)
    valid[..., ::3] = False
    air = torch.where(valid, x, -20.0)
    count = int(valid[0, 0, :8, :4].sum())
    assert all(int(v) in (16, 24) for v in patchify(valid.float(), modality.patch).sum(-1).flatten())
    loss = model(air, mask, valid=valid).item()
    # An unbiased variance of 1 is a mean square of (n - 1) / n, over 16 or 24 pixels, each of three values.
    most = 1.0 if normalize == "layernorm" else 1 - 1 / (24 * (1 if normalize == "channel" else 3))
    least = 1.0 if normalize == "layernorm" else 1 - 1 / (16 * (1 if normalize == "channel" else 3))
    assert count in (16, 24) and least - 1e-3 <= loss <= most + 1e-3
    assert model(x, mask, valid=valid).item() == pytest.approx(loss, abs=1e-6)


def test_a_picture_takes_mean_and_contrast_of_a_hidden_patch_from_what_is_valid_of_it(build, draw):
    model = build(image=IMAGE | {"target": {"name": "pixel", "normalize": "mae"}})
    modality = model.modality()
    torch.nn.init.zeros_(modality.predict.weight)
    x, mask = draw(modality)
    valid = torch.ones(2, 1, *modality.size, dtype=torch.bool)
    valid[..., ::4] = False
    air = torch.where(valid, x, -20.0)
    filled = model.reconstruct(air, mask, own_statistics=True, valid=valid)
    for row in range(2):
        for box in boxes(mask.pred[row], modality):
            patch, there = air[(row, slice(None), *box)], valid[(row, 0, *box)]
            mean = patch[:, there].mean()
            assert torch.allclose(filled[(row, slice(None), *box)], mean.expand_as(patch), atol=1e-4)
