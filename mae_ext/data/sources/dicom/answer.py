"""What a listing made of a folder, kept: while no file of it is another, nothing is grouped again.

It is known by a digest of all names, sizes, times and inodes, in the order of the walk, and of this program's own text:
what another version made is never used. Beside `.series` in the user's cache, of one folder and one key.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np

from mae_ext.data.sources.dicom.looked_at import File, replace, versions_of
from mae_ext.strict_json import dumps

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """Of files in the order of the walk, which are known by their places in it.

    scans: (place of its first file, ID or "" where it is that file's folder, whether it lies below one first level,
    patient). left: (kind, how many, such as). others: files that are no DICOM.
    """

    scans: list[tuple[int, str, bool, str]]
    left: list[tuple[str, int, str]]
    others: list[int]


def digest_of(files: Sequence[File]) -> str:
    text = "\0".join([file[0] for file in files]).encode("utf-8", "surrogateescape")
    made = hashlib.blake2b(_program(), digest_size=16)
    for part in (len(files).to_bytes(8, "little"), text, b"\0", versions_of(files).astype("<i8").tobytes()):
        made.update(part)
    return made.hexdigest()


@lru_cache(maxsize=1)
def _program() -> bytes:
    made = hashlib.blake2b(np.__version__.encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        made.update(hashlib.blake2b(file.read_bytes()).digest())
    return made.digest()


def kept_answer(path: Path, listing: str) -> Answer | None:
    """Of the files whose digest is `listing`. path: of the list of the scans' files, which has to be there, whole.

    None where there is none, or it is of other files, or damaged.
    """
    try:
        check, content = _beside(path).read_bytes().split(b"\n", 1)
        if check.decode() != _sum(content):
            return None
        kept = json.loads(content)
        if kept["listing"] != listing or kept["list"] != _sum(path.read_bytes()):
            return None
        scans, left, others = (kept[name] for name in ("scans", "left", "others"))
        return Answer([tuple(scan) for scan in scans], [tuple(kind) for kind in left], others)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_answer(path: Path, listing: str, answer: Answer) -> None:
    """path: as above. Where it cannot be kept the next listing groups again."""
    try:
        scans, left, others = astuple(answer)
        state = {"listing": listing, "list": _sum(path.read_bytes()), "scans": scans, "left": left, "others": others}
        content = dumps(state).encode()
        replace(_beside(path), lambda file: _put(file, _sum(content).encode() + b"\n" + content))
    except OSError as error:
        log.warning("%s: what DICOM files make up cannot be kept: %s; the next run groups again", path, error.strerror)


def _put(file: IO[bytes], content: bytes) -> None:
    file.write(content)


def _beside(path: Path) -> Path:
    return path.with_suffix(path.suffix.replace(".series", ".answer"))


def _sum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
