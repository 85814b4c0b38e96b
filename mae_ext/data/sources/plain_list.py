"""Lists without columns of known names: a path, then a label, as VideoMAE, mmaction2 and UCF101 have them.

Fields stand apart by spaces, a tab, a comma or a semicolon. Where a path ends is told by its suffix, so that a name may
have spaces. What more columns mean nobody can see; the message says what to type.
"""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mae_ext.errors import UserError

BETWEEN = re.compile(r"[ \t]*[,;\t][ \t]*|[ \t]+")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
ANY_SUFFIX = r"\.(?![0-9]+\b)[a-z0-9]{2,5}"
"""Of files that this reader does not read; they are somebody's all the same."""

UNUSED = "-"
"""In `columns=path+-+label`: a column that means nothing here."""

PATHS = ("path", "file", "filename", "video", "image", "name", "video_path", "image_path", "file_path", "file_name")
LABELS = ("label", "class", "target", "category", "label_id", "class_id")
PARTS = frozenset({
    *("start", "end", "stop", "begin", "start_frame", "end_frame", "stop_frame", "start_time", "end_time"),
    *("time_start", "time_end", "start_sec", "end_sec", "t_start", "t_end"),
})  # fmt: skip
"""Columns that name a part of a film."""

CLASS_FILES = re.compile(r"(?:class_?ind(?:ex)?|classes|class_?names|label_?map\w*)\.txt", re.IGNORECASE)
_FRAMES = (
    "names no file but a folder of frames, as mmaction2's rawframes do: films are read from files. List those, or make "
    "them: ffmpeg -i {0}/img_%05d.jpg {0}.mp4"
)
_FOLDER = "names no file but a folder: list its files, or give the folder that holds it as the data"
LISTS_OF_HMDB = (
    'for f in *_test_split1.txt; do awk -v c="${f%_test_split1.txt}" '
    """'$2 == 1 {print c "/" $1 "\\t" c}' "$f"; done > train.txt"""
)
SPLITS_OF_HMDB = re.compile(r".+_test_split\d\.txt")

WHOLE_FILMS = (
    "clips are taken from whole files: cut the parts out first, ffmpeg -ss START -to END -i IN.mp4 -c:v libx264 OUT.mp4"
)


@dataclass
class Plain:
    """One entry for each row: its line, the name of its file, its label or None."""

    lines: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)


def is_plain(first: str, suffixes: Sequence[str]) -> bool:
    """Whether a first line is a row and no header: it begins with the name of a file."""
    path = _with_suffix(suffixes).match(first.strip().strip('"'))
    return path is not None and ("/" in path[0] or path[0].lower().endswith(tuple(suffixes)))


def read_plain(
    path: Path, text: str, columns: str | None, suffixes: Sequence[str], where: str, folders: Sequence[Path]
) -> Plain:
    """columns: "path+-+label", what each is; None where that is to be seen. folders: where its files may be. Lines that
    begin with # and name no file are passed over. Raises UserError, with what to type."""
    rows = [(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), start=1)]
    rows = [(number, line) for number, line in rows if line.strip() and not _is_comment(line, suffixes)]
    whole = any((path.parent / line).is_file() for _, line in rows[:100] if BETWEEN.search(line))
    names = None if columns is None else columns.split("+")
    if names is None and len(rows) > 1 and (named := _header(rows[0][1], rows[1][1], suffixes)):
        rows, names = rows[1:], named
    if names is None and not whole:
        _refuse_path_behind(path, rows, suffixes, folders, where)
    if names is not None and names[0] != "path":
        split = [(number, BETWEEN.split(line.strip(), maxsplit=len(names) - 1)) for number, line in rows]
    else:
        split = [(number, [line] if whole else _fields(line, suffixes)) for number, line in rows]
    if names is None:
        names = _seen(path, split, suffixes, where)
    if names.count("path") != 1 or not set(names) <= {"path", "label", UNUSED} or names.count("label") > 1:
        raise UserError(f"{where}: columns={columns}: expected path, label, and {UNUSED} for others, as path+-+label")
    plain = Plain()
    for number, fields in split:
        if len(fields) > len(names) or len(fields) <= names.index("path"):
            raise UserError(
                f"{where}: line {number} has {len(fields)} columns, {' '.join(fields)[:80]!r}, and {len(names)} are "
                f"expected ({', '.join(names)}); where a sample has several labels, write a .csv with the columns path "
                f"and label, labels with | between them"
            )
        row = dict(zip(names, fields, strict=False))
        plain.lines.append(number)
        plain.names.append(row["path"])
        plain.labels.append(row.get("label", "").strip() or None)
    if all(label in (None, "-1") for label in plain.labels):
        plain.labels = [None] * len(plain.labels)
    if (
        plain.names
        and are_bare(plain.names, suffixes)
        and not any(s.endswith("/") for s in suffixes)
        and (path.parent / plain.names[0]).is_dir()
    ):
        advice = _FRAMES.format(plain.names[0]) if _films(suffixes) else _FOLDER
        raise UserError(f"{where}: line {plain.lines[0]}, '{plain.names[0]}', {advice}")
    _refuse_splits_of_hmdb(path, plain, where)
    return plain


