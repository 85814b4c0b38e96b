"""The token contract: a grid is a tuple, slowest axis first; tokens are row-major over it; pixels `(p1 .. pn c)`."""

from math import prod

import torch
from einops import rearrange
from torch import Tensor

from mae_ext.sections import grid_of

__all__ = ["grid_of", "nearness", "patches", "patchify", "take", "take_patches", "unpatchify", "unravel"]


def patches(x: Tensor, patch: tuple[int, ...]) -> Tensor:
    """(B, C, *S) -> (B, *grid, *patch, C), a view: nothing is copied until tokens are taken from it."""
    n = len(patch)
    split = x.reshape(
        *x.shape[:2], *(e for s, p in zip(grid_of(tuple(x.shape[2:]), patch), patch, strict=True) for e in (s, p))
    )
    grid_axes = [2 + 2 * i for i in range(n)]
    return split.permute(0, *grid_axes, *(a + 1 for a in grid_axes), 1)


def patchify(x: Tensor, patch: tuple[int, ...]) -> Tensor:
    """(B, C, *S) -> (B, N, pix) with pix = prod(patch) * C, pixels in the order `(p1 .. pn c)`.

    Raises ValueError for a size that the patch does not divide.

    >>> import torch
    >>> from mae_ext import patchify
    >>> patchify(torch.arange(16.0).view(1, 1, 4, 4), (2, 2))[0, 1]  # the upper right patch
    tensor([2., 3., 6., 7.])
    """
    return patches(x, patch).reshape(x.shape[0], -1, prod(patch) * x.shape[1])


def take_patches(x: Tensor, patch: tuple[int, ...], index: Tensor) -> Tensor:
    """(B, C, *S), (B, K) -> (B, K, pix): the patches at row-major `index`, and no others are touched.

    >>> import torch
    >>> from mae_ext import take_patches
    >>> scan = torch.rand(2, 1, 32, 32, 32)
    >>> take_patches(scan, (16, 16, 16), torch.tensor([[0, 7], [2, 5]])).shape
    torch.Size([2, 2, 4096])
    """
    view = patches(x, patch)
    grid = view.shape[1 : 1 + len(patch)]
    rows = torch.arange(x.shape[0], device=x.device)[:, None]
    taken = view[(rows, *unravel(index, tuple(grid)))]
    return taken.reshape(*index.shape, -1)


def unpatchify(tokens: Tensor, grid: tuple[int, ...], patch: tuple[int, ...]) -> Tensor:
    """(B, N, pix) -> (B, C, *S), the inverse of patchify.

    >>> import torch
    >>> from mae_ext import patchify, unpatchify
    >>> x = torch.rand(2, 3, 32, 48)
    >>> torch.equal(unpatchify(patchify(x, (16, 16)), grid=(2, 3), patch=(16, 16)), x)
    True
    """
    g = [f"g{i}" for i in range(len(grid))]
    p = [f"p{i}" for i in range(len(patch))]
    pattern = f"b ({' '.join(g)}) ({' '.join(p)} c) -> b c {' '.join(f'({a} {b})' for a, b in zip(g, p, strict=True))}"
    return rearrange(tokens, pattern, **dict(zip(g, grid, strict=True)), **dict(zip(p, patch, strict=True)))


def unravel(index: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, ...]:
    """(...) row-major token numbers -> one (...) coordinate tensor per axis."""
    coordinates: list[Tensor] = []
    for extent in reversed(grid):
        coordinates.append(index % extent)
        index = index // extent
    return tuple(reversed(coordinates))


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """(B, N, D), (B, K) -> (B, K, D)."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def nearness(hidden: Tensor, visible: Tensor, grid: tuple[int, ...]) -> Tensor:
    """(B, P), (B, K) token numbers -> (B, P, K): weights falling as distance^-4, rows summing to 1."""
    a, b = (torch.stack(unravel(index, grid), -1).float() for index in (hidden, visible))
    weight = torch.cdist(a, b).clamp(min=1e-3) ** -4
    return weight / weight.sum(-1, keepdim=True)
