"""Random changes of a view's values for pretraining, in one pass over the view, whatever they are.

All of them are linear in a sample's values, so what several do one after the other is one linear map, as long as
nothing is clipped between them: of RGB a matrix and an offset, of all else a factor and an offset of each channel. An
8-bit view stays 8-bit, so that it travels as it did.
"""

from dataclasses import replace
from math import cos, pi, sin

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae_ext.data.sample import Sample

Floats = NDArray[np.float64]

LUMA = np.array([0.299, 0.587, 0.114])
"""Of R, G and B (ITU-R BT.601)."""

YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""From RGB (NTSC): light, and two axes in whose plane hue is an angle."""
RGB = np.linalg.inv(YIQ)

SAME, NOTHING, GREY = np.eye(3), np.zeros(3), np.tile(LUMA, (3, 1))

HUE = pi / 2
"""The angle of an amount of 1, so that SimCLR's hue of 0.1 of a turn goes with its 0.4 of the rest (2002.05709)."""


def jitter(sample: Sample, operations: int, strength: float, grey: float, generator: torch.Generator) -> Sample:
    """The sample with other values: x (C, *S) uint8, or float32 in the reader's units, and of its type again.

    operations: how many, of the four of RGB in 8 bits (brightness, contrast, saturation, hue) or of the two of all else
    (scale about the mean, and shift by a share of the standard deviation, where the loss counts): each at most once, in
    random order, by an amount evenly in +-strength (0..1). grey: the chance that RGB becomes its light (BT.601). The
    generator is the caller's; how many numbers are drawn of it depends on nothing.
    """
    drawn = torch.rand(9, dtype=torch.float64, generator=generator).tolist()
    amounts = [strength * (2 * one - 1) for one in drawn[4:8]]
    x = sample.x
    coloured = x.dtype == torch.uint8 and len(x) == 3
    order = sorted(range(4 if coloured else 2), key=drawn.__getitem__)[:operations]
    steps = [(one, amounts[one]) for one in order]
    values = x.flatten(1).float()
    if coloured:
        matrix, lift = (torch.from_numpy(one).float() for one in _colours(values, steps, drawn[8] < grey))
        changed = torch.addmm(lift[:, None], matrix, values)
    else:
        factor, lift = (torch.from_numpy(one).float() for one in _intensities(values, sample.valid, steps))
        changed = torch.addcmul(lift[:, None], factor[:, None], values)
    if x.dtype == torch.uint8:
        changed = changed.add_(0.5).clamp_(0, 255).to(torch.uint8)
    return replace(sample, x=changed.view(x.shape))


def _colours(values: Tensor, steps: list[tuple[int, float]], grey: bool) -> tuple[Floats, Floats]:
    """(3, n) -> (3, 3), (3,): what becomes of a colour."""
    mean = values.mean(1).double().numpy()
    matrix, offset = SAME, NOTHING
    for which, amount in steps:
        if which < 2:  # brightness, or contrast, about the mean light
            light = float(LUMA @ (matrix @ mean + offset)) if which else 0.0
            matrix, offset = (1 + amount) * matrix, (1 + amount) * offset - amount * light
        else:
            turn = (1 + amount) * SAME - amount * GREY if which == 2 else _hue(amount)
            matrix, offset = turn @ matrix, turn @ offset
    return (GREY @ matrix, GREY @ offset) if grey else (matrix, offset)


def _hue(amount: float) -> Floats:
    c, s = cos(HUE * amount), sin(HUE * amount)
    turned: Floats = RGB @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ YIQ
    return turned


def _intensities(values: Tensor, valid: Tensor | None, steps: list[tuple[int, float]]) -> tuple[Floats, Floats]:
    """(C, n) -> (C,), (C,): factor and offset of each channel."""
    counted = values
    if valid is not None and valid.any():
        counted = values[:, valid.flatten()]
    deviation, mean = (one.double().numpy() for one in torch.std_mean(counted, 1, correction=0))
    factor, offset = np.ones(len(values)), np.zeros(len(values))
    for which, amount in steps:
        if which == 0:
            middle = factor * mean + offset
            factor, offset = (1 + amount) * factor, (1 + amount) * offset - amount * middle
        else:
            offset = offset + amount * factor * deviation
    return factor, offset
