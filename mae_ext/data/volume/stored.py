"""Voxels as their file stores them: the least type that holds them, what stands for air, and what a number means."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.volume.foreground import scaled
from mae_ext.data.volume.intensity import Levels
from mae_ext.data.volume.scan import MAX_VALUE, Array

SMALL = tuple(np.dtype(t) for t in ("i1", "u1", "i2", "u2", "f2"))
"""Half of a float32 or less, and known to torch (`data.sample.STORED`)."""

EXACT = 1 << 24
"""Whole numbers up to this are float32's own, and so are their sums and products up to it."""


def packed(voxels: Array) -> Array | None:
    """(C, D, H, W) -> the same numbers in one of SMALL, contiguous and of this machine's byte order; None where no such
    type holds them: whole numbers beyond 16 bits, and what is not whole, not finite, or -0.
    """
    if voxels.dtype.kind == "f" and voxels.dtype.itemsize > 2 and not _whole(voxels):
        return None
    if voxels.dtype.kind == "f" and voxels.dtype.itemsize == 2:
        return np.ascontiguousarray(voxels, np.float16) if np.isfinite(voxels).all() else None
    if voxels.dtype.itemsize == 1:
        return np.ascontiguousarray(voxels)
    low, high = int(voxels.min()), int(voxels.max())
    for kind in (np.int16, np.uint16):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.ascontiguousarray(voxels, kind)
    return None


def usable_all(kind: np.dtype[Any], slope: float, inter: float) -> bool:
    """Whether whatever one of SMALL holds means a number that is used: beyond `MAX_VALUE` padding takes its place."""
    most = np.finfo(kind).max if kind.kind == "f" else max(abs(np.iinfo(kind).min), np.iinfo(kind).max)
    return bool(float(most) * abs(slope) + abs(inter) <= MAX_VALUE)


def _whole(voxels: Array) -> bool:
    """Plane by plane: no copy of a scan is made to be looked at."""
    for channel in voxels:
        for plane in channel:
            with np.errstate(invalid="ignore"):
                if not ((np.abs(plane) < 1 << 16) & (plane == np.rint(plane))).all():
                    return False
            if (np.signbit(plane) & (plane == 0)).any():
                return False
    return True


def meaning(slope: float, inter: float, levels: Levels) -> NDArray[np.floating]:
    """-> (channels, 6), as `model.units.in_units` takes it: float32 where whole numbers stay exact in it."""
    whole = float(slope).is_integer() and float(inter).is_integer() and abs(slope) * (1 << 16) + abs(inter) <= EXACT
    # Where the file has neither slope nor intercept nothing is added: x + -0.0 is x, whatever its sign.
    inter = -0.0 if (slope, inter) == (1, 0) else inter
    rows = [(slope, inter, *each, levels.low, levels.high) for each in zip(levels.shift, levels.scale, strict=True)]
    return np.array(rows, np.float32 if whole else np.float64)


def stored_as(fill: NDArray[np.float32], slope: float, inter: float, kind: np.dtype[Any]) -> Array | None:
    """(C,) in the scan's units -> (C,) the stored numbers that mean them to the bit; None where there are none."""
    near = ((fill.astype(np.float64) - inter) / slope)[None]
    if kind.kind != "f":
        bounds = np.iinfo(kind)
        near = (np.rint(near) + np.arange(-1, 2)[:, None]).clip(bounds.min, bounds.max)
    some = near.astype(kind)
    hits = scaled(some, slope, inter) == fill
    return some[hits.argmax(0), np.arange(len(fill))] if hits.any(0).all() else None
