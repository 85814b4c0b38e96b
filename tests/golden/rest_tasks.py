"""Tasks: settings of every task, and their losses and gradients."""

# ruff: noqa: PLW2901

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from golden.rest import Note, area
from golden.rest_config import BASE, M
from golden.rest_engine import given
from golden.rest_model import generator, numbers

from mae_ext import plugins
from mae_ext.data.batch import Batch
from mae_ext.tasks.classify import task as classify
from mae_ext.tasks.detect import task as detect
from mae_ext.tasks.segment import heads, pairs
from mae_ext.tasks.segment import task as segment

SETTINGS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "classify": (
        {},
        {
            "pool": ["mean", "class", "attentive", "max"],
            "labels": [0.5, 2, "1 each", 1, 0],
            "smoothing": [0, 0.999, 1, -0.1, 0.1],
            "mixup": [0, 99, 100, -1, 0.8],
            "cutmix": [0, 99.9, 100, -1],
            "distort": [0, 2, 99, 100, -1, 1.5],
            "strength": [0, 1, 1.1, -0.1],
            "erase": [0, 1, 1.1, -0.1],
            "classes": [["a", "b"], ("b",)],
            "x": [1],
        },
    ),
    "segment": (
        {"classes": ["a", "b"]},
        {
            "classes": ["ab", [], ["a", "a"], ["a"], None],
            "foreground": [True, False],
            "ignore": [0, 1, 2, 3, -1, 255, 1.5, True],
            "head": ["linear", "unetr", "x"],
            "features": [0, 1, 1024, 1025],
            "balance": [0, 1, 1.1, -0.1],
            "overlap": [0, 0.9, 0.91, -0.1],
            "distort": [0, 99, 100, -1, 1.5],
            "strength": [0, 1, 1.1, -0.1],
            "surface": [True],
            "masks": ["m"],
            "test_masks": ["t"],
        },
    ),
    "detect": (
        {},
        {
            "labels": ["x", 3, None],
            "test_labels": ["x", 3],
            "faulty_boxes": ["drop", "refuse", "x"],
            "channels": [0, 1, 1.5],
            "depth": [0, -1, 1.5],
            "strides": [[4], (8, 16)],
            "threshold": [0, 1, 1.1, -0.1],
            "overlap": [0, 1, 1.1, -0.1],
            "shown": [0, 1, 1.1, -0.1],
            "distort": [0, -1, 1.5],
            "strength": [0, 1, 1.1, -0.1],
            "classes": [["a"]],
        },
    ),
}


@area()
def settings(note: Note) -> None:
    for name, (base, keys) in SETTINGS.items():
        note(
            f"{name} by default",
            lambda name=name, base=base: {k: str(v) for k, v in vars(plugins.tasks.build(name, base, "task")).items()},
        )
        note(f"{name} without", lambda name=name: sorted(vars(plugins.tasks.build(name, {}, "task"))))
        for key, values in keys.items():
            for value in values:

                def made(name: str = name, base: Any = base, key: str = key, value: Any = value) -> Any:
                    plain, task = (
                        vars(plugins.tasks.build(name, arguments, "task")) for arguments in (base, {**base, key: value})
                    )
                    return {k: str(v) for k, v in task.items() if str(v) != str(plain[k])}

                note(f"{name} {key}={value!r}", made)
    note("one class of all", lambda: vars(segment.Segmentation(["a"], foreground=True, ignore=1))["ignore"])
    for label in (0, 2):
        for count in (1, 3, 5):
            for smoothing in (0.0, 0.1, 0.9):
                if label < count:
                    note(
                        f"smoothed {label} of {count} {smoothing}",
                        classify.smoothed(torch.tensor(label), count, smoothing),
                    )
    for changes in (
        {"task": "detect"},
        {"task": "classify", "modalities.b": BASE["modalities"]["image"]},
        {"task": "detect", M + "size": [4, 8, 8], M + "patch": [2, 4, 4]},
        {"task": {"name": "segment", "classes": ["a"]}, "modalities.b": BASE["modalities"]["image"]},
        {"task": {"name": "classify", "pool": "class", "classes": ["a", "b"]}, "model.class_token": False},
        {"task": {"name": "classify"}},
        {"task": {"name": "detect", "classes": ["a"], "strides": [4, 5]}},
        {"task": {"name": "segment", "classes": ["a"], "head": "unetr"}, M + "size": [9, 9], M + "patch": [3, 3]},
    ):
        config = given(changes)
        task = plugins.tasks.build(config.task.name, config.task.arguments, "task")
        note(f"model {changes}", lambda task=task, config=config: type(task.model(config)).__name__)
        note(f"data {changes}", lambda task=task, config=config: sorted(task.data(config)))
    for batch, world in ((4, 1), (3, 1), (4, 2), (6, 2), (8, 2)):
        for mixture in ({"mixup": 0.5}, {"cutmix": 0.5}, {}):
            for repeats in (1, 2):
                changes = {
                    "task": {"name": "classify", **mixture},
                    M + "batch": batch * repeats,
                    M + "data.repeats": repeats,
                    M + "data.path": "absent",
                }
                note(
                    f"classify data {batch} {world} {mixture} repeats {repeats}",
                    lambda c=changes, w=world, m=mixture: classify.Classification(**m).data(given(c), 0, w),
                )
    sizes = {"alike": np.array([[8, 8], [8, 8]]), "one other": np.array([[8, 8], [8, 9]]), "none": np.zeros((0, 2))}
    for kind, table in sizes.items():
        for augment in (
            {"fixed": [0, 1]},
            {"scale": [0.3, 1.0]},
            {"scale": [0.3, 0.9]},
            {"scale": None},
            {"fixed": [0], "scale": [0.3, 0.9]},
        ):
            note(
                f"scale {kind} {augment}",
                lambda t=table, a=augment: detect.check_scale(
                    "image",
                    given({M + "data.augment": a}).modalities["image"],
                    {"train": SimpleNamespace(sizes=sizes["alike"]), "test": SimpleNamespace(sizes=t)},
                ),
            )


