"""Arrays inside HDF5 files, by h5py: what there is, its shape, and one of them, or a row of it, within a limit."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.sources.bounded import allowed, fits
from mae_ext.errors import BadSample, UserError

SUFFIXES = (".h5", ".hdf5")
MOST_ENTRIES = 10_000
"""Groups and datasets of a file that are looked through for arrays."""

_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}
"""Compressions that the library has built in. None but gzip makes much of little."""

_DAMAGE = (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, OverflowError)
"""What h5py raises over a damaged file."""


def h5py() -> Any:
    """The library. Raises UserError where it is not installed."""
    try:
        import h5py as library
    except ImportError:
        raise UserError("HDF5 files are read by h5py, which is not installed: pip install 'mae-ext[hdf5]'") from None
    return library


@contextmanager
def opened(address: str, source: str | BytesIO) -> Iterator[Any]:
    """source: the path of a regular file, or what is in one. Raises BadSample of the address."""
    library = h5py()
    try:
        with library.File(source, "r", locking=False) as handle:
            yield handle
    except (BadSample, UserError):
        raise
    except _DAMAGE as error:
        text = " ".join(str(error).split())
        cut = "truncated" in text or "addr overflow" in text
        what = "not a scan" if "signature not found" in text else "truncated" if cut else "damaged"
        raise BadSample(address, what, text) from error


def arrays(handle: Any, axes: int = 3) -> dict[str, tuple[int, ...]]:
    """Shape by name of the numeric datasets with `axes` axes or more. Links are not followed out of the file."""
    shapes: dict[str, tuple[int, ...]] = {}
    library, pending, seen = h5py(), [""], 0
    while pending:
        folder = pending.pop()
        for name in handle[folder] if folder else handle:
            seen += 1
            if seen > MOST_ENTRIES:
                raise ValueError(f"more than {MOST_ENTRIES} groups and datasets; name the dataset")
            path = f"{folder}/{name}" if folder else name
            if not isinstance(handle.get(path, getlink=True), library.HardLink):
                continue
            entry = handle[path]
            if isinstance(entry, library.Group) and path.count("/") < 16:
                pending.append(path)
            elif isinstance(entry, library.Dataset) and entry.dtype.kind in "biuf" and len(entry.shape or ()) >= axes:
                shapes[path] = entry.shape
    return shapes


def dataset(address: str, handle: Any, name: str) -> Any:
    """A dataset of numbers that lies in this very file. Raises BadSample "no such array"."""
    library, path = h5py(), ""
    for part in (p for p in name.split("/") if p):
        path = f"{path}/{part}"
        link = handle.get(path, getlink=True) if path in handle else None
        if link is None:
            known = ", ".join(sorted(arrays(handle, 1))) or "none"
            raise BadSample(address, "no such array", f"'{name}' is none of its datasets of numbers: {known}")
        if isinstance(link, library.ExternalLink):
            raise BadSample(address, "header", f"'{name}' is a link into another file, which is not followed")
    entry = handle[name]
    if not isinstance(entry, library.Dataset) or entry.dtype.kind not in "biuf" or entry.shape is None:
        raise BadSample(address, "data type", f"'{name}' is no dataset of numbers")
    if entry.external or entry.is_virtual:
        raise BadSample(address, "header", f"the values of '{name}' are in other files, which are not read")
    return entry


def load(address: str, array: Any, row: int | None, max_bytes: int) -> NDArray[np.generic]:
    """All of a dataset, or one row. Raises BadSample "truncated", "too large", "damaged", "compression"."""
    if row is not None and row >= (array.shape[0] if array.shape else 0):
        raise BadSample(address, "truncated", f"'{array.name}' has {array.shape[0] if array.shape else 0} rows")
    shape = array.shape if row is None else array.shape[1:]
    if (size := prod(shape) * array.dtype.itemsize) > max_bytes:
        raise BadSample(address, "too large", f"{size} bytes, the limit is {max_bytes}")
    check(address, array, max_bytes)
    taken: NDArray[np.generic] = np.asarray(array[()] if row is None else array[row])
    return taken


def check(address: str, array: Any, max_bytes: int) -> None:
    """Nothing that a chunk unpacks to is larger than it should be."""
    if array.chunks is None:
        return
    chunk = prod(array.chunks) * array.dtype.itemsize
    if chunk > max_bytes:
        raise BadSample(address, "too large", f"a chunk of {chunk} bytes, the limit is {max_bytes}")
    plist = array.id.get_create_plist()
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if unknown := [f for f in filters if f not in _FILTERS]:
        detail = f"'{array.name}' is packed by the HDF5 filter {unknown[0]}; repack it: h5repack -f GZIP=4 OLD NEW"
        raise BadSample(address, "compression", detail)
    if len(set(filters)) < len(filters):
        raise BadSample(address, "damaged", f"'{array.name}' is packed by the same filter twice")
    if 1 not in filters:
        return
    large = []
    array.id.chunk_iter(lambda info: large.append(info.chunk_offset) if not _small(info.size, chunk) else None)
    for offset in large:
        mask, content = array.id.read_direct_chunk(offset)
        if not mask and not fits(bytes(content), "zlib", allowed(chunk)):
            raise BadSample(address, "damaged", f"a chunk of '{array.name}' unpacks to more than it can hold")


def _small(size: int, chunk: int) -> bool:
    return size * 1032 <= allowed(chunk)


def read_row(address: str, file: str, key: str, row: int, max_bytes: int) -> NDArray[np.generic]:
    """One row of a dataset. file: a regular one. Raises BadSample."""
    with opened(address, file) as handle:
        return load(address, dataset(address, handle, key), row, max_bytes)


def shape_of(file: str, key: str, where: str) -> tuple[tuple[int, ...], str]:
    """(shape, type) of a dataset. Raises UserError."""
    try:
        with opened(file, file) as handle:
            array = dataset(file, handle, key)
            return array.shape, array.dtype.name
    except BadSample as error:
        raise UserError(f"{where}: {error.kind}: {error.detail}") from error


def list_rows(file: str, key: str, axes: int, where: str) -> list[str]:
    """Addresses of the rows of a dataset with `axes` axes or more; of one with fewer, of the dataset itself.

    Raises UserError.
    """
    try:
        with opened(file, file) as handle:
            array = dataset(file, handle, key)
            if len(array.shape) < axes:
                return [f"{file}::{key}"]
            return [f"{file}::{key}::{i}" for i in range(array.shape[0])]
    except BadSample as error:
        raise UserError(f"{where}: {error.kind}: {error.detail}") from error
