"""Mixup and CutMix between neighbours of a batch: a function of (seed, step, pair), for any number of ranks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
from torch import Tensor

from mae_ext.data.batch import Batch
from mae_ext.data.plan import Key
from mae_ext.model.units import in_units
from mae_ext.rng import seed_of


@dataclass(frozen=True)
class Mix:
    """mixup, cutmix: the two parameters, alike, of the Beta distribution that the share is drawn from; 0 is off.

    Mixup is 1710.09412, CutMix 1905.04899. Where both are on, a coin decides for each pair. Slots 2i and 2i + 1 of the
    global batch are a pair, each mixed with the other by the same share: the order of an epoch is random already, and
    no rank needs another's samples.
    """

    mixup: float
    cutmix: float

    def __call__(self, batch: Batch, keys: Sequence[Key], seed: int, name: str, step: int, target: str) -> Batch:
        """target: which of the batch's targets, (B, classes), is mixed as x is."""
        if not (self.mixup or self.cutmix):
            return batch
        assert keys[0].slot % 2 == 0 and len(batch.x) % 2 == 0, "whole pairs: `Examples.together` says 2"
        batch = batch.in_units()
        x = in_units(batch.x).clone()
        y = batch.targets[target].clone()
        for i in range(0, len(x), 2):
            draw = np.random.default_rng(seed_of(seed, "mix", name, step, keys[i].slot // 2))
            cut = draw.random() < 0.5 if self.mixup and self.cutmix else bool(self.cutmix)
            alike = self.cutmix if cut else self.mixup
            share = float(draw.beta(alike, alike))
            at = draw.random(2)
            x[i : i + 2], share = cutmix(x[i : i + 2], share, at) if cut else (mixup(x[i : i + 2], share), share)
            y[i : i + 2] = mixup(y[i : i + 2], share)
        return replace(batch, x=x, targets=batch.targets | {target: y})


def mixup(pair: Tensor, share: float) -> Tensor:
    """(2, ...) -> (2, ...): each is `share` itself, and the other for the rest."""
    return share * pair + (1 - share) * pair.flip(0)


def cutmix(pair: Tensor, share: float, at: np.ndarray) -> tuple[Tensor, float]:
    """(2, C, *S) -> each with a box on the last two axes from the other, and the share that is left of itself.

    The box has the sample's aspect and is centred at `at` (0..1 of each axis); what of it lies outside is cut off, and
    the share is that of what was really pasted.
    """
    slices: list[slice] = []
    covered = 1.0
    for length, centre in zip(pair.shape[-2:], at, strict=True):
        half = sqrt(1 - share) * length / 2
        start, stop = (int(np.clip(round(centre * length + way * half), 0, length)) for way in (-1, 1))
        slices.append(slice(start, stop))
        covered *= (stop - start) / length
    mixed = pair.clone()
    rows, columns = slices
    mixed[..., rows, columns] = pair.flip(0)[..., rows, columns]
    return mixed, 1 - covered
