"""NIfTI-1, NIfTI-2 and FreeSurfer MGH, gzipped or not: headers by nibabel, voxels by ourselves, to the last byte."""

from collections.abc import Callable
from math import isfinite
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader
from numpy.typing import NDArray

from mae_ext.data.volume.inflate import Source
from mae_ext.data.volume.scan import Array, Declared
from mae_ext.errors import BadSample

NIFTI_SUFFIXES = (".nii", ".nii.gz")
MGH_SUFFIXES = (".mgz", ".mgh", ".mgh.gz")

SINGLE, PAIRED = (b"n+1", b"n+2"), (b"ni1", b"ni2")
"""Magics: voxels behind the header, or in a file of their own."""

MGH_HEADER = 284
MAX_OFFSET = 1 << 26
"""Extensions between header and voxels larger than this are not a header any more."""

# nifti1.h; the RGB and complex codes are refused by name, because a reader that drops a part of them lies.
RGB, COMPLEX, _CIFTI = (128, 2304), (32, 1792, 2048), range(3000, 3100)
_MM_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}

_CORONAL = ((-1, 0, 0), (0, 0, -1), (0, 1, 0))
"""What FreeSurfer takes axes for whose file has no good RAS flag, with 1 mm voxels about 0: left, down, front
(surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat)."""

Affine = NDArray[np.float64]

NIBABEL_ERRORS = (
    *(nib.spatialimages.HeaderDataError, nib.spatialimages.HeaderTypeError, nib.filebasedimages.ImageFileError),
    *(ValueError, TypeError, KeyError, OverflowError, AttributeError, np.linalg.LinAlgError, ArithmeticError),
)


def declared_nifti(address: str, content: bytes, pair: Callable[[], Source] | None = None) -> Declared:
    """pair: opens the file of voxels (.img) that belongs to a header of its own (.hdr).

    Raises BadSample "not a scan", "header", "RGB", "complex", "data type", "truncated".
    """
    source = Source(address, content)
    header, length = header_of(address, source)
    try:
        return _declared(address, source, header, length, pair)
    except NIBABEL_ERRORS as error:
        raise BadSample(address, "header", " ".join(str(error).split()) or type(error).__name__) from error


def sided(address: str, head: bytes) -> bool:
    """Whether a NIfTI says where left is: it has a sform or a qform. head: its first KiB or more. Raises BadSample."""
    header, _ = header_of(address, Source(address, head))
    return int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0


def sided_mgh(address: str, head: bytes) -> bool:
    """The same of FreeSurfer's format."""
    return _good_ras(Source(address, head).read(MGH_HEADER).tobytes())


def header_of(address: str, source: Source) -> tuple[Any, int]:
    """nibabel's header as it stands in the file, and its length. Raises BadSample."""
    if not source.compressed and len(source.content) < 4:
        raise BadSample(address, "truncated", f"{len(source.content)} bytes are no header")
    begins = bytes(source.content[:12])
    start = source.read(4).tobytes()
    order = next((e for e in "<>" if int.from_bytes(start, "little" if e == "<" else "big") in (348, 540)), None)
    if order is None:
        raise BadSample(address, "not a scan", f"begins with {begins!r}; a NIfTI header begins with its own length")
    length = int.from_bytes(start, "little" if order == "<" else "big")
    block = start + source.read(length - 4).tobytes()
    Header: Any = nib.Nifti1Header if length == 348 else nib.Nifti2Header
    try:
        return Header(block, order, check=False), length
    except NIBABEL_ERRORS as error:
        raise BadSample(address, "header", " ".join(str(error).split()) or type(error).__name__) from error


