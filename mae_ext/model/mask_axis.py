"""Maskers that treat one axis unlike the others: time in most of the literature, depth or any other just as well."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from mae_ext.model.mask import num_keep, whole_keep


def along(values: Tensor, grid: tuple[int, ...], axis: int) -> Tensor:
    """(grid[axis]) -> (*grid): the same value wherever the coordinate on `axis` is the same."""
    shape = [1] * len(grid)
    shape[axis] = grid[axis]
    return values.view(shape).expand(grid)


def _check_axis(grid: tuple[int, ...], axis: int) -> None:
    if not -len(grid) <= axis < len(grid):
        raise ValueError(f"axis={axis} does not exist in a grid of {len(grid)} axes")


@dataclass(frozen=True)
class TubeMasker:
    """Hides whole tubes along `axis`: what is hidden in one slice is hidden in all (VideoMAE, 2203.12602).

    The ratio is rounded so that tubes stay whole: see whole_keep.
    """

    ratio: float = 0.9
    axis: int = 0

    def num_keep(self, grid: tuple[int, ...]) -> int:
        _check_axis(grid, self.axis)
        return whole_keep(prod(grid) // grid[self.axis], self.ratio) * grid[self.axis]

    def scores(self, grid: tuple[int, ...], generator: torch.Generator, valid: Tensor | None = None) -> Tensor:
        _check_axis(grid, self.axis)
        # Ranks and not random numbers, two of which can be equal: then two tubes would be kept by halves.
        return torch.randperm(prod(grid) // grid[self.axis], generator=generator)[self.groups(grid)].float()

    def groups(self, grid: tuple[int, ...]) -> Tensor:
        section = list(grid)
        section[self.axis] = 1
        return torch.arange(prod(section)).view(section).expand(grid)


@dataclass(frozen=True)
class FrameMasker:
    """Hides whole slices across `axis`, at random (the frame masking of VideoMAE's and MAE-ST's ablations).

    The ratio is rounded so that slices stay whole: see whole_keep.
    """

    ratio: float = 0.75
    axis: int = 0

    def num_keep(self, grid: tuple[int, ...]) -> int:
        _check_axis(grid, self.axis)
        return whole_keep(grid[self.axis], self.ratio) * (prod(grid) // grid[self.axis])

    def scores(self, grid: tuple[int, ...], generator: torch.Generator, valid: Tensor | None = None) -> Tensor:
        _check_axis(grid, self.axis)
        return along(torch.randperm(grid[self.axis], generator=generator).float(), grid, self.axis)

    def groups(self, grid: tuple[int, ...]) -> Tensor:
        return along(torch.arange(grid[self.axis]), grid, self.axis)


@dataclass(frozen=True)
class CausalMasker:
    """Keeps the beginning of `axis` and hides what comes after it.

    Counts are exact: where the border falls inside a slice, chance decides which tokens of that slice are kept.
    """

    ratio: float = 0.5
    axis: int = 0

    def num_keep(self, grid: tuple[int, ...]) -> int:
        _check_axis(grid, self.axis)
        return num_keep(prod(grid), self.ratio)

    def scores(self, grid: tuple[int, ...], generator: torch.Generator, valid: Tensor | None = None) -> Tensor:
        _check_axis(grid, self.axis)
        # 1 - 2**-24 is the most that rand gives, and would round up beside a large coordinate.
        place = torch.arange(grid[self.axis], dtype=torch.float64)
        return (along(place, grid, self.axis) + 0.5 * torch.rand(grid, generator=generator)).float()


@dataclass(frozen=True)
class RunningCellMasker:
    """In every cell of 2 tokens on each axis but `axis`, a window of places that moves on by one with each slice.

    VideoMAE V2 (2303.16727, 3.2) so chooses which hidden tokens its decoder answers, at a ratio of .5; the idea is
    MAR's (2207.11660). The phase is random. So every place of a cell is asked for at some time, and neighbours in time
    never ask for the same place throughout. Counts are exact; what they leave over, chance settles.
    """

    ratio: float = 0.5
    axis: int = 0

    def num_keep(self, grid: tuple[int, ...]) -> int:
        _check_axis(grid, self.axis)
        return num_keep(prod(grid), self.ratio)

    def scores(self, grid: tuple[int, ...], generator: torch.Generator, valid: Tensor | None = None) -> Tensor:
        _check_axis(grid, self.axis)
        place, places = torch.zeros(grid, dtype=torch.int64), 1
        for axis, extent in enumerate(grid):
            if axis != self.axis % len(grid):
                place = 2 * place + along(torch.arange(extent) % 2, grid, axis)
                places *= 2
        phase = int(torch.randint(places, (), generator=generator))
        turn = along(torch.arange(grid[self.axis]), grid, self.axis)
        return ((place - turn - phase) % places).float() + 0.5 * torch.rand(grid, generator=generator)
