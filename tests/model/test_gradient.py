"""Edges as targets: differences along each axis, and histograms of their directions."""

from math import prod, sqrt

import numpy as np
import pytest
import torch

from mae_ext.model.gradient import Gradients, GradientTarget, difference
from mae_ext.model.grid import take_patches
from mae_ext.model.hog import HogTarget

RANDOM = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("size", [(7,), (5, 6), (3, 4, 5), (2, 3, 4, 3)], ids=str)
def test_differences_are_numpys_gradient_inside_and_half_a_step_at_the_edge(size):
    x = torch.randn(2, 3, *size, generator=RANDOM)
    for axis in range(len(size)):
        ours, theirs = difference(x, axis), np.gradient(x.numpy(), axis=axis + 2)
        n = size[axis]
        for i in range(n):
            scale = 0.5 if i in (0, n - 1) else 1.0  # numpy's one-sided difference is a whole step
            assert np.allclose(ours.select(axis + 2, i), scale * theirs.take(i, axis + 2), atol=1e-6)


def test_the_border_of_what_counts_is_no_edge():
    x, valid = torch.tensor([[[1.0, 3.0, -90.0, -90.0, 5.0, 5.5]]]), torch.tensor([[[1, 1, 0, 0, 1, 1]]]).bool()
    assert difference(x, 0, valid).tolist() == [[[1.0, 1.0, 0.0, 0.0, 0.25, 0.25]]]


def test_a_voxel_at_the_edge_of_a_patch_knows_the_next_patch():
    x = torch.zeros(1, 1, 4, 8)
    x[..., 4:] = 2.0  # the second patch
    part = Gradients((4, 4), 1, normalized=False, floor=0.0)
    values = take_patches(part.prepare(x, None, None), (4, 4), torch.tensor([[0]]))
    along = part(values)[0, 0].view(4, 4, 2)  # channels last: down, right
    assert along[..., 0].abs().max() == 0 and along[:, 3, 1].tolist() == [1.0] * 4 and along[:, :3, 1].abs().max() == 0


def test_contrast_is_no_target_where_pixels_are_normalised_and_a_floor_keeps_noise_small():
    values = torch.randn(2, 3, 32, generator=RANDOM)
    plain, floored = Gradients((4, 4), 1, True, 0.0), Gradients((4, 4), 1, True, 0.5)
    assert torch.allclose(plain(values), plain(9 * values), atol=1e-4)
    assert torch.allclose(plain(values).square().mean(-1), torch.ones(2, 3), atol=1e-4)
    assert floored(values / 1000).abs().max() < 0.01
    weight = torch.ones(2, 3, 32)
    weight[..., 16:] = 0
    noisy = torch.cat([values[..., :16], 1e3 + values[..., 16:]], -1)
    assert torch.allclose(plain(noisy, weight)[..., :16].square().mean(-1), torch.ones(2, 3), atol=1e-4)
    assert Gradients((4, 4), 1, False, 0.0)(values) is values


def stripes(angle, size=(16, 16)):
    """Waves whose brightness rises towards `angle`, from the right counted downwards."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in size), indexing="ij")
    return (0.4 * (x * np.cos(angle) + y * np.sin(angle))).sin()[None, None]


def histogram(x, valid=None, patch=(8, 8), **arguments):
    target = HogTarget(patch, x.shape[1], **arguments).other
    maps = target.prepare(x, valid, None)
    return maps.unflatten(1, (x.shape[1], target.bins))


@pytest.mark.parametrize("turn", range(9))
def test_the_strongest_orientation_is_that_of_the_stripes(turn):
    found = histogram(stripes(turn * np.pi / 9))[0, 0].mean((-1, -2))
    assert int(found.argmax()) == turn
    assert torch.allclose(found, histogram(-stripes(turn * np.pi / 9))[0, 0].mean((-1, -2)), atol=1e-4)  # no sign


def test_a_direction_between_two_bins_counts_in_both():
    ramp = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 8, 8)
    turned = np.cos(np.pi / 18) * ramp + np.sin(np.pi / 18) * ramp.mT
    inside = histogram(turned)[0, 0, :, 0, 0]
    assert torch.allclose(inside[0], inside[1], rtol=0.2) and inside[2:].max() < 0.3 * inside[0]


def test_each_histogram_has_mean_square_one_and_a_flat_cell_is_zeros():
    x = torch.randn(2, 3, 16, 16, generator=RANDOM)
    x[0, 1, :8, :8] = 4.0
    x[0, 1, 7, :8] = x[0, 1, :8, 7] = x[0, 1, 8, :9] = x[0, 1, :9, 8] = 4.0
    maps = histogram(x)
    length = maps.square().mean(2)
    assert length[0, 1, 0, 0] == 0 and maps.isfinite().all()
    length[0, 1, 0, 0] = 1
    assert torch.allclose(length, torch.ones_like(length), atol=1e-5)
    assert histogram(x / 1e4, floor=0.1).abs().max() < 0.05


def test_a_histogram_is_the_one_counted_pixel_by_pixel():
    x = torch.randn(1, 1, 4, 4, generator=RANDOM)
    down, right = (difference(x, axis)[0, 0].numpy() for axis in (0, 1))
    counted = np.zeros(9)
    for i, j in np.ndindex(4, 4):
        place = np.arctan2(down[i, j], right[i, j]) % np.pi * 9 / np.pi
        share, strength = place % 1, np.hypot(down[i, j], right[i, j])
        counted[int(place) % 9] += (1 - share) * strength
        counted[(int(place) + 1) % 9] += share * strength
    counted /= sqrt((counted**2).mean())
    assert np.allclose(histogram(x, patch=(4, 4))[0, 0, :, 0, 0], counted, atol=1e-4)


@pytest.mark.parametrize(
    ("patch", "cell", "pix"),
    [((4, 4), None, 9), ((16, 16), None, 36), ((16, 16), 4, 144), ((14, 10), None, 4 * 9), ((2, 8, 8), [4, 8], 36)],
    ids=str,
)
def test_cells_divide_a_patch_and_those_of_a_clip_are_frames(patch, cell, pix):
    target = HogTarget(patch, 1, cell=cell)
    size = tuple(2 * p for p in patch)
    maps = target.other.prepare(torch.randn(1, 1, *size, generator=RANDOM), None, None)
    assert target.pix == pix and maps.shape[1] * prod(maps.shape[2:]) == pix * 2 ** len(patch)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: HogTarget((4,), 1), "one axis"),
        (lambda: HogTarget((4, 4), 1, cell=3), "cell=3"),
        (lambda: HogTarget((4, 4), 1, cell=[2, 2, 2]), "cell="),
        (lambda: HogTarget((4, 4), 1, bins=1), "bins=1"),
        (lambda: GradientTarget((4, 4), 1, weight=0), "name 'pixel'"),
        (lambda: GradientTarget((4, 4), 1, pixels=-1), "pixels=-1"),
        (lambda: GradientTarget((4, 4), 1, weight=float("nan")), "weight=nan"),
        (lambda: GradientTarget((4, 4), 1, normalize="pix"), "normalize"),
        (lambda: GradientTarget((4, 4), 1, pixels=0, normalize="pix"), "normalize"),
        (lambda: GradientTarget((4, 4), 1, pixels=0, floor=-1), "floor"),
    ],
)
def test_arguments_without_meaning_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
