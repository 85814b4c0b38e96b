"""A token sees its own patch, all of it, and nothing else."""

from math import prod

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mae_ext.model.embed import PatchEmbed

SHAPES = [((7,), (3,)), ((5, 3), (2, 7)), ((3, 7, 2), (5, 2, 3)), ((2, 5, 3, 7), (3, 1, 2, 2))]


def embedder(grid, patch, channels, width=8):
    size = tuple(g * p for g, p in zip(grid, patch, strict=True))
    return PatchEmbed(size, patch, channels, width), torch.randn(2, channels, *size)


@pytest.mark.parametrize(("grid", "patch"), SHAPES)
def test_the_gradient_of_a_token_is_its_patch_and_nothing_outside(grid, patch):
    embed, x = embedder(grid, patch, 2)
    x.requires_grad_()
    keep = torch.tensor([[0, prod(grid) // 2, prod(grid) - 1]] * 2)
    for slot, number in enumerate(keep[0].tolist()):
        (gradient,) = torch.autograd.grad(embed(x, keep)[0, slot].sum(), x)
        place = np.unravel_index(number, grid)
        box = tuple(slice(i * p, (i + 1) * p) for i, p in zip(place, patch, strict=True))
        inside = torch.zeros_like(gradient, dtype=torch.bool)
        inside[(0, slice(None), *box)] = True
        assert torch.equal(gradient != 0, inside)


@pytest.mark.parametrize(("grid", "patch"), SHAPES)
def test_what_is_not_kept_is_never_read(grid, patch):
    """Not even as 0 times NaN."""
    embed, x = embedder(grid, patch, 2)
    keep = torch.tensor([[1, prod(grid) - 2]] * 2)
    expected = embed(x, keep)
    visible = torch.zeros(prod(grid), dtype=torch.bool)
    visible[keep[0]] = True
    for number, place in enumerate(np.ndindex(*grid)):
        if not visible[number]:
            box = tuple(slice(i * p, (i + 1) * p) for i, p in zip(place, patch, strict=True))
            x[(slice(None), slice(None), *box)] = float("nan")
    assert torch.equal(embed(x, keep), expected)


@pytest.mark.parametrize("convolution", [F.conv1d, F.conv2d, F.conv3d], ids=["1-d", "2-d", "3-d"])
def test_it_is_the_strided_convolution_of_vit(convolution):
    n = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}[convolution]
    grid, patch = (3, 5, 2)[:n], (2, 3, 5)[:n]
    embed, x = embedder(grid, patch, 3)
    kernel = embed.project.weight.view(8, *patch, 3).movedim(-1, 1)
    theirs = convolution(x, kernel, embed.project.bias, stride=patch).flatten(2).transpose(1, 2)
    ours = embed(x, torch.arange(prod(grid)).expand(2, -1))
    assert torch.allclose(ours, theirs, atol=1e-5)
