"""Features with labels and patients: what a probe learns from and is judged on, and what makes the two comparable."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae_ext.data.sources.classes import real_files
from mae_ext.data.sources.folds import deal
from mae_ext.data.sources.meant import check_classes as check_meant
from mae_ext.engine.log import warn
from mae_ext.errors import UserError, some
from mae_ext.features.encoder import Features


@dataclass(frozen=True)
class Labelled:
    """The labelled rows of a source.

    x: (n, D), or (n, N, D) tokens. y: (n,) int64 into `classes`; or (n, classes) int8 marks, 1, 0 and -1 (not known),
    where a sample can have several. patients: (n,) names, or None where the source knows none. left_out: rows without
    a label.
    """

    source: str
    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    patients: tuple[str, ...] | None
    left_out: int

    @property
    def groups(self) -> Tensor | None:
        """(n,) int64: a number for each patient."""
        if self.patients is None:
            return None
        number = {name: i for i, name in enumerate(sorted(set(self.patients)))}
        return torch.tensor([number[name] for name in self.patients])

    @property
    def several(self) -> bool:
        return self.y.ndim == 2

    def rows(self, index: Tensor) -> "Labelled":
        """(m,) int64 -> these rows, in this order."""
        chosen = index.tolist()
        patients = None if self.patients is None else tuple(self.patients[i] for i in chosen)
        paths = tuple(self.paths[i] for i in chosen)
        return replace(self, x=self.x[index], y=self.y[index], paths=paths, patients=patients)

    def and_mirrored(self, mirrored: Tensor) -> "Labelled":
        """(n, ...) features of the same samples, mirrored -> 2n rows. A sample and its mirror image stay together."""
        together = self.patients or tuple(map(str, range(len(self.y))))
        x, y = torch.cat([self.x, mirrored]), torch.cat([self.y, self.y])
        return replace(self, x=x, y=y, paths=self.paths * 2, patients=together * 2)

    def have(self, label: int) -> Tensor:
        """(n,) bool: which samples have the class."""
        return self.y[:, label] == 1 if self.several else self.y == label

    def has_classes(self) -> list[int]:
        return [label for label in range(len(self.classes)) if bool(self.have(label).any())]


def labelled(features: Features, source: str) -> Labelled:
    """Raises UserError: nothing is labelled, a patient is left out, or the features are not finite."""
    several = features.marks is not None
    table = features.marks if several else features.labels
    y = None if table is None else torch.from_numpy(table)
    known = None if y is None else (y >= 0).any(1) if several else y >= 0
    if y is None or known is None or not bool(known.any()):
        raise UserError(
            f"{source}: no labels; expected one folder for each class, a list with a column of labels, or a labelled "
            ".npz or shard"
        )
    check_meant(features.classes, features.sources, source)
    x = torch.from_numpy(features.features)[known]
    if not bool(x.isfinite().all()):
        raise UserError(f"{source}: the encoder gives features that are not finite; the checkpoint is of no use")
    chosen = known.nonzero()[:, 0].tolist()
    patients = None if features.patients is None else tuple(features.patients[i] for i in chosen)
    paths = tuple(features.sources[i] for i in chosen)
    if patients is not None and "" in patients:
        raise UserError(
            f"{source}: {paths[patients.index('')]} has no patient; where a list has the column, every labelled row "
            "needs one, or two of them may be of one patient"
        )
    return Labelled(source, x, y[known], features.classes, paths, patients, len(features.sources) - len(chosen))


def matched(train: Labelled, test: Labelled) -> Labelled:
    """Test with labels as numbers into train's classes. Raises UserError where the two cannot be compared."""
    if train.several != test.several:
        one, more = (test, train) if train.several else (train, test)
        raise UserError(
            f"{more.source} gives a sample several classes and {one.source} one; label both in the same way"
        )
    _same_people(train, test)
    present = train.has_classes()
    check_classes(train)
    where = {name: i for i, name in enumerate(train.classes)}
    unknown = [test.classes[i] for i in test.has_classes() if where.get(test.classes[i]) not in present]
    if unknown:
        known = some([train.classes[i] for i in present])
        raise UserError(
            f"{test.source}: class {some([*map(repr, unknown)])} is not in the training data {train.source} "
            f"(there: {known}); train and test need the same class names"
        )
    if not test.several:
        renumber = torch.tensor([where.get(name, -1) for name in test.classes])
        return replace(test, y=renumber[test.y], classes=train.classes)
    # Where a list names the classes of its samples, one that it never names is one that nobody in it has.
    y = torch.where((test.y >= 0).any(1), 0, -1)[:, None].repeat(1, len(train.classes)).to(test.y.dtype)
    for i, name in enumerate(test.classes):
        if name in where:
            y[:, where[name]] = test.y[:, i]
    return replace(test, y=y, classes=train.classes)


