"""Views of one file are encoded alike: what MAE's loss alone does not ask for."""

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

FAR = -1e9
"""The likeness of what is no other file: its exponential is 0 in float32, and its gradient is no NaN."""


def agreement(rows: Tensor, files: Tensor) -> Tensor:
    """(B, D), (B,) int64 -> scalar in 0..2: 1 less the mean cosine of two views of one file, over all pairs of such.

    0 where there is no pair. Nothing holds different files apart: that is what `train.uniformity` is for.
    """
    cosines, alike, _ = _compared(rows, files)
    return ((1 - cosines) * alike).sum() / alike.sum().clamp(min=1)


def contrast(rows: Tensor, files: Tensor, temperature: float) -> Tensor:
    """(B, D), (B,) int64 -> scalar: the mean over pairs of views of one file of -log(e^p / (e^p + sum of all e^n)).

    p: their cosine over the temperature. n: the same of the first of them and each view of every other file. With two
    views of a file it is NT-Xent (SimCLR, 2002.05709), as CAN (2210.16870) has it beside MAE's loss.
    """
    cosines, alike, same = _compared(rows, files)
    likeness = cosines / temperature
    others = likeness.masked_fill(same, FAR).logsumexp(1, keepdim=True)
    return (softplus(others - likeness) * alike).sum() / alike.sum().clamp(min=1)


def _compared(rows: Tensor, files: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """-> (B, B) each: cosines; whether two are views of one file; the same, or one view with itself."""
    directions, same = normalize(rows, dim=-1), files[:, None] == files
    return directions @ directions.T, same & ~torch.eye(len(same), dtype=torch.bool, device=same.device), same
