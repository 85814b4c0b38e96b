"""A scan that has been read, and the boxes that are cut out of it: resampled, at the model's levels, block by block."""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.sample import Crop, Extent
from mae_ext.data.volume.foreground import scaled, usable
from mae_ext.data.volume.geometry import Lattice, Taps, covered, interpolate, laid, touched, window
from mae_ext.data.volume.intensity import Levels
from mae_ext.data.volume.scan import Array

BLOCK = 1 << 20
"""Voxels that are made or looked at at once: interpolation works in float64, and a whole scan may be asked for. Of a
crop that is resized, four times as many at once took half as long again (96 cubed out of 160 x 190 x 228)."""


@dataclass(frozen=True)
class Scan:
    """A scan in canonical order. voxels: (C, D, H, W) as stored, a view. valid: (D, H, W), where the loss may count.

    fill: for each channel, the least finite value, in the scan's units: what stands for padding and non-finite voxels.
    levels: None when they have been applied, and non-finite voxels are gone.
    """

    voxels: Array
    slope: float
    inter: float
    spacing: tuple[float, float, float]
    fill: NDArray[np.float32]
    valid: NDArray[np.bool_]
    levels: Levels | None
    grid: Lattice

    @property
    def extent(self) -> Extent:
        return self.grid.over(self.spacing)

    def cut(self, box: Crop, size: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(channels, *size) at the model's levels, and valid (*size)."""
        fill = self.fill.reshape(-1, 1, 1, 1)
        if self.levels is None and (copied := self.grid.runs(box, size)):  # a prepared scan: nothing to do but to copy
            near, where = copied
            stored, valid = self.voxels[(slice(None), *near)], self.valid[near][None]
            return laid(stored, where, size, fill), laid(valid, where, size, False)[0]
        taps = self.grid.taps(box, size)
        touches = prod(max(n, near.stop - near.start) for n, near in zip(size, window(taps), strict=True))
        step = max(1, size[0] * BLOCK // touches)
        if step >= size[0]:
            return self._slab(taps, fill)
        x = np.empty((len(self.voxels if self.levels is None else self.levels.channel), *size), np.float32)
        valid = np.empty(size, bool)
        for z in range(0, size[0], step):
            slab = slice(z, min(z + step, size[0]))
            x[:, slab], valid[slab] = self._slab([taps[0].part(slab), *taps[1:]], fill)
        return x, valid

    def _slab(self, taps: list[Taps], fill: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        stored, inner = touched(self.voxels, taps)
        x = scaled(stored, self.slope, self.inter)
        if self.levels is not None and not (fine := usable(x)).all():
            x = np.where(fine, x, fill)
        x = interpolate(x, inner)
        if not all(t.inside.all() for t in taps):
            d, h, w = (t.inside for t in taps)
            x = np.where(d[:, None, None] & h[:, None] & w, x, fill)
        return x if self.levels is None else self.levels(x), self._covered(taps)

    def _covered(self, taps: list[Taps]) -> NDArray[np.bool_]:
        near, inner = touched(self.valid[None], taps)
        return covered(near[0], inner)

    def share(self, box: Crop, size: tuple[int, ...]) -> float:
        """Valid share of a box, padding included."""
        return float(self._covered(self.grid.taps(box, size)).mean())
