"""Labels of sources, overlap of label maps, and average precision of boxes."""

# ruff: noqa: PLW2901, RUF005

from typing import Any
from unittest import mock

import numpy as np
import torch
from golden.rest import Note, area, digest, told
from golden.rest_config import BASE, M
from golden.rest_engine import given
from golden.rest_model import generator, numbers

from mae_ext.config import parse_config
from mae_ext.data.image.boxes import ImageBoxes
from mae_ext.data.sources import classes
from mae_ext.data.sources.table import Items, PathTable
from mae_ext.sections import PlugIn
from mae_ext.tasks.detect import average_precision
from mae_ext.tasks.detect.fcos import Detections
from mae_ext.tasks.segment import overlap


def listed(labels: Any, names: tuple[str, ...] = ("a", "b", "c"), start: int = 0, patients: Any = None) -> Items:
    paths = PathTable(f"d{start}/{i}.png" for i in range(len(labels)))
    return Items(
        paths,
        labels=np.array(labels, dtype=np.int64),
        classes=names,
        patients=None if patients is None else PathTable(patients),
    )


@area()
def labels(note: Note) -> None:
    for value in (
        0.1,
        1.0,
        0.0,
        -0.1,
        1.01,
        0,
        1,
        2,
        10,
        -1,
        True,
        False,
        "1 each",
        "10 each",
        "0 each",
        "x",
        "10",
        "01 each",
        None,
    ):
        note(f"labels {value!r}", lambda value=value: classes.share_or_count(value))
    train, test = listed([0, 0, 0, 1, 1, 1, 1, 2, 2, 2, -1]), listed([2, 1, 0, -1], ("c", "b", "a"), 1)
    sources: dict[str, Items] = {
        "train": train,
        "test": test,
        "one": listed([1, 1]),
        "none": listed([-1, -1]),
        "unknown": listed([0, 1], ("a", "x"), 1),
        "same": listed([0, 1]),
        "gap": listed([0, 2, 2]),
        "people": listed([0, 1, 0], patients=["p", "q", ""]),
        "shared": listed([0, 1, 0], start=1, patients=["p", "r", ""]),
        "others": listed([0, 1, 0], start=1, patients=["s", "r", ""]),
    }
    with mock.patch.object(classes, "list_items", lambda path, suffixes: sources[path]):
        for path, other, count, seed in (
            ("train", None, 1.0, 0),
            ("train", "test", 1.0, 0),
            ("train", "test", 0.5, 0),
            ("train", "test", 0.5, 1),
            ("train", None, 0.01, 0),
            ("train", None, 0.17, 0),
            ("train", None, 2, 0),
            ("train", None, 3, 0),
            ("train", None, 4, 0),
            ("train", None, 5, 0),
            ("one", None, 1.0, 0),
            ("none", None, 1.0, 0),
            ("train", "unknown", 1.0, 0),
            ("train", "same", 1.0, 0),
            ("gap", "test", 1.0, 0),
            ("gap", None, 1, 0),
            ("people", "shared", 1.0, 0),
            ("people", "others", 1.0, 0),
            ("people", "none", 1.0, 0),
        ):

            def dealt(path: str = path, other: Any = other, count: Any = count, seed: int = seed) -> Any:
                found = classes.labelled_split("image", path, other, (".png",), count, seed)
                return [
                    [list(part.addresses), [int(v) for v in part.labels]] if part is not None else None
                    for part in (found.train, found.test)
                ] + [found.classes]

            note(
                f"split {path} {other} {count} {seed}",
                lambda dealt=dealt: digest(dealt()) if isinstance(told(dealt()), list) else None,
            )
    for old in (None, ["a", "b"], ["b", "a"], ["a"], ["a", "b", "c"], []):

        def settled(old: Any = old) -> Any:
            before = None if old is None else parse_config({**BASE, "task": {"name": "classify", "classes": old}})
            found = classes.settled(PlugIn(name="classify", labels=2), ["a", "b"], before)
            return [found.name, found.arguments]

        note(f"settled {old}", settled)
    note("quoted", classes.quoted(list("abcdefgh")))
    note("given", given({M + "batch": 2}).samples_per_step)


