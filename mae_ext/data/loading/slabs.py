"""A whole sample in memory, as its reader gives it: in slabs along its slowest axis, of which windows are cut."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import ceil, prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from mae_ext.config import ModalityConfig
from mae_ext.data.crops import always
from mae_ext.data.loading.batches import build_reader
from mae_ext.data.sample import Crop, Extent, Sample, read_checked
from mae_ext.errors import BadSample

SLAB = 1 << 24
"""Voxels that are read at a time, of one opening: resampling works in float64."""

OUT_OF_MEMORY = re.compile("out of memory|allocate memory|not enough memory", re.IGNORECASE)
"""What PyTorch says, as a RuntimeError."""


@contextmanager
def within_memory(address: str) -> Iterator[None]:
    """What does not fit into memory costs its sample and no other. Raises BadSample."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        message = " ".join(str(error).split())
        if isinstance(error, RuntimeError) and not OUT_OF_MEMORY.search(message):
            raise
        raise BadSample(address, "out of memory", message[:200]) from None


def stored_places(extent: Extent, shape: Sequence[int]) -> tuple[NDArray[np.float64], ...]:
    """For each axis (n,): where the stored voxels lie, in voxels of the sample at `shape`, which a reader makes of it.

    By the middles of voxels where a source is resized, else by its lattice.
    """
    return tuple(
        p if n == m else (p + 0.5) * n / m - 0.5 for p, n, m in zip(extent.places, shape, extent.size, strict=True)
    )


def read_slabs(modality: ModalityConfig, address: str, shape: tuple[int, ...], extent: tuple[int, ...]) -> list[Sample]:
    """The whole sample at `shape`, of one opening, in slabs along its slowest axis where that keeps its own voxels.

    A reader gives samples of one size, so the last slab may begin before the end of the one before it; what both have
    is taken from the first. Raises BadSample.
    """
    parts = ceil(prod(shape) / SLAB) if shape[0] == extent[0] else 1
    high = ceil(shape[0] / parts)
    starts = [min(z, shape[0] - high) for z in range(0, shape[0], high)]
    rest = extent[1:]
    flat, still = (0,) * len(rest), (False,) * len(extent)
    boxes = [Crop((z, *flat), (z + high if parts > 1 else extent[0], *rest), still) for z in starts]
    size = (high, *shape[1:])
    reader = build_reader(modality.model_copy(update={"size": size}), "reader")
    slabs = read_checked(reader, address, [always(box) for box in boxes], (modality.channels, *size))
    if not (beyond := high * len(starts) - shape[0]):
        return slabs
    *others, last = slabs
    valid = None if last.valid is None else last.valid[:, beyond:]
    return [*others, replace(last, x=last.x[:, beyond:], valid=valid)]


class Slabs:
    """A sample whose slabs, (C, rows, *rest) in order along its slowest axis, are in memory as they travel.

    shape: of all of it. valid: (1, rows, *rest) bool of each slab, or None where all of it is. spacing: mm between its
    voxels. least: what it is padded with beyond its edges.
    """

    def __init__(
        self,
        slabs: Sequence[Tensor],
        valid: Sequence[Tensor | None] | None = None,
        spacing: tuple[float, ...] | None = None,
    ) -> None:
        self.slabs, self.spacing = slabs, spacing
        self.valid = [None] * len(slabs) if valid is None else valid
        self.shape = (sum(slab.shape[1] for slab in slabs), *slabs[0].shape[2:])
        self.least = min(float(slab.min()) for slab in slabs)

    @staticmethod
    def of(samples: Sequence[Sample]) -> "Slabs":
        """Of what `read_slabs` gave."""
        return Slabs([s.x for s in samples], [s.valid for s in samples], samples[0].spacing)

    @property
    def whole_levels(self) -> bool:
        """Whether it is bytes, 0..255, which mean 0..1."""
        return self.slabs[0].dtype == torch.uint8

    @property
    def most(self) -> float:
        return max(float(slab.max()) for slab in self.slabs)

    def window(self, start: Sequence[int], size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """x (C, *size) as the sample travels, and valid (1, *size) bool; beyond the sample it is padded and not
        valid."""
        spans = [(max(a, 0), min(a + s, n)) for a, s, n in zip(start, size, self.shape, strict=True)]
        (top, bottom), *others = spans
        rest = tuple(slice(a, b) for a, b in others)
        parts, known, at = [], [], 0
        for slab, valid in zip(self.slabs, self.valid, strict=True):
            a, b = max(top - at, 0), min(bottom - at, slab.shape[1])
            if a < b:
                inner = (slice(None), slice(a, b), *rest)
                parts.append(slab[inner])
                known.append(torch.ones_like(parts[-1][:1], dtype=torch.bool) if valid is None else valid[inner])
            at += slab.shape[1]
        x, is_valid = (several[0] if len(several) == 1 else torch.cat(several, 1) for several in (parts, known))
        beyond = [side for (a, b), first, s in reversed(list(zip(spans, start, size, strict=True)))
                  for side in (a - first, first + s - b)]  # fmt: skip
        if not any(beyond):
            return x, is_valid
        return pad(x, beyond, value=self.least), pad(is_valid, beyond, value=False)
