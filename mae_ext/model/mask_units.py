"""Masks in units coarser than a token: what is drawn is drawn on the grid of units, and holds for all tokens of one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor


def repeated(values: Tensor, unit: Sequence[int]) -> Tensor:
    """(*units) -> (*grid): the value of a unit for each of its tokens."""
    for axis, count in enumerate(unit):
        values = values.repeat_interleave(count, axis)
    return values


def pooled(values: Tensor, unit: Sequence[int]) -> Tensor:
    """(*grid) -> (*units): the mean over the tokens of a unit."""
    split = values.reshape([e for s, u in zip(values.shape, unit, strict=True) for e in (s // u, u)])
    return split.mean(dim=[2 * axis + 1 for axis in range(len(unit))])


@dataclass(frozen=True)
class InUnits:
    """A masker that says `_num_keep` and `_scores` of a grid, and is asked for those of the grid of units.

    unit: tokens along each axis that are hidden or kept together; None is single tokens. Pixio (Meta, 2025) hides units
    of 4 x 4 or 2 x 2 tokens. Counts are exact in whole units, so as many tokens as the masker keeps units, times their
    size. A grid that has no whole number of units on every axis is refused: a unit at the edge would count less.
    """

    unit: Sequence[int] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        unit = self.unit
        whole = isinstance(unit, list | tuple) and all(isinstance(n, int) and n is not True and n > 0 for n in unit)
        if unit is not None and not (unit and whole):
            raise ValueError(f"unit={unit} must be a whole number of tokens, at least 1, for each axis of the grid")

    def num_keep(self, grid: tuple[int, ...]) -> int:
        """How many tokens stay visible: whole units."""
        if self.unit is None:
            return self._num_keep(grid)
        units = self.units(grid)
        try:
            return self._num_keep(units) * prod(self.unit)
        except ValueError as error:
            raise ValueError(f"{error} (its tokens are units of {list(self.unit)}, on a grid of {units})") from None

    def scores(self, grid: tuple[int, ...], generator: torch.Generator, valid: Tensor | None = None) -> Tensor:
        """-> (*grid) float32, lowest kept. valid: (*grid), the share of each patch where the loss counts."""
        return self._of_units(grid, generator, valid)

    def _of_units(self, grid: tuple[int, ...], generator: torch.Generator, *known: Tensor | None) -> Tensor:
        """-> (*grid) scores. known: (*grid) each, what is known of tokens, of which units have the mean."""
        if self.unit is None:
            return self._scores(grid, generator, *known)
        units = self.units(grid)
        scores = self._scores(units, generator, *(None if one is None else pooled(one, self.unit) for one in known))
        # Ranks, since two numbers can be equal: then two units would be kept by halves.
        ranks = scores.flatten().argsort(stable=True).argsort().view(units).float()
        return repeated(ranks, self.unit)

    def units(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        """How many units there are along each axis. Raises ValueError where that is no whole number."""
        unit = self.unit or (1,) * len(grid)
        if len(unit) != len(grid):
            raise ValueError(f"unit={list(unit)} has {len(unit)} axes, and the grid has {len(grid)}: {list(grid)}")
        for axis, (count, size) in enumerate(zip(grid, unit, strict=True)):
            if count % size:
                raise ValueError(
                    f"unit={list(unit)} does not divide the grid of {list(grid)} tokens on axis {axis} ({count} / "
                    f"{size}); choose a unit that does, 1 on that axis for instance"
                )
        return tuple(count // size for count, size in zip(grid, unit, strict=True))

    def together(self, grid: tuple[int, ...]) -> Tensor:
        """-> (*grid) int64: the number of the unit that a token is in."""
        units = self.units(grid)
        return repeated(torch.arange(prod(units)).view(units), self.unit or (1,) * len(grid))

    def _num_keep(self, grid: tuple[int, ...]) -> int:
        raise NotImplementedError

    def _scores(self, grid: tuple[int, ...], generator: torch.Generator, valid: Tensor | None) -> Tensor:
        raise NotImplementedError
