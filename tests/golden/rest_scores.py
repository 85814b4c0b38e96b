"""Probes and scores: splits, intervals, areas, neighbours, regressions, attention, labels, patients, overlap, precision."""
# ruff: noqa: E501, BLE001, PLW2901, PLC3002, RUF005

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from golden.rest import Note, area, digest, told
from golden.rest_config import BASE, M
from golden.rest_engine import given
from golden.rest_model import generator, numbers
from probing import scored_votes
from torch import Tensor

from mae_ext.config import parse_config
from mae_ext.data.image.boxes import ImageBoxes
from mae_ext.data.sources import classes
from mae_ext.data.sources.table import Items, PathTable
from mae_ext.features.encoder import Features
from mae_ext.probing import attentive, classifiers, labelled, probe, ranking, scores
from mae_ext.probing.spec import ProbeSpec
from mae_ext.sections import PlugIn
from mae_ext.tasks.classify import judge
from mae_ext.tasks.detect import average_precision
from mae_ext.tasks.detect.fcos import Detections
from mae_ext.tasks.segment import overlap
from mae_ext.train_config import ProbeConfig

LABELS = {
    "even": [i % 3 for i in range(24)],
    "one each": [0, 1, 2],
    "one class": [0] * 7,
    "rare": [0] * 15 + [1] * 5 + [2],
    "odd": [0] * 25 + [2] * 15,
    "two": [0, 1],
}


def some_groups(n: int, each: int) -> Tensor:
    return torch.arange(n) // each


def spread_out(y: Tensor, width: int = 6, seed: int = 0, apart: float = 1.0) -> Tensor:
    """(n, width): noise about a place for each class."""
    return numbers(len(y), width, seed=seed) + apart * numbers(5, width, seed=99)[y]


@area()
def splits(note: Note) -> None:
    for kind, labels in LABELS.items():
        y = torch.tensor(labels)
        for seed in (0, 1):
            for draw in (0, 1):
                note(
                    f"split {kind} {seed} {draw}",
                    [p.tolist() if len(p) < 5 else digest(p) for p in scores.split(y, seed, draw)],
                )
                for each in (1, 2, 5, 100):
                    note(
                        f"split {kind} {seed} {draw} patients of {each}",
                        [
                            p.tolist() if len(p) < 5 else digest(p)
                            for p in scores.split(y, seed, draw, some_groups(len(y), each))
                        ],
                    )
    for n in (1, 2, 7):
        for each in (None, 1, 3):
            drawn = scores.resampled(n, 3, None if each is None else some_groups(n, each), 20)
            note(f"resampled {n} patients of {each}", [digest(drawn), list(drawn.shape), int(drawn.sum())])


@area()
def judging(note: Note) -> None:
    for kind, labels in LABELS.items():
        wanted = torch.tensor(labels)
        n, c = len(wanted), int(wanted.max()) + 1
        for how in ("noise", "ties", "right", "more classes"):
            votes = {
                "noise": numbers(n, c),
                "ties": numbers(n, c).round(),
                "right": torch.eye(c)[wanted],
                "more classes": numbers(n, c + 1),
            }[how].softmax(1)
            for each in (None, 3, 100):
                groups = None if each is None else some_groups(n, each)
                note(
                    f"judge {kind} {how} patients of {each}",
                    list(scores.score_classes(votes, wanted, 1, groups).values()),
                )
            note(f"held out {kind} {how}", lambda v=votes, w=wanted: list(judge.class_scores(v, w).values()))
    note(
        "scores",
        [
            scores.scores(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2])),
            scores.accuracy(torch.tensor([1]), torch.tensor([0])),
        ],
    )
    marks = torch.randint(-1, 2, (20, 3), generator=generator(3)).to(torch.int8)
    marks[:, 2] = torch.where(torch.arange(20) == 4, 1, -1)
    tables = {
        "mixed": marks,
        "all known": marks.abs(),
        "unknown": marks * 0 - 1,
        "all have": marks * 0 + 1,
        "one lacks": (marks * 0 + 1).index_fill(0, torch.tensor([2]), 0),
    }
    for kind, table in tables.items():
        for each in (None, 4, 100):
            for how in (1.0, 0.0):
                votes = numbers(20, 3) if how else numbers(20, 3).round()
                note(
                    f"marks {kind} patients of {each} {how}",
                    list(
                        scores.score_marks(
                            votes, table, 2, None if each is None else some_groups(20, each), 100
                        ).values()
                    ),
                )
        note(
            f"each class {kind}",
            [list(v.values()) for v in scores.score_each_class(numbers(20, 3), table, ["a", "b", "c"]).values()],
        )
    with mock.patch.object(scores, "MOST_AREAS", 60):
        note("as many areas as may be", list(scores.score_marks(numbers(20, 3), marks, 0, None, 10).values()))
    with mock.patch.object(scores, "MOST_AREAS", 59):
        note("one area too many", list(scores.score_marks(numbers(20, 3), marks, 0, None, 10).values()))


