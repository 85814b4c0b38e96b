"""An input opened whole, at the scale at which its run is evaluated, whatever it is: a scan, a picture, a film."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import groupby
from math import prod
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from mae_ext.config import ModalityConfig
from mae_ext.data.crops import training_shape
from mae_ext.data.sample import Extent, Reader, Sample, extent_of
from mae_ext.data.video.film_windows import Film
from mae_ext.data.video.reader import VideoReader
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.data.volume.scan_windows import WholeScan
from mae_ext.restored.restorer import Restorer
from mae_ext.restored.rows import Whole, answers_of
from mae_ext.tasks.segment.task import _slabs

FILM_BYTES = 2 << 30
"""Rows of a film that may be held in memory: those of all its chains together."""


@dataclass(frozen=True)
class Source:
    """shape: at the scale of the model, slowest first; of a film (frames, h, w). stored: of the source itself, upright.

    places: for each axis, where the stored voxels lie in voxels of `shape`. lattice: of sources that may be compared
    place by place; None of others. spacing: mm between voxels of `shape`. times: of a film's frames, seconds. What is
    whole has one `wholes` and no numbers; a film has several, and the numbers of their frames.
    """

    address: str
    shape: tuple[int, ...]
    stored: tuple[int, ...]
    places: tuple[NDArray[np.float64], ...]
    wholes: tuple[Whole, ...]
    lattice: str | None = None
    spacing: tuple[float, ...] | None = None
    times: NDArray[np.float64] | None = None
    numbers: tuple[NDArray[np.int64], ...] = ()
    bits: int = 8
    """Of a picture, of each number that is stored: 8, 16, or 32 for floats in units of their own."""

    bounds: tuple[float, float] = (0.0, 1.0)
    """The least and the most of a picture in units of its own; else what its reader's units are between."""

    @property
    def scan(self) -> WholeScan | None:
        whole = self.wholes[0]
        return whole if isinstance(whole, WholeScan) else None

    def answers(self, restorer: Restorer, scratch: Path | None = None) -> Iterator[Tensor]:
        """(r, *rest, 2C + 2) as `Restorer.answer` has them, the rows of `shape` in order. Raises BadSample."""
        if not self.numbers:
            yield from answers_of(restorer, self.wholes[0], (), scratch)
            return
        channels = 2 * restorer.channels + 2
        held = 4 * len(self.wholes) * restorer.size[0] * channels * prod(self.shape[1:])
        chains = [
            _numbered(answers_of(restorer, whole, (chain,), scratch, held > FILM_BYTES), numbers)
            for chain, (whole, numbers) in enumerate(zip(self.wholes, self.numbers, strict=True))
        ]
        for _, frames in groupby(merge(*chains, key=itemgetter(0)), key=itemgetter(0)):
            alike = torch.stack([frame for _, frame in frames])  # a frame may be in several chains
            yield alike.mean(0, keepdim=True)


def _numbered(parts: Iterator[Tensor], numbers: NDArray[np.int64]) -> Iterator[tuple[int, Tensor]]:
    rows = (row for part in parts for row in part)
    yield from zip(numbers.tolist(), rows, strict=True)


def opened(reader: Reader, modality: ModalityConfig, address: str, counted: bool = False) -> Source:
    """Raises BadSample; Recounted for a film whose frames have to be counted by decoding them."""
    if isinstance(reader, VideoReader):
        return _film(modality, Film(reader, address, counted))
    extent = extent_of(reader, address)
    shape = evaluated_shape(modality, extent.size)
    places = _places(extent, shape)
    if isinstance(reader, VolumeReader):
        scan = WholeScan(reader, address, shape)
        return Source(address, shape, extent.stored, places, (scan,), scan.lattice, scan.spacing)
    held = _InMemory.read(modality, address, shape, extent.size)
    lattice = str(list(shape))
    return Source(
        address, shape, extent.stored, places, (held,), lattice, held.spacing, bits=held.bits, bounds=held.bounds
    )


