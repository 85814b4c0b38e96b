"""Arrays that the processes of a machine share: in a file that each of them maps, and that none receives or copies.

A rank, its workers and the other ranks of the machine all need the table of addresses, 800 MB of ten million files. It
is written once, block by block, and named by its content, so that ranks which list the same find it there. Whoever made
or found one holds a lock on it, which dies with the process; the last to let go removes it, and what a killed process
left behind goes when the next table is made. Nothing here outlives a run: what is kept is `shard_index.py`'s.
"""

import atexit
import contextlib
import fcntl
import hashlib
import os
import tempfile
import threading
import weakref
from collections import OrderedDict
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_ext.errors import StoreError

LEAST = 1 << 20
"""Bytes from which an array is a file: smaller ones travel faster than a file is opened and mapped."""

SUFFIX = ".shared"
COPIES = 3
"""Of members of shards at addresses, for decoders that open files: those of one process."""


class Map(np.memmap[Any, np.dtype[np.uint8]]):
    """The whole of a file as bytes; it can be referred to weakly."""


class Shared(np.ndarray[Any, np.dtype[Any]]):
    """An array of a file, which no writing changes. To a process that is started it is sent as the file's name; any
    other pickle, of which nobody knows where and when it is read, holds the numbers, and so does that of a part."""

    file: tuple[str, Map] | None = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        return np.asarray(self).__reduce_ex__(protocol)


def attach(file: str, dtype: str) -> Shared:
    """The array in a file that this process, or the one which started it, holds."""
    mapped = np.memmap(file, np.uint8, "c").view(Map)
    array = mapped.view(dtype).view(Shared)
    array.file = file, mapped
    return array


def sent(array: Shared) -> str | tuple[Any, ...]:
    """For a pickle that a process of this machine reads at once: the file's name, as long as there is the file."""
    if array.file is None or not Path(array.file[0]).exists():  # a folder for temporary files is tidied up by others
        return np.asarray(array).__reduce__()
    return attach, (array.file[0], array.dtype.str)


ForkingPickler.register(Shared, sent)


class Growing:
    """An array of one axis that is written block by block: in memory while it is small, then in a file."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._dtype = np.dtype(dtype)
        self._small = bytearray()
        self._file: tuple[int, Path] | None = None
        self._written = 0
        self._digest = hashlib.blake2b(self._dtype.str.encode(), digest_size=20)

    def append(self, block: NDArray[Any] | bytes) -> None:
        content = block if isinstance(block, bytes) else np.ascontiguousarray(block, self._dtype).tobytes()
        if self._file is None and len(self._small) + len(content) >= LEAST:
            with contextlib.suppress(OSError):  # no room, or no folder: it stays in memory
                self._file = _begun()
            content, self._small = bytes(self._small) + content, bytearray()
        if self._file is None:
            self._small += content
        else:
            self._write(content)

    def whole(self) -> NDArray[Any]:
        """What was appended, read-only. Nothing more can be."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                return _settled(*self._file, f"{self._digest.hexdigest()}{SUFFIX}", self._dtype)
            self._give_up()
        array, self._small = np.frombuffer(self._small, self._dtype), bytearray()
        return array

    def _write(self, content: bytes) -> None:
        assert self._file is not None
        view = memoryview(content)
        try:
            while view:
                view = view[os.write(self._file[0], view) :]
        except OSError:  # no room any more
            self._give_up()
            self._small += content
            return
        self._written += len(content)
        self._digest.update(content)

    def _give_up(self) -> None:
        """Back into memory, which is all that is left."""
        assert self._file is not None
        handle, path = self._file
        while len(self._small) < self._written:
            self._small += os.pread(handle, self._written - len(self._small), len(self._small))
        path.unlink(missing_ok=True)
        os.close(handle)
        self._file = None


def share(array: NDArray[Any]) -> NDArray[Any]:
    """An array of one axis as `Growing` gives it: large ones in a file."""
    grown = Growing(array.dtype.type)
    for start in range(0, len(array), LEAST):
        grown.append(array[start : start + LEAST])
    return grown.whole()


def _folder() -> Path:
    """This user's own, on a disk of this machine. Raises OSError where somebody else made it."""
    folder = Path(tempfile.gettempdir(), f"mae_ext-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{folder} is not this user's alone")
    return folder


def _begun() -> tuple[int, Path]:
    """A new file in the folder, held; what nobody holds any more is removed."""
    folder = _folder()
    sweep()
    while True:
        handle, name = tempfile.mkstemp(SUFFIX, "begun-", folder)
        fcntl.flock(handle, fcntl.LOCK_SH)
        if os.fstat(handle).st_nlink:  # nobody swept it before it was held
            return handle, Path(name)
        os.close(handle)


def sweep() -> None:
    """Remove what nobody holds: of processes that were killed, as those are that decode for others."""
    folder = Path(tempfile.gettempdir(), f"mae_ext-{os.getuid()}")
    for path in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(OSError):
            _let_go(os.open(path, os.O_RDONLY | os.O_CLOEXEC), str(path), os.getpid())


def _settled(begun: int, path: Path, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The file under the name of its content; where there is one already, that one, and this is removed."""
    final = path.with_name(name)
    with contextlib.suppress(FileExistsError):
        final.hardlink_to(path)
    handle = os.open(final, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(handle, fcntl.LOCK_SH)
    status = os.fstat(handle)
    if not status.st_nlink or status.st_size != os.fstat(begun).st_size:  # somebody let it go meanwhile
        os.close(handle)
        raise FileNotFoundError(final)
    path.unlink()
    os.close(begun)
    array = attach(str(final), dtype.str)
    assert array.file is not None
    weakref.finalize(array.file[1], _let_go, handle, str(final), os.getpid())
    return array


def _let_go(handle: int, path: str, owner: int) -> None:
    """Close a file; whoever is the last to hold it removes it. A process that was forked holds nothing of its own."""
    if owner == os.getpid():
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            Path(path).unlink()
        os.close(handle)


atexit.register(sweep)
_copies: OrderedDict[str, tuple[int, str]] = OrderedDict()
_copying = threading.Lock()


def copied(name: str, content: bytes) -> str:
    """A file with that content for a decoder to open, one of the last `COPIES` of this process. Raises StoreError."""
    with _copying:
        if not _copies:
            atexit.register(_drop_copies)
        if name not in _copies:
            try:
                handle, path = _begun()
                _copies[name] = handle, str(path)
                path.write_bytes(content)
            except OSError as error:
                if name in _copies:
                    _let_go(*_copies.pop(name), os.getpid())
                raise StoreError(
                    f"{name}: its copy of {len(content)} bytes could not be written to {tempfile.gettempdir()}: "
                    f"{error.strerror or error}; make room there, or set TMPDIR to a folder that has some"
                ) from None
        _copies.move_to_end(name)
        _drop_copies(COPIES)
        return _copies[name][1]


def _drop_copies(but: int = 0) -> None:
    while len(_copies) > but:
        _let_go(*_copies.popitem(last=False)[1], os.getpid())