@area()
def areas(note: Note) -> None:
    for n in (2, 5, 12):
        for how in ("noise", "ties", "equal"):
            score = {"noise": numbers(n), "ties": numbers(n).round(), "equal": numbers(n) * 0}[how]
            for positives in sorted({0, 1, n - 1, n}):
                has = torch.arange(n) * 5 % n < positives
                weight = torch.cat(
                    [torch.ones(1, n), torch.randint(3, (4, n), generator=generator(n)).float(), torch.zeros(1, n)]
                )
                values = [ranking.auroc(score, has, weight), ranking.average_precision(score, has, weight)]
                note(f"areas {n} {how} {positives}", [[round(float(v), 6) for v in row] for row in values])
    with mock.patch.object(ranking, "CHUNK", 8):
        note(
            "in parts",
            [
                ranking.auroc(numbers(5), numbers(5) > 0, torch.ones(7, 5)),
                [len(p) for p in ranking._parts(torch.ones(7, 5))],
            ],
        )


@area(relative=2e-3, absolute=3e-4)
def classifying(note: Note) -> None:
    for kind, labels in LABELS.items():
        y = torch.tensor(labels)
        x, x_test, y_test = spread_out(y), spread_out(y, seed=5), y
        for k in (1, 3, 20):
            votes, counted, settings = classifiers.neighbour_votes(x, y, x_test, k)
            note(
                f"neighbours {kind} {k}",
                [votes, counted, settings, list(scored_votes.knn(x, y, x_test, y_test, k).values())],
            )
        if kind in ("even", "rare"):
            for each, seed in ((None, 0), (2, 1)):
                groups = None if each is None else some_groups(len(y), each)
                note(
                    f"linear {kind} seed {seed} patients of {each}",
                    list(scored_votes.linear(x, y, x_test, y_test, 10, seed, groups, groups).values()),
                )
        for l2 in (0.1, 1.0):
            note(f"softmax {kind} {l2}", classifiers.softmax_regression(x, y, l2, 20))
    note(
        "equal similarity",
        list(
            classifiers.neighbour_votes(
                torch.tensor([[1.0, 0], [1, 0], [0, 1]]), torch.tensor([1, 0, 1]), torch.tensor([[1.0, 0], [1, 1]]), 2
            )[:2]
        ),
    )
    many = torch.arange(1030) % 2
    note("over a thousand", classifiers.neighbour_votes(spread_out(many[:20]), many[:20], spread_out(many), 3)[0])
    constant = torch.cat([spread_out(torch.arange(12) % 2), torch.full((12, 2), 3.0)], 1)
    note("constant features", classifiers.linear_votes(constant, torch.arange(12) % 2, constant + 1, 8)[0])
    with mock.patch.object(classifiers, "MANY", 24):
        note(
            "as many as need one draw",
            classifiers.linear_votes(
                spread_out(torch.tensor(LABELS["even"])), torch.tensor(LABELS["even"]), numbers(3, 6), 8
            )[1],
        )
    marks = torch.randint(-1, 2, (24, 2), generator=generator(3)).to(torch.int8)
    x = numbers(24, 6) + marks[:, :1]
    for kind, table in (
        ("some", marks),
        ("known", marks.abs()),
        ("one", marks.index_fill(1, torch.tensor([1]), -1)),
        ("nobody", marks * 0),
    ):
        for l2 in (1e-2, 1.0):
            note(f"logistic {kind} {l2}", classifiers.logistic_regression(x, table, l2, 40))
        note(
            f"marks {kind}",
            [
                list(scored_votes.knn(x, table, x, table, 5).values()),
                list(scored_votes.linear(x, table, x, table, 6).values()),
            ],
        )
        note(f"marks mean {kind}", classifiers._mean_auroc(numbers(24, 2), table))


