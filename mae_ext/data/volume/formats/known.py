"""Which format an address has, of all that are known, and the header that it holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mae_ext.data.case_names import case_of, check_patterns
from mae_ext.data.case_names import files_of as files_of_case
from mae_ext.data.sources import archive
from mae_ext.data.sources.address import fetch, head
from mae_ext.data.sources.dicom.export import files_of, is_series
from mae_ext.data.sources.dicom.grouping import SUFFIXES as DICOM
from mae_ext.data.volume import nifti, nrrd
from mae_ext.data.volume.dicom import series as dicom
from mae_ext.data.volume.dicom.even import Uneven
from mae_ext.data.volume.formats import arrays, case, meta_image, minc, pair, zarr_folder
from mae_ext.data.volume.formats.arrays import Taken
from mae_ext.data.volume.scan import Array, Declared, check
from mae_ext.errors import BadSample

HEADER_BYTES = 1 << 16
"""Of a file's beginning, where its header ends; one that is text may be longer."""

PARTS = (
    *(*nifti.NIFTI_SUFFIXES, *nifti.MGH_SUFFIXES, *nrrd.SUFFIXES, *pair.SUFFIXES, *meta_image.SUFFIXES),
    *(*minc.SUFFIXES, *arrays.SUFFIXES, *zarr_folder.SUFFIXES),
)
"""Suffixes of scans that are one sample by themselves, or one file of a case."""

SUFFIXES = (*PARTS, *(f"{suffix}/" for suffix in DICOM))


@dataclass(frozen=True)
class Formats:
    """How headers are read. arrays: how arrays are taken. patterns: of the files of a case; none where a file is one
    sample. uneven: what becomes of DICOM slices that are no even stack."""

    arrays: Taken
    patterns: tuple[str, ...] = ()
    uneven: Uneven = "refuse"

    @property
    def max_bytes(self) -> int:
        return self.arrays.max_bytes

    def declared(self, address: str, header_alone: bool = False) -> Declared:
        """What a scan says of itself, checked in the order of its own claims; not a voxel read. Raises BadSample.

        header_alone: of one file no more than the first bytes are read, and `load` is not called.
        """
        if self.patterns and case_of(address, self.patterns[0]):
            one, channel_axis = partial(self._one, header_alone=header_alone), self.arrays.channel_axis
            scan = case.declared(address, self.patterns, one, channel_axis, self.max_bytes)
        else:
            scan = self._one(address, header_alone)
        check(address, scan, self.max_bytes)
        return scan

    def _one(self, address: str, header_alone: bool) -> Declared:
        name = _file(address)
        if name.endswith(zarr_folder.SUFFIXES):
            return zarr_folder.declared(address, self.arrays)
        if is_folder(address):
            return dicom.declared(address, files_of(address, DICOM), self.max_bytes, self.uneven)
        if name.endswith(DICOM):
            return dicom.declared(address, [address], self.max_bytes, self.uneven)
        if name.endswith(arrays.SUFFIXES) and not (archive.ROW.fullmatch(address) and name.endswith(".npz")):
            return arrays.declared(address, self.arrays)
        if name.endswith(minc.SUFFIXES):
            return minc.declared(address, self.max_bytes)
        content = self._content(address, name, header_alone)
        if isinstance(content, np.ndarray):
            return arrays.declared_row(content, self.arrays)
        if name.endswith(nrrd.SUFFIXES):
            return nrrd.declared(address, content, self.max_bytes)
        if name.endswith(meta_image.SUFFIXES):
            return meta_image.declared(address, content, self.max_bytes)
        if name.endswith(nifti.MGH_SUFFIXES):
            return nifti.declared_mgh(address, content)
        if name.endswith(pair.SUFFIXES):
            return pair.declared(address, content, self.max_bytes)
        return nifti.declared_nifti(address, content)

    def _content(self, address: str, name: str, header_alone: bool) -> bytes | Array:
        if not header_alone or archive.ROW.fullmatch(address):
            return fetch(address, self.max_bytes)
        text = name.endswith((*nrrd.SUFFIXES, *meta_image.SUFFIXES))
        return head(address, nrrd.MAX_HEADER if text else HEADER_BYTES, self.max_bytes)

    def files(self, address: str) -> list[str]:
        """The addresses whose bytes make up a sample: a change of any of them is a change of it.

        Raises BadSample of the sample, also where one of them is missing.
        """
        files = []
        for part in self._parts(address):
            try:
                files += _files(part)
                if self.patterns:
                    head(part, 1)
            except BadSample as error:
                missing = self.patterns and error.kind == "no such file"
                raise BadSample(
                    address, "missing file" if missing else error.kind, f"{part}: {error.detail}"
                ) from error
        return files

    def _parts(self, address: str) -> list[str]:
        if self.patterns and case_of(address, self.patterns[0]):
            return files_of_case(address, self.patterns)
        return [address]

    def sided(self, address: str) -> bool:
        """Whether the file says where left is, of which its first bytes are read; all of a case. Raises BadSample."""
        return all(map(_sided, self._parts(address)))


def _sided(address: str) -> bool:
    name = _file(address)
    if is_folder(address) or archive.ARRAY.fullmatch(address):
        return True
    if name.endswith(nifti.MGH_SUFFIXES):
        return nifti.sided_mgh(address, head(address))
    if name.endswith(pair.SUFFIXES):
        return pair.pair_sided(address, head(address))
    return not name.endswith(nifti.NIFTI_SUFFIXES) or nifti.sided(address, head(address))


def patterns_of(named: str | Sequence[str] | None) -> tuple[str, ...]:
    """Of `reader.case`. Raises ValueError."""
    if named is None:
        return ()
    return check_patterns((named,) if isinstance(named, str) else tuple(named), PARTS)


def is_folder(address: str) -> bool:
    """Whether an address is a folder whose files are one series."""
    if is_series(address) or address.endswith("/"):
        return True
    return "::" not in address and not address.endswith(zarr_folder.SUFFIXES) and Path(address).is_dir()


def _file(address: str) -> str:
    """In lower case, what says by its end which format it is: of an array that of its archive."""
    inside = archive.ARRAY.fullmatch(address)
    return (inside["file"] if inside else address).lower()


def _files(address: str) -> list[str]:
    name = address.lower()
    if is_folder(address):
        return files_of(address, DICOM)
    if name.endswith(pair.SUFFIXES):
        return [address, pair.voxel_file(address)]
    if name.endswith(meta_image.SUFFIXES[1:]):
        return [address, *meta_image.data_files(address, head(address, meta_image.MAX_HEADER))]
    if name.endswith(nrrd.SUFFIXES):
        return [address, *nrrd.data_files(address, head(address, nrrd.MAX_HEADER))]
    return [address]
