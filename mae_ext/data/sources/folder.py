"""Folders of samples, and samples that are folders."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mae_ext.data.sources.passed_over import (
    HEADERS,
    LINKS_OUT,
    LINKS_TO_FOLDERS,
    LINKS_TO_NOTHING,
    NOT_REGULAR,
    VOXELS,
    WRITTEN,
    PassedOver,
    may_be_dicom,
)
from mae_ext.errors import BadSample, UserError

OF_A_RUN = ("checkpoints", "maps", "pictures", "tensorboard", "wandb")
"""Folders that a run makes in its own."""

ZARR = ".zarr"
"""A folder that is an array."""

OF_HEADERS = tuple(VOXELS.split())
LARGEST = (1 << 63) - 1
"""Of an int64: file systems may number inodes beyond it."""

MAX_MEMBERS = 20_000
"""Files of one sample: more slices than any scanner writes into a series."""


def members(address: str, suffixes: tuple[str, ...]) -> list[str]:
    """The files that make up the sample at a folder's address, by name. Raises BadSample."""
    try:
        with os.scandir(address) as entries:
            matching = (e.name for e in entries if e.name.lower().endswith(suffixes) and e.is_file())
            names = sorted(name for name in matching if not name.startswith("."))
    except OSError as error:
        raise BadSample(address, "no such file", str(error)) from error
    if not names:
        raise BadSample(address, "no such file", f"the folder holds no file ending in {' '.join(suffixes)}")
    if len(names) > MAX_MEMBERS:
        raise BadSample(address, "too large", f"{len(names)} files in one folder, the limit is {MAX_MEMBERS}")
    return [os.path.join(address, name) for name in names]  # noqa: PTH118 the address stays as it is written


class Entry(NamedTuple):
    """A sample, or a file that may be DICOM. top: the first folder level, or None. version: of the latter, its size,
    time of change in ns and inode."""

    path: str
    top: str | None
    version: tuple[int, int, int] | None = None


Read = dict[str, tuple[int, list[os.DirEntry[str]]]]
"""Of each folder, when it last changed (ns) and what is in it."""

_ahead: dict[str, Read] = {}
"""What a walk that was said to be ahead of another has read below a folder, until that other comes by."""

MOST_AHEAD = 500_000
"""Names that are remembered so: 200 MB. What is beyond them is read twice."""


def walk(root: Path, suffixes: tuple[str, ...], where: str, passed: PassedOver, ahead: bool = False) -> Iterator[Entry]:
    """Depth first, names in code-point order whatever the locale.

    Where a suffix ends in a slash, the folder stands for all its files of the kind, once, and is no label. Where one is
    ".dcm/", all that may be DICOM is given file by file: what it is its content says (dicom/). ahead: the next walk
    here, of any suffixes, follows at once, and reads no folder again.
    """
    inside = os.path.realpath(root)
    single = tuple(s for s in suffixes if not s.endswith("/"))
    joined = tuple(s.removesuffix("/") for s in suffixes if s.endswith("/"))
    seen: set[str] = set()
    dicom = ".dcm" in joined
    read: Read = {} if ahead else _ahead.pop(str(root), {})
    room = MOST_AHEAD - sum(len(names) for other in _ahead.values() for _, names in other.values()) if ahead else 0

    def children(folder: str) -> list[os.DirEntry[str]]:
        nonlocal room
        try:
            changed = os.stat(folder).st_mtime_ns if ahead or read else 0  # noqa: PTH116
            before, entries = read.pop(folder, (0, []))
            if not before or before != changed:
                with os.scandir(folder) as listed:
                    entries = sorted(listed, key=lambda e: e.name, reverse=True)
        except OSError as error:
            raise UserError(f"{where}: the folder '{folder}' cannot be read: {error.strerror}") from error
        room -= len(entries)
        if ahead and room > 0:
            read[folder] = changed, entries
        return entries

    def from_root(entry: os.DirEntry[str]) -> str:
        return os.path.relpath(entry.path, root)

    outermost = children(str(root))
    in_run = is_written(outermost)
    stack: list[tuple[os.DirEntry[str], str | None]] = [(entry, None) for entry in outermost]
    while stack:
        entry, top = stack.pop()
        name, link = entry.name.lower(), entry.is_symlink()
        part = bool(joined) and name.endswith(joined)
        wanted = part or name.endswith(single)
        if entry.name.startswith("."):
            # "._photo.jpg" is how macOS archives carry resource forks: it has the suffix and is no photo.
            passed.hidden(from_root(entry))
        elif link and Path(entry.path).is_dir():
            # The files of one inside are listed where they stand, and a link can close a circle.
            passed.add(LINKS_TO_FOLDERS if is_inside(entry.path, inside) else LINKS_OUT, from_root(entry))
        elif entry.is_dir(follow_symlinks=False):
            if name.endswith(ZARR):  # a folder that is one sample, or none
                if wanted:
                    yield Entry(entry.path, top)
                else:
                    passed.other(from_root(entry))
                continue
            inner = children(entry.path)
            if is_written(inner) or (in_run and top is None and name in OF_A_RUN):
                passed.add(WRITTEN, from_root(entry))
                continue
            stack += [(child, entry.name if top is None else top) for child in inner]
        elif dicom and may_be_dicom(name, single, joined) and not is_part(entry.path, single):
            if link and not is_inside(entry.path, inside):
                passed.add(LINKS_OUT, from_root(entry))
            elif entry.is_file():
                status = entry.stat()
                yield Entry(entry.path, top, (status.st_size, status.st_mtime_ns, status.st_ino & LARGEST))
            else:
                passed.add(
                    LINKS_TO_NOTHING if link and not Path(entry.path).exists() else NOT_REGULAR, from_root(entry)
                )
        elif not wanted:
            if not is_part(entry.path, single):
                passed.other(from_root(entry))
        elif link and not is_inside(entry.path, inside):
            passed.add(LINKS_OUT, from_root(entry))
        elif Path(entry.path).is_file() if link else entry.is_file():
            if not part:
                yield Entry(entry.path, top)
            elif (folder := f"{Path(entry.path).parent}/") not in seen:
                seen.add(folder)
                yield Entry(folder, None if top is None or Path(folder) == root / top else top)
        else:
            passed.add(LINKS_TO_NOTHING if link and not Path(entry.path).exists() else NOT_REGULAR, from_root(entry))
    if ahead:
        _ahead[str(root)] = read


def is_written(entries: Iterable[os.DirEntry[str]]) -> bool:
    """Whether these are in a folder that this program writes: a run, a cache, predictions. Pictures there are no
    samples."""
    names = {entry.name for entry in entries}
    run = "config.yaml" in names and bool(names & {"metrics.jsonl", "checkpoints"})
    return run or bool(names & {"bad_samples.jsonl", "predict.manifest.jsonl"})


def is_part(path: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a file holds the voxels of a header beside it, of its name, which is a sample."""
    low = path.lower()
    if not low.endswith(OF_HEADERS):
        return False
    end = next(end for end in OF_HEADERS if low.endswith(end))
    return any(Path(path[: -len(end)] + header).exists() for header in HEADERS if header in suffixes)


def is_inside(path: str, root: str) -> bool:
    target = os.path.realpath(path)
    return target == root or target.startswith(root.rstrip(os.sep) + os.sep)