@area(relative=3e-3, absolute=1e-3)
def attending(note: Note) -> None:
    for width, grid in ((12, (2, 3)), (8, (2, 2)), (6, (1, 1)), (10, (2, 2, 1)), (7, (3,)), (24, (2, 2))):
        pool = attentive.AttentivePool(width, grid, generator(4))
        n = int(torch.tensor(grid).prod())
        note(
            f"pool {width} {grid}",
            [len(pool.query), pool.place, pool(numbers(2, n, width)), float(pool.value.std()), float(pool.down.std())],
        )
        bigger = tuple(g + 1 for g in grid)
        note(
            f"pool {width} {grid} on another",
            lambda p=pool, b=bigger, w=width: p(numbers(2, int(torch.tensor(b).prod()), w), b),
        )
    y = torch.tensor(LABELS["even"])
    x = numbers(24, 4, 6) + numbers(3, 1, 6, seed=9)[y]
    for seed in (0, 1):
        for each in (None, 3):
            groups = None if each is None else some_groups(24, each)
            note(
                f"attentive {seed} patients of {each}",
                list(attentive.attentive_votes(x, y, x.flip(0), (2, 2), 3, seed, groups)),
            )
    note("attentive scores", list(scored_votes.attentive(x, y, x, y, (2, 2), 2, 0, None, some_groups(24, 2)).values()))
    long = numbers(140, 2, 6)
    fitting = attentive.Fitting(long, torch.arange(140) % 3, (2, 1), 4, 1)
    fitting.mean, fitting.scale = torch.zeros(6), torch.ones(6)
    head = fitting.head(torch.arange(5, 140), 5e-2)
    note("fitted", [head.classify, head.bias, fitting.votes(head, long)])


def features(
    kind: str = "one",
    n: int = 12,
    patients: Any = None,
    start: int = 0,
    names: tuple[str, ...] = ("a", "b", "c"),
    labels: Any = None,
) -> Features:
    found = np.array(labels if labels is not None else [i % len(names) for i in range(n)], dtype=np.int64)
    marks = (
        None if kind == "one" else torch.randint(-1, 2, (n, len(names)), generator=generator(8)).numpy().astype(np.int8)
    )
    x = spread_out(torch.from_numpy(found).clamp(min=0), 5, seed=start).numpy()
    return Features(
        x,
        None if kind == "several" else found,
        names,
        [f"s{start}/{i % 4}/{i}.png" for i in range(n)],
        [],
        marks,
        patients,
    )


