"""Addresses of DICOM series in a folder that holds anything: `FOLDER::series=ID`, and which files each of them means.

An ID is a keyed hash (keyed.py), of the series and of what tells its volumes apart. Which files it means is kept beside
the index, in the user's cache; where that is gone the folder is looked into again.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mae_ext.data.sources.dicom import keyed
from mae_ext.data.sources.dicom.answer import Answer, digest_of, keep_answer, kept_answer
from mae_ext.data.sources.dicom.glance import FORMAT, NOT_DICOM
from mae_ext.data.sources.dicom.grouping import SUFFIXES, Grouped, grouped
from mae_ext.data.sources.dicom.index import is_whole, looked_at
from mae_ext.data.sources.dicom.looked_at import File, LookedAt, folder_of, kept_for, replace
from mae_ext.data.sources.dicom.unwanted import MASKS
from mae_ext.data.sources.folder import MAX_MEMBERS, Entry, members, walk
from mae_ext.data.sources.passed_over import PassedOver
from mae_ext.errors import BadSample, UserError
from mae_ext.strict_json import dumps

SERIES = re.compile(r"(?s)(?P<folder>.+)::series=(?P<id>[0-9a-f]{16})")
JOINED = tuple(f"{suffix}/" for suffix in SUFFIXES)

FOURTH_AXIS = "::4d/"
"""Among a reader's suffixes: it takes series with several volumes of one place, so they are not parted."""


@dataclass(frozen=True)
class Scan:
    """One address of a folder. top: the first folder level, its label. patient: a hash; "" of what is no DICOM."""

    address: str
    top: str | None
    patient: str = ""


def is_series(address: str) -> bool:
    return SERIES.fullmatch(address) is not None


def files_of(address: str, suffixes: tuple[str, ...]) -> list[str]:
    """The files of a folder that is a sample, or of a series of a folder, by name. Raises BadSample."""
    series = SERIES.fullmatch(address)
    if series is None:
        return members(address, suffixes)
    kept = _kept(series["folder"], series["id"])
    if kept is None:
        entries = list(walk(Path(series["folder"]), JOINED, f"'{series['folder']}'", PassedOver()))
        for fourth_axis in (False, True):
            scans_in(series["folder"], entries, PassedOver(), fourth_axis)
        kept = _kept(series["folder"], series["id"])
    if kept is None:
        detail = (
            f"no series of this ID in the folder: it is another folder, or another key than the one with which the "
            f"address was made ({keyed.VARIABLE}, or dicom.key in ~/.config/mae_ext); run mae-ext doctor on it again"
        )
        raise BadSample(address, "no such file", detail)
    names = kept[0]
    if len(names) > MAX_MEMBERS:
        raise BadSample(address, "too large", f"{len(names)} files of one series, the limit is {MAX_MEMBERS}")
    return [os.path.join(series["folder"], name) for name in names]  # noqa: PTH118 the address stays as it is written


def label_objects(root: str) -> list[str]:
    """The SEG and RTSTRUCT of a folder, at any depth, by name. Raises UserError."""
    entries = walk(Path(root), JOINED, f"'{root}'", PassedOver())
    files = sorted((os.path.relpath(e.path, root), *e.version) for e in entries if e.version is not None)
    table = looked_at(root, files, _secret()[0])
    kinds = [table.kinds[kind][0] for kind in table.kind.tolist()]
    return [str(Path(root, name)) for name, kind in zip(table.names, kinds, strict=True) if kind == MASKS]


def scans_in(root: str, entries: Sequence[Entry], passed: PassedOver, fourth_axis: bool) -> list[Scan]:
    """Of what `walk` gave, in its order: a scan stands where the first of its files does. Raises UserError."""
    files = _named(root, entries)
    secret, kept = _secret()
    answer, listing, path = None, "", _place(root, secret, fourth_axis)
    if kept:
        listing = digest_of(files)
        answer = kept_answer(path, listing)
    if answer is None:
        answer, table, groups = _made(root, files, secret, fourth_axis)
        if kept:
            _keep(path, table, groups)
        elif any(series.folder is None for series in groups.series):
            keyed.key()
        if kept and is_whole(table):
            keep_answer(path, listing, answer)
    for kind, count, such_as in answer.left:
        passed.add(kind, such_as, count)
    for place in answer.others:
        passed.other(files[place][0])
    by_place = defaultdict(list)
    for scan in answer.scans:
        by_place[scan[0]].append(scan)
    scans, place = [], 0
    for entry in entries:
        if entry.version is None:
            scans.append(Scan(entry.path, entry.top))
            continue
        for _, made, below, patient in by_place.get(place, ()):
            address = f"{root}::series={made}" if made else f"{Path(entry.path).parent}/"
            scans.append(Scan(address, entry.top if below else None, patient))
        place += 1
    return _without_patients_as_classes(scans)


def _named(root: str, entries: Sequence[Entry]) -> list[File]:
    """By names as they are seen from `root`. Of as many files as there may be, so paths are not taken apart."""
    before = os.path.join(root, "")  # noqa: PTH118
    if not all(e.path.startswith(before) for e in entries):
        return [(os.path.relpath(e.path, root), *e.version) for e in entries if e.version is not None]
    begin = len(before)
    return [(e.path[begin:], *e.version) for e in entries if e.version is not None]


