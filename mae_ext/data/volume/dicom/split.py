"""Half a series in a folder looks like a series of its own, with twice the distance between slices or half the body.

So the folders around one are asked whether they hold the rest, and the files in it that are not called DICOM. A series
number alone says little (some software gives all series one); what counts is whether the planes together are a volume
that they are not apart.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path

from mae_ext.data.sources.address import locate
from mae_ext.data.sources.dicom.elements import BrokenOff, NotDicom, elements
from mae_ext.data.sources.folder import members
from mae_ext.data.sources.passed_over import BESIDE
from mae_ext.data.volume.dicom.frames import Frame, check_alike, frames_of
from mae_ext.data.volume.dicom.header import header
from mae_ext.data.volume.dicom.stack import stacked
from mae_ext.errors import BadSample, some

_SERIES = 0x0020000E
NEAR = 32
"""Folders on each side of one in the order of names: exports number the parts of a series one after the other."""


def check(address: str, frames: Sequence[Frame], slices: int, suffixes: tuple[str, ...], max_bytes: int) -> None:
    """Raises BadSample "split series" where the planes of the folder `address` go on in a folder near it, or in files
    of its own that have another suffix or none."""
    series = frames[0].alike.get("SeriesInstanceUID")
    if series is None or not Path(address).is_dir():
        return
    rest: dict[Path | str, list[Frame]] = {}
    for folder in (None, *_near(Path(address))):
        with suppress(BadSample):  # whatever is wrong there is said when that folder is read
            files = _others(Path(address), suffixes) if folder is None else members(f"{folder}/", suffixes)
            candidates = files if folder is None else files[:1]  # of a folder all are of one series, or it is refused
            if same := [file for file in candidates if _series(file, _changed(file)) == series]:
                headers = [(file, header(file, max_bytes)) for file in (same if folder is None else files)]
                rest[folder or f"the same folder without the suffix {suffixes[0]}"] = [
                    frame for file, h in headers for frame in frames_of(file, h)
                ]
    for chosen in [rest, *({folder: planes} for folder, planes in rest.items())]:
        whole = _slices(address, [*frames, *chain.from_iterable(chosen.values())]) if chosen else 0
        if whole > slices:
            names = some([str(folder) for folder in chosen])
            detail = (
                f"{slices} of {whole} slices of one volume; the others lie in {names}: put them in one folder, all "
                f"with the suffix {suffixes[0]}"
            )
            raise BadSample(address, "split series", detail)


def _slices(address: str, frames: Sequence[Frame]) -> int:
    """Of the volume that the planes are, 0 where they are none."""
    try:
        check_alike(address, frames)
        return len(stacked(address, frames, "keep").rows)
    except BadSample:
        return 0


def _others(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """The files of the folder itself that may be DICOM and are not called so: exports often leave the suffix out."""
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_file(follow_symlinks=False) and not e.name.startswith("."))
    return [str(folder / name) for name in names if not name.lower().endswith((*suffixes, *BESIDE))]


def _near(folder: Path) -> Iterator[Path]:
    """Folders in this one, the one it is in, those beside it, and those of its name in folders beside that."""
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 links stay as they are
    yield from _folders(folder, None)
    yield folder.parent
    yield from _folders(folder.parent, folder.name)
    for cousin in _folders(folder.parent.parent, folder.parent.name):
        if (cousin / folder.name).is_dir():
            yield cousin / folder.name


def _folders(parent: Path, middle: str | None) -> list[Path]:
    """The nearest by name to `middle`, without it; the first ones where that is None."""
    try:
        names = _names(str(parent), parent.stat().st_mtime_ns)
    except OSError:
        return []
    at = names.index(middle) if middle in names else 0
    return [parent / name for name in names[max(0, at - NEAR) : at + NEAR + 1] if name != middle]


@lru_cache(maxsize=64)
def _names(parent: str, changed_ns: int) -> list[str]:  # noqa: ARG001 part of the memo's key
    with os.scandir(parent) as entries:
        return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith("."))


def _changed(file: str) -> int:
    try:
        return Path(file).stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=1 << 16)
def _series(file: str, changed_ns: int) -> str | None:  # noqa: ARG001 part of the memo's key
    """The series that a file is of, from the beginning of its header; of a deflated one no more is inflated."""
    path, _, _ = locate(file)
    try:
        value = elements(path, (_SERIES,), _SERIES)[0].get(_SERIES)
    except (NotDicom, BrokenOff, OSError):  # what is wrong with a file is said where it is read
        return None
    return None if value is None else value.decode("latin-1").strip(" \0")
