"""How many labels: levels by name, nested draws of them, and the lists that a training reads them from."""

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import torch

from mae_ext.data.plan import spread
from mae_ext.data.sources.archive import is_place
from mae_ext.data.sources.folds import deal
from mae_ext.data.sources.table import Items
from mae_ext.errors import UserError
from mae_ext.rng import rng
from mae_ext.writing import blamed_on, staged

DEFAULT = "1, 3, 10, 10 %, all"
FOLDS = 5
"""Of the training data one in so many parts is held back to choose rates on."""

MOST_HELD = 500
"""Samples of that part that are judged, at most: it is judged once for each rate that is tried."""


@dataclass(frozen=True)
class Labels:
    """What may be learned from. kinds: the class of each sample, or "" where samples have no class of their own.

    name: of the modality. unit: what a sample is called. bad: rows that are known not to be readable, in no draw.
    """

    items: Items
    kinds: tuple[str, ...]
    name: str
    unit: str
    bad: frozenset[int] = frozenset()

    @classmethod
    def of(cls, items: Items, name: str, unit: str, by_class: bool) -> "Labels":
        numbers = [-1] * len(items) if not by_class or items.labels is None else items.labels.tolist()
        return cls(items, tuple("" if number < 0 else items.classes[number] for number in numbers), name, unit)

    @property
    def groups(self) -> list[str]:
        """Of each sample its patient, or itself."""
        patients = self.items.patients
        return list(self.items.addresses) if patients is None else list(patients)

    def members(self) -> dict[str, list[int]]:
        """Rows of each kind, in the order of the listing."""
        rows: dict[str, list[int]] = {}
        for row, kind in enumerate(self.kinds):
            rows.setdefault(kind, []).append(row)
        return dict(sorted(rows.items()))

    def only(self, rows: Sequence[int]) -> "Part":
        return Part(self, tuple(rows))


@dataclass(frozen=True)
class Level:
    """A number of labels. count: of each kind; share: of each kind, 1 is all."""

    count: int | None
    share: float | None

    @classmethod
    def of(cls, text: str) -> "Level":
        word = text.replace(" ", "").lower()
        if word in ("all", "100%"):
            return cls(None, 1.0)
        if percent := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)%", word):
            share = float(percent[1]) / 100
            if 0 < share <= 1:
                return cls(None, share)
        elif re.fullmatch(r"[1-9]\d*", word):
            return cls(int(word), None)
        raise UserError(
            f"--labels: '{text.strip()}' is no number of labels; expected, with commas between, whole numbers (of each "
            f"class, or scans) from 1, shares such as 10 % up to 100 %, or all"
        )

    def called(self, labels: Labels) -> str:
        """As a table has it: "10 a class", "3 scans", "10 %", "all"."""
        if self.count is None:
            assert self.share
            return "all" if self.share == 1 else f"{100 * self.share:g} %"
        return (
            f"{self.count} a class"
            if set(labels.kinds) != {""}
            else f"{self.count} {labels.unit}" + "s" * (self.count > 1)
        )

    def wants(self, members: int) -> int:
        """Of so many samples of a kind; of a share at least one."""
        return self.count if self.count is not None else max(1, round((self.share or 1) * members))


@dataclass(frozen=True)
class Part:
    """Some of the samples: `rows` of `labels`, ascending."""

    labels: Labels
    rows: tuple[int, ...]

    def drawn(self, level: Level, seed: int) -> "Part | None":
        """Of each kind so many; None where one has not as many. A larger level holds what a smaller one has.

        Which ones is a function of (seed, kind) alone: those that `task.labels` of a classification would take, and the
        next in that order in the place of one that cannot be read.
        """
        mine = set(self.rows) - self.labels.bad
        if level.share == 1:
            return Part(self.labels, tuple(sorted(mine)))
        chosen = list[int]()
        for kind, members in self.labels.members().items():
            order = torch.randperm(len(members), generator=rng(seed, "labels", self.labels.name, kind)).tolist()
            own = [members[i] for i in order if members[i] in mine]
            count = level.wants(len(own))
            if count > len(own):
                return None
            chosen += own[:count]
        return Part(self.labels, tuple(sorted(chosen)))

    def held_back(self) -> "tuple[Part, Part] | None":
        """(a part to learn from, a part to choose on): patients whole, every kind in both; None where that is not."""
        groups = self.labels.groups
        own, kinds = [groups[row] for row in self.rows], [self.labels.kinds[row] for row in self.rows]
        count = min(FOLDS, len(set(own)))
        if count < 2:
            return None
        fold = deal(own, kinds, count, 0)
        fit = tuple(row for row, part in zip(self.rows, fold, strict=True) if part)
        held = [row for row, part in zip(self.rows, fold, strict=True) if not part]
        held = [row for i in spread(len(held), MOST_HELD) if (row := held[i]) not in self.labels.bad]
        if {self.labels.kinds[row] for row in fit} != set(kinds) or not held:
            return None
        return Part(self.labels, fit), Part(self.labels, tuple(held))

    def written(self, path: Path) -> Path:
        """A list of them, as --data takes it."""
        items, labels = self.labels.items, self.labels
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        patients = items.patients
        classed = set(labels.kinds) != {""}
        writer.writerow(["path", *["label"] * classed, *["patient"] * (patients is not None)])
        for row in self.rows:
            address = items.addresses[row]
            whose = [] if patients is None else [patients[row]]
            writer.writerow([_absolute(address), *[labels.kinds[row]] * classed, *whose])
        with blamed_on(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with staged(path) as [partial]:
            partial.write_text(text.getvalue(), encoding="utf-8", errors="surrogateescape")
        return path


def levels_of(text: str | None, labels: Labels) -> list[tuple[Level, str]]:
    """Levels that differ, the smallest first, with their names. text: None is DEFAULT, as far as there are as many.

    Raises UserError for what is no level, and for more labels than there are.
    """
    levels, whole = dict[tuple[int, ...], Level](), labels.only(range(len(labels.kinds)))
    for word in (DEFAULT if text is None else text).split(","):
        level = Level.of(word)
        part = whole.drawn(level, 0)
        if part is None and text is None:
            continue
        if part is None:
            least, kind = min((len(set(rows) - labels.bad), kind) for kind, rows in labels.members().items())
            of = f"class '{kind}' has {least}" if kind else f"there {'is' if least == 1 else 'are'} {least}"
            units = f"labelled {labels.unit}{'s' * (least != 1)}{' that can be read' * bool(labels.bad)}"
            raise UserError(f"--labels {word.strip()}: {of} {units}; ask for fewer")
        if part.rows not in levels or level.share == 1:  # "all" takes the place of a number that is all there are
            levels[part.rows] = level
    return [(level, level.called(labels)) for _, level in sorted(levels.items(), key=lambda pair: len(pair[0]))]


def check_patients(items: Items, source: str) -> None:
    """Raises UserError where a sample has no patient, and others have."""
    names = [] if items.patients is None else list(items.patients)
    if "" in names:
        raise UserError(
            f"{source}: {items.addresses[names.index('')]} has no patient; where a list has the column, every row "
            "needs one, or two of them may be of one patient"
        )


def _absolute(address: str) -> str:
    """However the list lies; of a member or a row of an archive the file that it begins with."""
    if not is_place(address):
        return os.path.abspath(address)  # noqa: PTH100 follows no link
    file, sign, rest = address.partition("::")
    return address if "://" in file else os.path.abspath(file) + sign + rest  # noqa: PTH100
