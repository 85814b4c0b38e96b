"""Arrays as scans: rows of an archive, .npy and .npz files, HDF5 datasets. Their axes are D, H, W of the patient."""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from math import prod
from typing import IO, Any

import numpy as np

from mae_ext.data.sources import archive, hdf5
from mae_ext.data.sources.address import fetch, openable
from mae_ext.data.sources.archive import ARRAY, npy_header, npz_header
from mae_ext.data.volume.scan import Array, Declared
from mae_ext.errors import BadSample

SUFFIXES = (".npy", ".npz", *hdf5.SUFFIXES)

SPACINGS = {"element_size_um": 1e-3, "spacing": 1.0, "voxel_size": 1.0, "voxel_spacing": 1.0}
"""Attributes of a dataset that say how far its last three axes' voxels lie apart, and what makes mm of them. The first
is ilastik's and Fiji's."""

NAMES = "channel_names"
"""The attribute of a dataset that has a text for each channel."""

_DAMAGE = (*archive.DAMAGE, MemoryError)


@dataclass(frozen=True)
class Taken:
    """How arrays are taken. spacing: mm along D, H, W, where an array says nothing of it. dataset: which one of a file
    that holds several. channel_axis, time_axis: counted as in the array."""

    max_bytes: int
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    channel_axis: int | None = None
    time_axis: int | None = None
    dataset: str | None = None


def declared_array(
    shape: tuple[int, ...], dtype: np.dtype[Any], load: Callable[[], Array], how: Taken, name: str = "array"
) -> Declared:
    """(D, H, W) with or without one axis more, already in canonical order."""
    axes = len(shape)
    extra = [axis % axes for axis in (how.channel_axis, how.time_axis) if axis is not None and axes > 3]
    spatial = [a for a in range(axes) if a not in extra][:3]
    # As a file, fastest axis first: the array's axes from the last to the first.
    affine = np.diag([*reversed(how.spacing), 1.0])
    turned = tuple(sorted(axes - 1 - a for a in spatial))
    first, second, third = turned if len(turned) == 3 else (0, 1, 2)
    truth = dtype == np.bool_
    return Declared(
        name, shape[::-1], np.dtype(np.uint8) if truth else dtype, affine,
        (lambda: load().astype(np.uint8)) if truth else load,
        spatial=(first, second, third), slowest_first=True, code=2,
    )  # fmt: skip


def declared_row(row: Array, how: Taken) -> Declared:
    return declared_array(row.shape, row.dtype, lambda: row, how)


def declared(address: str, how: Taken) -> Declared:
    """Of a .npy, .npz or HDF5 file, an array in one, or a row of it. Raises BadSample."""
    inside = ARRAY.fullmatch(address)
    file, key = (inside["file"], inside["key"]) if inside else (address, how.dataset)
    name = file.lower()
    if name.endswith(hdf5.SUFFIXES):
        return _of_hdf5(address, file, key, int(inside["row"]) if inside and inside["row"] else None, how)
    try:
        return _of_npz(address, file, key, how) if name.endswith(".npz") else _of_npy(address, how)
    except BadSample:
        raise
    except _DAMAGE as error:
        raise BadSample(address, "damaged", " ".join(str(error).split()) or type(error).__name__) from error


@contextmanager
def _opened(address: str, max_bytes: int) -> Iterator[IO[bytes]]:
    source = openable(address, max_bytes)
    if isinstance(source, BytesIO):
        yield source
    else:
        with open(source, "rb") as stream:  # noqa: PTH123
            yield stream


def _of_npy(address: str, how: Taken) -> Declared:
    with _opened(address, how.max_bytes) as stream:
        if stream.read(6) != b"\x93NUMPY":
            raise BadSample(address, "not a scan", "no .npy: it does not begin as NumPy's files do")
        stream.seek(0)
        shape, column_major, dtype = npy_header(stream)
        begin = stream.tell()
        size = stream.seek(0, 2)
    _check_type(address, dtype)
    if (wanted := prod(shape) * dtype.itemsize + begin) != size:
        kind = "truncated" if size < wanted else "damaged"
        raise BadSample(address, kind, f"it says it is {list(shape)} {dtype}, {wanted} bytes, and has {size}")

    def load() -> Array:
        content = fetch(address, how.max_bytes + begin)
        assert isinstance(content, bytes)
        flat = np.frombuffer(content, dtype, prod(shape), begin)
        return flat.reshape(shape, order="F" if column_major else "C")

    return declared_array(shape, dtype, load, how, "NumPy")


