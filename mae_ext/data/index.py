"""Lists of samples as files: .txt, and .csv with columns for labels, patients and splits.

`index.csv::test` are the rows whose column `split` says test. `index.csv::KEY=VALUE,KEY=VALUE` says more: `split=test`,
and with `path=`, `label=` and `patient=` which columns are meant; `label=effusion+edema` takes several columns of 0 and
1, one for each class. `fold=2/5` is the second of five parts and `rest=2/5` the other four: patients whole, classes
spread evenly (folds.py).
"""

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from mae_ext.data.folds import deal
from mae_ext.errors import UserError

PATHS = ("path", "file", "filename", "id")
"""Columns that name the file, the first of them that there is. An id has no suffix; the reader's are tried."""

FOLDERS = ("", "images")
"""Where a name is looked for, seen from the list's own folder."""

KEYS = ("split", "path", "label", "patient", "fold", "rest")
FOLD_SEED = 0
"""Folds are the same for everybody who says the same of the same list, or `fold` and `rest` would overlap."""
BETWEEN = "|"
"""Between the classes of a sample that has several; a lone one says that it has none of them."""


@dataclass
class Listed:
    """One entry for each row, in order. labels: None where a row has none.

    several: names of the classes where a sample can have more than one; `marks` then holds 1, 0 or -1 (not known) for
    each, and `labels` nothing but None. patients: None where the list has no such column, "" where
    a row leaves it empty. nameless: how many rows name no file, and are left out.
    """

    addresses: list[str] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    several: tuple[str, ...] = ()
    marks: list[list[int]] = field(default_factory=list)
    patients: list[str] | None = None
    nameless: int = 0


def read_list(path: Path, asked: str | None, suffixes: tuple[str, ...], where: str) -> Listed:
    """path: of a .txt or .csv file. asked: what stands after its "::". Raises UserError."""
    try:
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise UserError(f"{where}: cannot be read: {error.strerror}") from error
    if path.suffix == ".txt":
        return _read_txt(path, text, where)
    return _read_csv(path, text, _options(asked, where), suffixes, where)


def _read_txt(path: Path, text: str, where: str) -> Listed:
    lines: list[int] = []
    names: list[str] = []
    labels: list[str | None] = []
    for number, line in enumerate(text.split("\n"), start=1):
        name, _, label = line.removesuffix("\r").partition("\t")
        if name.strip():
            lines.append(number)
            names.append(name)
            labels.append(label.strip() or None)
    return Listed(_addresses(path, lines, names, (), where), labels)


def _options(asked: str | None, where: str) -> dict[str, str]:
    if asked is None:
        return {}
    if "=" not in asked:
        return {"split": asked}
    options = dict(part.partition("=")[::2] for part in asked.split(","))
    if not options.keys() <= set(KEYS) or "" in options.values():
        raise UserError(f"{where}: after '::' expected a split's name or {', '.join(f'{key}=...' for key in KEYS)}")
    if "fold" in options and "rest" in options:
        raise UserError(f"{where}: give fold=, to have that part, or rest=, to have all but that part")
    return options


def _read_csv(path: Path, text: str, options: dict[str, str], suffixes: tuple[str, ...], where: str) -> Listed:
    reader = csv.DictReader(StringIO(text, newline=""))
    try:
        header = list(reader.fieldnames or [])
        naming = _column(options.get("path") or next((c for c in PATHS if c in header), "path"), header, where)
        rows = [(reader.line_num, {k: v or "" for k, v in row.items() if k is not None}) for row in reader]
    except csv.Error as error:
        raise UserError(f"{where}: line {reader.line_num}: not CSV: {error}") from error
    everything, rows = len(rows), [(line, row) for line, row in rows if row[naming]]
    nameless = everything - len(rows)
    if (wanted := options.get("split")) is not None:
        _column("split", header, where)
        there = sorted({row["split"] for _, row in rows})
        rows = [(line, row) for line, row in rows if row["split"] == wanted]
        if not rows:
            raise UserError(f"{where}: no row has the split '{wanted}'; there are: {', '.join(map(repr, there[:10]))}")
    patient = options.get("patient") or "patient"
    chosen = [_column(name, header, where) for name in options.get("label", "").split("+") if name]
    labelling = (chosen or ["label"])[0]
    if {"fold", "rest"} & options.keys():
        who = [row[_column(patient, header, where)].strip() for _, row in rows] if patient in header else None
        kinds = [row.get(labelling, "").strip() if len(chosen) < 2 else "" for _, row in rows]
        rows = _folded(rows, who or [row[naming] for _, row in rows], kinds, options, where)
    lines, values = [line for line, _ in rows], [row for _, row in rows]
    addresses = _addresses(path, lines, [row[naming] for row in values], suffixes if naming == "id" else (), where)
    listed = Listed(addresses, [None] * len(values), nameless=nameless)
    if patient in header or "patient" in options:
        listed.patients = [row[_column(patient, header, where)].strip() for row in values]
    if len(chosen) > 1:
        listed.several = tuple(chosen)
        listed.marks = [
            [_mark(row[c], c, line, where) for c in chosen] for line, row in zip(lines, values, strict=True)
        ]
        return listed
    labels = [row.get(labelling, "").strip() for row in values]
    if any(BETWEEN in label for label in labels):
        listed.several, listed.marks = _marks([label.split(BETWEEN) if label else None for label in labels])
    else:
        listed.labels = [label or None for label in labels]
    return listed