def _declared(address: str, source: Source, header: Any, length: int, pair: Callable[[], Source] | None) -> Declared:
    magic = header["magic"].item()[:3]
    if magic in PAIRED and pair is None:
        raise BadSample(address, "header", "the voxels are in another file (.hdr/.img pair); name it .hdr")
    if magic not in SINGLE + PAIRED:
        raise BadSample(address, "not a scan", f"no NIfTI magic: {magic!r} (an Analyze header says nothing of left)")
    apart = pair is not None and magic in PAIRED
    count, code = int(header["dim"][0]), int(header["datatype"])
    if not 1 <= count <= 7:
        raise BadSample(address, "header", f"dim[0] says {count} axes; NIfTI has 1 to 7")
    if int(header["intent_code"]) in _CIFTI:
        raise BadSample(address, "axes", "CIFTI: a table of surface points, not a volume")
    if code in RGB:
        raise BadSample(address, "RGB", "colour voxels (a rendering or a colour-coded map), not measured values")
    if code in COMPLEX:
        raise BadSample(address, "complex", "complex voxels; save magnitude (and phase) as real volumes")
    shape = squeezed(tuple(int(n) for n in header["dim"][1 : 1 + count]))
    dtype = header.get_data_dtype()
    offset = float(header["vox_offset"])
    first = 0 if apart else length
    if not isfinite(offset) or not 0 <= offset <= MAX_OFFSET or offset != int(offset) or 0 < offset < first:
        raise BadSample(address, "header", f"voxels begin at byte {offset:g}, expected {first} to {MAX_OFFSET}")
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0:  # the standard's way to say that there is none
        slope, inter = 1.0, 0.0
    lengths = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    if not (np.isfinite(lengths).all() and lengths.all()):
        raise BadSample(address, "voxel size", f"pixdim is {lengths.tolist()} mm")
    affine, other, has_sides = _places(header)
    # Four bytes after the header say whether extensions follow; voxels in a file of their own have none before them.
    skip = int(offset) if apart else max(int(offset), length + 4) - length
    name = ("NIfTI-1" if length == 348 else "NIfTI-2") + (" pair" if apart else "")

    def load() -> Array:
        of_voxels = pair() if apart and pair is not None else source
        of_voxels.read(skip)
        return voxels(of_voxels, shape, dtype)

    return Declared(
        name, shape, dtype, affine, load, slope, inter, nifti=header, other=other, sided=has_sides
    )  # fmt: skip


def _places(header: Any) -> tuple[Affine, Affine | None, bool]:
    """mm RAS+: the place that is believed; the one that other software may believe; whether either is the file's word.

    A sform of any code comes before a qform, as for nibabel and FSL. Without either, nibabel and FSL take the first
    axis for right to left, about the middle of the scan (Analyze's way), and ITK the axes for left, back and up.
    """
    read = header.copy()
    read["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1  # of anything else nifti1.h makes 1, and nibabel an error
    scale = np.array([[_MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)]] * 3 + [[1.0]])
    has_sform, has_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    believed = np.array(read.get_best_affine(), dtype=np.float64) * scale
    if not (has_sform or has_qform):
        lengths = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
        return believed, np.diag([*lengths * (-1, -1, 1), 1.0]) * scale, False
    if not (has_sform and has_qform):
        return believed, None, True
    try:
        return believed, np.array(read.get_qform(), dtype=np.float64) * scale, True
    except NIBABEL_ERRORS:
        return believed, np.full((4, 4), np.nan), True


def declared_mgh(address: str, content: bytes) -> Declared:
    """FreeSurfer's format: big-endian, a header of 284 bytes. Raises BadSample as declared_nifti."""
    source = Source(address, content)
    block = source.read(MGH_HEADER).tobytes()
    try:
        header = MGHHeader(block, check=False)
        if not (good := _good_ras(block)):
            header["delta"], header["Mdc"], header["Pxyz_c"] = 1, _CORONAL, 0  # nibabel has the axes otherwise
        if int(header["version"]) != 1:
            raise BadSample(address, "not a scan", f"begins with {content[:12]!r}; MGH version 1 was expected")
        shape = squeezed(tuple(int(n) for n in header["dims"]))
        affine, dtype = np.array(header.get_affine(), dtype=np.float64), header.get_data_dtype()
    except NIBABEL_ERRORS as error:
        raise BadSample(address, "header", str(error) or type(error).__name__) from error
    return Declared(
        "MGH", shape, dtype, affine, lambda: voxels(source, shape, dtype), sided=good, code=1 if good else 2
    )  # fmt: skip


def _good_ras(block: bytes) -> bool:
    """goodRASFlag, a big-endian short after seven numbers."""
    return int.from_bytes(block[28:30], "big", signed=True) > 0


def voxels(source: Source, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """(*reversed(shape)): what follows in the source, which is then read to its end."""
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    content: NDArray[np.uint8] = source.read(count)
    source.finish()
    return content.view(dtype).reshape(shape[::-1])


def squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes of length 1 after the third are how NIfTI writes nothing."""
    return shape[:3] + tuple(n for n in shape[3:] if n != 1)
