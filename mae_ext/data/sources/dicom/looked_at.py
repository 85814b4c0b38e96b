"""What was seen of every file of a folder, as arrays, kept between runs in the user's cache and nowhere else."""

import contextlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.sources.dicom.glance import FORMAT, NUMBERS, Glance
from mae_ext.data.sources.dicom.keyed import hashed
from mae_ext.strict_json import dumps

File = tuple[str, int, int, int]
"""Name, seen from the folder; size; time of change in ns; inode: what is moved in may be of the size and time of what
was there."""


def folder_of(name: str) -> str:
    """ "" of a file that stands in the folder that was named."""
    return name.rpartition(os.sep)[0]


def home() -> Path:
    """Where indices are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mae_ext" / "dicom"


def kept_for(root: str, secret: bytes) -> Path:
    """Without a suffix; of one folder and one key."""
    return home() / hashed(secret, "folder", os.path.realpath(root))


def versions_of(files: Sequence[File]) -> NDArray[np.int64]:
    """(files, 3)."""
    return np.array([file[1:] for file in files], np.int64).reshape(-1, 3)


@dataclass
class LookedAt:
    """names, and for each its size, time of change and inode, place among `kinds`, instance and numbers.

    kinds: (left, of) as Glance has them: what many files share is there once. unsure: a file could not be read when it
    was asked for more, so what was made of the table is not to be kept.
    """

    names: list[str]
    versions: NDArray[np.int64]
    kind: NDArray[np.int32]
    instances: NDArray[np.uint64]
    numbers: NDArray[np.float64]
    kinds: list[tuple[str, dict[str, str]]]
    unsure: bool = False

    @classmethod
    def of(cls, files: Sequence[File], glances: Iterable[Glance]) -> "LookedAt":
        places: dict[tuple[Any, ...], int] = {}
        kind, instances, numbers = [], [], []
        blank = (np.nan,) * len(NUMBERS)
        for g in glances:
            kind.append(places.setdefault((g.left, *g.of.items()), len(places)))
            instances.append(int(g.instance or "0", 16))
            numbers.append(g.numbers or blank)
        return cls(
            [file[0] for file in files],
            versions_of(files),
            np.array(kind, np.int32),
            np.array(instances, np.uint64),
            np.array(numbers, np.float64).reshape(-1, len(NUMBERS)),
            [(left, dict(of)) for left, *of in places],
        )

    def __len__(self) -> int:
        return len(self.names)

    def brought_up(self, files: Sequence[File], rows: Sequence[int], new: "LookedAt") -> "LookedAt":
        """Of `files`: row rows[k] of this table, or where that is -1 the next of `new`. As `of` would make it."""
        at = np.array(rows, np.int64)
        at[at < 0] = len(self) + np.arange(len(new))
        kind = np.concatenate([self.kind, new.kind + np.int32(len(self.kinds))])[at]
        kinds = [*self.kinds, *new.kinds]
        used, first = np.unique(kind, return_index=True)
        places: dict[tuple[Any, ...], int] = {}
        moved = np.zeros(len(kinds), np.int32)
        for old in used[np.argsort(first)].tolist():
            left, of = kinds[old]
            moved[old] = places.setdefault((left, *of.items()), len(places))
        return LookedAt(
            [file[0] for file in files],
            versions_of(files),
            moved[kind],
            np.concatenate([self.instances, new.instances])[at],
            np.concatenate([self.numbers, new.numbers])[at],
            [(left, dict(of)) for left, *of in places],
        )

    def write(self, file: IO[bytes]) -> None:
        text = "\0".join(self.names).encode("utf-8", "surrogateescape")
        np.savez(
            file, format=np.array([FORMAT, len(self)]), names=np.frombuffer(text, np.uint8), versions=self.versions,
            kind=self.kind, instances=self.instances, numbers=self.numbers,
            kinds=np.frombuffer(dumps(self.kinds).encode(), np.uint8),
        )  # fmt: skip

    @classmethod
    def read(cls, path: Path) -> "LookedAt | None":
        """None where there is none, or it is damaged (it has checksums) or of another format."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
                if kept["format"].tolist()[0] != FORMAT:
                    return None
                text = kept["names"].tobytes().decode("utf-8", "surrogateescape")
                names = text.split("\0") if kept["format"][1] else []
                kinds = [(left, of) for left, of in json.loads(kept["kinds"].tobytes())]
                versions, kind, instances, numbers = (kept[n] for n in ("versions", "kind", "instances", "numbers"))
        except (OSError, ValueError, KeyError, BadZipFile, EOFError):
            return None
        if any(len(array) != len(names) for array in (versions, kind, instances, numbers)):
            return None
        return cls(names, versions, kind, instances, numbers, kinds)


def replace(path: Path, write: Any) -> None:
    """A file that its owner alone may read, whole or not at all. Raises OSError."""
    beside = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
