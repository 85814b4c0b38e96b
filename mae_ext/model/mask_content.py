"""Masks that follow what patches hold: where something moves, or where there is structure."""

from dataclasses import dataclass
from math import log, prod
from typing import Literal

import torch
from torch import Tensor

from mae_ext.model.grid import patches
from mae_ext.model.mask import num_keep

BINS = 16
"""Grey levels that entropy tells apart, between a sample's least and largest value: few, or every patch of a few dozen
pixels has the same entropy, which is that of all its pixels being different."""

Measure = Literal["change", "contrast", "entropy"]


@dataclass(frozen=True)
class ContentMasker:
    """Keeps tokens of high content rather than others (or of low content), with chance mixed in, in exact counts.

    measure: of a patch. `change`, the mean absolute difference to what is before it along `axis` (time, for clips: the
    idea of EVEREST, 2211.10636, and AdaMAE, 2211.09120, whose measures are learned); `contrast`, the standard deviation
    of its values; `entropy` of its grey levels, in bits (MO-MAE, 2605.26287).
    keep: `high` or `low`; what is kept is seen, the rest is hidden, so `low` has the model answer where most is.
    mix: how much of a score is chance, 0..1: 0 ranks by content alone, 1 is the random masker. Tokens of the same
    content are ordered by chance. Without samples, as in a plan, it is the random masker.
    """

    ratio: float = 0.75
    keep: Literal["high", "low"] = "high"
    mix: float = 0.5
    measure: Measure = "contrast"
    axis: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.mix <= 1:
            raise ValueError(f"mix={self.mix} must be a share, 0 to 1")
        if self.keep not in ("high", "low"):
            raise ValueError(f"keep={self.keep!r}: expected 'high' or 'low'")
        if self.measure not in MEASURES:
            raise ValueError(f"measure={self.measure!r}: expected one of {', '.join(MEASURES)}")

    def content_of(self, x: Tensor, patch: tuple[int, ...]) -> Tensor:
        """(C, *S) in the reader's units -> (*grid), what each patch holds."""
        self._check_axis(len(patch))
        return MEASURES[self.measure](x, patch, self.axis)

    def num_keep(self, grid: tuple[int, ...]) -> int:
        """How many tokens stay visible."""
        self._check_axis(len(grid))
        return num_keep(prod(grid), self.ratio)

    def scores(
        self, grid: tuple[int, ...], generator: torch.Generator, valid: Tensor | None = None,
        content: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """-> (*grid) float32, lowest kept. content: (*grid), as `content_of` has it."""
        chance, shuffled = torch.rand(grid, generator=generator), torch.randperm(prod(grid), generator=generator)
        if content is None:
            return chance
        rising = shuffled[content.flatten()[shuffled].argsort(stable=True, descending=self.keep == "high")]
        place = torch.empty(prod(grid)).scatter_(0, rising, torch.arange(prod(grid)) / prod(grid))
        return (1 - self.mix) * place.view(grid) + self.mix * chance

    def _check_axis(self, axes: int) -> None:
        if not -axes <= self.axis < axes:
            raise ValueError(f"axis={self.axis} does not exist in a sample of {axes} axes; expected 0 to {axes - 1}")


def change(x: Tensor, patch: tuple[int, ...], axis: int) -> Tensor:
    """(C, *S) -> (*grid). What is first along the axis has nothing before it, and the change of what follows."""
    axis = axis % len(patch) + 1
    steps = x.diff(dim=axis).abs()
    if not steps.shape[axis]:
        return _in_patches(torch.zeros_like(x), patch).mean(-1)
    return _in_patches(torch.cat([steps.narrow(axis, 0, 1), steps], axis), patch).mean(-1)


def contrast(x: Tensor, patch: tuple[int, ...], axis: int) -> Tensor:  # noqa: ARG001 all measures are called alike
    """(C, *S) -> (*grid): of several channels, the root of their mean variance."""
    by_channel = _in_patches(x, patch).unflatten(-1, (-1, len(x)))
    deviation: Tensor = by_channel.var(-2, correction=0).mean(-1).sqrt()
    return deviation


def entropy(x: Tensor, patch: tuple[int, ...], axis: int) -> Tensor:  # noqa: ARG001
    """(C, *S) -> (*grid): bits of the distribution of the channels' mean over BINS levels."""
    grey = x.mean(0, keepdim=True)
    low, high = grey.aminmax()
    level = ((grey - low) / (high - low).clamp(min=torch.finfo(x.dtype).tiny) * BINS).clamp(max=BINS - 1).floor()
    tokens = _in_patches(level, patch)
    flat = tokens.flatten(0, -2)
    row = torch.arange(len(flat))[:, None] * BINS
    share = (row + flat.long()).flatten().bincount(minlength=len(flat) * BINS).view(len(flat), BINS) / flat.shape[1]
    bits: Tensor = torch.special.entr(share).sum(1) / log(2)
    return bits.view(tokens.shape[:-1])


MEASURES = {"change": change, "contrast": contrast, "entropy": entropy}


def _in_patches(x: Tensor, patch: tuple[int, ...]) -> Tensor:
    """(C, *S) -> (*grid, pix)."""
    return patches(x[None], patch)[0].flatten(len(patch))
