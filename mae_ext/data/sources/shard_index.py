"""What tar shards hold, found out once and kept: the index of each is a file that is mapped when it is asked for again.

It lies beside the shard, in `.mae_ext/`, or, where nothing can be written there and for shards at an address, in the
user's cache (`$XDG_CACHE_HOME/mae_ext/shards`, else `~/.cache`). It is of one shard of one size and time of change (or
ETag), and of what was asked for; written whole or not at all, and checked before it is used. Processes that want the
same wait for the one that makes it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.sources import archive, remote
from mae_ext.data.sources.passed_over import PassedOver
from mae_ext.errors import UserError
from mae_ext.strict_json import dumps

MAGIC = b"mae_ext shard 1\n"
DIGEST = 32
LEAST_KEPT = 1 << 20
"""Bytes of a shard on a disk from which its index is kept: to list a smaller one takes a few milliseconds."""

FOLDER = ".mae_ext"


@dataclass(frozen=True)
class Indexed:
    """What a shard holds, in order. version: of the shard when it was read.

    tails: bytes, each address without its shard, "OFFSET+SIZE::name", after a NUL. ends: (n,) int64, where in them each
    ends. labels: (n,) int32 places in `names`, -1 where there is none.
    """

    version: str
    tails: NDArray[np.uint8]
    ends: NDArray[np.int64]
    labels: NDArray[np.int32]
    names: list[str]
    passed: PassedOver

    def addresses(self, shard: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The addresses as bytes, and where in them each ends."""
        prefix = f"{shard}::".encode("utf-8", "surrogateescape")
        content = self.tails.tobytes().replace(b"\0", prefix)
        more = np.arange(1, len(self.ends) + 1) * (len(prefix) - 1)
        return np.frombuffer(content, np.uint8), self.ends + more


def version_of(shard: str) -> str:
    """What a shard's index is of: size and times of change, or ETag. Raises UserError where there is no such shard."""
    if remote.is_remote(shard):
        return remote.version_of(shard)
    try:
        status = os.stat(shard)  # noqa: PTH116
    except OSError as error:
        raise UserError(f"tar shard '{shard}': cannot be opened: {error.strerror}") from error
    # Copies may be given the time of what they take the place of; the second time is the file system's own.
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def index_of(shard: str, version: str, suffixes: tuple[str, ...], only: str | None) -> Indexed:
    """The index of a shard of that version, kept or made. Raises UserError for a damaged shard."""
    what = dumps([version, sorted(suffixes), only])
    if not remote.is_remote(shard) and int(version.split(maxsplit=1)[0]) < LEAST_KEPT:
        return _made(shard, version, suffixes, only)
    files = [folder / name for folder, name in _places(shard, f"{sorted(suffixes)} {only}")]
    for file in files:
        if (known := _read(file, what)) is not None:
            return known
    for file in files:
        with contextlib.suppress(OSError), _turn(file) as writing:
            if (known := _read(file, what)) is not None:  # made by whoever had the turn before
                return known
            made = _made(shard, version, suffixes, only)
            with contextlib.suppress(OSError):  # no room: it is used, and not kept
                _write(writing, file, what, made)
            return made
    return _made(shard, version, suffixes, only)


def _places(shard: str, choice: str) -> Iterator[tuple[Path, str]]:
    kind = hashlib.sha256(choice.encode()).hexdigest()[:12]
    where = shard
    if not remote.is_remote(shard):
        path = Path(shard).absolute()
        yield path.parent / FOLDER, f"{path.name}.{kind}.index"
        where = str(path)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    yield cache / "mae_ext" / "shards", f"{hashlib.sha256(os.fsencode(where)).hexdigest()[:32]}.{kind}.index"


def _made(shard: str, version: str, suffixes: tuple[str, ...], only: str | None) -> Indexed:
    passed = PassedOver()
    tails, ends, labels, names = bytearray(), [], [], dict[str, int]()
    skip = len(shard) + len("::")
    for address, label in archive.list_tar(shard, suffixes, passed, only):
        tails += b"\0" + address[skip:].encode("utf-8", "surrogateescape")
        ends.append(len(tails))
        labels.append(-1 if label is None else names.setdefault(label, len(names)))
    if version_of(shard) != version:
        raise UserError(f"tar shard '{shard}' changed while it was listed; wait until it is whole, and run it again")
    arrays = np.frombuffer(bytes(tails), np.uint8), np.array(ends, np.int64), np.array(labels, np.int32)
    return Indexed(version, *arrays, list(names), passed)


@contextmanager
def _turn(file: Path) -> Iterator[IO[bytes]]:
    """A file beside it to write into, for one process at a time. Raises OSError where nothing can be written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        beside = file.with_name(f"{file.name}.tmp")
        with beside.open("ab") as writing:
            fcntl.flock(writing, fcntl.LOCK_EX)
            if not os.fstat(writing.fileno()).st_nlink or not beside.exists():
                continue  # it has become the index meanwhile, or went
            try:
                yield writing
            finally:
                beside.unlink(missing_ok=True)
        return


def _write(writing: IO[bytes], file: Path, what: str, made: Indexed) -> None:
    p = made.passed
    parts = (made.ends, made.labels, made.tails)
    head = {"what": what, "names": made.names, "sizes": [array.nbytes for array in parts]} | {
        "counts": p.counts, "examples": p.examples, "suffixes": p.suffixes, "read": p.read,
    }  # fmt: skip
    header = dumps(head).encode()
    header += b" " * (-(len(MAGIC) + DIGEST + 8 + len(header)) % 8)
    content = b"".join([len(header).to_bytes(8, "little"), header, *(array.tobytes() for array in parts)])
    writing.truncate(0)
    writing.write(MAGIC + hashlib.blake2b(content, digest_size=DIGEST).digest() + content)
    writing.flush()
    os.fsync(writing.fileno())
    Path(writing.name).replace(file)


def _read(file: Path, what: str) -> Indexed | None:
    """What a file holds, or None where it is not whole, or of something else."""
    try:
        content: NDArray[np.uint8] = np.memmap(file, np.uint8, "r")
    except (OSError, ValueError):  # ValueError: it is empty
        return None
    at = len(MAGIC) + DIGEST
    if content[: len(MAGIC)].tobytes() != MAGIC:
        return None
    if hashlib.blake2b(content[at:].data, digest_size=DIGEST).digest() != content[len(MAGIC) : at].tobytes():
        return None
    length = int.from_bytes(content[at : at + 8].tobytes(), "little")
    head: dict[str, Any] = json.loads(content[at + 8 : at + 8 + length].tobytes())
    if head["what"] != what:
        return None
    begin = at + 8 + length
    ends, labels, tails = np.split(content[begin:], np.cumsum(head["sizes"])[:-1])
    passed = PassedOver(Counter(head["counts"]), head["examples"], Counter(head["suffixes"]), Counter(head["read"]))
    version = json.loads(what)[0]
    return Indexed(version, tails, ends.view(np.int64), labels.view(np.int32), head["names"], passed)