@area()
def overlaps(note: Note) -> None:
    base = (np.arange(2 * 6 * 7).reshape(2, 6, 7) * 13 % 31 // 9).astype(np.int32).clip(0, 2)
    shapes = {
        "same": base,
        "shifted": np.roll(base, 1, 2),
        "nothing": base * 0,
        "one class": np.minimum(base, 1),
        "swapped": (3 - base) % 3,
        "spurious": np.where(base == 0, 1, base),
    }
    ignored = {
        "known": base,
        "partly": np.where(np.arange(7) < 2, overlap.IGNORED, base).astype(np.int32),
        "unknown": base * 0 + overlap.IGNORED,
        "empty": base * 0,
        "only two": np.where(base == 2, 2, 0),
    }
    for f, found in shapes.items():
        for w, wanted in ignored.items():
            note(f"dice {f} {w}", overlap.dice(found, wanted, ["a", "b"]))
            note(f"wrongly {f} {w}", list(overlap.found_wrongly(found, wanted, ["a", "b"]).values()))
            if f in ("shifted", "nothing", "one class") and w in ("known", "partly", "only two"):
                for spacing in (None, (2.0, 1.0, 0.5)):
                    note(
                        f"surface {f} {w} {spacing}",
                        list(overlap.surface_scores(found, wanted, ["a", "b"], spacing).values()),
                    )
    far = np.zeros((1, 12, 40), np.int32)
    far[:, :4, :30] = 1
    stray = far.copy()
    stray[0, 11, 39] = 1
    note("stray", overlap.surface_scores(stray, far, ["a"], None))
    rows = [
        {"dice/a": 0.5, "missed/a": 1.0, "hd95/a": 3.0, "background_only": 0.0},
        {"dice/a": 1.0, "dice/b": 0.2, "missed/a": 1.0, "missed/b": 0.0, "background_only": 1.0},
        {"spurious/b": 1.0},
    ]
    for n in range(4):
        note(f"mean scores {n}", overlap.mean_scores(rows[:n]))
    answers = numbers(2, 3, 4, 5)
    for w, wanted in (
        ("known", torch.randint(3, (2, 4, 5), generator=generator(1))),
        ("partly", torch.randint(-1, 3, (2, 4, 5), generator=generator(1))),
        ("one unknown", torch.cat([torch.full((1, 4, 5), -1), torch.ones(1, 4, 5, dtype=torch.long)])),
        ("background", torch.zeros(2, 4, 5, dtype=torch.long)),
    ):
        wanted = torch.where(wanted < 0, overlap.IGNORED, wanted)
        note(f"loss {w}", overlap.loss_of_known(answers, wanted))


def boxes(*rows: tuple[float, float, float, float, int, bool]) -> ImageBoxes:
    return ImageBoxes(
        torch.tensor([r[:4] for r in rows]).view(-1, 4).float(),
        torch.tensor([r[4] for r in rows], dtype=torch.long),
        torch.tensor([r[5] for r in rows], dtype=torch.bool),
        (50, 60),
    )


def detected(*rows: tuple[float, float, float, float, int, float]) -> Detections:
    return Detections(
        torch.tensor([r[:4] for r in rows]).view(-1, 4),
        torch.tensor([r[5] for r in rows]),
        torch.tensor([r[4] for r in rows], dtype=torch.long),
    )


@area()
def precision(note: Note) -> None:
    a, b = (10.0, 10.0, 30.0, 25.0), (5.0, 20.0, 40.0, 44.0)
    truths = {
        "one": [boxes((*a, 0, False))],
        "two": [boxes((*a, 0, False), (*b, 1, False)), boxes((*b, 0, False))],
        "crowd": [boxes((*a, 0, False), (*b, 0, True))],
        "none": [boxes()],
        "only crowd": [boxes((*b, 1, True))],
    }
    answers = {
        "none": [()],
        "exact": [((*a, 0, 0.9),)],
        "near": [((11.0, 10.0, 31.0, 24.0, 0, 0.9),)],
        "both": [((*a, 0, 0.9), (*b, 1, 0.8))],
        "wrong class": [((*a, 1, 0.9),)],
        "crowd": [((*a, 0, 0.3), (*b, 0, 0.9))],
        "many": [tuple((float(i), 1.0, i + 9.0, 9.0, 0, 0.99 - i / 500) for i in range(110)) + ((*a, 0, 0.5),)],
        "worse first": [((*b, 0, 0.95), (*a, 0, 0.9))],
    }
    for t, truth in truths.items():
        for f, found in answers.items():
            given_ = [detected(*rows) for rows in found] + [detected((*b, 0, 0.5))] * (len(truth) - 1)
            note(
                f"precision {t} {f}",
                lambda truth=truth, g=given_: average_precision.average_precision(truth, g, ["x", "y", "z"]),
            )
