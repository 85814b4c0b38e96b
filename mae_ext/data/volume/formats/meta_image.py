"""MetaImage, ITK's own format (.mha, and .mhd with its voxels in .raw or .zraw): text, then plain or zlib voxels."""

import re

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.volume.formats.beside import TO_THE_END, Beside, beside, listed, numbered
from mae_ext.data.volume.inflate import Packing, Source
from mae_ext.data.volume.nifti import voxels
from mae_ext.data.volume.scan import Array, Declared
from mae_ext.errors import BadSample

SUFFIXES = (".mha", ".mhd")
MAX_HEADER = 1 << 20
MAX_SKIP = 1 << 26
"""HeaderSize above this is no header of voxels."""

# https://itk.org/Wiki/MetaIO/Documentation, "ElementType"
_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_LPS = np.array([[-1.0], [-1.0], [1.0]])
"""ITK's world has left and back as its positive directions."""


def data_files(address: str, head: bytes) -> list[str]:
    """The files of voxels that a header names; none of one that holds them. Raises BadSample."""
    fields, end = _fields(address, head)
    return list(_apart(address, fields, head[end:], 3) or [])


def declared(address: str, content: bytes, max_bytes: int) -> Declared:
    """Raises BadSample "not a scan", "header", "axes", "data type", "geometry", "scaling", "truncated"."""
    fields, end = _fields(address, content)
    try:
        return _declared(address, memoryview(content)[end:], fields, max_bytes)
    except (KeyError, ValueError, OverflowError, TypeError) as error:
        text = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise BadSample(address, "header", text) from error


def _fields(address: str, content: bytes) -> tuple[dict[str, str], int]:
    """Up to ElementDataFile, which is the last, and where its line ends."""
    last = re.search(rb"(?m)^[ \t]*ElementDataFile[ \t]*=[^\n]*(\n|$)", content[:MAX_HEADER])
    if last is None:
        if re.match(rb"\s*(ObjectType|NDims)[ \t]*=", content):
            raise BadSample(address, "truncated", "its header ends before ElementDataFile")
        raise BadSample(address, "not a scan", f"begins with {content[:12]!r}; 'ObjectType = Image' was expected")
    lines = content[: last.end()].decode("utf-8", "surrogateescape").splitlines()
    pairs = [line.partition("=") for line in lines if "=" in line]
    return {key.strip(): value.strip() for key, _, value in pairs}, last.end()


def _declared(address: str, rest: memoryview, fields: dict[str, str], max_bytes: int) -> Declared:
    if fields.get("ObjectType", "Image") != "Image":
        raise BadSample(address, "not a scan", f"ObjectType = {fields['ObjectType']}; Image was expected")
    axes, shape = int(fields["NDims"]), tuple(int(n) for n in fields["DimSize"].split())
    if len(shape) != axes:
        raise ValueError(f"NDims = {axes}, but DimSize = {fields['DimSize']}")
    if axes < 3:
        raise BadSample(address, "axes", f"{axes} axes ({' x '.join(map(str, shape))}); a volume has three")
    components = int(fields.get("ElementNumberOfChannels", "1"))
    name = fields["ElementType"].removesuffix("_ARRAY")
    if name not in _TYPES:
        raise BadSample(address, "data type", f"ElementType = {fields['ElementType']}")
    dtype = np.dtype((">" if _said(fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB") else "<") + _TYPES[name])
    if not _said(fields, "BinaryData", default=True):
        raise BadSample(address, "header", "its voxels are text (BinaryData = False); save them as binary")
    _check_meaning(address, fields)
    affine = _affine(fields, axes)
    whole = shape if components == 1 else (components, *shape)
    spatial = (0, 1, 2) if components == 1 else (1, 2, 3)
    packing: Packing = "zlib" if _said(fields, "CompressedData") else False
    skip = int(fields.get("HeaderSize", "0"))
    if not TO_THE_END <= skip <= MAX_SKIP:
        raise BadSample(address, "header", f"HeaderSize = {skip}: expected {TO_THE_END} to {MAX_SKIP}")
    files = _apart(address, fields, bytes(rest), axes)

    def load() -> Array:
        if files:
            return Beside(files, packing, skip).voxels(address, whole, dtype, max_bytes)
        return voxels(Source(address, rest, packing), whole, dtype)

    return Declared(
        "MetaImage", whole, dtype, affine, load, spatial=spatial, channel=None if components == 1 else 0
    )  # fmt: skip


def _said(fields: dict[str, str], *names: str, default: bool = False) -> bool:
    text = next((fields[name] for name in names if name in fields), None)
    return default if text is None else text[:1].upper() in ("T", "1", "Y")


def _check_meaning(address: str, fields: dict[str, str]) -> None:
    """Fields that ITK reads past, and others do not: what they are meant to change is nobody's guess."""
    slope, offset = (
        float(fields.get(f"ElementToIntensityFunction{what}", default))
        for what, default in (("Slope", "1"), ("Offset", "0"))
    )
    if (slope, offset) != (1, 0):
        detail = f"an intensity function of slope {slope:g} and offset {offset:g}, which ITK does not apply and others"
        raise BadSample(address, "scaling", f"{detail} do; apply it, or take it out")
    unit = fields.get("DistanceUnits", "mm")
    if unit not in ("mm", "?", ""):
        detail = f"DistanceUnits = {unit}, which ITK takes for mm all the same; save it in mm, or take the line out"
        raise BadSample(address, "geometry", detail)


def _affine(fields: dict[str, str], axes: int) -> NDArray[np.float64]:
    """Rows of TransformMatrix are where the axes point. Only the three of space are looked at."""

    def numbers(count: int, *names: str) -> NDArray[np.float64] | None:
        text = next((fields[name] for name in names if name in fields), None)
        if text is None:
            return None
        values = np.array([float(part) for part in text.split()])
        if len(values) != count:
            raise ValueError(f"{names[0]} has {len(values)} numbers, expected {count}")
        return values

    matrix = numbers(axes * axes, "TransformMatrix", "Rotation", "Orientation")
    spacing = numbers(axes, "ElementSpacing", "ElementSize")
    origin = numbers(axes, "Offset", "Origin", "Position")
    affine = np.eye(4)
    turn = np.eye(3) if matrix is None else matrix.reshape(axes, axes)[:3, :3].T
    affine[:3, :3] = turn * (np.ones(3) if spacing is None else spacing[:3])
    affine[:3, 3] = 0 if origin is None else origin[:3]
    affine[:3] *= _LPS
    return affine


def _apart(address: str, fields: dict[str, str], rest: bytes, axes: int) -> tuple[str, ...] | None:
    """None where the voxels follow the header."""
    named = fields["ElementDataFile"]
    if named.upper() == "LOCAL":
        return None
    words = named.split()
    if words and words[0].upper() == "LIST":
        if len(words) > 1 and int(words[1]) != axes - 1:
            raise BadSample(address, "header", f"'{named}': a list of files of {axes - 1} axes each is read")
        names = listed(address, rest.decode("utf-8", "surrogateescape").splitlines())
    elif "%" in named and len(words) >= 3:
        step = int(words[3]) if len(words) > 3 else 1
        names = numbered(address, words[0], int(words[1]), int(words[2]), step)
    else:
        names = [named]
    return tuple(beside(address, name) for name in names)
