"""Lists of samples as files: .csv with columns for labels, patients and splits, and plain ones (plain_list.py).

`index.csv::test` are the rows whose column `split` says test. `index.csv::KEY=VALUE,KEY=VALUE` says more: `split=test`,
and with `path=`, `label=` and `patient=` which columns are meant; `label=effusion+edema` takes several columns of 0 and
1, one for each class. `fold=2/5` is the second of five parts and `rest=2/5` the other four: patients whole, classes
spread evenly (folds.py). `root=FOLDER` is where the files of a list lie, `columns=path+-+label` says what the columns
of a plain one are, `classes=FILE` names its classes.
"""

import codecs
import contextlib
import csv
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from mae_ext.data.sources.archive import is_place
from mae_ext.data.sources.folds import deal
from mae_ext.data.sources.plain_list import (
    LABELS,
    PARTS,
    WHOLE_FILMS,
    Plain,
    are_bare,
    class_names,
    is_plain,
    read_plain,
)
from mae_ext.data.sources.plain_list import PATHS as PATH_COLUMNS
from mae_ext.errors import UserError, some

log = logging.getLogger("mae_ext.data.sources.table")
"""As what a listing passes over is said."""

LISTS = (".txt", ".csv", ".tsv", ".lst")
PATHS = ("path", "file", "filename", "id")
"""Columns that name the file, the first of them that there is. An id has no suffix; the reader's are tried."""

FOLDERS = ("", "images")
"""Where a name is looked for, seen from the list's own folder."""

KEYS = ("split", "path", "label", "patient", "fold", "rest", "root", "columns", "classes")
OF_PLAIN = ("root", "columns", "classes")
FOLD_SEED = 0
"""Folds are the same for everybody who says the same of the same list, or `fold` and `rest` would overlap."""
BETWEEN = "|"
"""Between the classes of a sample that has several; a lone one says that it has none of them."""


@dataclass
class Listed:
    """One entry for each row, in order. labels: None where a row has none.

    several: names of the classes where a sample can have more than one; `marks` then holds 1, 0 or -1 (not known) for
    each, and `labels` nothing but None. patients: None where the list has no such column, "" where
    a row leaves it empty. nameless: how many rows name no file, and are left out. rows: whole, of columns with names;
    naming: which of them names the file.
    """

    addresses: list[str] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    several: tuple[str, ...] = ()
    marks: list[list[int]] = field(default_factory=list)
    patients: list[str] | None = None
    nameless: int = 0
    rows: list[dict[str, str]] = field(default_factory=list)
    naming: str = ""


