"""Histograms of oriented gradients as a target (MaskFeat, 2112.09133)."""

from collections.abc import Sequence
from math import pi, prod

import torch
from torch import Tensor, nn

from mae_ext.model.beside import Beside
from mae_ext.model.gradient import difference
from mae_ext.model.grid import patches
from mae_ext.model.target import Normalize

CELL = 8
"""Pixels along a side of a cell, at most (MaskFeat's)."""


class Histograms(nn.Module):
    """Of the cells of a patch: how strong the edges of each orientation are, channel by channel.

    In the plane of the last two axes; cells of clips and volumes are one frame or slice thick. Orientations are without
    sign, from 0 to pi; an edge counts in the two nearest of the `bins`, by how near it is (Dalal and Triggs, CVPR
    2005). Each histogram is divided by its root mean square, which counts as at least `floor`.
    """

    def __init__(self, cell: tuple[int, ...], cells: int, channels: int, bins: int, floor: float) -> None:
        super().__init__()
        self.cell, self.bins, self.floor, self.pix = cell, bins, floor, cells * channels * bins

    @torch.no_grad()
    def prepare(self, x: Tensor, valid: Tensor | None, spacing: Tensor | None) -> Tensor:
        """(B, C, *S) -> (B, C bins, *S / cell)."""
        down, right = (difference(x, x.dim() - 2 - back, valid) for back in (2, 1))
        strength = torch.hypot(down, right)
        angle = torch.atan2(down, right) * (self.bins / pi)  # in bins; the centres are at 0, 1, ... bins - 1
        histograms = []
        for centre in range(self.bins):
            away = (angle - centre).remainder(self.bins)
            vote = strength * (1 - torch.minimum(away, self.bins - away)).clamp(min=0)
            grid = patches(vote, self.cell)  # (B, *cells, *cell, C)
            n = len(self.cell)
            histograms.append(grid.flatten(1 + n, 2 * n).mean(1 + n).movedim(-1, 1))
        maps = torch.stack(histograms, 2)
        spread = maps.square().mean(2, keepdim=True).sqrt().clamp(min=max(self.floor, 1e-6))
        return (maps / spread).flatten(1, 2)

    def forward(self, values: Tensor, weight: Tensor | None = None) -> Tensor:
        """(B, P, pix) -> (B, P, pix): as they are."""
        return values

    def error(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        """(B, P, pix), (B, P, pix) -> (B, P, pix), not yet averaged."""
        return (predicted - wanted).square()


class HogTarget(Beside):
    """Histograms of oriented gradients, alone or beside the pixels of a patch: which way its edges run.

    cell: (height, width) of a cell in pixels, or one number; None is the largest that divides the patch and is at most
    `CELL`. bins: orientations. weight, pixels: what either weighs; pixels=0, the default, asks for no pixels, and then
    there is no picture of what is predicted. normalize, floor: of the pixels, as in `PixelTarget`; floor is of the
    histograms as well. For 2 axes or more.

    >>> import torch
    >>> from mae_ext.model.hog import HogTarget
    >>> HogTarget(patch=(16, 16), channels=3).pix  # 4 cells of 8x8, 3 channels, 9 orientations
    108
    """

    def __init__(
        self, patch: tuple[int, ...], channels: int, cell: int | Sequence[int] | None = None, bins: int = 9,
        weight: float = 1.0, pixels: float = 0.0, normalize: Normalize = "mae", floor: float = 0.0,
    ) -> None:  # fmt: skip
        plane = patch[-2:]
        if len(plane) < 2:
            raise ValueError(f"hog is of directions in a plane, and patch={list(patch)} has one axis")
        if not isinstance(bins, int) or bins < 2:
            raise ValueError(f"bins={bins} must be a whole number above 1")
        sides = [max(d for d in range(1, min(p, CELL) + 1) if p % d == 0) for p in plane]
        if cell is not None:
            sides = [cell] * 2 if isinstance(cell, int) else list(cell)
        if len(sides) != 2 or any(side < 1 or p % side for side, p in zip(sides, plane, strict=True)):
            raise ValueError(f"cell={cell} must divide the last two axes of patch={list(patch)}")
        whole = (*[1] * (len(patch) - 2), *sides)
        other = Histograms(whole, prod(patch) // prod(sides), channels, bins, floor)
        super().__init__(patch, channels, other, pixels, weight, normalize, floor)