def are_bare(names: Sequence[str], suffixes: Sequence[str]) -> bool:
    """Whether no name has a suffix."""
    return not any(_with_suffix(suffixes).fullmatch(name) for name in names[:100])


def _films(suffixes: Sequence[str]) -> bool:
    return ".mp4" in suffixes


def _is_comment(line: str, suffixes: Sequence[str]) -> bool:
    return line.startswith("#") and _with_suffix(suffixes).match(line) is None


def _refuse_path_behind(
    path: Path, rows: Sequence[tuple[int, str]], suffixes: Sequence[str], folders: Sequence[Path], where: str
) -> None:
    """Raises UserError where a file is named in another column than the first: what to type.

    A column that is another in every row numbers the rows; the first that is not is taken for the label.
    """
    split = [BETWEEN.split(line.strip()) for _, line in rows[:1000]]
    first = split[0] if split else []
    if len(first) < 2 or len({*map(len, split)}) > 1 or _with_suffix(suffixes).fullmatch(first[0]):
        return
    known = tuple(s.removesuffix("/") for s in suffixes)
    paths = [i for i, word in enumerate(first) if word.lower().endswith(known) or "/" in word or "\\" in word]
    paths = [i for i in paths if any((folder / first[i].replace("\\", "/")).is_file() for folder in folders)]
    if len(paths) != 1 or paths[0] == 0:
        return
    names = [UNUSED] * len(first)
    names[paths[0]] = "path"
    labels = [i for i in range(len(first)) if i != paths[0] and len({row[i] for row in split}) < len(split)]
    if labels:
        names[labels[0]] = "label"
    raise UserError(
        f"{where}: line {rows[0][0]}, '{rows[0][1].strip()[:80]}', has its path in column {paths[0] + 1}: say what the "
        f"columns are, with {UNUSED} for what means nothing here: '{path}::columns={'+'.join(names)}'"
    )


def _with_suffix(suffixes: Sequence[str]) -> re.Pattern[str]:
    known = "|".join(re.escape(s.removesuffix("/")) for s in suffixes)
    return re.compile(rf"(?is).*?(?:{known}|{ANY_SUFFIX})(?=$|[\s,;\"])")


def _fields(line: str, suffixes: Sequence[str]) -> list[str]:
    """The path, up to the last suffix of a known kind, then what stands apart behind it."""
    if line.startswith('"') and (quoted := re.fullmatch(r'"([^"]+)"(?:[ \t]*[,; \t][ \t]*(.*))?', line)):
        return [quoted[1], *_columns(quoted[2])]
    if line.count("\t") == 1:
        return [part for i, part in enumerate(line.split("\t")) if part.strip() or not i]
    known = "|".join(re.escape(s.removesuffix("/")) for s in suffixes)
    for ends in (known, ANY_SUFFIX):
        if match := re.fullmatch(rf"(?is)(.*(?:{ends}))(?:[,; \t](.*))?", line.strip()):
            return [match[1], *_columns(match[2])]
    if match := re.fullmatch(r"(\S+?)((?:[ \t]*[,; \t][ \t]*-?\d+)+)\s*", line):
        return [match[1], *_columns(match[2])]
    return [line]


def _columns(rest: str | None) -> list[str]:
    """What stands behind a path. A label of words may have spaces, where commas or nothing else divides."""
    rest = (rest or "").strip(" ,;\t")
    if re.search(r"[,;\t]", rest):
        return [part.strip(' "') for part in re.split(r"[,;\t]", rest)]
    words = rest.split()
    return words if len(words) < 2 or NUMBER.fullmatch(words[0]) else [rest]


def _header(first: str, second: str, suffixes: Sequence[str]) -> list[str] | None:
    """What the words of a first line say of the columns, where it is no row as the second is."""
    words = [word.strip('" ').lower() for word in BETWEEN.split(first.strip())]
    row = BETWEEN.split(second.strip(), maxsplit=len(words) - 1) if len(words) > 1 else [second]
    if is_plain(first, suffixes) or len(row) != len(words):
        return None
    if sum(word in PATHS for word in words) != 1 or PARTS & set(words):
        return None
    labels = [word for word in words if word in LABELS]
    return ["path" if word in PATHS else "label" if labels and word == labels[0] else UNUSED for word in words]


