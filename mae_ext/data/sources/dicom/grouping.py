"""Which files make up one scan: all of a series, then of it what can be one volume. What is none is counted.

A folder whose files of DICOM's suffixes are one scan, and all of it, is a sample by itself, `folder/`; every other scan
is a series of the folder that was named, `FOLDER::series=ID`.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from mae_ext.data.sources.dicom import unwanted
from mae_ext.data.sources.dicom.copies import without_copies
from mae_ext.data.sources.dicom.glance import NOT_DICOM, NUMBERS
from mae_ext.data.sources.dicom.keyed import hashed
from mae_ext.data.sources.dicom.looked_at import LookedAt, folder_of
from mae_ext.data.sources.dicom.volumes import Plane, alike, heights, once, volumes

SUFFIXES = (".dcm", ".dicom", ".ima")
"""Of DICOM files that say so by their names."""

_ALIKE = (
    "study", "class", "modality", "allocated", "stored", "signed", "units", "rows", "columns", "image_type", "complex",
    "rescale", "kernel", "place", "photometric",
)  # fmt: skip
"""What all planes of a volume have in common."""


_DIRECTION = [NUMBERS.index(name) for name in ("rx", "ry", "rz", "cx", "cy", "cz")]
_FINE = [*_DIRECTION, NUMBERS.index("between_rows"), NUMBERS.index("between_columns")]


@dataclass(frozen=True)
class Series:
    """files: rows of the table, by name. folder: where it is a sample by itself, without root; None where it is not.

    difference: from other volumes of its series.
    """

    id: str
    files: list[int]
    of: dict[str, str]
    folder: str | None
    difference: str = ""


@dataclass
class Grouped:
    """left: how many files of each kind are left out, and the series of one of them."""

    series: list[Series] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)
    such_as: dict[str, str] = field(default_factory=dict)

    def leave(self, kind: str, of: dict[str, str], count: int = 1) -> None:
        self.left[kind] += count
        self.such_as.setdefault(kind, f"series {of['series']}" if of.get("series") else "")


def grouped(root: str, table: LookedAt, secret: bytes, fourth_axis: bool) -> Grouped:
    """fourth_axis: whether volumes of one place stay together, as time or contrasts along an axis of their own."""
    result = Grouped()
    by_series: dict[tuple[str, str], list[int]] = defaultdict(list)
    in_folder: dict[str, list[int]] = defaultdict(list)
    for i, (name, kind) in enumerate(zip(table.names, table.kind.tolist(), strict=True)):
        left, of = table.kinds[kind]
        if name.lower().endswith(SUFFIXES):
            in_folder[folder_of(name)].append(i)
        if not left:
            by_series[of["series"], of["patient"]].append(i)
    groups = _Groups(root, table, secret, fourth_axis, in_folder, result)
    for rows in by_series.values():
        groups.add(rows)
    whole = {series.folder for series in result.series}
    for i, kind in enumerate(groups.kind):
        left, of = table.kinds[kind]
        if not left or left == NOT_DICOM:
            continue
        name = table.names[i]
        if not (left == unwanted.BROKEN and folder_of(name) in whole and name.lower().endswith(SUFFIXES)):
            result.leave(left, of)
    groups.broken_alone(whole)
    return result


class _Groups:
    def __init__(
        self, root: str, table: LookedAt, secret: bytes, fourth_axis: bool, in_folder: dict[str, list[int]],
        result: Grouped,
    ) -> None:  # fmt: skip
        self.root, self.table, self.secret, self.fourth_axis = root, table, secret, fourth_axis
        self.in_folder, self.result = in_folder, result
        self.ids = set[str]()
        self.kind: list[int] = table.kind.tolist()
        broken = {unwanted.BROKEN, NOT_DICOM}
        self.sound = {folder: sum(self._left(i) not in broken for i in rows) for folder, rows in in_folder.items()}
        self.common: dict[int, tuple[str, ...]] = {}

    def add(self, rows: list[int]) -> None:
        """All images of one series."""
        by_folder = defaultdict(list)
        for i in rows:
            by_folder[folder_of(self.table.names[i])].append(i)
        own = all(self._is_own(folder, files) for folder, files in by_folder.items())
        if own and len(by_folder) > 1 and not self._joined(rows):
            for files in by_folder.values():  # copies of one series, or what some software gives one number
                self._add(files)
        else:
            self._add(rows)

    def _is_own(self, folder: str, rows: list[int]) -> bool:
        """Whether a folder's files of DICOM's suffixes are these, and at most broken ones besides."""
        if self.sound.get(folder) != len(rows):
            return False
        return all(self.table.names[i].lower().endswith(SUFFIXES) for i in rows)

    def _left(self, i: int) -> str:
        return self.table.kinds[self.kind[i]][0]

    def _joined(self, rows: list[int]) -> bool:
        """Whether the parts of a series that lie in several folders are one volume that they are not apart."""
        parts = self._alike(rows)
        if len(parts) != 1 or self._whole_files(rows):
            return False
        return once(self._planes(rows))

    def _add(self, rows: list[int]) -> None:
        rows, copies = without_copies(self.root, self.table, rows)
        if copies:
            self.result.leave(unwanted.COPIES, self._of(rows[0]), copies)
        scans = [scan for part in self._alike(rows) for scan in self._scans(part)]
        folders = {folder_of(self.table.names[i]) for i in rows}
        alone = len(scans) == 1 and not copies and len(folders) == 1
        for difference, files in scans:
            (folder, *_) = folders
            own = alone and self._is_own(folder, files)
            of = self._of(files[0])
            if len(files) == 1 and not own and not self._whole_files(files):
                self.result.leave(unwanted.SINGLES, of)
                continue
            what = "\0".join([of["series"], *(of[name] for name in _ALIKE), difference])
            direction = "\0".join(f"{n:.1f}" for n in self.table.numbers[files[0], _DIRECTION].tolist())
            made, number = hashed(self.secret, "scan", f"{what}\0{direction}"), 0
            while made in self.ids:  # the series of another folder, whose numbers are the same
                number += 1
                made = hashed(self.secret, "scan", f"{what}\0{direction}\0{number}")
            self.ids.add(made)
            names = sorted(files, key=self.table.names.__getitem__)
            self.result.series.append(Series(made, names, of, folder if own else None, difference))

    def broken_alone(self, whole: set[str | None]) -> None:
        """Folders where nothing that is called DICOM is any: who reads them says what is wrong with each."""
        for folder, files in self.in_folder.items():
            if folder not in whole and all(self._left(i) in (unwanted.BROKEN, NOT_DICOM) for i in files):
                self.result.series.append(Series("", files, {}, folder))
                self.result.left[unwanted.BROKEN] -= sum(self._left(i) == unwanted.BROKEN for i in files)
            elif folder not in whole and (lost := [i for i in files if self._left(i) == NOT_DICOM]):
                self.result.leave(unwanted.CALLED_SO, {}, len(lost))

    def _of(self, i: int) -> dict[str, str]:
        return self.table.kinds[self.kind[i]][1]

    def _planes(self, rows: list[int]) -> list[Plane]:
        numbers = self.table.numbers[rows]
        return [
            Plane(i, dict(zip(NUMBERS, line, strict=True)), self._of(i)["gradient"], folder_of(self.table.names[i]), at)
            for i, line, at in zip(rows, numbers.tolist(), heights(numbers), strict=True)
        ]

    def _whole_files(self, rows: Sequence[int]) -> bool:
        """Whether each file is a volume: multi-frame objects, and Siemens mosaics."""
        frames = self.table.numbers[rows, NUMBERS.index("frames")]
        return bool((frames > 1).any()) or "MOSAIC" in self._of(rows[0])["image_type"].split("\\")

    def _alike(self, rows: list[int]) -> list[list[int]]:
        """By all that planes of a volume have in common."""
        parts: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for i in rows:
            if (kind := self.kind[i]) not in self.common:
                self.common[kind] = tuple(self._of(i)[name] for name in _ALIKE)
            parts[self.common[kind]].append(i)
        finer: list[list[int]] = []
        for files in parts.values():
            groups = defaultdict(list)
            for i, group in zip(files, alike(self.table.numbers[files][:, _FINE]), strict=True):
                groups[group].append(i)
            finer += groups.values()
        return finer

    def _scans(self, rows: list[int]) -> list[tuple[str, list[int]]]:
        if self._whole_files(rows):
            return self._of_whole_files(rows)
        if self.fourth_axis or len(rows) == 1:
            return [("", rows)]
        return [(label, [plane.file for plane in part]) for label, part in volumes(self._planes(rows))]

    def _of_whole_files(self, rows: list[int]) -> list[tuple[str, list[int]]]:
        """Each by itself, in the order of their numbers; the parts of a concatenation together."""
        parts = defaultdict(list)
        number = NUMBERS.index("number")
        for i in sorted(rows, key=lambda i: (self.table.numbers[i, number], self.table.names[i])):
            part = self._of(i)["concatenation"]
            parts[part or (self.fourth_axis or i)].append(i)
        if len(parts) == 1:
            return [("", rows)]
        return [(f"volume {n + 1}", files) for n, files in enumerate(parts.values())]
