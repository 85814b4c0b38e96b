"""Samples inside one big file, reached by seeking: tar shards (WebDataset layout) and .npz arrays (MedMNIST layout).

Nothing is unpacked and nothing is cached on disk, so member names can say what they like: none ever becomes a path.
"""

import logging
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from pathlib import Path, PurePosixPath
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.sources import remote
from mae_ext.data.sources.cells import CELL
from mae_ext.data.sources.passed_over import LINKS_INSIDE, NOT_REGULAR, REPEATED, SAME_KEY, SAME_NAME, PassedOver
from mae_ext.errors import BadSample, UserError

log = logging.getLogger("mae_ext.data.sources.table")
"""As what a listing passes over is said."""

MEMBER = re.compile(r"(?s)(?P<shard>.*?\.(?:tar|lmdb|mdb))::(?P<offset>\d+)\+(?P<size>\d+)::(?P<name>.*)")
_KEY = r"(?P<key>[\w./ -]+)"
ROW = re.compile(rf"(?s)(?P<file>.*\.(?:npz|h5|hdf5))::{_KEY}::(?P<row>\d+)")
ARRAY = re.compile(rf"(?s)(?P<file>.*\.(?:npz|h5|hdf5|zarr))::{_KEY}(?:::(?P<row>\d+))?")
"""A whole array of a file or folder of arrays, or a row of it."""


def is_place(address: str) -> bool:
    """Whether an address is a member of a shard, an array or a row of one, or a cell of a table, and no file of its
    own."""
    return any(form.fullmatch(address) for form in (MEMBER, ARRAY, CELL))


MAX_INFLATED_BYTES = 16 << 30
"""A compressed array has to be inflated whole; one stored uncompressed is mapped, and may be of any size."""

MAX_LABEL_BYTES = 32

MAX_LABELS_BYTES = 1 << 30
"""Of an array of texts: ten million of 25 letters, which NumPy writes with four bytes each."""

DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(OSError, EOFError, ValueError, KeyError, RuntimeError, OverflowError),
)
"""What zipfile, zlib and numpy raise over a damaged .npz."""


@dataclass
class _Group:
    """What a shard has under one key: (place, address, member, all after the first dot) of data, class by what is
    between the key and ".cls"."""

    members: set[str] = field(default_factory=set)
    data: list[tuple[int, str, str, str]] = field(default_factory=list)
    classes: dict[str, tuple[str, str]] = field(default_factory=dict)


def list_tar(
    shard: str, suffixes: tuple[str, ...], passed: PassedOver, only: str | None = None
) -> Iterator[tuple[str, str | None]]:
    """(address, label or None) for each sample, in the order of the shard.

    A key is a name up to its first dot, and what has one key belongs together. Its data is the first member with
    nothing but one of `suffixes` after that dot; where there is none, each member that ends in one is a sample. A
    member that comes again begins another sample of that key. `.cls` is an integer label. only: ".rgb.jpg" takes those
    that have this after their key as the data, and no others. Raises UserError for a shard that is damaged anywhere:
    its index would be wrong.
    """
    single = tuple(suffix for suffix in suffixes if not suffix.endswith("/"))
    groups: list[_Group] = []
    newest: dict[str, _Group] = {}

    def group_of(key: str, name: str) -> _Group:
        group = newest.get(key)
        if group is None or name in group.members:
            group = newest[key] = _Group()
            groups.append(group)
        group.members.add(name)
        return group

    try:
        with opened(shard) as stream, tarfile.open(shard, "r:", stream) as tar:
            for place, member in enumerate(tar):
                path = PurePosixPath(member.name)
                stem, dot, rest = path.name.partition(".")
                key, suffix = f"{path.parent}/{stem}", f"{dot}{rest}".lower()
                wanted = suffix == only if only else suffix.endswith(single)
                if "\0" in member.name:
                    raise ValueError(f"a name with a NUL, {member.name!r}")
                if member.isdir():
                    continue
                if any(part.startswith(".") and part != ".." for part in path.parts):
                    passed.hidden(member.name)
                elif member.issym() or member.islnk():
                    passed.add(LINKS_INSIDE, member.name)
                elif not member.isreg() or member.issparse():
                    passed.add(NOT_REGULAR, member.name)
                elif suffix.endswith(".cls"):
                    text = _text_of(tar, member)
                    group_of(key, path.name).classes[suffix.removesuffix(".cls")] = member.name, text
                elif wanted:
                    again = key in newest and path.name in newest[key].members
                    address = f"{shard}::{member.offset_data}+{member.size}::{member.name}"
                    group_of(key, path.name).data.append((place, address, member.name, suffix))
                    if again:
                        passed.add_read(SAME_NAME, member.name)
                elif not only:
                    passed.other(member.name)
            # To tarfile, a header that is cut or wrong is the end of the archive. The true end is a block of zeros.
            assert tar.fileobj is not None
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"no valid header at byte {tar.offset}")
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, struct.error) as error:
        why = f"damaged after {sum(bool(g.data) for g in groups)} samples: {error}; copy or pack it again"
        raise UserError(f"tar shard '{shard}': {why}") from error
    rows = [row for group in groups for row in _samples_of(group, single, shard, passed, only)]
    for _, address, label in sorted(rows):
        yield address, label