def evaluated_shape(modality: ModalityConfig, extent: tuple[int, ...]) -> tuple[int, ...]:
    """Of a whole source at the scale of evaluations: the middle that `embed` and pictures see is a window of it."""
    augment = modality.data.augment.model_copy(update={"scale": None})
    return training_shape(augment, modality.size, extent)


def _places(extent: Extent, shape: tuple[int, ...]) -> tuple[NDArray[np.float64], ...]:
    """As segmentation places its answers: by the middles of pixels where a source is resized, else by its lattice."""
    return tuple(
        p if n == m else (p + 0.5) * n / m - 0.5 for p, n, m in zip(extent.places, shape, extent.size, strict=True)
    )


class _InMemory:
    """A sample that its reader gives whole, in memory as it travels: in bytes, where its source has bytes."""

    def __init__(self, samples: Sequence[Sample], shape: tuple[int, ...]) -> None:
        self.shape, self.spacing = shape, samples[0].spacing
        self.x = torch.cat([sample.x for sample in samples], 1)
        valid = [sample.valid for sample in samples if sample.valid is not None]
        self.valid = (
            torch.cat([v[:, v.shape[1] - s.x.shape[1] :] for v, s in zip(valid, samples, strict=True)], 1)
            if valid
            else None
        )
        whole = self.x.dtype == torch.uint8
        self.fill, most = float(self.x.min()), float(self.x.max())
        self.bits = 8 if whole else 16 if self.fill >= 0 and most <= 1 else 32
        self.bounds = (0.0, 1.0) if self.bits < 32 else (self.fill, max(most, self.fill + 1e-12))

    @staticmethod
    def read(modality: ModalityConfig, address: str, shape: tuple[int, ...], extent: tuple[int, ...]) -> "_InMemory":
        return _InMemory(_slabs(modality, address, shape, extent), shape)

    def window(self, start: Sequence[int], size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        ends = [a + n for a, n in zip(start, size, strict=True)]
        inner = tuple(slice(max(a, 0), min(b, n)) for a, b, n in zip(start, ends, self.shape, strict=True))
        beyond = [edge for a, b, n in reversed(list(zip(start, ends, self.shape, strict=True)))
                  for edge in (max(-a, 0), max(b - n, 0))]  # fmt: skip
        x = self.x[(slice(None), *inner)]
        valid = torch.ones_like(x[:1], dtype=torch.bool) if self.valid is None else self.valid[(slice(None), *inner)]
        if any(beyond):
            x, valid = pad(x, beyond, value=self.fill), pad(valid, beyond, value=False)
        return x, valid


class _Chain:
    """Frames of a film at the pace of its run. Before the first and after the last, that one is held, and not valid."""

    spacing = None

    def __init__(self, film: Film, numbers: NDArray[np.int64], size: tuple[int, int]) -> None:
        self.film, self.numbers, self.shape = film, numbers, (len(numbers), *size)

    def window(self, start: Sequence[int], size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        at = np.arange(start[0], start[0] + size[0])
        inside = torch.from_numpy((at >= 0) & (at < self.shape[0]))
        frames = self.film.frames(self.numbers[at.clip(0, self.shape[0] - 1)], self.shape[1:])
        x = frames[:, :, start[1] : start[1] + size[1], start[2] : start[2] + size[2]]
        return x, inside.view(1, -1, 1, 1).expand(1, *x.shape[1:])


def _film(modality: ModalityConfig, film: Film) -> Source:
    count = len(film.times)
    shape = evaluated_shape(modality, (count, *film.extent))
    size = (max(shape[1], modality.size[1]), max(shape[2], modality.size[2]))
    chains = film.chains()
    places = tuple(
        (np.arange(m) + 0.5) * n / m - 0.5 for n, m in zip((count, *size), (count, *film.source), strict=True)
    )
    return Source(
        film.address, (count, *size), (count, *film.source), places,
        tuple(_Chain(film, numbers, size) for numbers in chains),
        times=film.times, numbers=tuple(chains),
    )  # fmt: skip