def read_list(path: Path, choice: str | None, suffixes: tuple[str, ...], where: str) -> Listed:
    """path: of a .txt or .csv file. choice: what stands after its "::". Raises UserError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{where}: cannot be read: {error.strerror}") from error
    if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):  # as Windows PowerShell's > writes
        text = content.decode("utf-16", "replace")
    else:
        text = content.decode("utf-8-sig", "surrogateescape")
    first = next((line for line in text.splitlines() if line.strip()), "")
    options = _options(choice, where)
    if path.suffix in (".txt", ".lst") or is_plain(first, suffixes):
        return _read_plain(path, text, options, suffixes, where)
    return _read_csv(path, text, options, suffixes, where)


def _read_plain(path: Path, text: str, options: dict[str, str], suffixes: tuple[str, ...], where: str) -> Listed:
    if unknown := options.keys() - set(OF_PLAIN):
        raise UserError(
            f"{where}: {', '.join(sorted(unknown))}: the columns of this list have no names; expected "
            f"{', '.join(OF_PLAIN)}"
        )
    root = options.get("root")
    plain = read_plain(path, text, options.get("columns"), suffixes, where, _folders(path, root))
    addresses = _addresses(path, plain.lines, plain.names, _endings(plain.names, suffixes), where, root)
    labels = class_names(path, plain, options.get("classes"), where)
    _check_repeated(plain.lines, plain.names, addresses, labels, where)
    return Listed(addresses, labels)


def _options(choice: str | None, where: str) -> dict[str, str]:
    if choice is None:
        return {}
    if "=" not in choice:
        return {"split": choice}
    options = dict(part.partition("=")[::2] for part in choice.split(","))
    if not options.keys() <= set(KEYS) or "" in options.values():
        raise UserError(f"{where}: after '::' expected a split's name or {', '.join(f'{key}=...' for key in KEYS)}")
    if "fold" in options and "rest" in options:
        raise UserError(f"{where}: give fold=, to have that part, or rest=, to have all but that part")
    return options


def _read_csv(path: Path, text: str, options: dict[str, str], suffixes: tuple[str, ...], where: str) -> Listed:
    if "columns" in options:
        raise UserError(f"{where}: columns= is for lists whose first line is a row; here give path= and label=")
    reader = csv.DictReader(StringIO(text, newline=""), delimiter=_delimiter(text, options), skipinitialspace=True)
    try:
        reader.fieldnames = header = [name.strip() for name in reader.fieldnames or []]
        naming = options.get("path") or next((c for c in PATHS if c in header), "path")
        rows = [(reader.line_num, {k: v or "" for k, v in row.items() if k is not None}) for row in reader]
        _column(naming, header, where, _to_type(path, header, rows, suffixes))
    except csv.Error as error:
        raise UserError(f"{where}: line {reader.line_num}: not CSV: {error}") from error
    if parts := [column for column in header if column.lower() in PARTS]:
        log.warning("%s: the columns %s are not read: %s", where, ", ".join(parts), WHOLE_FILMS)
    everything, rows = len(rows), [(line, row) for line, row in rows if row[naming]]
    nameless = everything - len(rows)
    if (wanted := options.get("split")) is not None:
        _column("split", header, where)
        splits = sorted({row["split"] for _, row in rows})
        rows = [(line, row) for line, row in rows if row["split"] == wanted]
        if not rows:
            raise UserError(f"{where}: no row has the split '{wanted}'; there are: {', '.join(map(repr, splits[:10]))}")
    patient = options.get("patient") or "patient"
    chosen = [_column(name, header, where) for name in options.get("label", "").split("+") if name]
    labelling = (chosen or ["label"])[0]
    if {"fold", "rest"} & options.keys():
        who = [row[_column(patient, header, where)].strip() for _, row in rows] if patient in header else None
        kinds = [row.get(labelling, "").strip() if len(chosen) < 2 else "" for _, row in rows]
        rows = _folded(rows, who or [row[naming] for _, row in rows], kinds, options, where)
    lines, values = [line for line, _ in rows], [row for _, row in rows]
    names = [row[naming] for row in values]
    endings = suffixes if naming == "id" else _endings(names, suffixes)
    addresses = _addresses(path, lines, names, endings, where, options.get("root"))
    listed = Listed(addresses, [None] * len(values), nameless=nameless, rows=values, naming=naming)
    if patient in header or "patient" in options:
        listed.patients = [row[_column(patient, header, where)].strip() for row in values]
        _check_repeated(lines, names, addresses, listed.patients, where)
    if len(chosen) > 1:
        listed.several = tuple(chosen)
        listed.marks = [
            [_mark(row[c], c, line, where) for c in chosen] for line, row in zip(lines, values, strict=True)
        ]
        _check_repeated(lines, names, addresses, listed.marks, where)
        return listed
    labels = [row.get(labelling, "").strip() for row in values]
    if "classes" in options:
        plain = Plain(lines, names, [label or None for label in labels])
        labels = [label or "" for label in class_names(path, plain, options["classes"], where)]
    _check_repeated(lines, names, addresses, labels, where)
    if any(BETWEEN in label for label in labels):
        listed.several, listed.marks = _marks([label.split(BETWEEN) if label else None for label in labels])
    else:
        listed.labels = [label or None for label in labels]
    return listed


def _folded(
    rows: list[tuple[int, dict[str, str]]], groups: list[str], labels: list[str], options: dict[str, str], where: str
) -> list[tuple[int, dict[str, str]]]:
    key = "fold" if "fold" in options else "rest"
    fraction = re.fullmatch(r"(\d{1,4})/(\d{1,4})", options[key])
    number, count = map(int, fraction.groups()) if fraction else (0, 0)
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
        distinct = len(set(groups))
        raise UserError(f"{where}: {key}={options[key]}: there are {distinct} patients or files to deal out") from None
    return [row for row, part in zip(rows, parts, strict=True) if (part == number - 1) == (key == "fold")]


def _column(name: str, header: Sequence[str], where: str, to_type: str = "") -> str:
    if name not in header:
        what = "path and (if any) label" if name == "path" else name
        raise UserError(f"{where}: expected a first line with the columns {what}, not {list(header)}{to_type}")
    return name


def _delimiter(text: str, options: dict[str, str]) -> str:
    """A comma, or what else makes of the first line columns that are known."""
    first = text.split("\n", 1)[0].strip().replace('"', "")
    known = {*PATHS, *LABELS, *PATH_COLUMNS, options.get("path")}
    scores = [(len(known & {word.strip() for word in first.split(sign)}), sign) for sign in ",;\t "]
    return max(scores, key=lambda pair: pair[0])[1]


def _to_type(
    path: Path, header: Sequence[str], rows: Sequence[tuple[int, dict[str, str]]], suffixes: Sequence[str]
) -> str:
    """How to name the columns that hold names of files and labels, by what is in them and what they are called."""
    single = tuple(s.removesuffix("/") for s in suffixes)
    files = [c for c in header if rows and rows[0][1].get(c, "").strip().lower().endswith(single)]
    if not files:
        return f"; where another one names the files, type '{path}::path=COLUMN'" if rows else ""
    others = [c for c in header if c not in files]
    labels = [c for c in others if c.strip().lower() in LABELS] or (others if len(others) == 1 else [])
    return f"; type '{path}::path={files[0]}" + (f",label={labels[0]}'" if labels else "'")


def _mark(text: str, column: str, line: int, where: str) -> int:
    mark = {"": -1, "0": 0, "1": 1, "0.0": 0, "1.0": 1}.get(text.strip())
    if mark is None:
        raise UserError(
            f"{where}: line {line}: {column} is '{text}'; each of several label columns holds 0, 1 or nothing"
        )
    return mark


def _marks(sets: list[list[str] | None]) -> tuple[tuple[str, ...], list[list[int]]]:
    """Of rows that name their classes all others are lacking; of a row without an entry nothing is known."""
    named = [None if names is None else {name.strip() for name in names} - {""} for names in sets]
    classes = tuple(sorted(set().union(*(names for names in named if names))))
    return classes, [[-1 if names is None else int(c in names) for c in classes] for names in named]


def _addresses(
    path: Path, lines: list[int], names: list[str], endings: Sequence[str], where: str, root: str | None = None
) -> list[str]:
    """Files beside the list, in the `images` folder beside it, or seen from where the command runs: the first of these
    where one of them is. endings: what their names may lack. root: a folder, seen from where the command runs, that
    takes the place of these."""
    if not names:
        raise UserError(f"{where}: the list is empty; expected a path on each line")
    if all(map(is_place, names)):  # as a listing of shards or arrays gives them
        return names
    names = [forward(name, path.parent) for name in names]
    for line, name in zip(lines, names, strict=True):
        if not Path(name).is_absolute() and ".." in Path(name).parts:
            raise UserError(
                f"{where}: line {line}: '{name}' climbs out of the list's folder; write an absolute path if it is meant"
            )
    endings = [s for s in endings if not s.endswith("/")] or [""]
    folders = _folders(path, root)
    places = [(folder, ending) for folder in folders for ending in endings]
    for folder, ending in places:
        addresses = [str(folder / f"{name}{ending}") for name in names]
        if any(map(os.path.exists, addresses)):
            return addresses
    shown = ", ".join(str(line) for line in lines[:5]) + (", ..." if len(lines) > 5 else "")
    message = f"{where}: none of its {len(names)} files exists (lines {shown}); line {lines[0]} means "
    if re.match(r"/|[A-Za-z]:/", names[0]):
        raise UserError(
            f"{message}'{names[0]}', a path of another computer or place{_from_the_front(names[0], folders)}"
        )
    raise UserError(
        f"{message}'{folders[0] / (names[0] + endings[-1])}': paths are relative to the list's own folder"
        + (
            _spelt_otherwise(names[0], folders)
            or (_elsewhere(path, [names[0] + ending for ending in endings]) if root is None else "")
        )
    )


def _folders(path: Path, root: str | None) -> list[Path]:
    """Where the files of a list are looked for."""
    return [path.parent / folder for folder in FOLDERS] + [Path()] if root is None else [Path(root)]


def _endings(names: Sequence[str], suffixes: tuple[str, ...]) -> tuple[str, ...]:
    """What names may lack: the reader's suffixes, where none of them has any."""
    joined = any(s.endswith("/") for s in suffixes)
    return ("", *suffixes) if not joined and are_bare(names, suffixes) else ("",)


