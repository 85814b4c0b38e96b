"""Whole samples, window by window: what is asked of the windows, what is known of each, and how they become one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae_ext.config import ModalityConfig
from mae_ext.data.loading.windows import Tiling, read_windows, tiling
from mae_ext.data.sample import Crop, Reader, Sample, held
from mae_ext.engine.log import warn
from mae_ext.errors import RunError, UserError
from mae_ext.model_config import Pooled

Over = Literal["mean", "max", "weighted"]

OVERLAP = 0.25
"""Of neighbouring windows, as in MONAI's sliding_window_inference."""

TOGETHER = {"cpu": 4, "cuda": 64}
"""Windows that are encoded at a time, at first: where they do not fit into a GPU's memory, it is tried with half."""

Encode = Callable[[Sequence[Sample]], Tensor]
"""Windows -> (B, ...), a row for each, on the CPU."""

Records = NDArray[np.void]


@dataclass(frozen=True)
class Windows:
    """A sample is seen in windows that cover all of it, and not in its middle alone.

    overlap: of neighbouring windows, 0..0.9 of a side, in whole patches. pool: what their features become: their mean,
    the largest of each number, or the mean weighted by what the windows show (`shown`); None: none of it, a row for
    each. tokens: what a window's tokens become before, their mean, the class token or `moments`. batch: windows encoded
    at a time; by default 4, on a GPU as many as fit, up to 64.

    >>> from mae_ext import Windows
    >>> str(Windows(overlap=0.5, pool="max"))
    'windows, overlap 0.5, max'
    """

    overlap: float = OVERLAP
    pool: Over | None = "mean"
    tokens: Pooled = "mean"
    batch: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= 0.9:
            raise UserError(f"overlap={self.overlap}: expected a share of a window's side, 0 to 0.9")
        if self.pool is not None and self.pool not in get_args(Over):
            raise UserError(f"pool '{self.pool}' of windows: expected {', '.join(get_args(Over))}")
        if self.batch is not None and not self.batch >= 1:
            raise UserError(f"batch={self.batch}: expected windows at a time, at least 1")

    def __str__(self) -> str:
        tokens = {"mean": "", "class": " of class tokens", "moments": " of moments"}[self.tokens]
        return f"windows, overlap {self.overlap:g}, {self.pool or 'each'}{tokens}"


@dataclass(frozen=True)
class Group:
    """Windows of one sample that were encoded together. first: the place of the first among all of them."""

    first: int
    samples: list[Sample]
    rows: Tensor


