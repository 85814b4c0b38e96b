"""What all probes share: the samples held out to choose a setting by, and the scores that are reported.

An interval is the 2.5th to the 97.5th percentile of a score over bootstrap draws. Patients are drawn where they are
known, with all that they have, else samples: ten clips of one patient are not ten witnesses.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mae_ext.probing.ranking import auroc, average_precision
from mae_ext.rng import rng

HELD_OUT = 0.1
MANY = 5000
"""Training samples of which one held-out tenth is enough to choose by."""

DRAWS = 5
"""Held-out tenths that are averaged where there are fewer."""

RESAMPLES = 1000
MOST_AREAS = 10_000_000
"""Samples times classes above which areas under curves get no interval: at that number it takes minutes of a core."""
PERCENTILES = (2.5, 97.5)


def split(y: Tensor, seed: int, draw: int = 0, groups: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(n,) int64 -> indices to fit on and indices held out: a tenth of each class, at least one where it has two.

    groups: (n,) int64, the patient of each sample. One is then held out with all samples, and only while every class
    keeps a sample to fit on.
    """
    if groups is not None:
        return _split_by_group(y, groups, seed, draw)
    held = []
    for label in y.unique().tolist():
        members = (y == label).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=rng(seed, "probe", draw, int(label)))
        count = max(round(HELD_OUT * len(members)), int(len(members) > 1))
        held.append(members[order[:count]])
    out = torch.zeros(len(y), dtype=torch.bool)
    out[torch.cat(held)] = True
    return (~out).nonzero()[:, 0], out.nonzero()[:, 0]


def _split_by_group(y: Tensor, groups: Tensor, seed: int, draw: int) -> tuple[Tensor, Tensor]:
    out = torch.zeros(len(y), dtype=torch.bool)
    classes = int(y.max()) + 1
    for label in y.unique().tolist():
        members = groups[y == label].unique()
        wanted = HELD_OUT * float((y == label).sum())
        for which in torch.randperm(len(members), generator=rng(seed, "probe", draw, int(label))):
            if float((out & (y == label)).sum()) >= wanted:
                break
            tried = out | (groups == members[which])
            left = y[~tried].bincount(minlength=classes) > 0
            if bool((left | (y.bincount(minlength=classes) == 0)).all()):
                out = tried
    return (~out).nonzero()[:, 0], out.nonzero()[:, 0]


def accuracy(predicted: Tensor, wanted: Tensor) -> float:
    return float((predicted == wanted).double().mean())


def scores(predicted: Tensor, wanted: Tensor) -> dict[str, float]:
    """accuracy, and balanced_accuracy: the mean recall of the classes that occur in `wanted`."""
    recalls = [accuracy(predicted[wanted == label], wanted[wanted == label]) for label in wanted.unique()]
    return {"accuracy": accuracy(predicted, wanted), "balanced_accuracy": float(np.mean(recalls))}


def resampled(n: int, seed: int, groups: Tensor | None = None, draws: int = RESAMPLES) -> Tensor:
    """-> (draws, n) int16: how often each of n samples is drawn, as often in all as there are samples or patients."""
    names, inverse = (torch.arange(n) if groups is None else groups).unique(return_inverse=True)
    drawn = torch.randint(len(names), (draws, len(names)), generator=rng(seed, "bootstrap"))
    counts = torch.zeros(draws, len(names), dtype=torch.int16)
    return counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.int16))[:, inverse]


def score_classes(votes: Tensor, wanted: Tensor, seed: int = 0, groups: Tensor | None = None) -> dict[str, Any]:
    """(n, classes) scores of one scale for all samples, (n,) int64 -> accuracy, balanced_accuracy, auroc, and *_ci.

    The largest score is the prediction. auroc: each class against the rest, then the mean over the classes that occur
    and are not all there is. Intervals as at the head of this file; None where nothing can be said, as with a single
    patient. groups: (n,) int64, the patient of each sample.
    """
    hits = votes.argmax(1) == wanted
    weight = resampled(len(wanted), seed, groups)
    hard = scores(votes.argmax(1), wanted)
    ranked, ranked_ci = _over_classes(votes, torch.nn.functional.one_hot(wanted, votes.shape[1]), weight, groups, auroc)
    return {
        "accuracy": hard["accuracy"],
        "accuracy_ci": _interval(_hit_rate(hits, weight), groups),
        "balanced_accuracy": hard["balanced_accuracy"],
        "balanced_accuracy_ci": _interval(_balanced(hits, wanted, weight), groups),
        "auroc": ranked,
        "auroc_ci": ranked_ci,
    }


def score_marks(
    votes: Tensor, marks: Tensor, seed: int = 0, groups: Tensor | None = None, draws: int = RESAMPLES
) -> dict[str, Any]:
    """(n, classes) scores, (n, classes) of 1, 0 and -1 (not known) -> auroc and average_precision, means over classes.

    A class counts where the samples that are known have it and lack it. Intervals as in `score_classes`.
    """
    weight = resampled(len(marks), seed, groups, draws)
    ranked, ranked_ci = _over_classes(votes, marks, weight, groups, auroc)
    precise, precise_ci = _over_classes(votes, marks, weight, groups, average_precision)
    return {
        "auroc": ranked,
        "auroc_ci": ranked_ci,
        "average_precision": precise,
        "average_precision_ci": precise_ci,
    }


def score_each_class(votes: Tensor, marks: Tensor, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """As in `score_marks`, class by class, with the number of samples that have it and lack it."""
    scored = {}
    for c, name in enumerate(names):
        known = marks[:, c] >= 0
        score, has = votes[known, c], marks[known, c] == 1
        once = torch.ones(1, len(has))
        scored[name] = {
            "auroc": _number(float(auroc(score, has, once))),
            "average_precision": _number(float(average_precision(score, has, once))) if not bool(has.all()) else None,
            "positives": int(has.sum()),
            "negatives": int((~has).sum()),
        }
    return scored


def _over_classes(
    votes: Tensor, marks: Tensor, weight: Tensor, groups: Tensor | None, area: Any
) -> tuple[float | None, list[float] | None]:
    """The mean over classes of an area under a curve, and its interval: over the classes that a draw leaves defined.

    No interval above `MOST_AREAS`.
    """
    values, drawn, drawing = [], [], votes.numel() <= MOST_AREAS
    for c in range(votes.shape[1]):
        known = marks[:, c] >= 0
        score, has = votes[known, c], marks[known, c] == 1
        if bool(has.any()) and not bool(has.all()):
            values.append(float(area(score, has, torch.ones(1, len(has)))))
            if drawing:
                drawn.append(area(score, has, weight[:, known]))
    if not values:
        return None, None
    if not drawing:
        return float(np.mean(values)), None
    return float(np.mean(values)), _interval(torch.stack(drawn).nanmean(0), groups)


def _hit_rate(hits: Tensor, weight: Tensor) -> Tensor:
    """(n,) bool, (W, n) -> (W,)."""
    return (weight.float() @ hits.float()).double() / weight.sum(1)


def _balanced(hits: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    rows = [_hit_rate(hits[wanted == label], weight[:, wanted == label]) for label in wanted.unique()]
    return torch.stack(rows).nanmean(0)


def _interval(values: Tensor, groups: Tensor | None) -> list[float] | None:
    """(W,) -> [low, high] over the draws in which the score is defined."""
    values = values[values.isfinite()]
    if not len(values) or (groups is not None and len(groups.unique()) < 2):
        return None
    return [float(v) for v in np.percentile(values.numpy(), PERCENTILES)]


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
