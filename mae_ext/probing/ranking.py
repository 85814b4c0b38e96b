"""How well scores put samples of a class before the others: areas under two curves, exact, for many weightings at once.

A bootstrap draw is nothing but a weight for each sample, how often it was drawn, so the scores are sorted once for all
draws. Samples with equal scores count as one place: what their order in a file happens to be changes nothing.
"""

import torch
from torch import Tensor

CHUNK = 4 << 20
"""Weights looked at together."""


def auroc(score: Tensor, positive: Tensor, weight: Tensor) -> Tensor:
    """(n,) float, (n,) bool, (W, n) -> (W,) float64: the chance that a positive scores above a negative, ties half.

    NaN where a weighting leaves only positives or only negatives.
    """
    order, last = _places(score)
    return torch.cat([_auroc(part[:, order], positive[order], last) for part in _parts(weight)])


def average_precision(score: Tensor, positive: Tensor, weight: Tensor) -> Tensor:
    """(n,) float, (n,) bool, (W, n) -> (W,) float64: precision at each distinct score, weighted by the recall it adds.

    No interpolation. NaN where a weighting leaves no positive.
    """
    order, last = _places(-score)
    return torch.cat([_average_precision(part[:, order], positive[order], last) for part in _parts(weight)])


def _places(score: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) -> the ascending order, and where in it each run of equal scores ends."""
    ordered, order = score.double().sort()
    assert bool(ordered.isfinite().all())
    _, counts = ordered.unique_consecutive(return_counts=True)
    return order, counts.cumsum(0) - 1


def _parts(weight: Tensor) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = weight.split(max(1, CHUNK // max(1, weight.shape[1])))
    return parts


def _auroc(weight: Tensor, positive: Tensor, last: Tensor) -> Tensor:
    weight = weight.double()
    above = _gained(weight * positive, last)
    other = _gained(weight * ~positive, last)
    below = other.cumsum(1) - other / 2
    return (above * below).sum(1) / (above.sum(1) * other.sum(1))


def _average_precision(weight: Tensor, positive: Tensor, last: Tensor) -> Tensor:
    weight = weight.double()
    gained = _gained(weight * positive, last)
    shown = weight.cumsum(1)[:, last]
    # Before the first sample that was drawn nothing is shown and nothing found.
    precision = gained.cumsum(1) / shown.clamp(min=1)
    return (gained * precision).sum(1) / gained.sum(1)


def _gained(weight: Tensor, last: Tensor) -> Tensor:
    """(W, n) in order -> (W, places): the weight in each run of equal scores."""
    reached = weight.cumsum(1)[:, last]
    return reached.diff(dim=1, prepend=reached.new_zeros(len(reached), 1))
