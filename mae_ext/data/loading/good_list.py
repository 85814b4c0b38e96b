"""The list of good files, in the form that --data takes: labels, patients and other columns as the source has them."""

import csv
import os
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Self

from mae_ext.data.sources import remote
from mae_ext.data.sources.archive import MEMBER, ROW, is_place
from mae_ext.data.sources.lists import LISTS, is_list, read_list
from mae_ext.data.sources.rows import BETWEEN
from mae_ext.data.sources.table import Items, list_items
from mae_ext.errors import UserError

KINDS = (".csv", ".txt")
BREAKING = ("\t", "\n", "\r")
"""What a line of a .txt cannot hold in a name."""


@dataclass(frozen=True)
class Rows:
    """All samples behind some paths, as rows of one list: their addresses, and columns by name. options: what stands
    after "::" where the list is to be read as its source was."""

    addresses: list[str]
    columns: list[dict[str, str]]
    options: str = ""

    @classmethod
    def of(cls, paths: Sequence[str], suffixes: tuple[str, ...], out: Path) -> Self:
        """What `out` is to be made from; asked before the files are judged, as it raises UserError."""
        if out.suffix not in KINDS:
            raise UserError(f"--fix-list {out}: expected a name that ends in {' or '.join(KINDS)}")
        addresses: list[str] = []
        columns: list[dict[str, str]] = []
        chosen = set()
        for path in paths:
            items = list_items(path, suffixes)
            kept, options = _of_csv(path, suffixes) or (list(_of_items(items)), "")
            addresses += items.addresses
            columns += kept
            chosen.add(options)
        if len(chosen) > 1:
            raise UserError(
                f"--fix-list {out}: the lists {', '.join(paths)} are read in different ways; name one at a time"
            )
        places = sum(map(is_place, addresses))
        if 0 < places < len(addresses):
            raise UserError(
                f"--fix-list {out}: a list holds files, or what is in shards and arrays, and not both: {places} of "
                f"{len(addresses)} are in shards or arrays; name one kind at a time"
            )
        rows = cls(addresses, columns, chosen.pop() if chosen else "")
        rows.check(out)
        return rows

    def check(self, out: Path) -> None:
        """Raises UserError where `out` cannot hold all there is to say."""
        if out.suffix == ".csv":
            return
        if more := {name: None for row in self.columns for name in row if name not in ("path", "label")}:
            raise UserError(f"--fix-list {out}: a .txt has no columns for {', '.join(more)}; name a .csv")
        for address, row in zip(self.addresses, self.columns, strict=True):
            if any(sign in text for sign in BREAKING for text in (address, row.get("label", ""))):
                raise UserError(f"--fix-list {out}: {address!r} cannot be a line of a .txt; name a .csv")

    def text(self, good: Set[str], out: Path) -> str:
        """The list of those that are good. Paths are absolute: the list can lie anywhere."""
        pairs = zip(self.addresses, self.columns, strict=True)
        kept = [{"path": _absolute(address), **row} for address, row in pairs if address in good]
        if out.suffix == ".txt":
            return "".join("\t".join(filter(None, (row["path"], row.get("label", "")))) + "\n" for row in kept)
        into = StringIO(newline="")
        header = {"path": None} | {name: None for row in self.columns for name in row}
        writer = csv.DictWriter(into, list(header), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        return into.getvalue()

    def wrote(self, out: Path, paths: Sequence[str]) -> bool:
        """Whether `out` is a list of some of these samples, as `text` makes it, and not where they are from."""
        named = (path.partition("::")[0] for path in paths)
        if any(os.path.realpath(name) == os.path.realpath(out) for name in named):
            return False
        lines = out.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        return set(lines) <= set(self.text(set(self.addresses), out).splitlines())

    def as_data(self, out: Path) -> str:
        """What --data is to be given."""
        return f"{out}::{self.options}" if self.options else str(out)


def _of_csv(path: str, suffixes: tuple[str, ...]) -> tuple[list[dict[str, str]], str] | None:
    """The rows of a list whose columns have names, without the one that is called path, and how to read them again."""
    listed = is_list(path)
    file, choice = (
        (Path(listed["file"]), listed["choice"]) if listed and not Path(path).exists() else (Path(path), None)
    )
    if file.suffix not in LISTS or not file.is_file():
        return None
    read = read_list(file, choice, suffixes, f"data path '{path}'")
    if not read.rows:
        return None
    options = [part for part in (choice or "").split(",") if part.partition("=")[0] in ("label", "patient", "classes")]
    return [{name: value for name, value in row.items() if name != "path"} for row in read.rows], ",".join(options)


def _of_items(items: Items) -> Iterator[dict[str, str]]:
    for i in range(len(items)):
        row = {}
        if items.labels is not None:
            row["label"] = items.classes[items.labels[i]] if items.labels[i] >= 0 else ""
        if items.marks is not None:
            has = [name for name, mark in zip(items.classes, items.marks[i], strict=True) if mark == 1]
            row["label"] = (BETWEEN.join(has) if len(has) > 1 else f"{''.join(has)}{BETWEEN}") * bool(
                (items.marks[i] >= 0).all()
            )
        if items.patients is not None:
            row["patient"] = items.patients[i]
        yield row


def _absolute(address: str) -> str:
    if remote.is_remote(address):
        return address
    place = MEMBER.fullmatch(address) or ROW.fullmatch(address)
    file = place[1] if place else address
    slash = "/" * (not place and address.endswith("/"))
    return f"{os.path.abspath(file)}{slash}{address[len(file) :]}"  # noqa: PTH100 follows no link