def moved(model: Any) -> Any:
    """All weights by a wave, so that nothing is zero."""
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p += 0.2 * numbers(*p.shape, seed=i)
    return model


def dropping(model: Any, gates: Any, task: Any, batch: Batch) -> Any:
    """The loss with drop path: (depth, 2, B) gates of the encoder."""
    model.backbone.encoder.gates = gates
    found = task.loss(model, "image", batch)
    model.backbone.encoder.gates = None
    return found


@area(relative=5e-4, absolute=1e-4)
def learning(note: Note) -> None:
    x = numbers(3, 3, 8, 8)
    for pool in ("mean", "class", "attentive"):
        for seed in (0, 1):
            config = given(
                {
                    "task": {"name": "classify", "pool": pool, "classes": ["a", "b", "c"]},
                    "seed": seed,
                    "train.precision": "fp32",
                }
            )
            task = plugins.tasks.build("classify", config.task.arguments, "task")
            model = task.model(config)
            note(
                f"{pool} seed {seed}",
                [model(x, "image"), float(model.head.weight.std() * 1e5), float(model.head.bias.abs().sum())],
            )
            moved(model)
            batch = Batch(x=x, targets={classify.TARGET: numbers(3, 3).softmax(1)})
            note(
                f"{pool} seed {seed} moved",
                [
                    model(x, "image"),
                    task.loss(model, "image", batch),
                    dropping(model, torch.tensor([[[0.0, 2, 2]] * 2] * 2), task, batch),
                    model(numbers(2, 3, 12, 8), "image"),
                ],
            )
    for head, patch in (("linear", 4), ("unetr", 4), ("unetr", 2), ("unetr", 8)):
        edge = 2 * patch if patch == 8 else 8
        x = numbers(3, 3, edge, edge)
        for ignore in (None, 255):
            config = given(
                {
                    "task": {"name": "segment", "classes": ["a", "b"], "head": head, "features": 2, "ignore": ignore},
                    M + "patch": [patch, patch],
                    M + "size": [edge, edge],
                    M + "data.statistics": {"mean": [0.5, 0.1, -1.0], "std": [0.3, 2.0, 1.0]},
                    "model.depth": 4,
                }
            )
            task = plugins.tasks.build("segment", config.task.arguments, "task")
            torch.manual_seed(1)
            model = moved(task.model(config))
            wanted = torch.randint(0, 3, (3, edge, edge), generator=generator(2))
            losses = [
                task.loss(model, "image", Batch(x=x, targets={pairs.TARGET: w}))
                for w in ([wanted, torch.where(wanted == 2, -1, wanted)] if ignore else [wanted, wanted * 0])
            ]
            note(
                f"{head} {patch} ignore {ignore}",
                [
                    model.taken,
                    model(x, "image"),
                    model.probabilities(x, "image").sum(-1).mean().item(),
                    model.probabilities(x, "image"),
                    *losses,
                ],
            )
    many = moved(heads.LinearHead(6, (2, 2), 40))
    few = moved(heads.LinearHead(6, (2, 2), 31))
    for told, part in (("many", many), ("few", few)):
        layers = [numbers(2, 6, 6)]
        note(f"head of {told}", [part(layers, (2, 3), x), part.probabilities(layers, (2, 3), x)])
    config = given(
        {
            "task": {"name": "detect", "classes": ["a", "b"], "channels": 4, "depth": 1, "strides": [2, 4, 8]},
            M + "size": [16, 24],
            M + "patch": [4, 8],
            M + "mask": "random",
        }
    )
    task = plugins.tasks.build("detect", config.task.arguments, "task")
    torch.manual_seed(1)
    model = task.model(config)
    pictures = numbers(2, 3, 16, 24)
    note("detector at first", list(vars(model(pictures, "image")).values()))
    moved(model)
    targets = {
        "boxes": torch.tensor([[[1.0, 1, 9, 9], [4, 2, 22, 14]], [[0, 0, 5, 5], [0, 0, 0, 0]]]),
        "labels": torch.tensor([[0, 1], [1, -1]]),
        "ignored": torch.tensor([[False, False], [True, False]]),
    }
    note(
        "detector",
        [
            *vars(model(pictures, "image")).values(),
            task.loss(model, "image", Batch(x=pictures, targets=targets)),
            model.pyramid.grids,
            model.pyramid.strides,
        ],
    )
    note(
        "detector of another size",
        [
            *vars(model(numbers(1, 3, 20, 32), "image")).values(),
            *vars(model.places_in(numbers(1, 3, 20, 32), "image")).values(),
        ],
    )