@area(relative=2e-3, absolute=3e-4)
def probing(note: Note) -> None:
    people = [f"p{i // 2}" for i in range(12)]
    tables = {
        "plain": features(),
        "unlabelled": features(labels=[-1, 0, 1, 2] * 3),
        "none": features(labels=[-1] * 12),
        "patients": features(patients=people),
        "lacking": features(patients=["", *people[1:]]),
        "lacking unlabelled": features(patients=["", *people[1:]], labels=[-1, *[0, 1] * 5, 1]),
        "several": features("several"),
        "one class": features(labels=[1] * 12),
        "two": features(labels=[0, 2] * 6),
        "infinite": replace(features(), features=features().features * np.inf),
        "no labels": replace(features(), labels=None),
        "one patient": features(patients=["q"] * 12),
        "confounded": features(patients=[f"p{i % 3}" for i in range(12)]),
        "of folders": features(patients=people, labels=[0, 1, 1, 1] * 3),
    }
    made: dict[str, labelled.Labelled] = {}
    for kind, table in tables.items():
        note(
            f"labelled {kind}",
            lambda table=table: (
                lambda d: [
                    len(d.y),
                    d.left_out,
                    d.groups,
                    d.several,
                    d.has_classes(),
                    d.paths[0],
                    digest(d.y),
                    digest(d.paths),
                ]
            )(labelled.labelled(table, "src")),
        )
        try:
            made[kind] = labelled.labelled(table, "src")
        except Exception:
            continue
        data = made[kind]
        note(f"people {kind}", labelled.people(data))
        note(f"confounds {kind}", labelled.confounds(data))
        note(f"classes {kind}", lambda data=data: labelled.check_classes(data))
        mirrored = data.and_mirrored(data.x.flip(1))
        note(f"mirrored {kind}", [mirrored.x, digest(mirrored.y), digest(mirrored.patients), digest(mirrored.paths)])
        rows = data.rows(torch.tensor([2, 0]))
        note(f"rows {kind}", [rows.x, rows.paths, rows.patients, rows.y.tolist()])
        note(
            f"folds {kind}",
            digest(
                {
                    f"{c} {s}": digest(lambda d=data, c=c, s=s: labelled.folds(d, c, s))
                    for c in (1, 2, 3, 5, 6, 7, 12, 13)
                    for s in (0, 1)
                }
            ),
        )
        note(f"folds {kind} told", lambda d=data: labelled.folds(d, 7, 0))
    others = {
        "same": features(start=1),
        "names": features(start=1, names=("b", "c", "a")),
        "unknown": features(start=1, names=("b", "x", "a")),
        "fewer": features(start=1, labels=[1, 2] * 6),
        "several": features("several", start=1),
        "several names": features("several", start=1, names=("c", "d")),
        "several fewer": features("several", start=1, names=("c", "a")),
        "same people": features(start=1, patients=people),
        "other people": features(start=1, patients=[f"r{i // 2}" for i in range(12)]),
        "same files": features(),
    }
    for kind, train in made.items():
        for other, table in others.items():
            if kind in ("plain", "patients", "several", "two"):
                test = labelled.labelled(table, "other")
                note(
                    f"matched {kind} {other}",
                    lambda a=train, b=test: (lambda d: [d.y.tolist() if d.y.ndim == 1 else digest(d.y), d.classes])(
                        labelled.matched(a, b)
                    ),
                )
    marks = labelled.labelled(
        replace(
            features("several", start=1), marks=np.array([[1, -1, 0], [-1, -1, -1], [0, 0, -1]] * 4, dtype=np.int8)
        ),
        "partly",
    )
    note("matched partly known", labelled.matched(made["several"], replace(marks, classes=("b", "c", "a"))).y.tolist())

    class Reads:
        """In the place of an encoder: features that are in memory."""

        def __init__(self, sources: dict[str, Features]) -> None:
            self.sources, self.asked = sources, list[Any]()
            self.encoder: Any = SimpleNamespace(
                path=Path("c"), step=7, modality=SimpleNamespace(grid=(1, 1)), reader=lambda: None
            )

        def features(self, source: str, pool: str, size: int, **more: Any) -> Features:
            self.asked.append([source, pool, size, more["max_bad_fraction"]])
            table = self.sources[source]
            view = more["view"](torch.from_numpy(table.features)).numpy()
            more["progress"](1, 2) if more["progress"] else None
            return replace(
                table, features=view[:, None] if pool == "tokens" else view, bad=[{"path": "x", "kind": "k"}]
            )

    for kind, sources, settings in (
        ("split", ("plain", "same"), {}),
        ("k", ("plain", "same"), {"k": 1}),
        ("seed", ("plain", "same"), {"seed": 3}),
        ("epochs", ("plain", "same"), {"epochs": 1}),
        ("several", ("several", "several"), {}),
        ("folds", ("plain", None), {"folds": 3}),
        ("folds of patients", ("patients", None), {"folds": 3}),
        ("mirrored folds", ("plain", None), {"folds": 3, "mirror": True}),
        ("several folds", ("several", None), {"folds": 2}),
        ("mirrored", ("patients", "other people"), {"mirror": True}),
        ("patients", ("patients", "other people"), {}),
        ("shared", ("patients", "same people"), {}),
        ("attentive several", ("several", "several"), {"attentive": True}),
        ("attentive", ("plain", "same"), {"attentive": True}),
        ("attentive patients folds", ("patients", None), {"attentive": True, "folds": 2}),
        ("attentive mirrored", ("plain", "same"), {"attentive": True, "mirror": True}),
        ("two", ("two", "same"), {}),
        ("unlabelled", ("unlabelled", "fewer"), {}),
    ):
        train, test = sources
        held = Reads({"a": tables[train], **({} if test is None else {"b": others[test]})})
        encoder = SimpleNamespace(features=held.features, **vars(held.encoder))
        usual = {"k": 5, "epochs": 5, "batch_size": 7, "max_bad_fraction": 0.25}
        spec = ProbeSpec("a", None if test is None else "b", **{**usual, **settings})
        with (
            mock.patch.object(attentive, "LEARNING_RATES", (3e-3,)),
            mock.patch.object(probe, "attentive_votes", lambda *a, **k: attentive.attentive_votes(*a, epochs=2, **k)),
        ):
            note(
                f"probe {kind}",
                lambda encoder=encoder, spec=spec: flat(probe.probe_encoder(encoder, spec, "w", lambda *a: None)),
            )
        note(f"probe {kind} asked", held.asked)
    for k, pool, epochs in ((1, "mean", 1), (0, "mean", 1), (1, "mean", 0), (1, "tokens", 1), (1, "class", 1)):
        note(
            f"probe checks {k} {pool} {epochs}",
            lambda k=k, p=pool, e=epochs: ProbeSpec("a", "b", k=k, pool=p, epochs=e) and None,
        )
    note("probe refuses {'baseline': 'x'}", lambda: probe.probe("run", ProbeSpec("a", "t"), baseline="x"))
    for more in ({"test": "t", "folds": 2}, {"test": None}, {"k": 0}):
        note(f"probe refuses {more}", lambda more=more: ProbeSpec("a", **{"test": "t", **more}))
    for every in (1, 3, 4, 5, 100):
        spec = ProbeConfig(every=every, train="a", test="b")
        note(f"due every {every}", [s for s in range(12) if spec.due(s, 10)])


def flat(value: Any) -> Any:
    """Without what depends on the clock."""
    return [list(v.values()) if isinstance(v, dict) else v for k, v in value.items() if k != "seconds"]


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
