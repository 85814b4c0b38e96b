"""Whole samples answered by overlapping windows, in memory that depends on neither their length nor their classes.

Windows go from the first row of the slowest axis to the last, so a row is final when the next window begins below it:
what is held is as many rows as a window has, for every class, and on disk where that is more than HELD. The labels are
taken on the voxels that the sample is stored in, from probabilities between which lines are drawn, as nnU-Net does.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from mae_ext.data.labelmap import Labels
from mae_ext.data.loading.blend import HELD, weights
from mae_ext.data.loading.windows import starts
from mae_ext.data.sources.cache import on_disk
from mae_ext.model.units import in_units

TOGETHER = 4
"""Windows that are answered at a time."""

CHUNK = 1 << 22
"""Probabilities that are decided upon at a time, at least a row of the slowest axis."""

Answer = Callable[[Tensor], Tensor]
"""(B, C, *size) -> (B, *size, classes): windows to probabilities, on the device; a tensor that nobody else holds.

Classes lie side by side: where they come last, what is added to the held rows and decided upon runs through memory in
order, and 61 of them take half the time that they take where they come first.
"""


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


def segment(
    slabs: Sequence[Tensor], size: tuple[int, ...], overlap: float, answer: Answer,
    places: Sequence[NDArray[np.float64]], device: torch.device, scratch: Path | None = None,
) -> Labels:  # fmt: skip
    """Slabs (C, rows, *rest) of a sample, along its slowest axis -> (len(p) for p in places) int32, the best class.

    places: for each axis, where the wanted voxels lie, in voxels of the sample. scratch: the folder for what does not
    fit into memory, by default the system's. Raises OSError where that has no room, and MemoryError.
    """
    shape = (sum(slab.shape[1] for slab in slabs), *slabs[0].shape[2:])
    axes = [taps(p, n) for p, n in zip(places, shape, strict=True)]
    between = bool(axes[0].weight.any())
    labels = np.zeros([len(p) for p in places], np.int32)
    before: Tensor | None = None
    first = done = 0
    for part in _rows(slabs, shape, size, overlap, answer, device, scratch):
        rows = part if before is None else torch.cat([before, part])
        last = first + len(rows)
        ready = int((axes[0].high < last).sum())  # places ascend
        _decide(rows, first, axes, done, ready, labels)
        before, first, done = (rows[-1:].clone(), last - 1, ready) if between else (None, last, ready)
    return labels


def _decide(rows: Tensor, first: int, axes: list[Taps], start: int, stop: int, labels: Labels) -> None:
    """labels[start:stop] from rows (r, *rest, classes) that begin at `first`."""
    along = max(1, CHUNK // max(1, prod(labels.shape[1:]) * rows.shape[-1]))
    for a in range(start, stop, along):
        here = slice(a, min(a + along, stop))
        value = rows
        upright = Taps(axes[0].low[here] - first, axes[0].high[here] - first, axes[0].weight[here])
        for axis, t in enumerate([upright, *axes[1:]]):
            value = _between(value, t, axis)
        labels[here] = value.argmax(-1).numpy()


def _between(x: Tensor, t: Taps, axis: int) -> Tensor:
    if not bool(t.weight.any()):
        runs = len(t.low) == 1 or bool((t.low.diff() == 1).all())
        return x.narrow(axis, int(t.low[0]), len(t.low)) if runs else x.index_select(axis, t.low)
    weight = t.weight.view(-1, *[1] * (x.ndim - axis - 1))
    return torch.lerp(x.index_select(axis, t.low), x.index_select(axis, t.high), weight)


def _rows(
    slabs: Sequence[Tensor], shape: tuple[int, ...], size: tuple[int, ...], overlap: float, answer: Answer,
    device: torch.device, scratch: Path | None,
) -> Iterator[Tensor]:  # fmt: skip
    """Probabilities (r, *rest, classes) of the sample's rows, in order, a few at a time."""
    padded = tuple(max(n, s) for n, s in zip(shape, size, strict=True))
    margin = [(n - m) // 2 for n, m in zip(padded, shape, strict=True)]
    inside = tuple(slice(m, m + n) for m, n in zip(margin[1:], shape[1:], strict=True))
    fill = min(float(slab.min()) for slab in slabs)
    corners = [tuple(c) for c in np.stack(
        np.meshgrid(*(starts(n, s, overlap) for n, s in zip(padded, size, strict=True)), indexing="ij"), -1
    ).reshape(-1, len(size)).tolist()]  # fmt: skip
    weight = weights(size, device)[..., None]
    here = weight.cpu()
    held: _Held | None = None
    for i in range(0, len(corners), TOGETHER):
        group = corners[i : i + TOGETHER]
        windows = torch.stack([_window(slabs, shape, size, corner, margin, fill) for corner in group])
        scores = answer(windows.to(device)).mul_(weight).cpu()
        if held is None:
            held = _Held(scores.shape[-1], size[0], padded[1:], scratch)
        for corner, one in zip(group, scores, strict=True):
            yield from held.until(corner[0], margin[0], margin[0] + shape[0], inside)
            held.add(corner, one, here)
    assert held is not None
    yield from held.until(padded[0], margin[0], margin[0] + shape[0], inside)


def _window(
    slabs: Sequence[Tensor], shape: tuple[int, ...], size: tuple[int, ...], corner: tuple[int, ...],
    margin: list[int], fill: float,
) -> Tensor:  # fmt: skip
    """(C, *size) float32 at a corner of the padded sample; 8-bit levels as 0..1."""
    spans = [(max(c - m, 0), min(c - m + s, n)) for c, m, s, n in zip(corner, margin, size, shape, strict=True)]
    (top, bottom), *others = spans
    rest = tuple(slice(a, b) for a, b in others)
    parts, at = [], 0
    for slab in slabs:
        a, b = max(top - at, 0), min(bottom - at, slab.shape[1])
        if a < b:
            parts.append(slab[(slice(None), slice(a, b), *rest)])
        at += slab.shape[1]
    x = torch.cat(parts, 1)
    beyond = [side for (a, b), c, m, s in reversed(list(zip(spans, corner, margin, size, strict=True)))
              for side in (a + m - c, c + s - m - b)]  # fmt: skip
    x = pad(x, beyond, value=fill) if any(beyond) else x
    return in_units(x)


class _Held:
    """The rows that windows still add to: sums of weighted probabilities and of weights, row z at z mod `rows`."""

    def __init__(self, classes: int, rows: int, rest: tuple[int, ...], scratch: Path | None) -> None:
        self.rows, self.emitted = rows, 0
        shape = (rows, *rest, classes)
        self.sums = torch.zeros(shape) if 4 * prod(shape) <= HELD else _on_disk(shape, scratch)
        self.counts = torch.zeros(rows, *rest, 1)

    def _places(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """(where in the ring, where in start..stop) of a run of rows: one piece, or two where it wraps."""
        while start < stop:
            a = start % self.rows
            count = min(stop - start, self.rows - a)
            yield slice(a, a + count), slice(start, start + count)
            start += count

    def add(self, corner: tuple[int, ...], scores: Tensor, weight: Tensor) -> None:
        """scores: (*size, classes), weighted. weight: (*size, 1)."""
        rest = tuple(slice(c, c + s) for c, s in zip(corner[1:], weight.shape[1:-1], strict=True))
        for ring, rows in self._places(corner[0], corner[0] + weight.shape[0]):
            window = slice(rows.start - corner[0], rows.stop - corner[0])
            self.sums[(ring, *rest)] += scores[window]
            self.counts[(ring, *rest)] += weight[window]

    def until(self, row: int, first: int, last: int, inside: tuple[slice, ...]) -> Iterator[Tensor]:
        """Probabilities of the rows before `row` that were not given yet and lie in first..last; then they are free."""
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


def _on_disk(shape: tuple[int, ...], scratch: Path | None) -> Tensor:
    return torch.from_numpy(on_disk(shape, np.float32, scratch))
