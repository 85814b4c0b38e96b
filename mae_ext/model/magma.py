"""Samples that an inner block finds alike stay alike in the last one: MAGMA's term beside the reconstruction error."""

import torch
from torch import Tensor

LEAST = 1e-4
"""Added to the neighbours of a sample, so that one with none is divided by something (MAGMA's code)."""


def magma(inner: Tensor, last: Tensor) -> Tensor:
    """(B, D) of an inner block and of the last -> scalar of at least 0: trace(last' L last) / B^2 (2412.02871).

    L = 1 - d^-1/2 W d^-1/2 of the affinities W = exp(-|x - x'|^2 / s) of two samples of `inner`, 0 of one with itself;
    d, their sums. s is the standard deviation of the batch's squared distances, as in MAGMA's code, so the scale of
    features changes nothing. Nothing is detached, as there: both blocks move towards each other, and s, which moves
    with the distances, leaves no gradient to the scale of `inner`.
    """
    inner = inner - inner.mean(0)  # centred: distances are differences of large numbers
    count, norms = len(inner), inner.square().sum(1)
    squares = (norms[:, None] + norms - 2 * inner @ inner.T).clamp(min=0)
    others = ~torch.eye(count, dtype=torch.bool, device=inner.device)
    squares, pairs = squares * others, count * (count - 1)
    mean = squares.sum() / pairs
    variance = ((squares - mean) * others).square().sum() / (pairs - 1)
    # A hundredth of the mean, where all are equally far, as two are; and a number above 0, where none is far.
    width = (variance + (0.01 * mean).square() + 1e-24).sqrt()
    affinity = torch.exp(-squares / width) * others
    scale = (LEAST + affinity.sum(1)).rsqrt()
    smooth = scale[:, None] * affinity * scale
    return (last.square().sum() - (smooth * (last @ last.T)).sum()) / count**2
