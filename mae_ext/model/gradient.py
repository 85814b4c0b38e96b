"""Edges as a target: differences of neighbours, along every axis."""

from math import prod

import torch
from torch import Tensor, nn

from mae_ext.model.beside import Beside
from mae_ext.model.target import Normalize


def difference(x: Tensor, axis: int, valid: Tensor | None = None) -> Tensor:
    """(B, C, *S), (B, 1, *S) bool | None -> (B, C, *S): (right - left) / 2 along spatial axis `axis`, counted from 0.

    At the edge of the picture, and beside what does not count, it is half the difference to the other neighbour: what
    lies beyond is taken to be as the voxel itself, and is no edge.
    """
    axis += 2
    steps, count = x.diff(dim=axis), x.shape[axis] - 1
    if valid is not None:
        steps = torch.where(valid.narrow(axis, 0, count) & valid.narrow(axis, 1, count), steps, 0.0)
    steps, both = steps / 2, torch.zeros_like(x)
    both.narrow(axis, 0, count).copy_(steps)
    both.narrow(axis, 1, count).add_(steps)
    return both


class Gradients(nn.Module):
    """Differences along every axis, (axis 0 of channel 0, of channel 1, ...; axis 1 ...), for any number of axes.

    normalized: divided by sqrt(mean square + 1e-6) of a patch, over all axes and channels, and over what counts: an
    edge of low contrast is as much of a target as one of high. floor: the least that this may be.
    """

    def __init__(self, patch: tuple[int, ...], channels: int, normalized: bool, floor: float) -> None:
        super().__init__()
        self.pix, self.normalized, self.floor = prod(patch) * channels * len(patch), normalized, floor

    @torch.no_grad()
    def prepare(self, x: Tensor, valid: Tensor | None, spacing: Tensor | None) -> Tensor:
        """(B, C, *S) -> (B, n C, *S)."""
        return torch.cat([difference(x, axis, valid) for axis in range(x.dim() - 2)], 1)

    def forward(self, values: Tensor, weight: Tensor | None = None) -> Tensor:
        """(B, P, pix) differences -> (B, P, pix) what is to be predicted."""
        if not self.normalized:
            return values
        squares = values.square()
        if weight is None:
            mean = squares.mean(-1, keepdim=True)
        else:
            mean = (squares * weight).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True).clamp(min=1)
        return values / (mean.clamp(min=self.floor**2) + 1e-6).sqrt()

    def error(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        """(B, P, pix), (B, P, pix) -> (B, P, pix), not yet averaged."""
        return (predicted - wanted).square()


class GradientTarget(Beside):
    """Differences to the neighbours along every axis, beside the pixels of a patch: what edges there are, and where.

    weight, pixels: what either weighs; pixels=0 asks for no pixels. normalize, floor: of the pixels, as in
    `PixelTarget`; unless "none", differences are divided patch by patch as well, by their root mean square, which is at
    least `floor` too.

    >>> import torch
    >>> from mae_ext.model.gradient import GradientTarget
    >>> target = GradientTarget(patch=(4, 4), channels=3, weight=0.5)
    >>> target.pix  # 48 pixels, and 48 differences along either axis
    144
    """

    def __init__(
        self, patch: tuple[int, ...], channels: int, weight: float = 0.5, pixels: float = 1.0,
        normalize: Normalize = "mae", floor: float = 0.0,
    ) -> None:  # fmt: skip
        other = Gradients(patch, channels, normalize != "none", floor)
        super().__init__(patch, channels, other, pixels, weight, normalize, floor)
