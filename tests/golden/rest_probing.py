"""Probes: features, what is read of sources, and results."""

# ruff: noqa: BLE001, PLC3002
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from golden.rest import Note, area, digest
from golden.rest_model import generator
from golden.rest_scores import spread_out

from mae_ext.features.encoder import Features
from mae_ext.probing import attentive, labelled, probe
from mae_ext.probing.spec import ProbeSpec
from mae_ext.train_config import ProbeConfig


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
            shown = more["view"] or (lambda x: x)
            view = shown(torch.from_numpy(table.features)).numpy()
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
