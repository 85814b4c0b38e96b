"""Changes of a sample's values and place that a label survives, for any number of axes: what RandAugment is for.

A set of our own, because the libraries that have one need an image's shape and bytes. An operation scales with the
sample's own contrast, so it means the same for 8-bit levels, Hounsfield units and z-scores.
"""

from collections.abc import Callable
from math import exp, log, sqrt

import torch
from torch import Tensor

from mae_ext.model.units import in_units

Operation = Callable[[Tensor, float], Tensor]
"""(C, *S) float, amount in -1..1 -> the same shape; 0 changes nothing."""

SHIFT = 0.3
"""Largest shift, as a share of an axis (RandAugment, 1909.13719: 0.3 there is a translation of about the same)."""

ERASED = (0.02, 1 / 3)
ERASED_ASPECT = (0.3, 1 / 0.3)
"""Share of area and height/width of an erased box (Random Erasing, 1708.04896, table 1)."""


def brightness(x: Tensor, amount: float) -> Tensor:
    return x + 0.9 * amount * x.std()


def contrast(x: Tensor, amount: float) -> Tensor:
    return x.mean() + (x - x.mean()) * (1 + 0.9 * amount)


def saturation(x: Tensor, amount: float) -> Tensor:
    """Between the mean of the channels and twice as far from it; of one channel, nothing."""
    grey = x.mean(0, keepdim=True)
    return grey + (x - grey) * (1 + 0.9 * amount)


def balance(x: Tensor, amount: float) -> Tensor:
    """The first channels brighter and the last ones darker, or the other way round; of one channel, nothing."""
    slope = torch.linspace(-1, 1, len(x)) if len(x) > 1 else torch.zeros(1)
    return x + 0.5 * amount * x.std() * slope.view(-1, *[1] * (x.ndim - 1))


def shift_down(x: Tensor, amount: float) -> Tensor:
    return _shifted(x, amount, -2)


def shift_right(x: Tensor, amount: float) -> Tensor:
    return _shifted(x, amount, -1)


def smooth(x: Tensor, amount: float) -> Tensor:
    """Toward the mean of five neighbours on the last two axes, or away from it, which sharpens."""
    near = x
    for axis in (-2, -1):
        near = near + x.roll(1, axis) + x.roll(-1, axis)
    return x + amount * (near / 5 - x)


def _shifted(x: Tensor, amount: float, axis: int) -> Tensor:
    """What enters is the sample's mean."""
    length = x.shape[axis]
    steps = round(SHIFT * amount * length)
    if steps == 0:
        return x
    moved = x.roll(steps, axis)
    moved.narrow(axis, 0 if steps > 0 else length + steps, abs(steps)).fill_(float(x.mean()))
    return moved


VALUES: tuple[Operation, ...] = (brightness, contrast, saturation, balance, smooth)
"""Those that leave everything where it is, for answers that have a place."""

OPERATIONS: tuple[Operation, ...] = (*VALUES, shift_down, shift_right)


def distort(
    x: Tensor, operations: int, strength: float, erase: float, generator: torch.Generator,
    among: tuple[Operation, ...] = OPERATIONS,
) -> Tensor:  # fmt: skip
    """(C, *S) -> the same, of float32 where anything was asked for; 8-bit levels become, and stay in, 0..1.

    operations: how many of `among` are applied, one after the other, each drawn with an amount of +-strength (0..1).
    erase: the chance that a box on the last two axes becomes the sample's mean. The generator is the caller's.
    """
    if not (operations or erase):
        return x
    bounded = x.dtype == torch.uint8
    x = in_units(x).clone()
    for _ in range(operations):
        which = int(torch.randint(len(among), (), generator=generator))
        sign = 1 if torch.rand((), generator=generator) < 0.5 else -1
        x = among[which](x, sign * strength)
        x = x.clamp(0, 1) if bounded else x
    chance, area_at, aspect_at, top_at, left_at = torch.rand(5, generator=generator).tolist()
    if chance < erase:
        x = _erased(x, area_at, aspect_at, top_at, left_at)
    return x


def _erased(x: Tensor, area_at: float, aspect_at: float, top_at: float, left_at: float) -> Tensor:
    height, width = x.shape[-2:]
    area = height * width * (ERASED[0] + area_at * (ERASED[1] - ERASED[0]))
    low, high = map(log, ERASED_ASPECT)
    aspect = exp(low + aspect_at * (high - low))
    h, w = (min(max(1, round(v)), n) for v, n in ((sqrt(area * aspect), height), (sqrt(area / aspect), width)))
    top, left = int(top_at * (height - h + 1)), int(left_at * (width - w + 1))
    x = x.clone()
    x[..., top : top + h, left : left + w] = x.mean()
    return x
