"""NRRD (the format of 3D Slicer): a short text header; raw or gzipped voxels behind it, or in files of their own."""

import re

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.volume.formats.beside import TO_THE_END, Beside, beside, listed, numbered
from mae_ext.data.volume.inflate import Source
from mae_ext.data.volume.nifti import voxels
from mae_ext.data.volume.scan import Array, Declared
from mae_ext.errors import BadSample

SUFFIXES = (".nrrd", ".nhdr")
MAX_HEADER = 1 << 20
MAX_SKIP = 1 << 26
"""Bytes and lines before the voxels; more is no header of them."""

# http://teem.sourceforge.net/nrrd/format.html, "type"
_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_MM_PER_UNIT = {
    **dict.fromkeys(("mm", "millimeter", "millimeters"), 1.0),
    **dict.fromkeys(("um", "\N{MICRO SIGN}m", "micron", "microns", "micrometer", "micrometers"), 0.001),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 10.0),
    **dict.fromkeys(("m", "meter", "meters"), 1000.0),
}
# Signs that turn the file's world into RAS.
_WORLDS = {
    **dict.fromkeys(("right-anterior-superior", "ras"), (1, 1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1, 1, 1)),
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1, -1, 1)),
}


def declared(address: str, content: bytes, max_bytes: int) -> Declared:
    """Raises BadSample "not a scan", "header", "axes", "data type", "truncated"."""
    lines, end = _lines(address, content)
    try:
        return _declared(address, memoryview(content)[end:], _fields(lines), _files(address, lines), max_bytes)
    except (KeyError, ValueError, OverflowError, TypeError) as error:
        text = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise BadSample(address, "header", text) from error


def data_files(address: str, head: bytes) -> list[str]:
    """The files of voxels that a header names; none of one that holds them. Raises BadSample."""
    return list(_files(address, _lines(address, head)[0]))


def _lines(address: str, content: bytes) -> tuple[list[str], int]:
    """Of the header, and where the voxels begin. A header whose voxels are elsewhere may end where its file does."""
    if not content.startswith(b"NRRD000"):
        raise BadSample(address, "not a scan", f"begins with {content[:12]!r}; NRRD was expected")
    end = re.search(rb"\r?\n\r?\n", content[:MAX_HEADER])
    text = content[: end.start() if end else MAX_HEADER].decode("latin-1")
    if end is None and (len(content) > MAX_HEADER or re.search(r"(?im)^data ?file: ", text) is None):
        raise BadSample(address, "truncated", "the header has no end")
    return text.splitlines()[1:], end.end() if end else len(content)


def _fields(lines: list[str]) -> dict[str, str]:
    fields = dict(line.lower().split(": ", 1) for line in lines if ": " in line and not line.startswith("#"))
    return {key: value.strip() for key, value in fields.items()}


def _files(address: str, lines: list[str]) -> tuple[str, ...]:
    """Of "data file: NAME", "data file: PATTERN MIN MAX STEP", or "data file: LIST [SUBDIM]" and names below."""
    for number, line in enumerate(lines):
        key, _, value = line.partition(": ")
        if key.lower() not in ("data file", "datafile"):
            continue
        words = value.split()
        if words and words[0] == "LIST":
            names = listed(address, lines[number + 1 :])
        elif len(words) in (4, 5) and "%" in words[0]:
            first, last, step = (int(word) for word in words[1:4])
            names = numbered(address, words[0], first, last, step)
        else:
            names = [value]
        return tuple(beside(address, name) for name in names)
    return ()


def _declared(
    address: str, rest: memoryview, fields: dict[str, str], files: tuple[str, ...], max_bytes: int
) -> Declared:
    lines, skip = (int(fields.get(f"{what} skip", fields.get(f"{what}skip", "0"))) for what in ("line", "byte"))
    if not 0 <= lines <= MAX_SKIP or not TO_THE_END <= skip <= MAX_SKIP:
        raise BadSample(address, "header", f"line skip {lines}, byte skip {skip}: expected up to {MAX_SKIP}")
    for key in ("line skip", "lineskip", "byte skip", "byteskip"):
        if not files and int(fields.get(key, "0")) != 0:
            raise BadSample(address, "header", f"'{key}: {fields[key]}' is not read; save it without")
    shape = tuple(int(n) for n in fields["sizes"].split())
    if len(shape) != int(fields["dimension"]):
        raise ValueError(f"dimension {fields['dimension']}, but sizes {fields['sizes']}")
    if fields["type"] not in _TYPES:
        raise BadSample(address, "data type", f"type '{fields['type']}'")
    dtype = np.dtype(_TYPES[fields["type"]])
    if dtype.itemsize > 1:
        dtype = np.dtype({"little": "<", "big": ">"}[fields["endian"]] + _TYPES[fields["type"]])
    spatial, affine = _geometry(address, fields, shape)
    encoding = fields["encoding"]
    if encoding not in ("raw", "gzip", "gz"):
        raise BadSample(address, "header", f"encoding '{encoding}' is not read; save it raw or gzipped")

    def load() -> Array:
        if files:
            return Beside(files, encoding != "raw", skip, lines).voxels(address, shape, dtype, max_bytes)
        return voxels(Source(address, rest, encoding != "raw"), shape, dtype)

    return Declared("NRRD", shape, dtype, affine, load, spatial=spatial)


def _geometry(
    address: str, fields: dict[str, str], shape: tuple[int, ...]
) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    if "space directions" not in fields or fields.get("space") not in _WORLDS:
        detail = (
            f"space '{fields.get('space')}' with directions '{fields.get('space directions')}' says nothing of left"
        )
        raise BadSample(address, "geometry", f"{detail}; expected one of {', '.join(sorted(_WORLDS))}")
    rows = re.findall(r"none|\([^)]*\)", fields["space directions"])
    spatial = tuple(a for a, row in enumerate(rows) if row != "none")
    if len(rows) != len(shape) or len(spatial) != 3:
        raise BadSample(address, "axes", f"{len(spatial)} spatial axes among {len(shape)}; a volume has three")
    affine = np.eye(4)
    for column, axis in enumerate(spatial):
        affine[:3, column] = _vector(rows[axis])
    affine[:3, 3] = _vector(fields.get("space origin", "(0,0,0)"))
    affine[:3] *= np.array(_WORLDS[fields["space"]])[:, None] * _mm_per_unit(address, fields)
    return (spatial[0], spatial[1], spatial[2]), affine


def _mm_per_unit(address: str, fields: dict[str, str]) -> float:
    """Of `space units`, a quoted word for each axis of the world; without it, mm, as ITK and Slicer take it."""
    units = {unit.strip() for unit in re.findall(r'"([^"]*)"', fields.get("space units", ""))} - {"", "???"}
    if not units:
        return 1.0
    if len(units) > 1 or not units <= _MM_PER_UNIT.keys():
        detail = f"space units {fields['space units']}: expected one of {', '.join(_MM_PER_UNIT)} for all axes"
        raise BadSample(address, "geometry", detail)
    return _MM_PER_UNIT[units.pop()]


def _vector(text: str) -> list[float]:
    values = [float(part) for part in text.strip("() ").split(",")]
    if len(values) != 3:
        raise ValueError(f"'{text}' is not a vector of three numbers")
    return values
