"""The pyramid: several scales from one map, for any patch and any grid."""

import pytest
import torch

from mae_ext.tasks.detect.pyramid import ChannelNorm, Pyramid


@pytest.mark.parametrize(
    ("patch", "grid", "strides", "grids"),
    [
        ((16, 16), (4, 6), [(4, 4), (8, 8), (16, 16), (32, 32)], [(16, 24), (8, 12), (4, 6), (2, 3)]),
        ((8, 8), (5, 7), [(4, 4), (8, 8), (16, 16), (32, 32)], [(10, 14), (5, 7), (3, 4), (2, 2)]),
        ((14, 14), (2, 3), [(3.5, 3.5), (7, 7), (14, 14), (28, 28)], [(8, 12), (4, 6), (2, 3), (1, 2)]),
        ((16, 8), (3, 4), [(4, 4), (8, 8), (16, 16), (32, 32)], [(12, 8), (6, 4), (3, 2), (2, 1)]),
        ((14, 8), (2, 3), [(3.5, 4), (7, 8), (14, 16), (28, 32)], [(8, 6), (4, 3), (2, 2), (1, 1)]),
        ((4, 4), (1, 9), [(4, 4), (8, 8), (16, 16), (32, 32)], [(1, 9), (1, 5), (1, 3), (1, 2)]),
        ((2, 64), (8, 1), [(4, 4), (8, 8), (16, 16), (32, 32)], [(4, 16), (2, 8), (1, 4), (1, 2)]),
    ],
)
def test_each_level_has_the_stride_and_the_grid_that_it_says(patch, grid, strides, grids):
    pyramid = Pyramid(16, 6, patch, grid)
    maps = pyramid(torch.zeros(2, grid[0] * grid[1], 16))
    assert (list(pyramid.strides), list(pyramid.grids)) == (strides, grids)
    assert [tuple(m.shape) for m in maps] == [(2, 6, *g) for g in grids]
    for (rows, columns), (down, across) in zip(grids, strides, strict=True):
        assert rows * down >= grid[0] * patch[0] and columns * across >= grid[1] * patch[1]


def test_the_levels_of_a_patch_of_16_are_built_as_in_the_paper():
    pyramid = Pyramid(32, 8, (16, 16), (2, 2))
    kinds = [[type(layer).__name__ for layer in level] for level in pyramid.levels]
    end = ["Conv2d", "ChannelNorm", "Conv2d", "ChannelNorm"]
    assert kinds == [
        ["ConvTranspose2d", "ChannelNorm", "GELU", "ConvTranspose2d", *end],
        ["ConvTranspose2d", *end],
        end,
        ["MaxPool2d", *end],
    ]


def test_a_token_reaches_its_own_place_of_the_map_and_its_neighbours_only():
    pyramid = Pyramid(8, 4, (8, 8), (5, 7), strides=(8,))
    tokens = torch.zeros(1, 35, 8, requires_grad=True)
    pyramid(tokens + torch.ones(8).cumsum(0))[0][0, :, 2, 5].dot(torch.arange(4.0)).backward()
    touched = tokens.grad[0].abs().sum(-1).view(5, 7).nonzero().tolist()
    assert touched == [[y, x] for y in (1, 2, 3) for x in (4, 5, 6)]


def test_channels_are_normalised_place_by_place():
    x = torch.arange(24.0).view(1, 4, 2, 3)
    torch.testing.assert_close(ChannelNorm(4)(x).mean(1), torch.zeros(1, 2, 3))


@pytest.mark.parametrize("strides", [(8, 8), (16, 8), (8, 9), ()])
def test_levels_that_are_not_each_coarser_than_the_last_are_refused(strides):
    with pytest.raises(ValueError, match="strides="):
        Pyramid(8, 4, (8, 8), (2, 2), strides)


def test_only_grids_of_two_axes_have_maps():
    with pytest.raises(ValueError, match="has 3 axes"):
        Pyramid(8, 4, (2, 8, 8), (2, 2, 2))


@pytest.mark.parametrize(
    ("patch", "wanted", "strides"),
    [
        (16, (4, 8, 16, 32), (4, 8, 16, 32)),
        (14, (4, 8, 16, 32), (3.5, 7, 14, 28)),
        (10, (8, 16, 32), (10, 20, 40)),  # 10 is a factor of 1.25 off, and 5 one of 1.6
        (12, (8, 16), (6, 12)),
        (11, (8, 16), (11, 22)),
        (6, (4, 32), (3, 24)),
    ],
)
def test_a_level_has_the_stride_that_is_nearest_by_its_factor(patch, wanted, strides):
    pyramid = Pyramid(8, 4, (patch, patch), (4, 6), wanted)
    assert pyramid.strides == tuple((s, s) for s in strides)
    maps = pyramid(torch.zeros(1, 24, 8))
    assert [tuple(m.shape[2:]) for m in maps] == list(pyramid.grids)
