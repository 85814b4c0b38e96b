"""Pairs of .hdr and .img: NIfTI, and Analyze 7.5, which says nothing of left and right."""

from math import isfinite
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mae_ext.data.sources.address import fetch
from mae_ext.data.sources.archive import is_place
from mae_ext.data.volume.inflate import Source
from mae_ext.data.volume.nifti import (
    COMPLEX,
    MAX_OFFSET,
    NIBABEL_ERRORS,
    PAIRED,
    RGB,
    SINGLE,
    declared_nifti,
    header_of,
    sided,
    squeezed,
    voxels,
)
from mae_ext.data.volume.scan import Array, Declared
from mae_ext.errors import BadSample

SUFFIXES = (".hdr", ".hdr.gz")
_VOXELS = (".img", ".img.gz", ".IMG", ".IMG.gz")
HEADER = 348


def voxel_file(address: str) -> str:
    """The .img of a .hdr. Raises BadSample "no such file"."""
    if is_place(address):
        detail = "its voxels are in another file (.img), which is not read out of an archive; convert it to one .nii"
        raise BadSample(address, "header", detail)
    end = next(s for s in reversed(SUFFIXES) if address.lower().endswith(s))
    stem = address[: -len(end)]
    for suffix in _VOXELS:
        if Path(stem + suffix).exists():
            return stem + suffix
    raise BadSample(address, "no such file", f"{Path(stem).name}.img, which holds its voxels, is not beside it")


def pair_sided(address: str, head: bytes) -> bool:
    """Whether the header says where left is. Raises BadSample."""
    return _magic(address, head) in SINGLE + PAIRED and sided(address, head)


def declared(address: str, content: bytes, max_bytes: int) -> Declared:
    """Raises BadSample "not a scan", "header", "RGB", "complex", "data type", "truncated"."""

    def pair() -> Source:
        header = Source(address, content)
        header.read(HEADER)
        header.finish()  # a packed one that is cut off behind its fields is damaged, as nibabel has it
        file = voxel_file(address)
        try:
            of_voxels = fetch(file, max_bytes)
        except BadSample as error:
            raise BadSample(address, error.kind, f"{file}: {error.detail}") from error
        assert isinstance(of_voxels, bytes)
        return Source(address, of_voxels)

    if _magic(address, content) in SINGLE + PAIRED:
        return declared_nifti(address, content, pair)
    source = Source(address, content)
    block = source.read(HEADER).tobytes()
    order = "<" if block[:4] == HEADER.to_bytes(4, "little") else ">"
    try:
        header: Any = nib.Spm2AnalyzeImage.header_class(block, order, check=False)
        return _analyze(address, header, pair)
    except NIBABEL_ERRORS as error:
        raise BadSample(address, "header", " ".join(str(error).split()) or type(error).__name__) from error


def _magic(address: str, content: bytes) -> bytes:
    header, length = header_of(address, Source(address, content))
    magic: bytes = header["magic"].item()[:3]
    if length != HEADER and magic not in SINGLE + PAIRED:
        raise BadSample(address, "not a scan", f"no NIfTI magic: {magic!r}, and no Analyze header")
    return magic


def _analyze(address: str, header: Any, pair: Any) -> Declared:
    """SPM's reading of Analyze 7.5: its scale and, where it is set, its origin. Left is a guess (nibabel, SPM and FSL:
    the first axis runs from right to left; ITK: from left to right, back to front reversed)."""
    count, code = int(header["dim"][0]), int(header["datatype"])
    if not 1 <= count <= 7:
        raise BadSample(address, "not a scan", f"neither a NIfTI magic nor an Analyze header: dim[0] is {count}")
    if code in RGB:
        raise BadSample(address, "RGB", "colour voxels (a rendering or a colour-coded map), not measured values")
    if code in COMPLEX:
        raise BadSample(address, "complex", "complex voxels; save magnitude (and phase) as real volumes")
    shape = squeezed(tuple(int(n) for n in header["dim"][1 : 1 + count]))
    dtype, offset = header.get_data_dtype(), float(header["vox_offset"])
    if not isfinite(offset) or not 0 <= offset <= MAX_OFFSET or offset != int(offset):
        raise BadSample(address, "header", f"voxels begin at byte {offset:g}, expected 0 to {MAX_OFFSET}")
    lengths = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    if not (np.isfinite(lengths).all() and lengths.all()):
        raise BadSample(address, "voxel size", f"pixdim is {lengths.tolist()} mm")
    slope, inter = header.get_slope_inter()

    def load() -> Array:
        source = pair()
        source.read(int(offset))
        return voxels(source, shape, dtype)

    return Declared(
        "Analyze", shape, dtype, np.array(header.get_best_affine(), np.float64), load,
        1.0 if slope is None else float(slope), 0.0 if inter is None else float(inter),
        other=np.diag([*lengths * (-1, -1, 1), 1.0]), sided=False, code=2,
    )  # fmt: skip
