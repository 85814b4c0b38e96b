"""A sample's score, of its map row by row: the mean of the most unlike places, in memory of no more than these."""

from dataclasses import dataclass, field
from math import ceil

import torch
from torch import Tensor


@dataclass
class TopMean:
    """The mean of the highest share `top` of a map's valid places, at least one. most: places there may be.

    One noisy voxel does not decide it as it would the maximum, nor does a large healthy rest hide a small lesion as it
    does in the mean of all.
    """

    top: float
    most: int
    _highest: Tensor = field(default_factory=lambda: torch.empty(0))
    count: int = 0
    _sum: float = 0.0

    def add(self, values: Tensor, valid: Tensor) -> None:
        """(r, *rest), (r, *rest) bool."""
        counted = values[valid]
        self.count += len(counted)
        self._sum += float(counted.double().sum())
        together = torch.cat([self._highest, counted])
        keep = min(ceil(self.top * self.most), len(together))
        self._highest = together.topk(keep, sorted=False).values if keep < len(together) else together

    @property
    def score(self) -> float:
        """NaN of a map without a valid place."""
        wanted = max(1, ceil(self.top * self.count))
        return float(self._highest.topk(wanted).values.double().mean()) if self.count else float("nan")

    @property
    def mean(self) -> float:
        return self._sum / self.count if self.count else float("nan")
