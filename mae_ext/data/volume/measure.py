"""A reading of a scan that also says which numbers its voxels hold, before any levels: what the doctor asks for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.sample import CropSampler, Sample
from mae_ext.data.volume.crops import Scan

MOST_A_SIDE = 64
"""All voxels of a grid so fine are looked at, and of the others the least and the most."""


def read_measured(
    reader: Any, address: str, crops: Sequence[CropSampler]
) -> tuple[list[Sample], str, NDArray[np.float64]]:
    """A VolumeReader's `read`, from the file and not from a cache; the type of its voxels; and many of them, (n,), in
    the scan's units (CT: HU), the least and the most among them, of those that count. Raises BadSample."""
    scan = reader.scan(address)
    samples = [reader.sample(scan, reader.box(scan, crop), address, as_stored=False) for crop in crops]
    return samples, str(scan.voxels.dtype.newbyteorder("=")), _numbers(scan)


def _numbers(scan: Scan) -> NDArray[np.float64]:
    steps = tuple(slice(None, None, -(-length // MOST_A_SIDE)) for length in scan.valid.shape)
    few = scan.voxels[(slice(None), *steps)][:, scan.valid[steps]].reshape(-1)
    ends = []
    for channel in scan.voxels:  # plane by plane: no copy is made of a whole scan
        for plane, valid in zip(channel, scan.valid, strict=True):
            if valid.any():
                counted = plane[valid]
                ends += [counted.min(), counted.max()]
    return np.array([*few, min(ends), max(ends)], np.float64) * scan.slope + scan.inter
