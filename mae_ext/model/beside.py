"""Another target beside pixels, or in their place."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from mae_ext.model.target import Normalize, PixelTarget


class Beside(nn.Module):
    """The pixels of a patch, and `other` of it; what weighs 0 is not predicted at all.

    pixels, weight: what the mean error of the pixels and that of `other` weigh in the loss. normalize, floor, loss: of
    `PixelTarget`. Raises ValueError for weights below 0, or nothing above it.
    """

    def __init__(
        self, patch: tuple[int, ...], channels: int, other: nn.Module,
        pixels: float, weight: float, normalize: Normalize = "mae", floor: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        for key, value in (("pixels", pixels), ("weight", weight)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{key}={value} must be at least 0")
        if not weight > 0:
            raise ValueError("weight=0 asks for pixels alone: name 'pixel'")
        self.other = other
        pixel = PixelTarget(patch, channels, normalize, floor)  # which also says what its arguments may be
        self.pixel = pixel if pixels else None
        self.weights = (pixels, weight)

    @property
    def parts(self) -> Sequence[tuple[float, Any]]:
        both = zip(self.weights, (self.pixel, self.other), strict=True)
        return [(weight, part) for weight, part in both if part is not None]

    @property
    def pix(self) -> int:
        return sum(int(part.pix) for _, part in self.parts)