def _from_the_front(name: str, folders: Sequence[Path]) -> str:
    """Which part of a path to take away, so that the rest is there."""
    parts = name.split("/")
    for count in range(1, len(parts)):
        for folder in folders:
            if (folder / "/".join(parts[count:])).exists():
                return f". What follows is in {folder}: take '{'/'.join(parts[:count])}/' from the front of every line"
    return "; write the paths that the files have here, or paths relative to the list's own folder"


def _spelt_otherwise(name: str, folders: Sequence[Path]) -> str:
    """The file that differs in suffix or capitals alone, where there is one."""
    for folder in folders:
        with contextlib.suppress(OSError):
            wanted = (folder / name).stem.casefold()
            if alike := sorted(p for p in (folder / name).parent.iterdir() if p.stem.casefold() == wanted):
                return f". There is '{alike[0]}', with another suffix or other capitals: correct the list"
    return ""


def _elsewhere(path: Path, names: Sequence[str]) -> str:
    """What to type, where the first file is in a folder beside the list's own, or wherever it is."""
    for above in path.absolute().parents[:3]:
        with contextlib.suppress(OSError):
            for folder in (above, *sorted(p for p in above.iterdir() if p.is_dir())):
                if any((folder / name).exists() for name in names):
                    return f". They are in {folder}: type '{path}::root={os.path.relpath(folder)}'"
    return f", or to the folder that is named, as '{path}::root=FOLDER'"


