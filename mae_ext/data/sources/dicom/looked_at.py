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

File = tuple[str, int, int]
"""Name, seen from the folder; size; time of change in ns."""


def folder_of(name: str) -> str:
    """ "" of a file that stands in the folder that was named."""
    return name.rpartition(os.sep)[0]


def home() -> Path:
    """Where indices are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mae_ext" / "dicom"


def kept_for(root: str, secret: bytes) -> Path:
    """Without a suffix; of one folder and one key."""
    return home() / hashed(secret, "folder", os.path.realpath(root))


@dataclass
class LookedAt:
    """names, and for each its size, time of change, place among `kinds`, instance and numbers.

    kinds: (left, of) as Glance has them: what many files share is there once.
    """

    names: list[str]
    versions: NDArray[np.int64]
    kind: NDArray[np.int32]
    instances: NDArray[np.uint64]
    numbers: NDArray[np.float64]
    kinds: list[tuple[str, dict[str, str]]]

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
            [name for name, _, _ in files],
            np.array([(size, changed) for _, size, changed in files], np.int64).reshape(-1, 2),
            np.array(kind, np.int32),
            np.array(instances, np.uint64),
            np.array(numbers, np.float64).reshape(-1, len(NUMBERS)),
            [(left, dict(of)) for left, *of in places],
        )

    def __len__(self) -> int:
        return len(self.names)

    def glances(self, rows: Sequence[int]) -> list[Glance]:
        seen = []
        for i, line in zip(rows, self.numbers[rows].tolist(), strict=True):
            left, of = self.kinds[int(self.kind[i])]
            seen.append(Glance(left, of, f"{self.instances[i]:016x}" if self.instances[i] else "", tuple(line)))
        return seen

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
