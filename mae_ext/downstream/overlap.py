"""How well label maps agree: Dice, and distances of surfaces by MONAI."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from mae_ext.data.labelmap import Labels

TOLERANCE = 1.0
"""Of the surface Dice: mm where there is a spacing, else voxels."""


def dice(found: Labels, wanted: Labels, classes: Sequence[str]) -> dict[str, float]:
    """2 |A and B| / (|A| + |B|) of each class that occurs in either; a class in neither is left out."""
    scores = {}
    for number, name in enumerate(classes, start=1):
        a, b = found == number, wanted == number
        total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
        if total:
            scores[f"dice/{name}"] = 2 * int(np.count_nonzero(a & b)) / total
    return scores


def surface_scores(
    found: Labels, wanted: Labels, classes: Sequence[str], spacing: tuple[float, ...] | None
) -> dict[str, float]:
    """hd95/... and surface_dice/... of each class that occurs in both; a class missed altogether has no distance."""
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_dice import compute_surface_dice

    scores = {}
    for number, name in enumerate(classes, start=1):
        a, b = (torch.from_numpy(labels == number)[None, None] for labels in (found, wanted))
        if bool(a.any()) and bool(b.any()):
            steps = None if spacing is None else list(spacing)
            scores[f"hd95/{name}"] = float(compute_hausdorff_distance(a, b, True, percentile=95, spacing=steps))
            scores[f"surface_dice/{name}"] = float(compute_surface_dice(a, b, [TOLERANCE], True, spacing=steps))
    return scores


def mean_scores(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of samples' scores the mean by name, over the samples that have it, then over the classes: "dice", "hd95", ..."""
    named: dict[str, list[float]] = {}
    for row in rows:
        for key, value in row.items():
            named.setdefault(key, []).append(value)
    means = {key: float(np.mean(values)) for key, values in named.items()}
    kinds: dict[str, list[float]] = {}
    for key, value in means.items():
        kinds.setdefault(key.partition("/")[0], []).append(value)
    return {"samples": float(len(rows)), **{kind: float(np.mean(values)) for kind, values in kinds.items()}, **means}
