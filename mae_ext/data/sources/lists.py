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
from io import StringIO
from pathlib import Path

from mae_ext.data.sources.archive import is_place
from mae_ext.data.sources.dicom.export import SERIES
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
from mae_ext.data.sources.rows import Listed, check_options, check_repeated, column_of, listed_of
from mae_ext.errors import UserError

log = logging.getLogger("mae_ext.data.sources.table")
"""As what a listing passes over is said."""

LISTS = (".txt", ".csv", ".tsv", ".lst")
PATHS = ("path", "file", "filename", "id")
"""Columns that name the file, the first of them that there is. An id has no suffix; the reader's are tried."""

FOLDERS = ("", "images")
"""Where a name is looked for, seen from the list's own folder."""

KEYS = ("split", "path", "label", "patient", "fold", "rest", "root", "columns", "classes")
OF_PLAIN = ("root", "columns", "classes")


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
    options = check_options(choice, KEYS, where)
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
    check_repeated(plain.lines, plain.names, addresses, labels, where)
    return Listed(addresses, labels)


def _read_csv(path: Path, text: str, options: dict[str, str], suffixes: tuple[str, ...], where: str) -> Listed:
    if "columns" in options:
        raise UserError(f"{where}: columns= is for lists whose first line is a row; here give path= and label=")
    reader = csv.DictReader(StringIO(text, newline=""), delimiter=_delimiter(text, options), skipinitialspace=True)
    try:
        reader.fieldnames = header = [name.strip() for name in reader.fieldnames or []]
        naming = options.get("path") or next((c for c in PATHS if c in header), "path")
        rows = [(reader.line_num, {k: v or "" for k, v in row.items() if k is not None}) for row in reader]
        column_of(naming, header, where, _to_type(path, header, rows, suffixes))
    except csv.Error as error:
        raise UserError(f"{where}: line {reader.line_num}: not CSV: {error}") from error
    if parts := [column for column in header if column.lower() in PARTS]:
        log.warning("%s: the columns %s are not read: %s", where, ", ".join(parts), WHOLE_FILMS)

    def addresses_of(lines: list[int], names: list[str]) -> list[str]:
        endings = suffixes if naming == "id" else _endings(names, suffixes)
        return _addresses(path, lines, names, endings, where, options.get("root"))

    everything, rows = len(rows), [(line, row) for line, row in rows if row[naming]]
    nameless = everything - len(rows)

    def classes_of(lines: list[int], names: list[str], labels: list[str]) -> list[str]:
        plain = Plain(lines, names, [label or None for label in labels])
        return [label or "" for label in class_names(path, plain, options["classes"], where)]

    classes = classes_of if "classes" in options else None
    listed = listed_of(header, rows, naming, options, where, addresses_of, classes)
    listed.nameless = nameless
    return listed


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
        if any(Path(SERIES.sub(r"\g<folder>", address)).exists() for address in addresses):
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


def forward(name: str, folder: Path) -> str:
    """A name with backslashes, as Windows writes paths, with slashes, where no file of the folder has the former."""
    return name if "\\" not in name or (folder / name).exists() else name.replace("\\", "/")


def is_list(path: str) -> re.Match[str] | None:
    """The file and what is asked of it: "x.csv::test" -> ("x.csv", "test")."""
    return re.fullmatch(r"(?s)(?P<file>.*\.(?:csv|txt|tsv|lst))::(?P<choice>.+)", path)
