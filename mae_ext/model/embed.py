"""Patch embedders: pixels of the kept patches in, tokens out. Only they know what a patch holds."""

from math import prod
from typing import Protocol

from torch import Tensor, nn

from mae_ext.model.grid import take_patches


class Embedder(Protocol):
    """A factory `(size, patch, channels, width, **arguments) -> nn.Module` with this forward.

    With the attribute `any_size = True` it takes samples of any size that the patch divides, and not of `size` alone.
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