def _check_type(address: str, dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "biuf":
        raise BadSample(address, "data type", f"{dtype}; numbers were expected (objects are never unpickled)")


def _of_npz(address: str, file: str, key: str | None, how: Taken) -> Declared:
    with _opened(file, how.max_bytes) as stream, zipfile.ZipFile(stream) as zipped:
        members = {info.filename.removesuffix(".npy"): info for info in zipped.infolist()}
        if key is None:
            key = _only(address, [name for name, info in members.items() if _axes(zipped, info) >= 3], members)
        if key not in members:
            known = ", ".join(sorted(members)) or "none"
            raise BadSample(address, "no such array", f"'{key}' is none of its arrays: {known}")
        shape, _, dtype = npz_header(zipped, members[key])

    def load() -> Array:
        with _opened(file, how.max_bytes) as stream, zipfile.ZipFile(stream) as zipped:
            npz_header(zipped, zipped.getinfo(f"{key}.npy"))
            with zipped.open(f"{key}.npy") as member:
                array: Array = np.lib.format.read_array(member, allow_pickle=False)
                member.read(1)  # past the last byte, where the checksum is compared
                return array

    return declared_array(shape, dtype, load, how, "NumPy archive")


def _axes(zipped: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    if not info.filename.endswith(".npy"):
        return 0
    with zipped.open(info) as stream:
        shape, _, dtype = npy_header(stream)
    return len(shape) if dtype.kind in "biuf" else 0


def _only(address: str, names: Sequence[str], everything: Sequence[str] | dict[str, Any]) -> str:
    """The one array that can be a scan. Raises BadSample."""
    if len(names) == 1:
        return names[0]
    known = ", ".join(sorted(names or everything)) or "nothing"
    if names:
        detail = f"{len(names)} arrays may be the scan: {known}; say which: reader.dataset=NAME, or FILE::NAME"
    else:
        detail = f"no array of numbers with three axes or more; it holds {known}"
    raise BadSample(address, "no such array", detail)


def _of_hdf5(address: str, file: str, key: str | None, row: int | None, how: Taken) -> Declared:
    with hdf5.opened(address, openable(file, how.max_bytes)) as handle:
        if key is None:
            key = _only(address, list(hdf5.arrays(handle)), hdf5.arrays(handle, 1))
        name = key
        array = hdf5.dataset(address, handle, name)
        shape, dtype, spacing = array.shape, array.dtype, _said_spacing(address, array)
        names = _said_names(array)
        if row is not None:
            if row >= shape[0]:
                raise BadSample(address, "truncated", f"'{name}' has {shape[0]} rows")
            shape = shape[1:]

    def load() -> Array:
        with hdf5.opened(address, openable(file, how.max_bytes)) as handle:
            return hdf5.load(address, hdf5.dataset(address, handle, name), row, how.max_bytes)

    taken = how if spacing is None else Taken(how.max_bytes, spacing, how.channel_axis, how.time_axis, how.dataset)
    return replace(declared_array(shape, dtype, load, taken, "HDF5"), names=names)


def _said_names(array: Any) -> tuple[str, ...]:
    """Of the channels, by an attribute; none where that is no list of texts."""
    values = np.asarray(array.attrs.get(NAMES, ())).ravel().tolist()
    texts = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values]
    return tuple(texts) if all(isinstance(text, str) for text in texts) else ()


def _said_spacing(address: str, array: Any) -> tuple[float, ...] | None:
    """mm along the array's own last axes, by an attribute. Raises BadSample "voxel size"."""
    for name, scale in SPACINGS.items():
        if name in array.attrs:
            values = np.asarray(array.attrs[name], dtype=np.float64).ravel() * scale
            if len(values) != 3 or not (np.isfinite(values).all() and (values > 0).all()):
                detail = f"its attribute {name} is {array.attrs[name]}; expected three positive numbers, D, H, W"
                raise BadSample(address, "voxel size", detail)
            return tuple(float(v) for v in values)
    return None