def _folded(
    rows: list[tuple[int, dict[str, str]]], groups: list[str], labels: list[str], options: dict[str, str], where: str
) -> list[tuple[int, dict[str, str]]]:
    key = "fold" if "fold" in options else "rest"
    asked = re.fullmatch(r"(\d{1,4})/(\d{1,4})", options[key])
    number, count = map(int, asked.groups()) if asked else (0, 0)
    if not 1 <= number <= count:
        raise UserError(f"{where}: {key}={options[key]}: expected K/N, the K-th of N parts, such as 1/5")
    if "" in groups:
        line = rows[groups.index("")][0]
        raise UserError(
            f"{where}: line {line} has no patient; where the list has the column, folds need it in every row"
        )
    # A sample of several classes has no one class to spread.
    kinds = [""] * len(rows) if any(BETWEEN in label for label in labels) else labels
    try:
        parts = deal(groups, kinds, count, FOLD_SEED)
    except ValueError:
        found = len(set(groups))
        raise UserError(f"{where}: {key}={options[key]}: there are {found} patients or files to deal out") from None
    return [row for row, part in zip(rows, parts, strict=True) if (part == number - 1) == (key == "fold")]


def _column(name: str, header: Sequence[str], where: str) -> str:
    if name not in header:
        what = "path and (if any) label" if name == "path" else name
        raise UserError(f"{where}: expected a first line with the columns {what}, not {list(header)}")
    return name


def _mark(text: str, column: str, line: int, where: str) -> int:
    found = {"": -1, "0": 0, "1": 1, "0.0": 0, "1.0": 1}.get(text.strip())
    if found is None:
        raise UserError(
            f"{where}: line {line}: {column} is '{text}'; each of several label columns holds 0, 1 or nothing"
        )
    return found


def _marks(sets: list[list[str] | None]) -> tuple[tuple[str, ...], list[list[int]]]:
    """Of rows that name their classes all others are lacking; of a row without an entry nothing is known."""
    named = [None if names is None else {name.strip() for name in names} - {""} for names in sets]
    classes = tuple(sorted(set().union(*(names for names in named if names))))
    return classes, [[-1 if names is None else int(c in names) for c in classes] for names in named]


def _addresses(path: Path, lines: list[int], names: list[str], suffixes: tuple[str, ...], where: str) -> list[str]:
    """Files beside the list, or in the `images` folder beside it: where the first of them is that is there."""
    if not names:
        raise UserError(f"{where}: the list is empty; expected a path on each line")
    for line, name in zip(lines, names, strict=True):
        if not Path(name).is_absolute() and ".." in Path(name).parts:
            raise UserError(
                f"{where}: line {line}: '{name}' climbs out of the list's folder; write an absolute path if it is meant"
            )
    endings = [s for s in suffixes if not s.endswith("/")] or [""]
    places = [(path.parent / folder, ending) for folder in FOLDERS for ending in endings]
    for folder, ending in places:
        addresses = [str(folder / f"{name}{ending}") for name in names]
        if any(map(os.path.exists, addresses)):
            return addresses
    shown = ", ".join(str(line) for line in lines[:5]) + (", ..." if len(lines) > 5 else "")
    raise UserError(
        f"{where}: none of its {len(names)} files exists (lines {shown}); line {lines[0]} means "
        f"'{places[0][0] / (names[0] + places[0][1])}': paths are relative to the list's own folder"
    )


def forward(name: str, folder: Path) -> str:
    """A name with backslashes, as Windows writes paths, with slashes, where no file of the folder has the former."""
    return name if "\\" not in name or (folder / name).exists() else name.replace("\\", "/")


def is_list(path: str) -> re.Match[str] | None:
    """The file and what is asked of it: "x.csv::test" -> ("x.csv", "test")."""
    return re.fullmatch(r"(?s)(?P<file>.*\.csv)::(?P<asked>.+)", path)
