"""How well label maps agree: Dice, distances of surfaces by MONAI, and a loss of what is known."""

from collections.abc import Mapping, Sequence
from math import sqrt

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from mae_ext.data.labelmap import IGNORED, Labels

TOLERANCE = 1.0
"""Of the surface Dice: mm where there is a spacing, else voxels."""

COUNTS = ("missed", "spurious", "background_only")
"""Kinds of scores that are numbers of samples, or of classes in them."""


def dice(answer: Labels, wanted: Labels, classes: Sequence[str]) -> dict[str, float]:
    """2 |A and B| / (|A| + |B|) of each class that occurs in either; a class in neither is left out.

    Here and below, what is found where `wanted` is IGNORED counts as nothing.
    """
    scores, answer = {}, _known(answer, wanted)
    for number, name in enumerate(classes, start=1):
        a, b = answer == number, wanted == number
        total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
        if total:
            scores[f"dice/{name}"] = 2 * int(np.count_nonzero(a & b)) / total
    return scores


def found_wrongly(answer: Labels, wanted: Labels, classes: Sequence[str]) -> dict[str, float]:
    """missed/...: 1 where a class is there and none of it is found, else 0; spurious/...: found, and not there.

    background_only: 1 of a sample that has no label at all. Counts, which `mean_scores` adds up.
    """
    answer = _known(answer, wanted)
    scores = {"background_only": float(not (wanted > 0).any())}
    for number, name in enumerate(classes, start=1):
        a, b = bool((answer == number).any()), bool((wanted == number).any())
        scores |= {f"missed/{name}": float(b and not a), f"spurious/{name}": float(a and not b)}
    return scores


def surface_scores(
    answer: Labels, wanted: Labels, classes: Sequence[str], spacing: tuple[float, ...] | None
) -> dict[str, float]:
    """hd95/..., surface_dice/... of each class that occurs in either. spacing: mm of the voxels; None counts voxels.

    A class in one of the two alone has no distance. It is as far off as can be: the diagonal of the sample, and a
    surface Dice of 0. That is the rule of the BraTS challenges, whose 374 mm are the diagonal of 240x240x155 voxels of
    1 mm, for any size.
    """
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_dice import compute_surface_dice

    steps = spacing or (1.0,) * answer.ndim
    diagonal = sqrt(sum((n * step) ** 2 for n, step in zip(answer.shape, steps, strict=True)))
    scores, answer = {}, _known(answer, wanted)
    for number, name in enumerate(classes, start=1):
        a, b = (torch.from_numpy(labels == number)[None, None] for labels in (answer, wanted))
        if bool(a.any()) and bool(b.any()):
            scores[f"hd95/{name}"] = float(compute_hausdorff_distance(a, b, True, percentile=95, spacing=list(steps)))
            scores[f"surface_dice/{name}"] = float(compute_surface_dice(a, b, [TOLERANCE], True, spacing=list(steps)))
        elif bool(a.any()) or bool(b.any()):
            scores |= {f"hd95/{name}": diagonal, f"surface_dice/{name}": 0.0}
    return scores


def loss_of_known(answers: Tensor, wanted: Tensor) -> Tensor:
    """(B, 1 + classes, *S) logits, (B, *S) int64 with IGNORED -> scalar: Dice of the classes plus cross-entropy.

    The mean over samples of MONAI's DiceCELoss, taken where something is known; a sample of which nothing is, is 0.
    """
    from monai.losses.dice import DiceLoss

    known = (wanted != IGNORED)[:, None]
    here = one_hot(wanted.clamp(min=0), answers.shape[1]).movedim(-1, 1) * known
    dice: Tensor = DiceLoss(include_background=False)(answers.softmax(1) * known, here)
    entropy = cross_entropy(answers, wanted, ignore_index=IGNORED, reduction="none").flatten(1).sum(1)
    return dice + (entropy / known.flatten(1).sum(1).clamp(min=1)).mean()


def _known(answer: Labels, wanted: Labels) -> Labels:
    if int(wanted.min(initial=0)) != IGNORED:
        return answer
    return np.where(wanted == IGNORED, 0, answer).astype(answer.dtype)


def mean_scores(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of samples' scores the mean by name, over the samples that have it, then over the classes: "dice", "hd95", ...

    Of counts (COUNTS) the sums instead, of classes those that are not 0.
    """
    named: dict[str, list[float]] = {}
    for row in rows:
        for key, value in row.items():
            named.setdefault(key, []).append(value)
    kinds: dict[str, list[float]] = {}
    means = {}
    for key, values in named.items():
        kind = key.partition("/")[0]
        means[key] = float(sum(values) if kind in COUNTS else np.mean(values))
        kinds.setdefault(kind, []).append(means[key])
    overall = {kind: float(sum(values) if kind in COUNTS else np.mean(values)) for kind, values in kinds.items()}
    none = {key for key, value in means.items() if "/" in key and key.partition("/")[0] in COUNTS and not value}
    return {"samples": float(len(rows)), **overall, **{k: v for k, v in means.items() if k not in none}}
