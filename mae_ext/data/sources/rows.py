"""What the rows of a list say: label or labels, patient, split and fold, whatever kind of file the rows are in."""

import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mae_ext.data.sources.folds import deal
from mae_ext.errors import UserError, some

log = logging.getLogger("mae_ext.data.sources.table")
"""As what a listing passes over is said."""

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


def check_options(choice: str | None, keys: Sequence[str], where: str) -> dict[str, str]:
    """What stands after a list's "::", of which `keys` can be said. Raises UserError."""
    if choice is None:
        return {}
    if "=" not in choice:
        return {"split": choice}
    options = dict(part.partition("=")[::2] for part in choice.split(","))
    if not options.keys() <= set(keys) or "" in options.values():
        raise UserError(f"{where}: after '::' expected a split's name or {', '.join(f'{key}=...' for key in keys)}")
    if "fold" in options and "rest" in options:
        raise UserError(f"{where}: give fold=, to have that part, or rest=, to have all but that part")
    return options


def listed_of(
    header: Sequence[str], rows: list[tuple[int, dict[str, str]]], naming: str, options: dict[str, str], where: str,
    addresses_of: Callable[[list[int], list[str]], list[str]],
    classes_of: Callable[[list[int], list[str], list[str]], list[str]] | None = None,
) -> Listed:  # fmt: skip
    """rows: (number in its file, text by column) each. naming: the column that names the sample, which `addresses_of`
    makes addresses of. classes_of: (numbers, names, labels) -> names of classes for labels. Raises UserError."""
    if (wanted := options.get("split")) is not None:
        column_of("split", header, where)
        splits = sorted({row["split"] for _, row in rows})
        rows = [(line, row) for line, row in rows if row["split"] == wanted]
        if not rows:
            raise UserError(f"{where}: no row has the split '{wanted}'; there are: {', '.join(map(repr, splits[:10]))}")
    patient = options.get("patient") or "patient"
    chosen = [column_of(name, header, where) for name in options.get("label", "").split("+") if name]
    labelling = (chosen or ["label"])[0]
    if {"fold", "rest"} & options.keys():
        who = [row[column_of(patient, header, where)].strip() for _, row in rows] if patient in header else None
        kinds = [row.get(labelling, "").strip() if len(chosen) < 2 else "" for _, row in rows]
        rows = _folded(rows, who or [row[naming] for _, row in rows], kinds, options, where)
    lines, values = [line for line, _ in rows], [row for _, row in rows]
    names = [row[naming] for row in values]
    addresses = addresses_of(lines, names)
    listed = Listed(addresses, [None] * len(values), rows=values, naming=naming)
    if patient in header or "patient" in options:
        listed.patients = [row[column_of(patient, header, where)].strip() for row in values]
        check_repeated(lines, names, addresses, listed.patients, where)
    if len(chosen) > 1:
        listed.several = tuple(chosen)
        listed.marks = [
            [_mark(row[c], c, line, where) for c in chosen] for line, row in zip(lines, values, strict=True)
        ]
        check_repeated(lines, names, addresses, listed.marks, where)
        return listed
    labels = [row.get(labelling, "").strip() for row in values]
    if classes_of is not None:
        labels = classes_of(lines, names, labels)
    check_repeated(lines, names, addresses, labels, where)
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


def column_of(name: str, header: Sequence[str], where: str, to_type: str = "") -> str:
    """The name, where the header has it. Raises UserError."""
    if name not in header:
        what = "path and (if any) label" if name == "path" else name
        raise UserError(f"{where}: expected a first line with the columns {what}, not {list(header)}{to_type}")
    return name


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


def check_repeated(
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
