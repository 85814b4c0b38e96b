"""A scan at the model's levels, window by window: in memory are its stored voxels, and what is asked for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae_ext.data.sample import Crop, Extent
from mae_ext.data.volume import labels as label_volume
from mae_ext.data.volume.geometry import canonical_affine, orientation
from mae_ext.data.volume.intensity import Levels
from mae_ext.data.volume.reader import VolumeReader


class WholeScan:
    """shape: (D, H, W) at the scale of training. spacing: mm between its voxels. lattice: where they lie, for whoever
    compares scans place by place; None for a row of an archive, whose place nobody knows."""

    def __init__(self, reader: VolumeReader, address: str, shape: tuple[int, ...]) -> None:
        """Raises BadSample."""
        self.address, self.shape = address, shape
        self._scan, self._declared = reader.scan(address), reader.header(address)
        extent = self.extent
        assert extent.spacing is not None
        self._step = tuple(n / m for n, m in zip(extent.size, shape, strict=True))
        self.spacing = tuple(mm * step for mm, step in zip(extent.spacing, self._step, strict=True))

    @property
    def extent(self) -> Extent:
        return self._scan.extent

    @property
    def lattice(self) -> str:
        declared, place = self._declared, orientation(self._declared.affine)
        affine, stored = canonical_affine(declared.affine, tuple(declared.shape[a] for a in declared.spatial), place)
        return f"{list(self.shape)} of {list(stored)} at {np.round(affine[:3], 2).tolist()}"

    def window(self, start: Sequence[int], size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """(C, *size) float32 in the reader's units, and valid (1, *size); beyond the scan as padded in training."""
        ends = [a + n for a, n in zip(start, size, strict=True)]
        low, high = ([_whole(v * s) for v, s in zip(edge, self._step, strict=True)] for edge in (start, ends))
        x, valid = self._scan.cut(Crop(tuple(low), tuple(high), (False,) * 3), size)  # type: ignore[arg-type]
        return torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(np.ascontiguousarray(valid))[None]

    @property
    def units(self) -> tuple[str, Levels]:
        """What the source's numbers are called, and the map from them to the reader's units."""
        levels = self._scan.levels
        assert levels is not None
        cut = "" if np.isinf(levels.low) and np.isinf(levels.high) else ", cut off where the reader's intensity does"
        return f"the scan's own{cut}", levels

    def in_its_units(self, x: Tensor) -> Tensor:
        """(..., C) in the reader's units -> (..., C) in those of the scan, cut off as the reader cuts them."""
        levels = self.units[1]
        return x.clamp(levels.low, levels.high) * torch.tensor(levels.scale) + torch.tensor(levels.shift)

    def write(self, values: NDArray[np.float32], path: Path) -> None:
        """(D, H, W) on the stored voxels -> NIfTI in the scan's own geometry. Raises OSError."""
        label_volume.write(values, self._declared, None, path)


def _whole(edge: float) -> float:
    """A whole number as an int, by which arrays are cut."""
    return round(edge) if abs(edge - round(edge)) < 1e-9 else edge
