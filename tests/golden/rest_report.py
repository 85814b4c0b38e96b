"""Reports: curves, histories, pages, probes, maps, neighbours, planes, boxes, pictures; weights of other libraries."""

import json
import re
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from golden.rest import Note, area, digest
from golden.rest_engine import given
from golden.rest_model import numbers
from golden.rest_records import saved
from PIL import Image

from mae_ext.drawing import boxes, panels, planes
from mae_ext.features import map as maps
from mae_ext.features import neighbours
from mae_ext.features.encoder import Features
from mae_ext.model.mask import Mask
from mae_ext.report import curves, history, page, pictures, probes


def wave(n: int, spike: float = 0.0) -> np.ndarray:
    values = np.sin(np.arange(n) * 0.7) + 2
    if spike:
        values[n // 2] = spike
    return values


@area()
def charts(note: Note) -> None:
    for value in (
        0,
        1,
        0.00015,
        0.001,
        0.000999,
        12.3456,
        9999,
        10000,
        12345,
        999999,
        1e6,
        1e9,
        -2e6,
        -0.0005,
        float("nan"),
        float("inf"),
        0.1234567,
    ):
        note(f"short {value}", curves.short(value))
    for low, high in ((0, 1), (0, 0), (1, 0), (-3, 7), (0.1, 0.11), (0, 1e6), (2, 2.5), (0, 9.99)):
        for count in (5, 6, 1):
            note(f"ticks {low} {high} {count}", str(curves.ticks(low, high, count)))
    for n in (1, 2, 19, 20, 400, 401, 900):
        for spike in (0.0, 99.0):
            s = curves.Series("a<b", np.arange(n, dtype=float), wave(n, spike))
            note(
                f"curve of {n} spike {spike}",
                [
                    [float(v.sum()) for v in curves.thin(s)],
                    *(curves.limits([s], zero) for zero in (False, True)),
                    *(digest(curves.curve("t", [s, s][: 1 + zero], " %", zero)) for zero in (False, True)),
                ],
            )
    broken = curves.Series("x", np.array([0.0, 1, 2]), np.array([1.0, np.nan, 3]))
    note("not finite", curves.curve("t & u", [broken], width=curves.WIDE))
    note("nothing", curves.curve("t", []))
    for n in (1, 2, 5):
        for d in (1, 2, 4):
            note(f"pca {n} {d}", list(maps.pca(numbers(n, d).numpy() * np.arange(1, d + 1) + 3)))
    for names in (["a", "b", None, "a"], [None], list("abcdefghijkl") * 2 + ["z"], [*"abcdefghij"]):
        note(f"palette {names}", maps.palette(names))
    note("names", [maps._short(n) for n in ("a$b", "_x", "x" * 24, "x" * 25, "a\nb")])
    for seed, most in ((0, 20_000), (1, 20_000), (0, 4)):
        seen: list[Any] = []
        with (
            mock.patch.object(
                maps,
                "_scatter",
                lambda axes, kind, points, titles, names, colours, seen=seen: seen.append(
                    [kind, points, titles, names]
                ),
            ),
            mock.patch.object(maps, "has_umap", return_value=False),
            mock.patch.object(maps, "MAX_POINTS", most),
        ):
            maps.draw_map(numbers(7, 3).numpy(), [*"abcabc", None], Path("map.png"), "title", seed)
        note(f"map {seed} of {most}", seen)
    for labels in (None, np.array([0, 0, 1, 2, -1, 1, 0]), np.array([-1] * 7)):
        for count in (1, 3, 7, 9):
            note(
                f"asked {None if labels is None else labels.tolist()} {count}",
                [neighbours.choose(labels, 7, count, seed) for seed in (0, 1)],
            )
    for count in (1, 2, 4):
        note(
            f"nearest {count}",
            list(neighbours.nearest(numbers(5, 3).numpy() * np.arange(1, 6)[:, None], [3, 0], count)),
        )
    for n, kind in ((0, "labels"), (1, "unlabelled"), (2, "several")):
        table = Features(
            np.zeros((3, 1)),
            None if kind == "several" else np.array([0, 1, -1]),
            ("x", "y"),
            ["p/a.png", "b.nii.gz", "c"],
            [],
            np.array([[1, 1], [0, 1], [-1, 0]]) if kind == "several" else None,
        )
        note(f"titles {kind} {n}", [neighbours._title(table, row, near) for row in range(3) for near in (None, 0.456)])


@area()
def slices(note: Note) -> None:
    for shape in ((4, 5, 6), (3, 3, 3), (1, 4, 2)):
        for spacing in (None, (1.0, 1.0, 1.0), (4.0, 1.0, 1.5), (0.5, 2.0, 1.0)):
            note(f"planes {shape} {spacing}", planes.three_planes(numbers(1, *shape), spacing))
    grey = Image.fromarray((np.arange(60 * 80 * 3).reshape(60, 80, 3) % 251).astype(np.uint8))
    for rows in ([], [(2, 3, 30, 25)], [(2, 30, 30, 55), (10, 5, 70, 40)], [(70, 50, 79, 59)], [(5, 5, 5, 5)]):
        for scores in (False, True):
            drawn = boxes.draw_boxes(
                grey,
                torch.tensor(rows).view(-1, 4).float(),
                list(range(len(rows))),
                ["one", "tw\no"],
                [0.987, 0.5][: len(rows)] if scores else (),
            )
            note(f"boxes {rows} {scores}", np.asarray(drawn).astype(float))
    note(
        "of a large picture",
        np.asarray(
            boxes.draw_boxes(grey.resize((960, 720)), torch.tensor([[100.0, 100, 400, 300]]), [7], list("abcdefgh"))
        ).astype(float),
    )
    for x in (
        numbers(1, 4, 4),
        numbers(2, 4, 4),
        numbers(3, 4, 4),
        numbers(5, 4, 4),
        (numbers(3, 4, 4) * 99).to(torch.uint8),
    ):
        note(
            f"picture of {tuple(x.shape)} {x.dtype}",
            [np.asarray(boxes.as_picture(x)).astype(float), np.asarray(panels.to_image(x.float())).astype(float)],
        )
    for x in (
        numbers(2, 1, 4, 4),
        numbers(2, 3, 5, 5).sigmoid(),
        torch.stack([numbers(1, 4, 4), numbers(1, 4, 4).sigmoid()]),
        torch.zeros(1, 1, 3, 3) - 5,
    ):
        note(f"scale {tuple(x.shape)} {float(x.sum()):.3f}", [panels.on_a_scale(x, x), panels.on_a_scale(x * 2, x)])
    mask = Mask(torch.tensor([[0, 3], [1, 2]]), torch.tensor([[1], [0]]), (2, 2))
    note("visible", pictures.visible_pixels(mask, (2, 3)))
    note("captions", [pictures.statistics_caption(a, b) for a in (False, True) for b in (False, True)])
    for display, shape in (
        ("image", (3, 9, 12)),
        ("image", (2, 9, 12)),
        ("clip", (1, 3, 9, 12)),
        ("volume", (1, 4, 9, 12)),
        ("image", (1, 4, 9, 12)),
        ("image", (3, 200, 180)),
    ):
        for bars in ((), (None, (9, 200, 3))):

            def drawn_(display: str = display, shape: Any = shape, bars: Any = bars) -> Any:
                panel = panels.Panel(
                    (("in", numbers(*shape).sigmoid()), ("out", numbers(*shape, seed=1).sigmoid())),
                    ("caption of it " * 9, "more"),
                    display,
                    ((2.0, 1.0, 1.0), None) if display == "volume" else (),
                    bars,
                )
                moments = panels.moments(panel)
                found = [panels.draw(m, *how) for m in moments[:2] for how in ((), (False,), (False, False))]
                sheets = [panels._sheet([moments[0]] * n) for n in (1, 3, 4, 5)] + [panels._rows([moments[0]] * 2, "c")]
                return [
                    len(moments),
                    [im.size for im in (*found, *sheets)],
                    *(float(np.asarray(im).mean()) for im in (*found, *sheets)),
                    panels.save(panel, Path("p")).name,
                    panels.save_sheet([panel] * 2, Path("s")).name,
                ]

            note(f"drawn {display} {shape} {bars}", drawn_)


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@area()
def pages(note: Note) -> None:
    config = given({"train": {"epochs": 3}})
    metrics = [
        {
            "step": s,
            "epoch": s / 10,
            "loss": 1 / s,
            "lr": s * 1e-3,
            "grad_norm": 0.5,
            "samples_per_s": 100.0 * s,
            "data_wait": 0.1 * (s % 4),
            "seconds": 1.0 + s,
            "loss/a": 2.0,
            "loss/b": 1 / s,
        }
        for s in range(1, 9)
    ]
    kinds = {
        "whole": lines(metrics),
        "twice": lines([*metrics, {"step": 3, "loss": 9.0}]),
        "cut": lines(metrics)[:-4],
        "broken": "x\n[1]\n\n" + lines(metrics[:2]),
        "one broken": "x\n",
        "few": lines(metrics[:1]),
        "strange": lines([{"step": True}, {"step": 2, "loss": None, "x": 1}, {"step": 1, "loss": 2}]),
        "none": "",
    }
    scores = [
        {"step": 4, "samples": 8, "accuracy": 0.5, "<b>": 2.0},
        {"step": 8, "samples": 8, "accuracy": 0.75, "<b>": 1.0},
    ]
    part = {"accuracy": 0.832, "accuracy_ci": [0.8, 0.86], "balanced_accuracy": 0.7, "auroc": 0.9, "k": 5}
    asked = [
        {
            "step": s,
            "weights": w,
            "pool": "mean",
            "linear": {**part, "accuracy": 0.8 + s / 100},
            "knn": {**part, "accuracy": 0.6, "auroc": None},
            "chance": 0.4,
            "n_train": 5,
            "n_test": 4,
            "n_classes": 2,
            "test": t,
            "train": "tr",
        }
        for s, w, t in (
            (1, "untrained", "x/t"),
            (4, "pretrained", "x/t"),
            (4, "random", "x/t"),
            (8, "pretrained", "x/u"),
            (1, "p", "x/u"),
        )
    ]
    bad = [
        {"step": 3, "path": "b<", "kind": "k", "detail": "d"},
        {"step": 1, "path": "b<", "kind": "j", "detail": ""},
        {"step": 2, "path": "c", "kind": "j"},
    ]
    for kind, text in kinds.items():
        run = Path(f"run-{kind.replace(' ', '-')}")
        run.mkdir()
        (run / "metrics.jsonl").write_text(text)
        if kind in ("whole", "few", "cut"):
            (run / "config.yaml").write_text(
                (config if kind != "cut" else given({"task": {"name": "classify"}})).to_yaml()
            )
            (run / "evaluations.jsonl").write_text(lines(scores if kind == "whole" else scores[:1]))
            (run / "probes.jsonl").write_text(lines(asked))
            (run / "bad_samples.jsonl").write_text(lines(bad))
            (run / "bad_samples.1.jsonl").write_text(lines(bad[:1]))
            (run / "pictures").mkdir()
            for name in ("overview.png", "0000_a.png", "0001_b.gif", "overview_x.png", "c.txt"):
                Image.new("RGB", (3, 2), (9, 200, 3)).save(run / "pictures" / name) if not name.endswith(
                    "txt"
                ) else None
        if kind == "whole":
            saved(config, str(run / "checkpoints"), (8, 2))
            (run / "failure-1").mkdir()
            (run / "failure-1" / "record.json").write_text("{}")
        found = history.read_history(run)
        note(
            f"history {kind}",
            [
                {k: v.tolist() for k, v in found.metrics.items()},
                found.problems,
                len(found.bad),
                [[c.name, c.step] for c in found.checkpoints],
                found.waited(),
                found.finite("loss"),
            ],
        )
        for name in ("_facts", "_charts", "_loader", "_setup"):
            html = re.sub(
                r"<tr><td>(python|torch|mae_ext)</td>.*?</tr>|\d+\.\d+(?=</td></tr>)", "", getattr(page, name)(found)
            )
            note(f"{name} {kind}", [digest(html), re.sub("<[^>]*>", "|", html)[:70]])
        note(
            f"page {kind}",
            [
                digest(page._evaluations(found.evaluations)),
                digest(page._pictures(run / "pictures")),
                page._goal(found),
                digest(re.findall(r"<h2>.*?</h2>", page.page(found))),
            ],
        )
    note("no run", lambda: history.read_history(Path("absent")))
    Path("empty").mkdir()
    note("empty", lambda: history.read_history(Path("empty")))
    for n in range(len(asked) + 1):
        note(
            f"probes {n}",
            [digest(probes.probes_section(asked[:n])), re.sub("<[^>]*>+", "|", probes._table(asked[:n]))[250:320]],
        )
    note(
        "strange probes",
        digest(
            probes.probes_section(
                [{"linear": 3, "knn": {"accuracy": True, "accuracy_ci": [1]}, "folds": 3, "test": "a/b"}]
            )
        ),
    )
    for seconds in (0, 59.4, 59.6, 60, 3599, 3600, 3661, 90000):
        note(f"duration {seconds}", page.duration(seconds))
    note("table", page.table(("a", "b<"), [(1, "<i>")], (1,)))
    note("parameters", history.parameters(Path("run-whole/checkpoints/step-00000008")))
