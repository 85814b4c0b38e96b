"""Decoded sources on disk: memory-mapped, addressed by content, checked, and rebuilt when damaged.

An entry is found by what it was made from and how, never by where that lies: a source or a transform that changed asks
for another entry, so nothing stale is ever served. Works for arrays of any number of axes and any fixed-size dtype.
"""

import hashlib
import json
import logging
import os
import resource
import tempfile
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.sources import archive, remote
from mae_ext.data.sources.address import locate
from mae_ext.data.sources.cells import CELL
from mae_ext.data.sources.dicom import export as dicom
from mae_ext.errors import BadSample, UserError

MAGIC = b"mae_ext1"
ALIGN = 4096
"""Data begin on a page, so that a map of them needs no copy."""

MAX_HEADER_BYTES = 64 << 20
IDENTITY_BYTES = 1 << 16
"""Hashed at the beginning and at the end of a source, beside its size and time of change."""

_DESCRIPTORS, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
MAPPED = 4096 if _DESCRIPTORS == resource.RLIM_INFINITY else min(4096, _DESCRIPTORS // 4)
"""Entries kept open by one process, the last used: finding, reading and checking a header takes as long as copying a
crop of 96^3 from it. Each holds a file descriptor, of which a process may have no more than 1024."""

STALE_S = 24 * 3600.0
"""A half-written entry that is older belongs to a writer that was killed."""

Keeps = Literal["if possible", "always", "never"]
Version = tuple[int, int, int]
"""Of a file: inode, size, time of change."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """array: read-only, mapped when it comes from the disk. meta: whatever JSON can hold (times, spacing, ...)."""

    array: NDArray[Any]
    meta: Mapping[str, Any] = field(default_factory=dict)


class Cache:
    """A folder of entries. Any number of processes may read and write it; picklable; opens nothing before it is asked.

    An entry becomes visible by a rename, whole or not at all, so two writers of one entry do the work twice and harm
    nobody. Header and data are checked when a process first opens it, the header again when it had to be closed for
    others; an entry that fails is built again in its place. When the disk is full the array is used and not kept, with
    one warning.

    keeps: "if possible" as just said, "always", where what cannot be kept is a UserError, or "never", for those who
    read with another's cache: its entries serve them, and nothing is added, mended or removed.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.keeps: Keeps = "if possible"
        self._checked: dict[Path, Version] = {}
        self._mapped: OrderedDict[Path, tuple[Version, Entry]] = OrderedDict()
        self._warned = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_checked": {}, "_mapped": OrderedDict()}

    def path(self, key: Mapping[str, Any]) -> Path:
        """Where the entry of a key lies. key: JSON, for instance {"source": source_identity(x), "short_side": 256}."""
        name = hashlib.sha256(_canonical(key)).hexdigest()
        return self.root / name[:2] / f"{name}.array"

    def get(self, key: Mapping[str, Any]) -> Entry | None:
        """The entry, or None when there is none or it is damaged (which is logged)."""
        path = self.path(key)
        try:
            return self._kept_open(path) or self._open(path, key)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            what = "not used" if self.keeps == "never" else "built again"
            log.warning("cache entry %s is damaged (%s) and is %s", path, error, what)
            return None

    def get_or_build(self, key: Mapping[str, Any], build: Callable[[], Entry]) -> Entry:
        """The entry of a key, built and kept if it has to be. What `build` raises goes through, and nothing is kept."""
        kept = self.get(key)
        if kept is not None:
            return kept
        made = build()
        if self.keeps == "never":
            return made
        try:
            self._write(self.path(key), key, made)
            return self._open(self.path(key), key, trusted=True)
        except (OSError, ValueError) as error:
            if self.keeps == "always":
                why = (isinstance(error, OSError) and error.strerror) or error
                raise UserError(f"{self.root}: cannot be written to: {why}; make room, and run it again") from None
            if not self._warned:
                log.warning("%s: cannot be written to (%s); decoded data are used and not kept", self.root, error)
                self._warned = True
            return made

    def holds(self, path: Path, entry: Entry) -> bool:
        """Whether an entry that was got is still what the file at `path` holds, and is open."""
        try:
            return self._kept_open(path) is entry
        except OSError:
            return False

    def sweep(self) -> int:
        """Remove what killed writers left behind; how many files that were."""
        stale = [p for p in self.root.glob("*/.*.tmp-*") if p.stat().st_mtime < time.time() - STALE_S]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def _kept_open(self, path: Path) -> Entry | None:
        """An entry that is mapped already, if the file is still the one that was mapped."""
        version, entry = self._mapped.get(path, (None, None))
        if version is None or version != _version(path.stat()):
            return None
        self._mapped.move_to_end(path)
        return entry

    def _open(self, path: Path, key: Mapping[str, Any], trusted: bool = False) -> Entry:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            version = _version(status)
            prefix = file.read(len(MAGIC) + 8)
            length, checksum = (int.from_bytes(prefix[i : i + 4], "little") for i in (len(MAGIC), len(MAGIC) + 4))
            if prefix[: len(MAGIC)] != MAGIC or length > MAX_HEADER_BYTES:
                raise ValueError("it does not begin as a cache entry")
            text = file.read(length)
            if zlib.crc32(text) != checksum:
                raise ValueError("its header does not match its checksum")
            header = json.loads(text)
            if header["key"] != json.loads(_canonical(key)):
                raise ValueError("it was made for another key")
            dtype, shape = np.dtype(header["dtype"]), tuple(header["shape"])
            offset = _aligned(len(prefix) + length)
            if status.st_size != offset + dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
                raise ValueError(f"it has {status.st_size} bytes, not those of {list(shape)} {dtype}")
            array = np.memmap(file, dtype, "r", offset, shape) if 0 not in shape else np.empty(shape, dtype)
        if not trusted and self._checked.get(path) != version and _checksum(array) != header["checksum"]:
            raise ValueError("its data do not match their checksum")
        self._checked[path] = version
        entry = Entry(array, header["meta"])
        self._mapped[path] = version, entry
        self._mapped.move_to_end(path)
        if len(self._mapped) > MAPPED:
            self._mapped.popitem(last=False)
        return entry

    def _write(self, path: Path, key: Mapping[str, Any], entry: Entry) -> None:
        array = np.ascontiguousarray(entry.array)
        if array.dtype.hasobject:
            raise TypeError(f"an array of {array.dtype} cannot be cached")
        header = _canonical(
            {
                "key": key,
                "meta": entry.meta,
                "dtype": array.dtype.str,
                "shape": array.shape,
                "checksum": _checksum(array),
            }
        )
        prefix = MAGIC + len(header).to_bytes(4, "little") + zlib.crc32(header).to_bytes(4, "little")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.tmp-{os.getpid()}-{os.urandom(4).hex()}")
        try:
            with partial.open("xb") as file:
                file.write(prefix + header)
                file.write(bytes(_aligned(file.tell()) - file.tell()))
                file.write(_bytes(array))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def keeping(reader: Any, keeps: Keeps) -> Any:
    """The reader itself, whose cache, if it has one, now keeps what is decoded as `Cache` says."""
    cache = getattr(reader, "cache", None)
    if isinstance(cache, Cache):
        cache.keeps = keeps
    return reader


def on_disk(shape: tuple[int, ...], dtype: type[np.generic], folder: Path | None) -> NDArray[Any]:
    """Zeros in a file without a name, gone with its last user, whose pages the system may write to disk.

    folder: by default the system's for temporary files. Raises OSError where there is no room, before it is used.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        # A hole in a file that cannot be filled ends the process; room that is asked for is refused with an error.
        os.posix_fallocate(file.fileno(), 0, prod(shape) * np.dtype(dtype).itemsize)
        return np.memmap(file, dtype, "r+", shape=shape)


def source_identity(address: str) -> dict[str, Any]:
    """What distinguishes the bytes behind an address: size, time of change, SHA-256 of the first and last 64 KiB; of a
    shard at an s3:// or other such address, the version of the shard and where in it they are.

    Of an array that is a folder (.zarr): name, size and time of change of every file in it. Names do not count
    otherwise, so a folder may move. Raises BadSample for an address that cannot be opened.
    """
    if remote.is_remote(address) and (member := archive.MEMBER.fullmatch(address)):
        version = remote.known_version(member["shard"])
        return {"size": int(member["size"]), "shard": version, "offset": int(member["offset"])}
    if dicom.is_series(address):
        return {"files": [source_identity(file) for file in dicom.files_of(address, ())]}
    array, cell = archive.ARRAY.fullmatch(address), CELL.fullmatch(address)
    inside = {"row": [array["key"], *([int(array["row"])] if array["row"] else [])]} if array else {}
    if cell:
        inside = {"row": [cell["column"], int(cell["row"])]}
    if (folder := array["file"] if array else address).endswith(".zarr"):
        return {"files": _tree(address, folder)} | inside
    path, offset, size = locate(cell["file"] if cell else address)
    status = os.stat(path)  # noqa: PTH116
    identity = dict(_identity(path, offset, size, status.st_mtime_ns, (status.st_ino, status.st_ctime_ns)))
    return identity | inside


def _tree(address: str, folder: str) -> str:
    """SHA-256 of what lies below a folder."""
    digest, pending = hashlib.sha256(), [folder]
    try:
        while pending:
            with os.scandir(pending.pop()) as entries:
                for entry in sorted(entries, key=lambda e: e.name):
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                        continue
                    status = entry.stat()
                    line = f"{os.path.relpath(entry.path, folder)}\0{status.st_size}\0{status.st_mtime_ns}\n"
                    digest.update(line.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise BadSample(address, "no such file", str(error)) from error
    return digest.hexdigest()


@lru_cache(maxsize=1 << 16)
def _identity(
    path: str,
    offset: int,
    size: int,
    changed_ns: int,
    version: tuple[int, int],  # noqa: ARG001 part of the memo's key
) -> tuple[tuple[str, Any], ...]:
    digest = hashlib.sha256()
    with open(path, "rb") as file:  # noqa: PTH123
        for start in (offset, max(offset, offset + size - IDENTITY_BYTES)):
            file.seek(start)
            digest.update(file.read(min(IDENTITY_BYTES, offset + size - start)))
    return ("size", size), ("changed_ns", changed_ns), ("ends", digest.hexdigest())


def _version(status: os.stat_result) -> Version:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _canonical(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _bytes(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _checksum(array: NDArray[Any]) -> int:
    return zlib.crc32(_bytes(array)) if array.size else 0


def _aligned(offset: int) -> int:
    return -(-offset // ALIGN) * ALIGN
