"""Windows over a whole sample, from its first row to its last, and what is said of it row by row as rows are final."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae_ext.data.loading.blend import weights
from mae_ext.data.loading.windows import starts
from mae_ext.restored.restorer import Restorer
from mae_ext.tasks.segment.windows import CHUNK, TOGETHER, Taps, _between, _Held, _on_disk, taps


class Whole(Protocol):
    """A sample at the scale of training. shape: along its axes, slowest first."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def spacing(self) -> tuple[float, ...] | None: ...

    def window(self, start: Sequence[int], size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """(C, *size) in the reader's units and valid (1, *size) bool; start may lie before the sample, and the window
        end beyond it, where it is padded and not valid. Raises BadSample."""
        ...


@dataclass(frozen=True)
class Rows:
    """Some rows of a sample: (r, *rest, C), in standard deviations of the data as `Modality.normalize` has them.

    x: the input. off: by how much what is said of a voxel differs from it, the mean over masks. error: (r, *rest), the
    root of off's mean square over channels. spread: (r, *rest), the standard deviation over masks, the root of its mean
    square. valid: (r, *rest) bool.
    """

    x: Tensor
    off: Tensor
    error: Tensor
    spread: Tensor
    valid: Tensor

    @staticmethod
    def of(answers: Tensor) -> "Rows":
        """(r, *rest, 2C + 2) as `Restorer.answer` has them."""
        channels = answers.shape[-1] // 2 - 1
        x, off, squares, valid = answers.split([channels, channels, 1, 1], -1)
        error = off.square().mean(-1)
        spread = (squares[..., 0] - error).clamp(min=0).sqrt()
        return Rows(x, off, error.sqrt(), spread, valid[..., 0] > 0.5)


def answers_of(
    restorer: Restorer, whole: Whole, key: Sequence[int], scratch: Path | None = None, aside: bool = False
) -> Iterator[Tensor]:
    """(r, *rest, 2C + 2), a few rows at a time, in order. key: of its masks, before the windows'. Raises BadSample.

    As many rows as a window has are held, in memory or, beyond windows.HELD and where `aside`, in a file in `scratch`.
    """
    size, device, overlap = restorer.size, restorer.encoder.device, restorer.masking.overlap
    padded = tuple(max(n, s) for n, s in zip(whole.shape, size, strict=True))
    margin = [(n - m) // 2 for n, m in zip(padded, whole.shape, strict=True)]
    inside = tuple(slice(m, m + n) for m, n in zip(margin[1:], whole.shape[1:], strict=True))
    spacing = None if whole.spacing is None else torch.tensor([whole.spacing], device=device)
    corners = product(*(starts(n, s, overlap) for n, s in zip(padded, size, strict=True)))
    weight = weights(size, device)[..., None].cpu()
    held = _Held(2 * restorer.channels + 2, size[0], padded[1:], scratch)
    if aside:
        held.sums = _on_disk(tuple(held.sums.shape), scratch)
    while group := list(islice(corners, TOGETHER)):
        cut = [whole.window([c - m for c, m in zip(corner, margin, strict=True)], size) for corner in group]
        x, valid = (torch.stack(parts).to(device) for parts in zip(*cut, strict=True))
        steps = None if spacing is None else spacing.expand(len(group), -1)
        answers = restorer.answer(x, valid, steps, [(*key, *corner) for corner in group]).cpu()
        for corner, one in zip(group, answers, strict=True):
            yield from held.until(corner[0], margin[0], margin[0] + whole.shape[0], inside)
            held.add(corner, one.mul_(weight), weight)
    yield from held.until(padded[0], margin[0], margin[0] + whole.shape[0], inside)


def onto(parts: Iterator[Tensor], places: Sequence[NDArray[np.float64]], shape: tuple[int, ...]) -> Iterator[Tensor]:
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
            yield _at(rows, first, axes, slice(a, min(a + along, ready)))
        done, first = ready, first + len(rows) - between
        kept = rows[-1:].clone() if between else None


def _at(rows: Tensor, first: int, axes: list[Taps], which: slice) -> Tensor:
    value, slow = rows, axes[0]
    for axis, t in enumerate([Taps(slow.low[which] - first, slow.high[which] - first, slow.weight[which]), *axes[1:]]):
        value = _between(value, t, axis)
    return value
