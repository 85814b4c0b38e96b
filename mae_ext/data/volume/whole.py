"""Whole scans: opened once for many windows, and maps on a coarser grid than the voxels, where the scan lies."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.sample import Crop, CropSampler, Sample, judged
from mae_ext.data.sources.cache import Cache
from mae_ext.data.volume.crops import Scan
from mae_ext.data.volume.geometry import canonical_affine, orientation
from mae_ext.data.volume.labels import spatial_shape, write_grid
from mae_ext.data.volume.scan import Declared
from mae_ext.data.whole import Cut
from mae_ext.errors import BadSample


class WholeScans:
    """What the reader of scans has besides `read`; it has the rest."""

    cache: Cache | None
    map_suffix = ".nii.gz"

    @abstractmethod
    def prepared(self, address: str) -> Scan: ...
    @abstractmethod
    def scan(self, address: str) -> Scan: ...
    @abstractmethod
    def header(self, address: str) -> Declared: ...
    @abstractmethod
    def box(self, scan: Scan, crop: CropSampler) -> Crop: ...
    @abstractmethod
    def sample(self, scan: Scan, box: Crop, address: str, as_stored: bool) -> Sample: ...

    @contextmanager
    def opened(self, address: str, as_stored: bool = False) -> Iterator[Cut]:
        """One reading of the file, for any number of calls with crop samplers. Raises BadSample, as the calls do."""
        scan = self.prepared(address) if self.cache else self.scan(address)

        def cut(crops: Sequence[CropSampler]) -> list[Sample]:
            boxes = [self.box(scan, crop) for crop in crops]
            try:
                return [self.sample(scan, box, address, as_stored) for box in boxes]
            except MemoryError as error:
                raise BadSample(address, "out of memory", str(error)) from error

        yield cut

    @judged
    def affine(self, address: str) -> NDArray[np.float64]:
        """(4, 4): stored voxels (d, h, w), in the order of a sample's axes, to mm in the patient's space, RAS+."""
        scan = self.header(address)
        return canonical_affine(scan.affine, spatial_shape(scan), orientation(scan.affine))[0]

    def write_map(
        self, values: NDArray[np.float32], first: Sequence[float], step: Sequence[float], address: str, path: Path
    ) -> None:
        """(d, h, w, n) -> a NIfTI of four axes (three where n is 1), in the axis order of the scan, where it lies.

        first, step: of the grid, in stored voxels along D, H, W; see `Placed`. Raises OSError, and BadSample.
        """
        write_grid(values, first, step, self.header(address), path)
