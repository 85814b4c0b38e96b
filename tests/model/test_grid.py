"""The token contract, on 1 to 4 axes whose lengths are different primes: a swapped axis cannot go unseen."""

from itertools import product
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ext.model.grid import grid_of, patches, patchify, take, take_patches, unpatchify, unravel

# grid, patch
SHAPES = [((7,), (3,)), ((5, 3), (2, 7)), ((3, 7, 2), (5, 2, 3)), ((2, 5, 3, 7), (3, 1, 2, 5))]
CHANNELS = [1, 3, 4]
shapes = pytest.mark.parametrize(("grid", "patch"), SHAPES)


def numbered(grid, patch, channels=1, batch=1):
    """(B, C, *S) in which every pixel holds the row-major number of its patch, written with plain loops."""
    x = np.full((batch, channels, *(g * p for g, p in zip(grid, patch, strict=True))), -1.0, dtype=np.float32)
    for number, place in enumerate(np.ndindex(*grid)):
        box = tuple(slice(i * p, (i + 1) * p) for i, p in zip(place, patch, strict=True))
        x[(slice(None), slice(None), *box)] = number
    return torch.from_numpy(x)


def noise(grid, patch, channels, batch=2):
    return torch.randn(batch, channels, *(g * p for g, p in zip(grid, patch, strict=True)))


@shapes
@pytest.mark.parametrize("channels", CHANNELS)
def test_patch_i_holds_the_value_i(grid, patch, channels):
    tokens = patchify(numbered(grid, patch, channels), patch)
    assert tokens.shape == (1, prod(grid), prod(patch) * channels)
    assert torch.equal(tokens, torch.arange(prod(grid)).float()[None, :, None].expand_as(tokens))


@shapes
@pytest.mark.parametrize("channels", CHANNELS)
def test_pixels_of_a_patch_are_row_major_with_the_channel_fastest(grid, patch, channels):
    x = noise(grid, patch, channels)
    tokens = patchify(x, patch)
    for number, place in enumerate(np.ndindex(*grid)):
        for offset, (*within, c) in enumerate(np.ndindex(*patch, channels)):
            pixel = tuple(i * p + w for i, p, w in zip(place, patch, within, strict=True))
            assert torch.equal(tokens[:, number, offset], x[(slice(None), c, *pixel)])


@shapes
@pytest.mark.parametrize("channels", CHANNELS)
def test_unpatchify_undoes_patchify_exactly(grid, patch, channels):
    x = noise(grid, patch, channels)
    assert torch.equal(unpatchify(patchify(x, patch), grid, patch), x)


@shapes
def test_unpatchify_puts_token_i_where_patch_i_is(grid, patch):
    tokens = torch.arange(prod(grid)).float()[None, :, None].expand(1, -1, prod(patch) * 2)
    assert torch.equal(unpatchify(tokens, grid, patch), numbered(grid, patch, 2))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=4), st.integers(1, 5))
def test_the_round_trip_holds_for_any_grid(axes, channels):
    grid, patch = zip(*axes, strict=True)
    x = noise(grid, patch, channels)
    tokens = patchify(x, patch)
    assert tokens.shape == (2, prod(grid), prod(patch) * channels)
    assert torch.equal(unpatchify(tokens, grid, patch), x)


@shapes
def test_taken_patches_are_the_rows_of_patchify_and_each_sample_has_its_own(grid, patch):
    x = noise(grid, patch, 3)
    index = torch.stack([torch.randperm(prod(grid), generator=torch.Generator().manual_seed(s))[:4] for s in (0, 1)])
    taken = take_patches(x, patch, index)
    assert torch.equal(taken, take(patchify(x, patch), index))
    assert torch.equal(take_patches(numbered(grid, patch, 3, batch=2), patch, index)[..., 0], index.float())


def test_splitting_into_patches_copies_nothing():
    x = noise((5, 3), (2, 7), 3)
    assert patches(x, (2, 7)).data_ptr() == x.data_ptr()
    x[0, 1, 9, 20] = 77
    assert patches(x, (2, 7))[0, 4, 2, 1, 6, 1] == 77


def test_an_input_that_is_not_contiguous_is_split_all_the_same():
    x = noise((5, 3), (2, 7), 3).permute(0, 1, 3, 2)
    assert torch.equal(patchify(x, (7, 2)), patchify(x.contiguous(), (7, 2)))


@shapes
def test_coordinates_are_those_of_numpy(grid, patch):
    ours = torch.stack(unravel(torch.arange(prod(grid)), grid), -1)
    assert ours.tolist() == [list(place) for place in product(*map(range, grid))]


def test_the_grid_is_size_over_patch_axis_by_axis():
    assert grid_of((6, 35, 22), (2, 5, 11)) == (3, 7, 2)


@pytest.mark.parametrize(
    ("size", "patch", "expected"),
    [
        ((32, 30), (8, 8), r"axis 1 \(30 / 8\)"),
        ((31, 32), (8, 8), r"axis 0 \(31 / 8\)"),
        ((32, 32), (8,), "has 2 axes and patch .8. has 1"),
        ((0, 32), (8, 8), r"axis 0 \(0 / 8\)"),
        ((32, 32), (8, 0), r"axis 1 \(32 / 0\)"),
        ((8, 8), (16, 8), r"axis 0 \(8 / 16\)"),
    ],
)
def test_a_size_that_the_patch_does_not_divide_names_the_axis(size, patch, expected):
    with pytest.raises(ValueError, match=expected):
        grid_of(size, patch)