def check_classes(train: Labelled) -> None:
    """Raises UserError where there is nothing to tell apart."""
    present = len(train.has_classes())
    if present < (1 if train.several else 2):
        plural = "class" if present == 1 else "classes"
        raise UserError(f"{train.source}: its labels have {present} {plural}; a probe needs at least two")


def _same_people(train: Labelled, test: Labelled) -> None:
    if train.patients is not None and test.patients is not None:
        both = sorted(set(train.patients) & set(test.patients))
        if both:
            raise UserError(
                f"{len(both)} patient(s) are in both {train.source} and {test.source}: {some(both)}; what "
                "one patient shows is alike, and the score would be too good: put each on one side, or use --folds"
            )
    same = set(real_files(train.paths)) & set(real_files(test.paths))
    if same:
        warn(f"{len(same)} of {len(test.paths)} test samples are in the training data too, {min(same)} among them")


def folds(data: Labelled, count: int, seed: int) -> Tensor:
    """-> (n,) int64 in 0..count-1: whole patients where they are known, classes spread as evenly as these allow.

    Raises UserError: fewer patients (or samples) than folds, or a class that one fold has all of.
    """
    what = "patients" if data.groups is not None else "samples"
    groups = range(len(data.y)) if data.groups is None else data.groups.tolist()
    kinds = [0] * len(data.y) if data.several else data.y.tolist()
    try:
        fold = torch.tensor(deal(groups, kinds, count, seed))
    except ValueError:
        most = len(set(groups))
        raise UserError(f"folds={count}: expected 2 up to the number of {what} in {data.source}, {most}") from None
    check_classes(data)
    for label in data.has_classes():
        holding = fold[data.have(label)].unique()
        if len(holding) < 2:
            who = f" (patient {some(_whose(data, label))})" if data.patients is not None else ""
            raise UserError(
                f"{data.source}: all samples of class '{data.classes[label]}'{who} fall into one fold, so nothing is "
                f"left to learn it from; it needs at least two {what}: add some, or leave the class out of the list"
            )
    return fold


def people(data: Labelled) -> dict[str, Any] | None:
    """{"count": patients, "classes": {class: patients that have it}}; None where no patients are known."""
    if data.patients is None:
        return None
    classes = {data.classes[c]: len(_whose(data, c)) for c in data.has_classes()}
    return {"count": len(set(data.patients)), "classes": classes}


def confounds(data: Labelled) -> list[str]:
    """Sentences on classes that come with something else than themselves, where patients are known."""
    if data.patients is None:
        return []
    sentences = []
    folders = [str(Path(path).parent) for path in data.paths]
    for c in data.has_classes():
        rows = data.have(c).nonzero()[:, 0].tolist()
        name, who, places = data.classes[c], _whose(data, c), {folders[i] for i in rows}
        if len(who) == 1:
            sentences.append(f"class '{name}' is one patient, {who[0]}: what tells it apart may be the patient")
        elif len(places) == 1 and not any(f in places for i, f in enumerate(folders) if i not in set(rows)):
            sentences.append(
                f"all {len(who)} patients of class '{name}' are from {min(places)}, and nobody else is: what tells the "
                "class apart may be the source"
            )
    return [f"{data.source}: {sentence}" for sentence in sentences]


def _whose(data: Labelled, label: int) -> Sequence[str]:
    assert data.patients is not None
    return sorted({data.patients[i] for i in data.have(label).nonzero()[:, 0].tolist()})
