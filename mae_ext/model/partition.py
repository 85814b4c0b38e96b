"""Several masks of one sample that hide every place equally often: what a model says of all places, unseen by it."""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, prod

import torch
from torch import Tensor

from mae_ext.model.mask import InGroups, Mask, Masker
from mae_ext.model.mask_axis import TubeMasker

NEAR = 0.01
"""By how much the share that is hidden may differ from the run's, where fewer masks do."""

MOST = 16
"""Masks that are tried for it."""


def units_of(masker: Masker, grid: tuple[int, ...], moves: bool) -> Tensor:
    """-> (*grid) int64: the number of the unit that each token belongs to, which is hidden whole.

    Those of a masker that works in groups; tubes along the first axis where samples move, as a place that is hidden in
    one frame would else be seen in the next; single tokens elsewhere.
    """
    if isinstance(masker, InGroups):
        return masker.groups(grid)
    return TubeMasker(axis=0).groups(grid) if moves else torch.arange(prod(grid)).view(grid)


def shown(masks: int, ratio: float, units: int) -> int:
    """In how many of `masks` each unit is visible: nearest to 1 - ratio of them, so that each mask shows and hides one.

    Raises ValueError where there is no such number: for one mask, or one unit.
    """
    fewest = ceil(masks / units)
    if not 0 < fewest <= masks - fewest:
        raise ValueError(f"{masks} masks of {units} places that are hidden whole: expected 2 or more of each")
    return min(max(round(masks * (1 - ratio)), fewest), masks - fewest)


def fitting(ratio: float, units: int) -> int:
    """The fewest masks that hide each unit in a share `ratio` of them, to NEAR; of up to MOST the nearest."""

    def off(masks: int) -> float:
        return abs(shown(masks, ratio, units) / masks - (1 - ratio))

    numbers = range(2, MOST + 1)
    return next((masks for masks in numbers if off(masks) <= NEAR), min(numbers, key=off))


def partitions(units: Tensor, masks: int, show: int, generator: torch.Generator) -> list[Mask]:
    """(*grid) units -> `masks` masks of one row each, of which exactly `show` see each token; the others predict it.

    The units stand in a row, `show` times, each time in an order of chance; each mask sees the next of them, as many as
    any other to one, and none twice.

    >>> import torch
    >>> from mae_ext.model.partition import partitions
    >>> masks = partitions(torch.arange(8).view(2, 4), 4, 1, torch.Generator().manual_seed(0))
    >>> sorted(token for mask in masks for token in mask.keep[0].tolist())
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    number, grid = int(units.max()) + 1, tuple(units.shape)
    cuts = [mask * show * number // masks for mask in range(masks + 1)]
    row: list[int] = []
    for _ in range(show):
        row += _next(row, cuts, torch.randperm(number, generator=generator).tolist())
    return [_mask(units, row[a:b], number, grid) for a, b in pairwise(cuts)]


def _next(row: Sequence[int], cuts: Sequence[int], order: list[int]) -> list[int]:
    """The order, changed so that the mask in the midst of which it begins sees no unit twice."""
    start, stop = max(cut for cut in cuts if cut <= len(row)), min(cut for cut in cuts if cut > len(row))
    seen = set(row[start:])
    first = [unit for unit in order if unit not in seen][: stop - len(row)] if seen else []
    return [*first, *(unit for unit in order if unit not in set(first))]


def _mask(units: Tensor, visible: Sequence[int], number: int, grid: tuple[int, ...]) -> Mask:
    seen = torch.zeros(number, dtype=torch.bool)
    seen[list(visible)] = True
    tokens = seen[units.flatten()]
    return Mask(tokens.nonzero()[:, 0][None], (~tokens).nonzero()[:, 0][None], grid)