def _made(root: str, files: list[File], secret: bytes, fourth_axis: bool) -> tuple[Answer, LookedAt, Grouped]:
    at = {file[0]: i for i, file in enumerate(files)}
    table = looked_at(root, sorted(files), secret)
    groups = grouped(root, table, secret, fourth_axis)
    scans = []
    for series in groups.series:
        names = [table.names[i] for i in series.files]
        first = min(names, key=at.__getitem__)
        inside = os.path.commonpath({folder_of(name) for name in names})
        parts = Path(inside or folder_of(names[0])).parts
        below = len(parts) > 1 and parts[0] == Path(first).parts[0]
        made = series.id if series.folder is None else ""
        scans.append((at[first], made, below, series.of.get("patient", "")))
    left = [(kind, count, groups.such_as.get(kind, "")) for kind, count in groups.left.items() if count]
    none = [kind[0] == NOT_DICOM for kind in table.kinds]
    others = (name for name, kind in zip(table.names, table.kind.tolist(), strict=True) if none[kind])
    return (
        Answer(scans, left, sorted(at[name] for name in others if not name.lower().endswith(SUFFIXES))),
        table,
        groups,
    )


def _without_patients_as_classes(scans: list[Scan]) -> list[Scan]:
    """Folders of one patient each are no classes, and their names may be the patients' own."""
    tops: dict[str | None, set[str]] = defaultdict(set)
    patients: dict[str, set[str | None]] = defaultdict(set)
    for scan in scans:
        tops[scan.top].add(scan.patient)
        patients[scan.patient].add(scan.top)
    apart = all(len(of) == 1 for of in tops.values()) and all(len(of) == 1 for of in patients.values())
    if not apart or "" in patients or not all(is_series(scan.address) for scan in scans):
        return scans
    return [Scan(scan.address, None, scan.patient) for scan in scans]


def _secret() -> tuple[bytes, bool]:
    """The key, and whether it will be the same again."""
    try:
        return keyed.key(), True
    except UserError:
        if keyed.VARIABLE in os.environ:
            raise
        return os.urandom(32), False


# Which files an ID means: a line of JSON that says where in the rest its names stand.


def _place(root: str, secret: bytes, fourth_axis: bool) -> Path:
    return kept_for(root, secret).with_suffix(".series4" if fourth_axis else ".series")


def _keep(path: Path, table: LookedAt, groups: Grouped) -> None:
    flat = [series for series in groups.series if series.folder is None]
    spans, begin, texts = {}, 0, []
    for series in flat:
        text = "\0".join(table.names[i] for i in series.files).encode("utf-8", "surrogateescape")
        spans[series.id] = (begin, len(text), series.difference)
        begin += len(text)
        texts.append(text)
    content = b"".join([dumps({"format": FORMAT, "series": spans}).encode(), b"\n", *texts])
    try:
        if not path.exists() or path.read_bytes() != content:
            replace(path, lambda file: _put(file, content))
    except OSError as error:
        if flat:
            raise UserError(
                f"{path}: which files a DICOM series is cannot be kept: {error.strerror}; set XDG_CACHE_HOME to a "
                "folder that can be written to"
            ) from None


def _put(file: IO[bytes], content: bytes) -> None:
    file.write(content)


def difference(address: str) -> str:
    """What tells a scan from the other volumes of its series: "echo 4.92"; "" where nothing has to."""
    series = SERIES.fullmatch(address)
    kept = series and _kept(series["folder"], series["id"])
    return kept[1] if kept else ""


def _kept(folder: str, identity: str) -> tuple[list[str], str] | None:
    """The names of the files, and what tells them from others."""
    secret = keyed.key()
    for fourth_axis in (False, True):
        path = _place(folder, secret, fourth_axis)
        try:
            with path.open("rb") as file:  # one file throughout: another process may put a new one in its place
                begin, spans = _spans(file, path)
                if identity in spans:
                    start, length, what = spans[identity]
                    file.seek(begin + start)
                    return file.read(length).decode("utf-8", "surrogateescape").split("\0"), what
        except (OSError, ValueError, KeyError):
            continue
    return None


Spans = dict[str, tuple[int, int, str]]

_known: dict[Path, tuple[tuple[int, ...], int, Spans]] = {}
"""Of lists that were read: which version, where the names begin, and where those of each scan are."""

MOST_KNOWN = 16


def _spans(file: IO[bytes], path: Path) -> tuple[int, Spans]:
    status = os.fstat(file.fileno())
    version, known = (status.st_ino, status.st_mtime_ns, status.st_size), _known.get(path)
    if known is None or known[0] != version:
        line = file.readline()
        if len(_known) >= MOST_KNOWN:
            _known.clear()
        known = _known[path] = version, len(line), json.loads(line)["series"]
    return known[1], known[2]


def parted(entries: Iterable[Entry]) -> Iterator[Entry | list[Entry]]:
    """Those before the first that may be DICOM, one by one; from there on all the others together."""
    rest: list[Entry] = []
    for entry in entries:
        if entry.version is None and not rest:
            yield entry
        else:
            rest.append(entry)
    if rest:
        yield rest
