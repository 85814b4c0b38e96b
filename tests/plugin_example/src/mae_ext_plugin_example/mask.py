"""A masker with a pattern: it only says which tokens it would rather keep; mae_ext makes the counts exact."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from mae_ext import num_keep


@dataclass(frozen=True)
class Checkerboard:
    """Keeps the fields of one colour first, for any number of axes. Which colour, and which fields, is chance."""

    ratio: float = 0.5

    def num_keep(self, grid: tuple[int, ...]) -> int:
        return num_keep(prod(grid), self.ratio)

    def scores(self, grid: tuple[int, ...], generator: torch.Generator, valid: Tensor | None = None) -> Tensor:
        """-> (*grid) float32, lowest kept."""
        colour = torch.zeros(grid, dtype=torch.int64)
        for axis, extent in enumerate(grid):
            colour += torch.arange(extent).view(*(extent if a == axis else 1 for a in range(len(grid))))
        first = torch.randint(0, 2, (1,), generator=generator)
        # All randomness is from the generator that was given: that is what makes a run repeatable.
        return (colour + first) % 2 + torch.rand(grid, generator=generator)
