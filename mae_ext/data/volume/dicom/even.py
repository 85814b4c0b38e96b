"""Planes at uneven distances, or stacked askew under a tilted gantry, onto an even lattice at right angles: linearly.

Only where the reader is asked for it (`uneven: resample`). In a plane the lattice has the pixels of the planes, and is
as large as all of them seen along their normal; along the normal its planes are evenly spread from the first to the
last, at about the usual distance. What lies beside the planes is not measured: masked.
"""

from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.volume.scan import Array

Uneven = Literal["refuse", "keep", "resample"]

Vector = NDArray[np.float64]


def check_uneven(uneven: Uneven) -> Uneven:
    """Raises ValueError."""
    if uneven not in ("refuse", "keep", "resample"):
        raise ValueError(f"uneven={uneven!r}: expected 'refuse', 'keep' or 'resample'")
    return uneven


NEAR = 1e-4
"""Of a step: what is nearer to a plane or a pixel than this is at it."""


@dataclass(frozen=True)
class Even:
    """The lattice of a stack. at: (planes, 3) of the planes that are stored, in steps of the lattice along slice, row
    and column. shape: (slices, rows, columns). what: for people, what was taken out."""

    at: Vector
    shape: tuple[int, int, int]
    what: str

    def resampled(self, volume: Array) -> "np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float32]]":
        """(planes, rows, columns), masked where nothing was measured -> (*shape) float32, masked."""
        out, absent = np.empty(self.shape, np.float32), np.empty(self.shape, bool)
        known: dict[int, tuple[Vector, NDArray[np.bool_]]] = {}
        below = np.searchsorted(self.at[:, 0], np.arange(self.shape[0]) + NEAR, "right") - 1
        below = np.clip(below, 0, len(volume) - 2)
        for z, low in enumerate(below.tolist()):
            known = {i: known[i] if i in known else self._moved(volume, i) for i in (low, low + 1)}
            (a, no_a), (b, no_b) = known[low], known[low + 1]
            weight = (z - self.at[low, 0]) / (self.at[low + 1, 0] - self.at[low, 0])
            if weight <= NEAR:
                out[z], absent[z] = a, no_a
            elif weight >= 1 - NEAR:
                out[z], absent[z] = b, no_b
            else:
                out[z], absent[z] = a * (1 - weight) + b * weight, no_a | no_b
        return np.ma.MaskedArray(out, absent)

    def _moved(self, volume: Array, index: int) -> tuple[Vector, NDArray[np.bool_]]:
        """One stored plane on the pixels of the lattice, and where it holds none."""
        plane = np.ma.getdata(volume[index]).astype(np.float64)
        hole = np.ma.getmaskarray(volume[index]).astype(np.float64)
        for axis, (first, length) in enumerate(zip(self.at[index, 1:], self.shape[1:], strict=True)):
            at = np.arange(length) - first
            at = np.where(np.abs(at - np.rint(at)) < NEAR, np.rint(at), at)
            last = plane.shape[axis] - 1
            outside = (at < 0) | (at > last)
            low = np.clip(np.floor(at), 0, max(last - 1, 0)).astype(np.int64)
            along = (-1, 1) if axis == 0 else (1, -1)
            weight = np.clip(at - low, 0, 1).reshape(along)
            high = np.minimum(low + 1, last)
            plane, hole = (x.take(low, axis) * (1 - weight) + x.take(high, axis) * weight for x in (plane, hole))
            hole = np.maximum(hole, outside.reshape(along))
        return plane, hole > 0


def even(
    origins: Vector, axes: tuple[Vector, Vector, Vector], pixel: Vector, size: tuple[int, int], what: str, tilted: bool
) -> tuple[Even, NDArray[np.float64]]:
    """The lattice of planes, and its affine: (4, 4), indices of (column, row, slice) -> mm.

    origins: (planes, 3) mm, from the lowest along the normal. axes: unit vectors along rows of pixels, down columns and
    along the normal. pixel: mm between rows, between columns. size: rows, columns. tilted: whether planes lie aside of
    each other; else what they do so is rounding.
    """
    across, down, normal = axes
    from_first = origins - origins[0]
    heights = from_first @ normal
    count = max(1, round(heights[-1] / float(np.median(np.diff(heights)))))
    step = heights[-1] / count
    aside = np.stack([from_first @ down, from_first @ across], axis=1) / pixel * (1.0 if tilted else 0.0)
    least = aside.min(axis=0)
    rows, columns = (n + ceil(m - NEAR) for n, m in zip(size, np.ptp(aside, axis=0).tolist(), strict=True))
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = across * pixel[1], down * pixel[0], normal * step
    affine[:3, 3] = origins[0] + least[0] * pixel[0] * down + least[1] * pixel[1] * across
    return Even(np.column_stack([heights / step, aside - least]), (count + 1, rows, columns), what), affine
