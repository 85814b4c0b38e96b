"""Short runs of tasks: what they are judged on, and what they answer."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from golden.rest import Note, area
from golden.rest_runs import IMAGE, config_of, pictures_of, rows, steps
from PIL import Image

from mae_ext.data.sources.table import list_items
from mae_ext.engine import record
from mae_ext.engine import train as loop
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.precision import as_evaluated
from mae_ext.engine.task import load_task
from mae_ext.tasks.detect.task import Detection

DETECT = {
    "name": "detect",
    "labels": "train.json",
    "test_labels": "test.json",
    "channels": 4,
    "depth": 1,
    "strides": [2, 4],
    "threshold": 0.001,
}


def boxes_of(source: str, names: list[str]) -> None:
    """Two objects in each picture, in COCO's format; classes are numbered in the order of the names."""
    held = list_items(source, (".png",)).addresses
    images = [
        {"id": i, "file_name": str(Path(a).relative_to(source)), "width": 18, "height": 20} for i, a in enumerate(held)
    ]
    rows_of = [
        {
            "id": 2 * i + j,
            "image_id": i,
            "category_id": names.index("xy"[j]) + 1,
            "bbox": [1 + i % 3, 2 + 7 * j, 9 + j, 8],
            "area": 72,
            "iscrowd": int(i == 2),
        }
        for i in range(len(held))
        for j in (0, 1)
    ]
    kinds = [{"id": n, "name": name} for n, name in enumerate(names, start=1)]
    Path(f"{source}.json").write_text(json.dumps({"images": images, "annotations": rows_of, "categories": kinds}))


class Alone(Ranks):
    """One of several ranks, that meets no other."""

    def gather(self, value: Any) -> list[Any]:
        return [value]


@area(relative=5e-3, absolute=2e-3)
def tasks(note: Note) -> None:
    pictures_of(Path("train"), bad=False)
    pictures_of(Path("test"), 3, bad=False)
    pictures_of(Path("torn"), 3, bad=False)
    (Path("torn") / "across" / "1.png").write_bytes(b"no picture")
    boxes_of("train", ["x", "y"])
    boxes_of("test", ["y", "x"])
    for split in ("train", "test"):
        for item in list_items(split, (".png",)).addresses:
            light = np.asarray(Image.open(item).convert("L"))
            Path("masks", split).mkdir(parents=True, exist_ok=True)
            name = item.replace("/", "_")
            Path("all", split).mkdir(parents=True, exist_ok=True)
            Path("all", split, name).write_bytes(Path(item).read_bytes())
            Image.fromarray((light > light.mean()).astype(np.uint8)).save(f"masks/{split}/{name}")
            Path("none", split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(light * 0).save(f"none/{split}/{name}")
    test = {IMAGE + "data.test": "test", "train.evaluate_every": 2}
    place = {
        IMAGE + "data.path": "all/train",
        IMAGE + "data.test": "all/test",
        IMAGE + "data.augment": {"fixed": [0, 1]},
    }
    label = {"name": "segment", "classes": ["a"], "masks": "masks/train", "test_masks": "masks/test"}
    tried: dict[str, dict[str, Any]] = {
        "classify": {"task": {"name": "classify", "smoothing": 0.1, "distort": 1, "erase": 0.5}, **test},
        "classify dropping": {
            "task": {"name": "classify"},
            **test,
            "model.drop_path": 0.9,
            "train.lr": 1.0,
            "train.lr_per": None,
        },
        "classify mixed": {"task": {"name": "classify", "mixup": 0.8, "cutmix": 1.0, "labels": 2}, **test, "seed": 1},
        "classify torn": {
            "task": {"name": "classify", "pool": "attentive"},
            **test,
            IMAGE + "data.test": "torn",
            "train.lr": 1.0,
            "train.lr_per": None,
        },
        "detect": {"task": DETECT, **test, IMAGE + "data.augment": {"scale": [0.5, 1.0]}},
        "detect fixed": {"task": DETECT, **test, IMAGE + "data.augment": {"fixed": [0, 1]}},
        "detect others": {
            "task": {**DETECT, "overlap": 0.1, "threshold": 0.006, "shown": 0.02},
            IMAGE + "data.augment": {"scale": None},
        },
        "segment stretched": {"task": label, **place, IMAGE + "data.augment": {"scale": None, "flip": []}},
        "segment stretched along": {"task": label, **place, IMAGE + "data.augment": {"fixed": [0]}},
        "segment": {"task": {**label, "surface": True}, **place},
        "segment overlap": {"task": {**label, "overlap": 0.0, "balance": 1.0, "foreground": True}, **place},
        "segment nothing": {"task": {**label, "masks": "none/train"}, **place},
        "segment other": {"task": {**label, "masks": "masks/test"}, **place},
    }
    config = config_of(**tried["detect"])
    data: Any = Detection(**{k: v for k, v in DETECT.items() if k != "name"}).data(config)["image"]
    tables = {"train": data.examples.table, "test": data.held_out.examples.table}
    note(
        "objects",
        {
            split: [table.classes, [table[i].labels.tolist() for i in range(len(table))]]
            for split, table in tables.items()
        },
    )
    for told, changes in tried.items():
        run = told.replace(" ", "-")
        seen: list[Any] = []
        judged = record.evaluate

        def asked(*words: Any, run: str = run, seen: list[Any] = seen, judged: Any = judged) -> Any:
            seen.append(steps(run))
            return judged(*words)

        def trained(changes: Any = changes, run: str = run, asked: Any = asked) -> Any:
            with mock.patch.object(record, "evaluate", asked):
                loop.train(config_of(**{"train.steps": 3, "train.save_every": 100, **changes}), run)
            return [[r["loss"], r["grad_norm"]] for r in rows(f"{run}/metrics.jsonl")]

        note(told, trained)
        note(f"{told} evaluated", [list(r.values()) for r in rows(f"{run}/evaluations.jsonl")])
        note(f"{told} saved before", seen)

        def half(run: str = run) -> Any:
            task, model, config, _ = load_task(run, "cpu")
            with as_evaluated(model, config):
                data = task.data(config)
                ranks = [Alone(rank, 2, torch.device("cpu")) for rank in (0, 1)]
                return [list(task.evaluate(model, config, data, alone).values()) for alone in ranks]

        note(f"{told} by halves", half)

        def answered(run: str = run) -> Any:
            task, model, config, _ = load_task(run, "cpu")
            source = "test" if run.startswith("classify") else "all/test"
            Path(f"said-{run}").mkdir()
            return [p.name for p in task.predict(model, config, [source], Path(f"said-{run}"))]

        note(f"{told} predicts", answered)
        maps_ = (
            [
                np.asarray(Image.open(p).convert("L").resize((6, 6))).astype(float)
                for p in sorted(Path(f"said-{run}").glob("*.png"))
            ]
            if Path(f"said-{run}").is_dir()
            else []
        )
        note(f"{told} drew", maps_[:3])
        note(
            f"{told} predicted",
            [[r["class"], *r["probabilities"].values()] for r in rows(f"said-{run}/predictions.jsonl")],
        )
    bad = Path("masks/broken")
    bad.mkdir()
    for number, path in enumerate(sorted(Path("none/train").iterdir())):
        (bad / path.name).write_bytes(path.read_bytes()[: 40 if number % 2 else None])
    note(
        "some broken and all others empty",
        lambda: loop.train(config_of(**{"task": {**label, "masks": "masks/broken"}, **place}), "broken"),
    )