def _check_repeated(
    lines: list[int], names: list[str], addresses: list[str], answers: Sequence[object], where: str
) -> None:
    """Raises UserError where rows of one file, however spelt, contradict each other; what is merely there twice is
    said."""
    first: dict[str, tuple[int, object]] = {}
    odd, again = [], []
    for line, name, address, answer in zip(lines, names, addresses, answers, strict=True):
        before, known = first.setdefault(os.path.abspath(address), (line, answer))  # noqa: PTH100 follows no link
        if before != line:
            again.append(f"{name} in lines {before} and {line}")
        if known != answer:
            odd.append(f"{name} is {_said(known)} in line {before} and {_said(answer)} in line {line}")
    if odd:
        raise UserError(f"{where}: {len(odd)} rows contradict others: {some(odd, '; ')}; keep what is right")
    if again:
        log.warning("%s: %d rows name a file again, which counts as often: %s", where, len(again), some(again, "; "))


def _said(answer: object) -> str:
    return "without a label" if answer in (None, "") else f"'{answer}'"


def forward(name: str, folder: Path) -> str:
    """A name with backslashes, as Windows writes paths, with slashes, where no file of the folder has the former."""
    return name if "\\" not in name or (folder / name).exists() else name.replace("\\", "/")


def is_list(path: str) -> re.Match[str] | None:
    """The file and what is asked of it: "x.csv::test" -> ("x.csv", "test")."""
    return re.fullmatch(r"(?s)(?P<file>.*\.(?:csv|txt|tsv|lst))::(?P<choice>.+)", path)
