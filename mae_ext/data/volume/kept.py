"""A prepared scan: what the cache keeps of one, as it is stored where that says it all, and the scan it gives back."""

from dataclasses import dataclass
from math import inf, isinf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.sample import whole
from mae_ext.data.sources.cache import Entry
from mae_ext.data.volume.crops import Scan
from mae_ext.data.volume.geometry import lattice
from mae_ext.data.volume.intensity import Levels
from mae_ext.data.volume.stored import packed, usable_all


@dataclass(frozen=True)
class Known:
    """A prepared scan at hand: source_identity of its files, and its entries of the cache and where they lie."""

    source: list[dict[str, Any]]
    paths: list[Path]
    entries: list[Entry]
    scan: Scan


def kept_whole(scan: Scan, resampled: str = "float32") -> tuple[Entry, Entry]:
    """-> the voxels, and (D, H, W) uint8 where the loss may count, at the wanted spacing.

    Of a scan that is at it already, and whose numbers 16 bits hold, the stored voxels and what they mean; of another
    (channels, D, H, W) of dtype `resampled` at the model's levels.
    """
    assert scan.levels is not None
    meta: dict[str, Any] = {"spacing": scan.extent.spacing}
    stored = packed(scan.voxels) if set(scan.grid.ratio) == {1.0} else None
    if stored is not None and usable_all(stored.dtype, scan.slope, scan.inter):
        levels = {key: bound for key in ("low", "high") if not isinf(bound := getattr(scan.levels, key))}
        levels |= {key: getattr(scan.levels, key) for key in ("channel", "shift", "scale")}
        meta |= {"fill": scan.fill.tolist(), "slope": scan.slope, "inter": scan.inter, "levels": levels}
        return Entry(stored, meta), _marks(scan.valid)
    size = scan.grid.shape
    x, valid = scan.cut(whole(size), size)
    fill = scan.levels(scan.fill.reshape(-1, 1, 1, 1)).ravel()
    return Entry(x.astype(resampled, copy=False), meta | {"fill": fill.tolist()}), _marks(valid)


def from_kept(voxels: Entry, valid: NDArray[np.uint8]) -> Scan:
    meta = voxels.meta
    a, b, c = meta["spacing"]
    levels = None
    if "levels" in meta:
        channel, shift, scale = (tuple(meta["levels"][key]) for key in ("channel", "shift", "scale"))
        levels = Levels(channel, shift, scale, meta["levels"].get("low", -inf), meta["levels"].get("high", inf))
    size = voxels.array.shape[1:]
    return Scan(
        voxels.array, meta.get("slope", 1.0), meta.get("inter", 0.0), (a, b, c), np.array(meta["fill"], np.float32),
        np.broadcast_to(valid.view(np.bool_), size), levels, lattice(size, (a, b, c), None), prepared=True,
    )  # fmt: skip


def _marks(valid: NDArray[np.bool_]) -> Entry:
    """(D, H, W), or (1, 1, 1) where everything counts: as much is read as there is to say."""
    return Entry(np.ones((1, 1, 1), np.uint8) if valid.all() else valid.astype(np.uint8))
