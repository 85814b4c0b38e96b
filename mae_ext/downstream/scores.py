"""What all probes share: the samples held out to choose a setting by, and the scores that are reported."""

import numpy as np
import torch
from torch import Tensor

from mae_ext.rng import rng

HELD_OUT = 0.1
MANY = 5000
"""Training samples of which one held-out tenth is enough to choose by."""

DRAWS = 5
"""Held-out tenths that are averaged where there are fewer."""


def split(y: Tensor, seed: int, draw: int = 0) -> tuple[Tensor, Tensor]:
    """(n,) int64 -> indices to fit on and indices held out: a tenth of each class, at least one where it has two."""
    held = []
    for label in y.unique().tolist():
        members = (y == label).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=rng(seed, "probe", draw, int(label)))
        count = max(round(HELD_OUT * len(members)), int(len(members) > 1))
        held.append(members[order[:count]])
    out = torch.zeros(len(y), dtype=torch.bool)
    out[torch.cat(held)] = True
    return (~out).nonzero()[:, 0], out.nonzero()[:, 0]


def accuracy(predicted: Tensor, wanted: Tensor) -> float:
    return float((predicted == wanted).double().mean())


def scores(predicted: Tensor, wanted: Tensor) -> dict[str, float]:
    """accuracy, and balanced_accuracy: the mean recall of the classes that occur in `wanted`."""
    recalls = [accuracy(predicted[wanted == label], wanted[wanted == label]) for label in wanted.unique()]
    return {"accuracy": accuracy(predicted, wanted), "balanced_accuracy": float(np.mean(recalls))}
