"""A prepared scan: what the cache keeps of one, and the scan that comes back. As it is stored where that says it all."""

from math import inf, isinf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.sample import whole
from mae_ext.data.sources.cache import Entry
from mae_ext.data.volume.crops import Scan
from mae_ext.data.volume.geometry import lattice
from mae_ext.data.volume.intensity import Levels
from mae_ext.data.volume.stored import packed


def kept_whole(scan: Scan) -> tuple[Entry, NDArray[np.bool_]]:
    """-> the voxels, and (D, H, W) where the loss may count, at the wanted spacing.

    Of a scan that is at it already, and whose numbers 16 bits hold, the stored voxels and what they mean; of another
    (channels, D, H, W) float32 at the model's levels.
    """
    assert scan.levels is not None
    meta: dict[str, Any] = {"spacing": scan.extent.spacing}
    fill = scan.fill
    stored = packed(scan.voxels) if set(scan.grid.ratio) == {1.0} else None
    if stored is not None:
        levels = {key: bound for key in ("low", "high") if not isinf(bound := getattr(scan.levels, key))}
        levels |= {key: getattr(scan.levels, key) for key in ("channel", "shift", "scale")}
        meta |= {"fill": fill.tolist(), "slope": scan.slope, "inter": scan.inter, "levels": levels}
        return Entry(stored, meta), scan.valid
    size = scan.grid.shape
    x, valid = scan.cut(whole(size), size)
    fill = scan.levels(fill.reshape(-1, 1, 1, 1)).ravel()
    return Entry(x, meta | {"fill": fill.tolist()}), valid


def from_kept(voxels: Entry, valid: NDArray[np.bool_]) -> Scan:
    meta = voxels.meta
    a, b, c = meta["spacing"]
    levels = None
    if "levels" in meta:
        channel, shift, scale = (tuple(meta["levels"][key]) for key in ("channel", "shift", "scale"))
        levels = Levels(channel, shift, scale, meta["levels"].get("low", -inf), meta["levels"].get("high", inf))
    return Scan(
        voxels.array, meta.get("slope", 1.0), meta.get("inter", 0.0), (a, b, c), np.array(meta["fill"], np.float32),
        valid, levels, lattice(voxels.array.shape[1:], (a, b, c), None), prepared=True,
    )  # fmt: skip
