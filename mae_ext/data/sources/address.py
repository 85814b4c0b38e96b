"""The bytes behind an address: a file, a member of a shard, a row of an array, a cell of a table. Decodes nothing."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.sources import archive, cells, hdf5, remote
from mae_ext.data.sources.cells import CELL
from mae_ext.data.sources.shared import copied
from mae_ext.data.stages import stage
from mae_ext.errors import BadSample, UserError

MAX_COPIED = 8 << 30
"""Bytes of a member that is copied to the disk for a decoder which opens files itself."""


def fetch(address: str, max_bytes: int) -> bytes | NDArray[np.generic]:
    """The bytes of a file or tar member, or the array row, behind an address; read-only.

    Raises BadSample: "no such file", "unreadable", "not a regular file", "empty", "too large" (above max_bytes),
    "truncated", "damaged". Pipes, sockets and devices are never opened, even when they took a file's place.
    """
    if row := archive.ROW.fullmatch(address):
        if row["file"].endswith(".npz"):
            return archive.read_row(address, row["file"], row["key"], int(row["row"]), max_bytes)
        return hdf5.read_row(address, locate(address)[0], row["key"], int(row["row"]), max_bytes)
    if CELL.fullmatch(address):
        return cells.read_cell(address, max_bytes)
    if remote.is_remote(address):
        return _fetch_remote(address, None, max_bytes)
    with _opened(address) as (handle, offset, size):
        _check_size(address, size, max_bytes)
        content = _pread(handle, size, offset)
    if len(content) != size:
        raise BadSample(address, "truncated", f"{len(content)} of {size} bytes could be read")
    return content


def head(address: str, count: int = 1 << 16, max_bytes: int | None = None) -> bytes:
    """The first `count` bytes of a file or tar member, for what a header says. Raises BadSample as `fetch` does.

    max_bytes: of the whole, as for `fetch`; None is no limit.
    """
    if CELL.fullmatch(address):
        return cells.read_cell(address, MAX_COPIED if max_bytes is None else max_bytes)[:count]
    if remote.is_remote(address):
        return _fetch_remote(address, count, max_bytes)
    with _opened(address) as (handle, offset, size):
        if max_bytes is not None:
            _check_size(address, size, max_bytes)
        return _pread(handle, min(count, size), offset)


def locate(address: str) -> tuple[str, int, int]:
    """(file, offset, size) of the bytes behind an address, for decoders that open files themselves; a row: its archive.

    Of a cell of a table, and of a member of a shard at an address, a copy, which lasts until the third that this
    process asks for after it.
    Raises BadSample as `fetch` does.
    """
    if (cell := CELL.fullmatch(address)) or remote.is_remote(address):
        content = cells.read_cell(address, MAX_COPIED) if cell else _fetch_remote(address, None, MAX_COPIED)
        return copied(address, content), 0, len(content)
    with _opened(address) as (_, offset, size):
        return _place(address)[0], offset, size


def openable(address: str, max_bytes: int) -> str | BytesIO:
    """For libraries that open files themselves: the path of a regular file, or the bytes of a member of a shard.

    Raises BadSample as `fetch` does.
    """
    if archive.MEMBER.fullmatch(address):
        content = fetch(address, max_bytes)
        assert isinstance(content, bytes)
        return BytesIO(content)
    return locate(address)[0]


def _place(address: str) -> tuple[str, int, int | None]:
    """(file, offset, size) as an address says it; of a file, and of an array's archive, None is all of it."""
    if member := archive.MEMBER.fullmatch(address):
        return member["shard"], int(member["offset"]), int(member["size"])
    array = archive.ARRAY.fullmatch(address)
    return array["file"] if array else address, 0, None


def _fetch_remote(address: str, count: int | None, max_bytes: int | None) -> bytes:
    member = archive.MEMBER.fullmatch(address)
    if member is None:
        raise UserError(f"{address}: at an address, members of tar shards are read and nothing else")
    size = int(member["size"])
    if size == 0:
        raise BadSample(address, "empty", "0 bytes")
    if max_bytes is not None:
        _check_size(address, size, max_bytes)
    return remote.read_member(member["shard"], int(member["offset"]), size, count)


def _check_size(address: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise BadSample(address, "too large", f"{size} bytes, the limit is {max_bytes}")


@contextmanager
def _opened(address: str) -> Iterator[tuple[int, int, int]]:
    """A descriptor of a regular file, and where in it the sample begins and how many bytes it has."""
    path, offset, size = _place(address)
    try:
        # Opening a device can act on it, so its kind is asked first; O_NONBLOCK because a pipe can slip in between.
        status = os.stat(path)  # noqa: PTH116
        if not stat.S_ISREG(status.st_mode):
            raise BadSample(address, "not a regular file", "a folder, pipe, socket or device")
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise BadSample(address, "not a regular file", "a folder, pipe, socket or device")
            size = status.st_size - offset if size is None else size
            if size == 0:
                raise BadSample(address, "empty", "0 bytes")
            if offset + size > status.st_size:
                raise BadSample(address, "truncated", f"{path} has {status.st_size} bytes and needs {offset + size}")
            yield handle, offset, size
        finally:
            os.close(handle)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in the name
        raise BadSample(address, "no such file", str(error)) from error
    except (OSError, MemoryError) as error:
        raise BadSample(address, "unreadable", str(error) or "not enough memory") from error


def _pread(handle: int, size: int, offset: int) -> bytes:
    with stage("read"):
        content = os.pread(handle, size, offset)
        while 0 < len(content) < size:  # one read returns at most 2 GiB, and less over a network
            more = os.pread(handle, size - len(content), offset + len(content))
            if not more:
                break
            content += more
    return content
