"""Windows over a whole sample, in its own geometry: which there are, and where their tokens lie.

A window is what a model was trained on: a box of the size of the config at the scale of training (`training_shape`).
Windows of neighbouring places share a part, `overlap`; along an axis they begin whole patches apart, and the last is
moved back until it ends with the sample. A place that is further from the sample's edge than `Tiling.halo` lies at
least so far from the edge of the window that knows it best: each token is seen with so much of what is around it.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

from mae_ext.config import ModalityConfig
from mae_ext.data.crops import always, training_shape
from mae_ext.data.sample import Crop, CropSampler, Extent, Reader, Sample, extent_of, held, read_checked
from mae_ext.data.whole import Clock, Cut

Float = NDArray[np.float64]


def starts(length: int, window: int, overlap: float, multiple: int = 1) -> list[int]:
    """Where windows begin along an axis; the last one is moved back until it ends with the axis (MONAI's rule).

    multiple: steps are whole multiples of it, at least one.
    """
    if length <= window:
        return [0]
    step = max(multiple, int(window * (1 - overlap)) // multiple * multiple)
    count = -(-(length - window) // step) + 1
    return [min(i * step, length - window) for i in range(count)]


@dataclass(frozen=True)
class Tiling:
    """The windows of one sample, the last axis fastest.

    shape: of the whole sample at the scale of training, in which windows of `size` begin at `starts`, axis by axis; of
    a sample that is shorter than a window below 0. extent: the sample's own, in which boxes are cut.
    """

    extent: Extent
    shape: tuple[int, ...]
    size: tuple[int, ...]
    patch: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]
    overlap: float
    clock: Clock | None = None

    def __len__(self) -> int:
        return prod(len(axis) for axis in self.starts)

    @property
    def boxes(self) -> list[Crop]:
        """Of all windows, in the voxels of the extent."""
        spans = [[self._span(axis, start) for start in begins] for axis, begins in enumerate(self.starts)]
        still = (False,) * len(self.size)
        return [Crop(tuple(a for a, _ in box), tuple(b for _, b in box), still) for box in product(*spans)]

    @property
    def grid(self) -> tuple[int, ...]:
        """Tokens of the whole sample along each axis; the last may reach beyond it."""
        return tuple(-(-n // p) for n, p in zip(self.shape, self.patch, strict=True))

    @property
    def halo(self) -> tuple[float, ...]:
        """Voxels (frames of a clip) at the scale of training, from a place to the edge of the window it is best in."""
        return tuple(
            (s - max(np.diff(begins), default=s)) / 2 if len(begins) > 1 else 0.0
            for s, begins in zip(self.size, self.starts, strict=True)
        )

    def _span(self, axis: int, start: int) -> tuple[int, int]:
        size, extent, shape = self.size[axis], self.extent.size[axis], self.shape[axis]
        if axis == 0 and self.clock is not None and len(self.clock.positions):
            first = int(self.clock.positions[start])
            return first, first + size
        if extent == shape:
            return start, start + size
        return round(start * extent / shape), round((start + size) * extent / shape)

    def tokens(self) -> Iterator[tuple[Float, ...]]:
        """Of each window, in order: for each axis (g,), where its tokens lie, in tokens of `grid`."""
        yield from product(*(
            [self._tokens(axis, start) for start in begins] for axis, begins in enumerate(self.starts)
        ))  # fmt: skip

    def _tokens(self, axis: int, start: int) -> Float:
        size, patch = self.size[axis], self.patch[axis]
        middle = (np.arange(size // patch) + 0.5) * patch
        if axis == 0 and self.clock is not None and len(self.clock.positions):
            return (start + middle) / patch - 0.5
        first, stop = self._span(axis, start)
        return (first + middle * (stop - first) / size) * self.shape[axis] / self.extent.size[axis] / patch - 0.5

    @property
    def lattice(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(first, step): where the middle of the grid's first token lies in stored voxels, and from one to the next."""
        step = [
            p * m / n * s for p, m, n, s in zip(self.patch, self.extent.size, self.shape, self.extent.step, strict=True)
        ]
        return tuple(d / 2 - s / 2 for d, s in zip(step, self.extent.step, strict=True)), tuple(step)

    @property
    def seconds(self) -> Float:
        """(grid[0],): the middle of each of a film's tokens."""
        assert self.clock is not None
        patch, seconds = self.patch[0], self.clock.seconds
        return np.array([seconds[a : a + patch].mean() for a in range(0, len(seconds), patch)])

    def stored(self, box: Crop) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The edges of a box in stored voxels: voxel 0 is from 0 to 1."""
        return tuple(
            tuple((e - 0.5) * s + 0.5 for e, s in zip(edge, self.extent.step, strict=True))
            for edge in (box.start, box.stop)
        )  # type: ignore[return-value]


def tiling(modality: ModalityConfig, reader: Reader, address: str, overlap: float) -> Tiling:
    """Raises BadSample; RunError for a reader's bug."""
    extent, size, patch = extent_of(reader, address), tuple(modality.size), tuple(modality.patch)
    shape, clock = training_shape(modality.data.augment, size, extent.size), None
    ask: Callable[[str], Clock] | None = getattr(reader, "clock", None)
    if ask is not None:
        with held(reader, address):
            clock = ask(address)
        if shape[0] == extent.size[0]:
            shape = (len(clock.positions), *shape[1:])
        else:
            clock = Clock(clock.positions[:0], np.linspace(clock.seconds[0], clock.seconds[-1], size[0]))
    begins = [
        tuple(starts(n, s, overlap, p)) if n >= s else ((n - s) // 2,)
        for n, s, p in zip(shape, size, patch, strict=True)
    ]
    return Tiling(extent, shape, size, patch, tuple(begins), overlap, clock)


def read_windows(
    reader: Reader, address: str, boxes: Sequence[Crop], shape: tuple[int, ...], at_once: int
) -> Iterator[list[Sample]]:
    """`at_once` boxes of a source at a time, in order, the next being cut while the last are used.

    shape: (C, *S) of a sample. A reader that has `opened` opens the source once; of others each group is a `read`.
    Raises BadSample.
    """
    groups = [boxes[i : i + at_once] for i in range(0, len(boxes), at_once)]
    with _opened(reader, address, shape) as cut, ThreadPoolExecutor(1, thread_name_prefix="windows") as pool:
        ahead = pool.submit(cut, [always(box) for box in groups[0]])
        for following in [*groups[1:], None]:
            samples = ahead.result()
            if following is not None:
                ahead = pool.submit(cut, [always(box) for box in following])
            yield samples


@contextmanager
def _opened(reader: Reader, address: str, shape: tuple[int, ...]) -> Iterator[Cut]:
    ask: Callable[[str], AbstractContextManager[Cut]] | None = getattr(reader, "opened", None)
    if ask is None:
        yield lambda crops: read_checked(reader, address, crops, shape)
        return
    with held(reader, address):
        source = ask(address)
        cut = source.__enter__()
    try:
        yield lambda crops: _checked(reader, address, cut, crops)
    finally:
        source.__exit__(None, None, None)


def _checked(reader: Reader, address: str, cut: Cut, crops: Sequence[CropSampler]) -> list[Sample]:
    with held(reader, address):
        return cut(crops)
