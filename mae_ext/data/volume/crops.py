"""A scan that has been read, and the boxes that are cut out of it: resampled, at the model's levels, block by block."""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae_ext.data.sample import Crop, Extent
from mae_ext.data.volume.foreground import scaled, usable
from mae_ext.data.volume.geometry import Lattice, Taps, covered, interpolate, laid, touched, window
from mae_ext.data.volume.intensity import Levels
from mae_ext.data.volume.scan import Array
from mae_ext.data.volume.stored import SMALL, meaning, stored_as, usable_all

Meaning = NDArray[np.floating]

BLOCK = 1 << 20
"""Voxels that are made or looked at at once: interpolation works in float64, and a whole scan may be asked for. Of a
crop that is resized, four times as many at once took half as long again (96 cubed out of 160 x 190 x 228)."""


@dataclass(frozen=True)
class Scan:
    """A scan in canonical order. voxels: (C, D, H, W) as stored, a view. valid: (D, H, W), where the loss may count.

    fill: for each channel, the least finite value, in the scan's units: what stands for padding and non-finite voxels.
    levels: None when they have been applied, and non-finite voxels are gone. prepared: from the cache, where all voxels
    are finite and at the wanted spacing; what is resized of it is so at the model's levels.
    """

    voxels: Array
    slope: float
    inter: float
    spacing: tuple[float, float, float]
    fill: NDArray[np.float32]
    valid: NDArray[np.bool_]
    levels: Levels | None
    grid: Lattice
    prepared: bool = False

    @property
    def extent(self) -> Extent:
        return self.grid.over(self.spacing)

    def cut(self, box: Crop, size: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(channels, *size) at the model's levels, and valid (*size)."""
        if self.prepared and (copied := self.grid.runs(box, size)):  # nothing to do but to copy, and to say what it is
            near, where = copied
            x = self._in_units(self.voxels[(slice(None), *near)])
            return laid(x, where, size, self._fill()), laid(self.valid[near][None], where, size, False)[0]
        taps = self.grid.taps(box, size)
        touches = prod(max(n, near.stop - near.start) for n, near in zip(size, window(taps), strict=True))
        step = max(1, size[0] * BLOCK // touches)
        if step >= size[0]:
            return self._slab(taps)
        x = np.empty((len(self.voxels if self.levels is None else self.levels.channel), *size), np.float32)
        valid = np.empty(size, bool)
        for z in range(0, size[0], step):
            slab = slice(z, min(z + step, size[0]))
            x[:, slab], valid[slab] = self._slab([taps[0].part(slab), *taps[1:]])
        return x, valid

    def cut_as_stored(self, box: Crop, size: tuple[int, ...]) -> tuple[Array, NDArray[np.bool_], Meaning] | None:
        """(C, *size) of one of SMALL, valid (*size), and (channels, 6) what the numbers mean; None where a crop is no
        cut of stored voxels: it is resized or resampled, or they are larger numbers, or not all finite and usable.
        """
        copied, kind = self.grid.runs(box, size), self.voxels.dtype.newbyteorder("=")
        if copied is None or self.levels is None or kind not in SMALL or not usable_all(kind, self.slope, self.inter):
            return None
        near, where = copied
        x, fill = self.voxels[(slice(None), *near)], None
        if x.shape[1:] != size and (fill := self._stored_fill) is None:
            return None
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            return None
        x = x.astype(kind, copy=False)
        x = laid(x, where, size, None if fill is None else fill.reshape(-1, 1, 1, 1))
        return x, laid(self.valid[near][None], where, size, False)[0], self._meaning

    @cached_property
    def _meaning(self) -> Meaning:
        assert self.levels is not None
        return meaning(self.slope, self.inter, self.levels)

    @cached_property
    def _stored_fill(self) -> Array | None:
        return stored_as(self.fill, self.slope, self.inter, self.voxels.dtype.newbyteorder("="))

    def _fill(self) -> NDArray[np.float32]:
        """(channels, 1, 1, 1): padding, at the model's levels where voxels are so before they are resized."""
        fill = self.fill.reshape(-1, 1, 1, 1)
        return fill if self.levels is None or not self.prepared else self.levels(fill)

    def _in_units(self, stored: Array) -> NDArray[np.float32]:
        """In the scan's units; of a prepared scan at the model's levels."""
        x = scaled(stored, self.slope, self.inter)
        return x if self.levels is None or not self.prepared else self.levels(x)

    def _slab(self, taps: list[Taps]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        stored, inner = touched(self.voxels, taps)
        x, fill = self._in_units(stored), self._fill()
        if not self.prepared and not (fine := usable(x)).all():
            x = np.where(fine, x, fill)
        x = interpolate(x, inner)
        if not all(t.inside.all() for t in taps):
            d, h, w = (t.inside for t in taps)
            x = np.where(d[:, None, None] & h[:, None] & w, x, fill)
        return x if self.levels is None or self.prepared else self.levels(x), self._covered(taps)

    def _covered(self, taps: list[Taps]) -> NDArray[np.bool_]:
        near, inner = touched(self.valid[None], taps)
        return covered(near[0], inner)

    def share(self, box: Crop, size: tuple[int, ...]) -> float:
        """Valid share of a box, padding included."""
        return float(self._covered(self.grid.taps(box, size)).mean())


def owned(x: Array, turned: tuple[int, ...]) -> Tensor:
    """Flipped along `turned`, in memory of its own: a cut of a scan is a view of it, and may not be written to.

    Copied, then flipped: in one go NumPy takes three times as long where the last axis runs backwards.
    """
    if x.dtype == np.bool_ and not any(x.strides):
        return torch.tensor(bool(x.flat[0])).expand(x.shape)  # everything counts, which takes a byte to say
    own = torch.from_numpy(x if x.base is None and x.flags.c_contiguous else x.copy())
    if own.dtype == torch.uint16:  # which torch does not flip
        return own.view(torch.int16).flip(turned).view(torch.uint16)
    return own.flip(turned) if turned else own