def _seen(path: Path, rows: Sequence[tuple[int, list[str]]], suffixes: Sequence[str], where: str) -> list[str]:
    """What the columns are, where it can be seen. Raises UserError with what to type where not."""
    most = max((len(fields) for _, fields in rows), default=1)
    if most <= 2:
        return ["path", "label"]
    line, first = next((line, fields) for line, fields in rows if len(fields) == most)
    shown = " ".join(first)[:80]
    films = _films(suffixes)
    if (films and not _with_suffix(suffixes).fullmatch(first[0])) or (path.parent / first[0]).is_dir():
        raise UserError(f"{where}: line {line}, '{shown}', {_FRAMES.format(first[0]) if films else _FOLDER}")
    numeric = all(NUMBER.fullmatch(value) for _, fields in rows for value in fields[1:])
    if numeric and most == 3 and all(fields[2] == "-1" for _, fields in rows if len(fields) == 3):
        return ["path", UNUSED, "label"]  # VideoMAE's pretraining: from frame 0 on, to the end
    if len({len(fields) for _, fields in rows}) > 1 or not numeric or not films:
        names = "+".join(["path", "label", *[UNUSED] * (most - 2)])
        raise UserError(
            f"{where}: line {line}, '{shown}', has {most} columns, and it cannot be seen what they are. Say it, with "
            f"{UNUSED} for what means nothing here: '{path}::columns={names}'. Where a sample has several labels, "
            f"write a .csv with the columns path and label, and | between labels"
        )
    names = "+".join(["path", *[UNUSED] * (most - 2), "label"])
    raise UserError(
        f"{where}: line {line}, '{shown}', has {most} columns. If the last is the label and what is between says how "
        f"long a film is, type '{path}::columns={names}'. If it is where a part of a film lies, {WHOLE_FILMS}"
    )


def _refuse_splits_of_hmdb(path: Path, plain: Plain, where: str) -> None:
    if SPLITS_OF_HMDB.fullmatch(path.name) and {*plain.labels} <= {"0", "1", "2"}:
        raise UserError(
            f"{where}: HMDB51's lists say what is trained on (1) and judged on (2), and name no class. Make one of all "
            f"of them, in their folder: {LISTS_OF_HMDB}; the same with $2 == 2 for test.txt"
        )


def class_names(path: Path, plain: Plain, choice: str | None, where: str) -> list[str | None]:
    """The labels with the names of a class index beside the list (classInd.txt, label_map.txt, classes.txt), or of the
    file that is asked for: "1 Archery" or "Archery 1" on a line, or names alone, counted from 0.

    Rows without any label get the first folder of their path, where it is such a name (UCF101's test lists). Raises
    UserError where a file that was asked for does not fit.
    """
    candidates: list[Path] = []
    if choice is not None:
        places = [place for place in (Path(choice), path.parent / choice) if place.is_file()]
        if not places:
            raise UserError(f"{where}: classes={choice}: there is no such file, here or beside the list")
        candidates = places[:1]
    else:
        with contextlib.suppress(OSError):
            candidates = sorted(
                p for p in path.parent.iterdir() if CLASS_FILES.fullmatch(p.name) and p.name != path.name
            )
    for file in candidates:
        names = _class_index(file)
        labels = {label for label in plain.labels if label is not None}
        if labels and labels <= names.keys():
            return [None if label is None else names[label] for label in plain.labels]
        tops = [name.replace("\\", "/").partition("/")[0] for name in plain.names]
        if not labels and {*tops} <= set(names.values()):
            return [*tops]
        if choice is not None and not labels <= set(names.values()):
            odd = min(labels - names.keys(), default="")
            raise UserError(f"{where}: classes={choice}: knows {len(names)} classes, and not '{odd}'")
    return plain.labels


def _class_index(file: Path) -> dict[str, str]:
    text = file.read_bytes().decode("utf-8-sig", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    before = [re.fullmatch(r"(\d+)[\s,;:]+(.+)", line) for line in lines]
    if all(before):
        return {str(int(m[1])): m[2].strip() for m in before if m}
    behind = [re.fullmatch(r"(.+?)[\s,;:]+(\d+)", line) for line in lines]
    if all(behind):
        return {str(int(m[2])): m[1].strip() for m in behind if m}
    return {str(number): line for number, line in enumerate(lines)}
