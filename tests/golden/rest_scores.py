"""Scores: splits, intervals, areas, and the classifiers of probes."""

from unittest import mock

import torch
from golden.rest import Note, area, digest
from golden.rest_model import generator, numbers
from probing import scored_votes
from torch import Tensor

from mae_ext.probing import attentive, classifiers, ranking, scores
from mae_ext.tasks.classify import judge

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