class Seeing:
    """The windows of samples of one modality through `encode`. at_once: how many at a time; halved where it must be."""

    def __init__(
        self, modality: ModalityConfig, reader: Reader, windows: Windows, encode: Encode, device: torch.device
    ) -> None:
        self.modality, self.reader, self.windows, self.encode = modality, reader, windows, encode
        self.at_once = windows.batch or TOGETHER.get(device.type, 4)

    def tiling(self, address: str) -> Tiling:
        """Raises BadSample."""
        return tiling(self.modality, self.reader, address, self.windows.overlap)

    def groups(self, address: str, boxes: Sequence[Crop]) -> Iterator[Group]:
        """Raises BadSample; RunError where not even one window fits into memory."""
        shape, first = (self.modality.channels, *self.modality.size), 0
        for samples in read_windows(self.reader, address, boxes, shape, self.at_once):
            yield Group(first, samples, self._encoded(samples))
            first += len(samples)

    def _encoded(self, samples: list[Sample]) -> Tensor:
        rows: list[Tensor] = []
        done = 0
        while done < len(samples):
            try:
                rows.append(self.encode(samples[done : done + self.at_once]))
            except torch.OutOfMemoryError as error:
                if self.at_once == 1:
                    raise RunError(f"a single window does not fit into the device's memory: {error}") from None
                self.at_once //= 2
                torch.cuda.empty_cache()
                warn(f"the device's memory is full: {self.at_once} windows at a time from here on")
                continue
            done += self.at_once
        return torch.cat(rows)

    def records(self, address: str) -> Records:
        """(n,) of `record_type`, a row for each window. Raises BadSample."""
        whole = self.tiling(address)
        boxes = whole.boxes
        place, moves = self._places(address, whole), getattr(self.reader, "display", "") == "clip"
        rows: Records | None = None
        for group in self.groups(address, boxes):
            if rows is None:
                rows = np.zeros(len(boxes), record_type(group.rows.shape[1], len(whole.size), place.shape[1]))
            part = slice(group.first, group.first + len(group.samples))
            rows["features"][part] = group.rows.numpy()
            rows["weight"][part] = [shown(sample, moves) for sample in group.samples]
        assert rows is not None
        rows["start"], rows["stop"] = zip(*(whole.stored(box) for box in boxes), strict=True)
        rows["place"] = place
        return rows

    def pooled(self, records: Records) -> NDArray[np.float32]:
        """(D,)."""
        assert self.windows.pool is not None
        return pooled(records["features"], records["weight"], self.windows.pool)

    def _places(self, address: str, whole: Tiling) -> NDArray[np.float64]:
        """(windows, 3) mm of the middles; (windows, 2) seconds of the first and the last frame; else their middles."""
        if whole.clock is not None:
            seconds, spans = whole.clock.seconds, whole.size[0]
            each = int(np.prod([len(axis) for axis in whole.starts[1:]]))
            return np.repeat([(seconds[a], seconds[a + spans - 1]) for a in whole.starts[0]], each, axis=0)
        edges = np.array([whole.stored(box) for box in whole.boxes])
        middles: NDArray[np.float64] = edges.mean(1)
        if not hasattr(self.reader, "affine"):
            return middles
        with held(self.reader, address):
            affine = self.reader.affine(address)
        return (middles - 0.5) @ affine[:3, :3].T + affine[:3, 3]  # type: ignore[no-any-return]


def record_type(width: int, axes: int, places: int) -> np.dtype[Any]:
    """What is known of a window: its features; the place of its sample in the table; its edges in stored voxels (or
    positions of a film); where it is (`Seeing.records`); and what it counts in a weighted mean."""
    return np.dtype([
        ("features", np.float32, (width,)), ("sample", np.int64), ("start", np.float64, (axes,)),
        ("stop", np.float64, (axes,)), ("place", np.float64, (places,)), ("weight", np.float32),
    ])  # fmt: skip


def place_of(reader: Reader) -> str:
    """What `place` is, in words."""
    if hasattr(reader, "clock"):
        return "seconds of the first and of the last frame"
    if hasattr(reader, "affine"):
        return "mm of the middle in the patient's space, RAS+"
    return "pixels of the middle, in the order of the axes; the first pixel is from 0 to 1"


def shown(sample: Sample, moves: bool) -> float:
    """What a window counts: of a clip how much moves (the mean change from frame to frame, in shares of white), else
    the share that is valid: body, where the reader tells it from air; 1 where all of it is."""
    if moves:
        x = sample.x.float()
        return float((x[:, 1:] - x[:, :-1]).abs().mean()) / (255 if sample.x.dtype == torch.uint8 else 1)
    return 1.0 if sample.valid is None else float(sample.valid.float().mean())


def pooled(features: NDArray[np.floating], weight: NDArray[np.floating], pool: Over) -> NDArray[np.float32]:
    """(n, D), (n,) -> (D,). weighted: the plain mean where nothing counts at all."""
    wide = features.astype(np.float64)
    if pool == "max":
        wide = wide.max(0)
    elif pool == "weighted" and weight.sum() > 0:
        wide = weight.astype(np.float64) @ wide / weight.astype(np.float64).sum()
    else:
        wide = wide.mean(0)
    one: NDArray[np.float32] = wide.astype(np.float32)
    return one