def opened(shard: str) -> IO[bytes]:
    if not remote.is_remote(shard):
        return open(shard, "rb")  # noqa: PTH123
    return cast(IO[bytes], remote.Stream(shard, int(remote.version_of(shard).split()[0])))


def _samples_of(
    group: _Group, suffixes: tuple[str, ...], shard: str, passed: PassedOver, only: str | None
) -> Iterator[tuple[int, str, str | None]]:
    whole = _label(shard, *group.classes[""]) if "" in group.classes else None
    data = group.data
    if plain := [row for row in data if row[3] in suffixes] if not only else []:
        for _, _, name, _ in data:
            if name != plain[0][2]:
                passed.add(REPEATED, name)
        data = plain[:1]
    elif len({row[3] for row in data}) > 1:
        for _, _, name, _ in data:
            passed.add_read(SAME_KEY, name)
    for place, address, _, suffix in data:
        last = max((s for s in suffixes if suffix.endswith(s)), key=len)
        between = suffix.removesuffix(last)
        own = group.classes.get(between) if between else None
        yield place, address, _label(shard, *own) if own else whole


def _text_of(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    stream = tar.extractfile(member) if member.size <= MAX_LABEL_BYTES else None
    return stream.read().decode("ascii", "replace").strip() if stream else ""


def _label(shard: str, member: str, text: str) -> str:
    if not re.fullmatch(r"-?\d{1,9}", text):
        raise UserError(f"tar shard '{shard}': member '{member}' is {text!r}, expected an integer label")
    return str(int(text))


def list_npz(file: str, split: str) -> tuple[list[str], list[str | None] | None]:
    """(addresses, labels) of {split}_images and {split}_labels. Only headers, and labels, are held in memory.

    Labels are used when they are one whole number or one text a row; a multi-label table is not a class, which is
    said. Raises UserError for labels that are objects, no whole numbers, or of some other number of rows.
    """
    where = f"data path '{file}'"
    try:
        with zipfile.ZipFile(file) as zipped:
            names = {n.removesuffix(".npy") for n in zipped.namelist() if n.endswith(".npy")}
            key = f"{split}_images"
            if key not in names:
                splits = sorted(n.removesuffix("_images") for n in names if n.endswith("_images"))
                known = f"splits: {', '.join(splits)}" if splits else f"arrays: {', '.join(sorted(names)) or 'none'}"
                raise UserError(f"{where}: has no array '{key}' ({known}); name one as '{file}::SPLIT'")
            info = zipped.getinfo(f"{key}.npy")
            shape, _, _ = npz_header(zipped, info)
            if len(shape) < 2 or 0 in shape:
                raise UserError(f"{where}: '{key}' has shape {list(shape)}, expected rows of at least one value")
            if info.compress_type == zipfile.ZIP_STORED:
                # What is mapped is not checked on the way, so the checksum is read through once, here.
                with zipped.open(info) as stream:
                    while stream.read(1 << 20):
                        pass
        labels = _label_array(file, f"{split}_labels", where) if f"{split}_labels" in names else None
    except DAMAGE as error:
        raise UserError(f"{where}: damaged, or not an .npz archive: {error!r}") from error
    rows = [f"{file}::{key}::{i}" for i in range(shape[0])]
    if labels is None:
        return rows, None
    if not labels.ndim or len(labels) != len(rows):
        have = f"{len(labels)} rows" if labels.ndim else "a single value"
        raise UserError(f"{where}: '{split}_labels' has {have} and '{key}' {len(rows)}; expected one label a row")
    if labels.size != len(rows):
        log.warning(
            "%s: '%s_labels' has shape %s: several numbers a row are no class, so its rows have no labels; of one-hot "
            "rows, save labels.argmax(1)",
            *(where, split, list(labels.shape)),
        )
        return rows, None
    if labels.dtype.kind in "US":
        texts = [t.decode("utf-8", "replace") if isinstance(t, bytes) else str(t) for t in labels.reshape(-1)]
        return rows, [text.strip() or None for text in texts]
    if not bool((labels == np.rint(labels)).all()):
        raise UserError(f"{where}: '{split}_labels' holds {labels.dtype}, and not whole numbers alone; save classes")
    return rows, [str(int(label)) for label in labels.reshape(-1)]


def holds(file: str, key: str) -> bool:
    """Whether an .npz has an array of that name; False of what is none."""
    try:
        with zipfile.ZipFile(file) as zipped:
            return f"{key}.npy" in zipped.namelist()
    except DAMAGE:
        return False


def row_of(file: str, split: str) -> tuple[int, tuple[int, ...], str] | None:
    """(rows, shape of one, type) of {split}_images, from its header; None where there is none that can be read."""
    try:
        with zipfile.ZipFile(file) as zipped:
            shape, _, dtype = npz_header(zipped, zipped.getinfo(f"{split}_images.npy"))
    except DAMAGE:
        return None
    return (shape[0], shape[1:], dtype.name) if shape else None


def _label_array(file: str, key: str, where: str) -> NDArray[np.generic]:
    """Numbers, or texts, which are read whole. Raises UserError for objects, which are never unpickled."""
    with zipfile.ZipFile(file) as zipped, zipped.open(f"{key}.npy") as stream:
        shape, _, dtype = npy_header(stream)
        begin, size = stream.tell(), zipped.getinfo(f"{key}.npy").file_size
    if dtype.hasobject:
        raise UserError(f"{where}: '{key}' holds objects, which are never unpickled; save {key}=np.array(LABELS, str)")
    if dtype.kind not in "US":
        return _array(file, key)
    if prod(shape) * dtype.itemsize + begin != size or size > MAX_LABELS_BYTES:
        raise ValueError(f"{key}.npy says it is {list(shape)} {dtype} and has {size} bytes")
    with zipfile.ZipFile(file) as zipped, zipped.open(f"{key}.npy") as stream:
        array: NDArray[np.generic] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def read_row(address: str, file: str, key: str, row: int, max_bytes: int) -> NDArray[np.generic]:
    """One row of an array, read-only. Raises BadSample."""
    try:
        array = _array(file, key)
    except FileNotFoundError as error:
        raise BadSample(address, "no such file", str(error)) from error
    except (*DAMAGE, MemoryError) as error:
        raise BadSample(address, "damaged", repr(error)) from error
    if row >= len(array):
        raise BadSample(address, "truncated", f"'{key}' has {len(array)} rows")
    if array[row].nbytes > max_bytes:
        raise BadSample(address, "too large", f"{array[row].nbytes} bytes, the limit is {max_bytes}")
    taken: NDArray[np.generic] = array[row]
    return taken


def npz_header(zipped: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """(shape, column-major, dtype) of a .npy member. ValueError when it holds objects or promises more than it has."""
    with zipped.open(info) as stream:
        shape, column_major, dtype = npy_header(stream)
        begin = stream.tell()
    if dtype.kind not in "biuf":
        raise ValueError(f"{info.filename} holds {dtype}, expected numbers (objects are never unpickled)")
    if prod(shape) * dtype.itemsize + begin != info.file_size:
        raise ValueError(f"{info.filename} says it is {list(shape)} {dtype} and has {info.file_size} bytes")
    if info.compress_type != zipfile.ZIP_STORED and info.file_size > MAX_INFLATED_BYTES:
        raise ValueError(f"{info.filename} inflates to {info.file_size} bytes; save it with np.savez, uncompressed")
    return shape, column_major, dtype


def npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f".npy version {version} is not known")
    shape, column_major, dtype = read(stream)
    return shape, column_major, dtype


def _array(file: str, key: str) -> NDArray[np.generic]:
    status = Path(file).stat()
    return _load(file, key, (status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=8)
def _load(file: str, key: str, version: tuple[int, int, int]) -> NDArray[np.generic]:  # noqa: ARG001 part of the key
    """Once per process. A stored member is mapped, and shared by all workers; a compressed one is inflated."""
    with zipfile.ZipFile(file) as zipped:
        info = zipped.getinfo(f"{key}.npy")
        shape, column_major, dtype = npz_header(zipped, info)
        with zipped.open(info) as stream:
            if info.compress_type != zipfile.ZIP_STORED:
                array: NDArray[np.generic] = np.lib.format.read_array(stream, allow_pickle=False)
                array.flags.writeable = False
                return array
            npy_header(stream)
            inside = stream.tell()
    with open(file, "rb") as raw:  # noqa: PTH123
        raw.seek(info.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", raw.read(4))
    offset = info.header_offset + 30 + name_length + extra_length + inside
    return np.memmap(file, dtype, "r", offset, shape, "F" if column_major else "C")
