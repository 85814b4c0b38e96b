"""What overlapping windows say of a whole sample, row by row, in memory that does not depend on the sample's length.

Windows go from the first row of the slowest axis to the last, so a row is final when the next window begins below it:
what is held is as many rows as a window has, and on disk where that is more than blend.HELD.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae_ext.data.loading.blend import room_for, weights
from mae_ext.data.loading.windows import starts

TOGETHER = 4
"""Windows that are answered at a time."""

CHUNK = 1 << 22
"""Numbers that are placed at a time, at least a row of the slowest axis."""

Said = Callable[[list[tuple[int, ...]]], Tensor]
"""Where W windows begin, in voxels of the sample -> (W, *size, k), on any device; a tensor that nobody else holds.

A sample that is shorter than a window lies in its middle: the window then begins before it, below 0. What is said of a
voxel lies side by side: where the k come last, what is added to the held rows and decided upon runs through memory in
order, and 61 of them take half the time that they take where they come first.
"""


def margins(shape: Sequence[int], size: Sequence[int]) -> tuple[int, ...]:
    """Voxels by which a window begins before a sample that is shorter, along each axis; 0 along the others."""
    return tuple(max(s - n, 0) // 2 for n, s in zip(shape, size, strict=True))


def blended(
    shape: tuple[int, ...], size: tuple[int, ...], overlap: float, said: Said, scratch: Path | None = None,
    aside: bool = False,
) -> Iterator[Tensor]:  # fmt: skip
    """(r, *rest, k) of a sample of `shape`, a few rows at a time, in order: the mean over windows, by their `weights`.

    scratch: the folder for what does not fit into memory, and with `aside` for all that is held; by default the
    system's. Raises OSError where that has no room, MemoryError, and what `said` raises.
    """
    padded = tuple(max(n, s) for n, s in zip(shape, size, strict=True))
    margin = margins(shape, size)
    inside = tuple(slice(m, m + n) for m, n in zip(margin[1:], shape[1:], strict=True))
    corners = product(*(starts(n, s, overlap) for n, s in zip(padded, size, strict=True)))
    weight: Tensor | None = None
    held: _Held | None = None
    while group := list(islice(corners, TOGETHER)):
        answers = said([tuple(c - m for c, m in zip(corner, margin, strict=True)) for corner in group])
        if weight is None or held is None:
            weight = weights(size, answers.device)[..., None]
            here, held = weight.cpu(), _Held((size[0], *padded[1:], answers.shape[-1]), scratch, aside)
        for corner, one in zip(group, answers.mul_(weight).cpu(), strict=True):
            yield from held.until(corner[0], margin[0], margin[0] + shape[0], inside)
            held.add(corner, one, here)
    assert held is not None
    yield from held.until(padded[0], margin[0], margin[0] + shape[0], inside)


@dataclass(frozen=True)
class Taps:
    """One axis: place n lies between the rows low[n] and high[n], `weight[n]` (0..1) of the way."""

    low: Tensor
    high: Tensor
    weight: Tensor


def taps(places: NDArray[np.float64], length: int) -> Taps:
    """places: (n,) in rows; beyond the first or the last row they are at it."""
    at = torch.from_numpy(np.clip(places, 0, length - 1))
    low = at.floor().long()
    weight = (at - low).float()
    return Taps(low, low + (weight > 0), weight)


def onto(parts: Iterator[Tensor], places: Sequence[NDArray[np.float64]], shape: Sequence[int]) -> Iterator[Tensor]:
    """(r, *rest, k) of a sample of `shape`, in order -> (m, len(p) for the other places, k), in order: on lines between
    its voxels. places: for each axis, ascending, where the wanted voxels lie in voxels of the sample."""
    axes = [taps(p, n) for p, n in zip(places, shape, strict=True)]
    between, area = bool(axes[0].weight.any()), prod(len(p) for p in places[1:])
    kept: Tensor | None = None
    first = done = 0
    for part in parts:
        rows = part if kept is None else torch.cat([kept, part])
        ready = int((axes[0].high < first + len(rows)).sum())
        along = max(1, CHUNK // max(1, area * rows.shape[-1]))
        for a in range(done, ready, along):
            yield _placed(rows, first, axes, slice(a, min(a + along, ready)))
        done, first = ready, first + len(rows) - between
        kept = rows[-1:].clone() if between else None


def _placed(rows: Tensor, first: int, axes: list[Taps], which: slice) -> Tensor:
    """`which` of the slowest axis's places, of rows (r, *rest, k) that begin at `first`."""
    value, slow = rows, axes[0]
    for axis, t in enumerate([Taps(slow.low[which] - first, slow.high[which] - first, slow.weight[which]), *axes[1:]]):
        value = _between(value, t, axis)
    return value


def _between(x: Tensor, t: Taps, axis: int) -> Tensor:
    if not bool(t.weight.any()):
        runs = len(t.low) == 1 or bool((t.low.diff() == 1).all())
        return x.narrow(axis, int(t.low[0]), len(t.low)) if runs else x.index_select(axis, t.low)
    weight = t.weight.view(-1, *[1] * (x.ndim - axis - 1))
    return torch.lerp(x.index_select(axis, t.low), x.index_select(axis, t.high), weight)


class _Held:
    """The rows that windows still add to: sums of weighted numbers and of weights, row z at z mod `rows`."""

    def __init__(self, shape: tuple[int, ...], scratch: Path | None, aside: bool) -> None:
        self.rows, self.emitted = shape[0], 0
        self.sums = torch.from_numpy(room_for(shape, scratch, aside))
        self.counts = torch.zeros(*shape[:-1], 1)

    def _places(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """(where in the ring, where in start..stop) of a run of rows: one piece, or two where it wraps."""
        while start < stop:
            a = start % self.rows
            count = min(stop - start, self.rows - a)
            yield slice(a, a + count), slice(start, start + count)
            start += count

    def add(self, corner: tuple[int, ...], scores: Tensor, weight: Tensor) -> None:
        """scores: (*size, k), weighted. weight: (*size, 1)."""
        rest = tuple(slice(c, c + s) for c, s in zip(corner[1:], weight.shape[1:-1], strict=True))
        for ring, rows in self._places(corner[0], corner[0] + weight.shape[0]):
            window = slice(rows.start - corner[0], rows.stop - corner[0])
            self.sums[(ring, *rest)] += scores[window]
            self.counts[(ring, *rest)] += weight[window]

    def until(self, row: int, first: int, last: int, inside: tuple[slice, ...]) -> Iterator[Tensor]:
        """Means of the rows before `row` that were not given yet and lie in first..last; then they are free."""
        several = max(1, CHUNK // prod(self.sums.shape[1:]))
        while self.emitted < row:
            stop = min(row, self.emitted + several, (self.emitted // self.rows + 1) * self.rows)
            a, b = max(self.emitted, first), min(stop, last)
            if a < b:
                ring = slice(a % self.rows, a % self.rows + b - a)
                yield self.sums[(ring, *inside)] / self.counts[(ring, *inside)]
            whole = slice(self.emitted % self.rows, self.emitted % self.rows + stop - self.emitted)
            self.sums[whole] = 0
            self.counts[whole] = 0
            self.emitted = stop
