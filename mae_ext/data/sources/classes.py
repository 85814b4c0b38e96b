"""Labelled samples for a task: what is trained on, what is judged on, and what cannot be used, by name."""

import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from mae_ext.config import Config
from mae_ext.data.sources.meant import check_classes, one_class
from mae_ext.data.sources.path_table import PathTable
from mae_ext.data.sources.table import Items, list_items
from mae_ext.errors import UserError, some
from mae_ext.rng import rng
from mae_ext.sections import PlugIn

log = logging.getLogger("mae_ext.data.sources.table")
"""As what a listing passes over is said."""

EACH = re.compile(r"([1-9][0-9]*) each")


@dataclass(frozen=True)
class Split:
    """train, test: labelled samples alone, their labels numbers into `classes`, the names that occur in train.

    listed: all that the source of `test` holds.
    """

    train: Items
    test: Items | None
    classes: tuple[str, ...]
    listed: Items | None


def share_or_count(labels: float | int | str) -> float | int:
    """What `labels` says: a share of each class with a point (0.1, and 1.0 for all), or a count (10, or "10 each").

    Raises ValueError for what is neither, and for a plain 1, which is written for all of them as often as for one.
    """
    if isinstance(labels, str) and (each := EACH.fullmatch(labels)):
        return int(each[1])
    if not isinstance(labels, bool) and labels == 1 and isinstance(labels, int):
        raise ValueError("labels=1: all of them, or one of each class? Write 1.0 for all, or '1 each' for one of each")
    if isinstance(labels, int) and not isinstance(labels, bool) and labels > 1:
        return labels
    if isinstance(labels, float) and 0 < labels <= 1:
        return labels
    raise ValueError(
        f"labels={labels!r}: expected a share of each class, above 0 and at most 1.0, or a count (10, or '10 each')"
    )


def labelled_split(
    name: str, path: str, test: str | None, suffixes: tuple[str, ...], labels: float | int, seed: int
) -> Split:
    """labels: a share of the samples of each class (0.1, at least one sample), or so many samples a class (10).

    Which ones is a function of (seed, class). Raises UserError: no labels, one class, a class seen only in test, fewer
    samples than asked for, a file or a patient on both sides.
    """
    items = _labelled(list_items(path, suffixes), path)
    assert items.labels is not None
    classes = tuple(items.classes[i] for i in np.unique(items.labels))
    if len(classes) < 2:
        instead = one_class(items, path)
        raise UserError(
            f"{path}: all samples are of one class, '{classes[0]}'; a classifier needs at least two{instead}"
        )
    train = _renumbered(items, classes)
    listed = held_out = None
    if test is not None:
        listed = list_items(test, suffixes)
        held_out = _labelled(listed, test)
        assert held_out.labels is not None
        unknown = [held_out.classes[i] for i in np.unique(held_out.labels) if held_out.classes[i] not in classes]
        if unknown:
            raise UserError(
                f"{test}: class {quoted(unknown)} is not in the training data {path} (there: {quoted(classes)}); "
                f"train and test need the same class names"
            )
        held_out = _renumbered(held_out, classes)
        check_apart(train, held_out, path, test)
    return Split(_share(train, classes, labels, seed, name, path), held_out, classes, listed)


def _labelled(items: Items, path: str) -> Items:
    known = np.zeros(0, dtype=np.int64) if items.labels is None else np.flatnonzero(items.labels >= 0)
    if not len(known):
        what = "samples with several labels each" if items.marks is not None else "no labels"
        raise UserError(
            f"{path}: {what}; expected one folder for each class, a .csv with the columns path and label (of another "
            f"name: 'x.csv::label=NAME'), or a labelled .npz or shard"
        )
    check_classes(items.classes, items.addresses, path)
    left = len(items) - len(known)
    if left:
        log.warning("data path '%s': %d samples without a label are left out", path, left)
    return replace(_taken(items, known), ignored={**items.ignored, **({"unlabelled": left} if left else {})})


def _taken(items: Items, rows: NDArray[np.int64]) -> Items:
    if len(rows) == len(items):
        return items
    assert items.labels is not None
    return replace(
        items,
        addresses=PathTable(items.addresses[int(i)] for i in rows),
        labels=items.labels[rows],
        patients=None if items.patients is None else PathTable(items.patients[int(i)] for i in rows),
    )


def _renumbered(items: Items, classes: tuple[str, ...]) -> Items:
    assert items.labels is not None
    number = np.array([classes.index(c) if c in classes else -1 for c in items.classes], dtype=np.int64)
    return replace(items, labels=number[items.labels], classes=classes)


def real_files(addresses: Iterable[str]) -> list[str]:
    """The file behind each address, however it is spelt and whichever links to its folder it goes through."""
    folders: dict[str, str] = {}  # a link is read once for each folder, and not for each of a million files
    files = []
    for address in addresses:
        folder, name = os.path.split(address.rstrip("/"))
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        files.append(f"{folders[folder]}/{name}")
    return files


def check_apart(train: Items, test: Items, path: str, test_path: str) -> None:
    """Raises UserError where a file or a patient is on both sides, by name."""
    ours, theirs = (set(real_files(items.addresses)) for items in (train, test))
    pairs = [("file", ours & theirs)]
    if train.patients is not None and test.patients is not None:
        pairs.append(("patient", (set(train.patients) & set(test.patients)) - {""}))
    for what, shared in pairs:
        if shared:
            raise UserError(
                f"{len(shared)} {what}{'s' * (len(shared) > 1)} on both sides of the split, in {path} and in "
                f"{test_path}: {quoted(sorted(shared))}; a score on what was trained on says nothing, so keep each on "
                f"one side"
            )


def _share(items: Items, classes: tuple[str, ...], labels: float | int, seed: int, name: str, path: str) -> Items:
    assert items.labels is not None
    if isinstance(labels, float) and labels == 1:
        return items
    chosen = []
    for number, called in enumerate(classes):
        members = np.flatnonzero(items.labels == number)
        count = labels if isinstance(labels, int) else max(1, round(labels * len(members)))
        if count > len(members):
            raise UserError(
                f"task.labels={labels}: {path} has {len(members)} samples of class '{called}'; ask for less"
            )
        order = torch.randperm(len(members), generator=rng(seed, "labels", name, called)).numpy()
        chosen.append(members[order[:count]])
    return _taken(items, np.sort(np.concatenate(chosen)))


def settled(task: PlugIn, classes: Sequence[str], old: Config | None) -> PlugIn:
    """The task with the classes of its data. Of a resumed run they are `old`'s, or its head would answer for others.

    Raises UserError where they are not, which no --allow-change can permit.
    """
    before = classes if old is None else old.task.arguments.get("classes", [])
    if list(before) != list(classes):
        raise UserError(
            f"the run's classes are {quoted(before)}, and the data has {quoted(classes)}; its head cannot go on with "
            f"others: start a new run, with --init of this one"
        )
    return PlugIn(name=task.name, **{**task.arguments, "classes": list(classes)})


def quoted(names: Sequence[str]) -> str:
    return some([f"'{name}'" for name in names])
