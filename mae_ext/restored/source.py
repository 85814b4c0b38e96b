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

from mae_ext.config import ModalityConfig
from mae_ext.data.crops import training_shape
from mae_ext.data.loading.slabs import Slabs, read_slabs, stored_places
from mae_ext.data.sample import Reader, extent_of
from mae_ext.data.video.film_windows import Film
from mae_ext.data.video.reader import VideoReader
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.data.volume.scan_windows import WholeScan
from mae_ext.restored.restorer import Restorer
from mae_ext.restored.rows import Whole, answers_of

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
    places = stored_places(extent, shape)
    if isinstance(reader, VolumeReader):
        scan = WholeScan(reader, address, shape)
        return Source(address, shape, extent.stored, places, (scan,), scan.lattice, scan.spacing)
    held = Slabs.of(read_slabs(modality, address, shape, extent.size))
    bits, bounds = _range_of(held)
    lattice = str(list(shape))
    return Source(address, shape, extent.stored, places, (held,), lattice, held.spacing, bits=bits, bounds=bounds)


def evaluated_shape(modality: ModalityConfig, extent: tuple[int, ...]) -> tuple[int, ...]:
    """Of a whole source at the scale of evaluations: the middle that `embed` and pictures see is a window of it."""
    augment = modality.data.augment.model_copy(update={"scale": None})
    return training_shape(augment, modality.size, extent)


def _range_of(whole: Slabs) -> tuple[int, tuple[float, float]]:
    """`bits` and `bounds` of a Source."""
    if whole.whole_levels:
        return 8, (0.0, 1.0)
    least, most = whole.least, whole.most
    if least >= 0 and most <= 1:
        return 16, (0.0, 1.0)
    return 32, (least, max(most, least + 1e-12))


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
