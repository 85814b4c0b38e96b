"""Patch embedders: pixels of the kept patches in, tokens out. Only they know what a patch holds."""

from math import prod
from typing import Protocol

from torch import Tensor, nn

from mae_ext.model.grid import take_patches


class Embedder(Protocol):
    """A factory `(size, patch, channels, width, **arguments) -> nn.Module` with this forward.

    With the attribute `any_size = True` it takes samples of any size that the patch divides, and not of `size` alone.
    Positions are added to what it gives.

    >>> import torch
    >>> from mae_ext import take_patches
    >>> class Means(torch.nn.Module):  # the mean of a patch, repeated: an embedder that learns nothing
    ...     def __init__(self, size, patch, channels, width):
    ...         super().__init__()
    ...         self.patch, self.width = patch, width
    ...
    ...     def forward(self, x, keep):
    ...         return take_patches(x, self.patch, keep).mean(-1, keepdim=True).expand(-1, -1, self.width)
    >>> Means((4, 4), (2, 2), channels=3, width=8)(torch.rand(1, 3, 4, 4), torch.tensor([[0, 3]])).shape
    torch.Size([1, 2, 8])
    """

    def __call__(self, x: Tensor, keep: Tensor) -> Tensor:
        """(B, C, *S) normalised float, (B, K) -> (B, K, width). A token may see its own patch only."""
        ...


class PatchEmbed(nn.Module):
    """One linear map per patch, for any number of axes: image patches, video tubelets, volume cubes.

    Equal to the strided convolution of ViT, with its weights flattened in the order `(p1 .. pn c)`.
    """

    any_size = True

    def __init__(self, size: tuple[int, ...], patch: tuple[int, ...], channels: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.project = nn.Linear(prod(patch) * channels, width)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """(B, C, *S), (B, K) -> (B, K, D): only the kept patches are ever copied or embedded."""
        tokens: Tensor = self.project(take_patches(x, self.patch, keep))
        return tokens
