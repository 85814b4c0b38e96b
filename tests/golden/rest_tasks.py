"""Tasks: settings of every task, targets and decoding of boxes, pyramids, heads, windows, pairs, names of results."""
# ruff: noqa: PLW2901, PLC3002, PTH103, PERF102, B007

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from golden.rest import Note, area, digest
from golden.rest_config import BASE, M, put
from golden.rest_engine import given
from golden.rest_model import generator, numbers
from PIL import Image
from torch import Tensor

from mae_ext import plugins
from mae_ext.config import Config, parse_config
from mae_ext.data.batch import Batch
from mae_ext.data.sample import Crop
from mae_ext.data.sources.table import Items, PathTable
from mae_ext.engine import outputs
from mae_ext.errors import BadSample
from mae_ext.model.position import Learned
from mae_ext.tasks import start as finetune
from mae_ext.tasks.classify import task as classify
from mae_ext.tasks.detect import detections, fcos, pyramid
from mae_ext.tasks.detect import task as detect
from mae_ext.tasks.segment import heads, pairs, windows
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


@area()
def places(note: Note) -> None:
    for patch, grid, strides in (
        ((16, 16), (4, 6), (4, 8, 16, 32)),
        ((8, 8), (3, 5), (4, 8, 16, 32)),
        ((14, 14), (3, 3), (4, 8, 16)),
        ((4, 8), (4, 3), (2, 4, 8)),
        ((16, 16), (2, 2), (16,)),
        ((16, 16), (2, 2), (4, 5)),
        ((16, 16), (2, 2), (8, 4)),
        ((16, 16), (2, 2), ()),
        ((16, 16), (2, 2), (0, 4)),
        ((6, 6), (3, 3), (4, 8)),
        ((10, 10), (2, 3), (7, 14)),
        ((12, 12), (3, 2), (8, 16, 64)),
        ((2, 2, 2), (1, 1, 1), (4,)),
        ((11, 11), (3, 3), (8, 16)),
    ):

        def made(patch: Any = patch, grid: Any = grid, strides: Any = strides) -> Any:
            torch.manual_seed(3)
            found = pyramid.Pyramid(8, 4, patch, grid, strides)
            size = tuple(g * p for g, p in zip(grid, patch, strict=True))
            at = fcos.places_of(found.grids, found.strides, size)
            bigger = tuple(g + 1 for g in grid)
            maps = found(numbers(1, grid[0] * grid[1], 8))
            return [
                found.grids,
                found.strides,
                found.grids_of(bigger),
                [tuple(m.shape[1:]) for m in maps],
                *maps,
                at.xy,
                at.stride,
                at.reach,
                digest([type(layer).__name__ for level in found.levels for layer in level]),
            ]

        note(f"pyramid {patch} {grid} {strides}", made)
    at = fcos.places_of(((6, 8), (3, 4), (2, 2)), ((4.0, 4.0), (8.0, 8.0), (16.0, 16.0)), (24, 32))
    tried = {
        "none": [],
        "one": [(3, 3, 12, 14, 0, 0)],
        "ignored": [(3, 3, 12, 14, 0, 1)],
        "nested": [(2, 2, 30, 22, 0, 0), (8, 8, 14, 15, 1, 0)],
        "ignored around": [(0, 0, 32, 24, 0, 1), (8, 8, 14, 15, 1, 0)],
        "ignored within": [(0, 0, 32, 24, 0, 0), (8, 8, 14, 15, 1, 1)],
        "tiny": [(9, 9, 10, 10, 0, 0)],
        "on a place": [(10, 2, 18, 10, 2, 0)],
        "equal": [(4, 4, 12, 12, 0, 0), (4, 4, 12, 12, 1, 0)],
        "smaller within": [(3, 3, 13, 13, 0, 0), (5, 5, 11, 11, 1, 0)],
        "smaller first": [(5, 5, 11, 11, 1, 0), (3, 3, 13, 13, 0, 0)],
        "flat": [(1, 10, 31, 13, 0, 0)],
        "tall": [(10, 1, 13, 23, 1, 0)],
        "beyond": [(-6, -6, 40, 30, 0, 0)],
        "middle": [(0, 0, 16, 24, 1, 0)],
    }
    answers = fcos.Answers(numbers(1, len(at.xy), 3), numbers(1, len(at.xy), 4).exp() * 5, numbers(1, len(at.xy)))
    for kind, rows in tried.items():
        b = torch.tensor([r[:4] for r in rows]).view(-1, 4).float()
        label, skip = (
            torch.tensor([r[4] for r in rows], dtype=torch.long),
            torch.tensor([bool(r[5]) for r in rows], dtype=torch.bool),
        )
        found, which = fcos.assign(b, label, skip, at)
        note(f"assign {kind}", [found, which, int((found >= 0).sum()), int((found == fcos.IGNORED).sum())])
        padded = [
            torch.cat([v, v.new_full((1, *v.shape[1:]), fill)])[None]
            for v, fill in ((b, 0), (label, -1), (skip, False))
        ]
        note(f"loss {kind}", fcos.loss(answers, at, *padded))
        note(f"distances {kind}", fcos.distances_to(b[:1], at.xy[:5, None]) if rows else None)
    note(
        "losses of two",
        fcos.loss(
            fcos.Answers(*(torch.cat([v, v * 0.5]) for v in vars(answers).values())),
            at,
            torch.tensor([[[3.0, 3, 12, 14]], [[0, 0, 0, 0]]]),
            torch.tensor([[1], [-1]]),
            torch.zeros(2, 1, dtype=torch.bool),
        ),
    )
    note("back", fcos.boxes_from(answers.distances[0, :3], at.xy[:3]))
    note(
        "centerness",
        fcos.centerness_of(torch.tensor([[1.0, 2, 3, 4], [1, 1, 1, 1], [0, 1, 2, 1], [-1, 1, 1, 1], [4, 3, 1, 2]])),
    )
    note("focal", fcos.focal_loss(numbers(4, 3), (numbers(4, 3, seed=1) > 0).float()))
    for options in (
        {},
        {"threshold": 0.4},
        {"threshold": 0.0},
        {"overlap": 0.0},
        {"overlap": 0.3},
        {"before": 5},
        {"after": 3},
        {"before": 0},
        {"threshold": 1.0},
    ):
        for size in ((24, 32), (10, 20)):
            note(
                f"decoding {options} {size}",
                lambda o=options, s=size: (lambda d: [len(d.boxes), d.boxes, d.scores, d.labels])(
                    fcos.Decoding(**o)(answers, at, s)[0]
                ),
            )
    far = fcos.Answers(torch.full((1, len(at.xy), 2), 2.0), answers.distances, answers.centerness * 0)
    note(
        "decoding of two classes",
        (lambda d: [len(d.boxes), digest(d.labels), d.boxes])(fcos.Decoding()(far, at, (24, 32))[0]),
    )
    torch.manual_seed(4)
    for channels, depth, levels in ((6, 2, 2), (32, 1, 1), (5, 0, 1)):
        head = fcos.Head(channels, 3, depth, levels)
        said = moved(head)(
            [numbers(1, channels, 3, 2), numbers(1, channels, 2, 1)][:levels], ((4.0, 2.0), (8.0, 4.0))[:levels]
        )
        note(
            f"head {channels} {depth} {levels}",
            [head.classify.bias, *vars(said).values(), digest([str(layer) for layer in head.box_tower])],
        )
    found = [
        detections.ImageDetections(
            1,
            (20, 30),
            detections.Detections(
                torch.tensor([[1.234, 2.0, 10.567, 12.0], [0, 0, 5, 5]]),
                torch.tensor([0.912345, 0.3]),
                torch.tensor([1, 0]),
            ),
        )
    ]
    note("coco", detections._coco(Items(PathTable(["a", "b"])), found, ["x", "y"]))
    note("there and back", detections._restored(1, detections._row(found[0])))
    note("empty", detections._restored(0, {"extent": [2, 3], "boxes": [], "scores": [], "labels": []}))
    for size in ((40, 30), (3000, 1700), (1600, 900), (1601, 900)):
        Image.fromarray((np.arange(size[0] * size[1] * 3).reshape(*size, 3) // 999 % 256).astype(np.uint8)).save(
            "big.png"
        )
        one = detections.ImageDetections(
            0,
            size,
            detections.Detections(
                torch.tensor([[2.0, 3, 20, 25], [1, 1, 9, 9]]) * max(size) / 40,
                torch.tensor([0.9, 0.5]),
                torch.tensor([1, 0]),
            ),
        )
        for shown in (0.5, 0.51):
            detector = detections.TrainedDetector(None, given({}), "image", fcos.Decoding())  # type: ignore[arg-type]
            detections._draw(detector, "big.png", one, ["x", "y"], shown, Path("drawn.png"))
            with Image.open("drawn.png") as drawn:
                note(f"drawn {size} {shown}", [list(drawn.size), np.asarray(drawn.resize((8, 8))).astype(float)])


@area(relative=2e-4)
def sliding(note: Note) -> None:
    for length in (1, 4, 5, 8, 9, 17):
        note(
            f"starts {length}",
            {f"{w} {o}": windows.starts(length, w, o) for w in (4, 8) for o in (0.0, 0.25, 0.5, 0.6, 0.9)},
        )
    for at in ([0.0, 1.0, 2.0], [-1.0, 0.5, 2.5, 9.0], [0.25], []):
        note(f"taps {at}", windows.taps(np.array(at, dtype=float), 4))
    note("weights", windows.weights((4, 6), torch.device("cpu")))

    def answer(windows_: Tensor) -> Tensor:
        first = windows_.mean(1)
        edge = torch.linspace(0, 1, windows_.shape[-1]).expand(first.shape)
        return torch.stack([first.sin(), first.cos() * edge, first * 0.3], -1).softmax(-1)

    cpu = torch.device("cpu")
    for shape, size in (
        ((7, 9), (4, 4)),
        ((3, 9), (4, 4)),
        ((12, 5), (4, 6)),
        ((5, 6, 7), (4, 4, 4)),
        ((2, 2), (4, 4)),
        ((9, 4), (3, 4)),
    ):
        x = numbers(2, *shape) * 3 - 2
        for overlap in (0.0, 0.5, 0.75):
            for told, fraction in (("own", 1.0), ("finer", 1.7), ("coarser", 0.6)):
                where = [
                    np.arange(n) if fraction == 1 else np.linspace(-0.4, n - 0.6, max(1, int(n * fraction)))
                    for n in shape
                ]
                whole = windows.segment([x], size, overlap, answer, where, cpu)
                slabs = windows.segment(list(x.split(3, 1)), size, overlap, answer, where, cpu)
                with (
                    mock.patch.object(windows, "HELD", 1),
                    mock.patch.object(windows, "CHUNK", 8),
                    mock.patch.object(windows, "TOGETHER", 1),
                ):
                    small = windows.segment([x], size, overlap, answer, where, cpu, Path())
                note(
                    f"segment {shape} {size} {overlap} {told}",
                    [
                        digest(whole),
                        int((slabs != whole).sum()),
                        int((small != whole).sum()),
                        list(whole.shape),
                        np.bincount(whole.ravel()).tolist(),
                    ],
                )
    seen: list[Tensor] = []

    def keeps(w: Tensor) -> Tensor:
        seen.append(w.clone())
        return answer(w)

    windows.segment([numbers(1, 3, 5) - 9], (4, 6), 0.5, keeps, [np.arange(3), np.arange(5)], cpu)
    windows.segment(
        [(numbers(1, 6, 5) * 40 + 90).clamp(5, 255).to(torch.uint8)],
        (4, 6),
        0.5,
        keeps,
        [np.arange(6), np.arange(5)],
        cpu,
    )
    note("windows seen", seen)
    note(
        "draws",
        windows.segment(
            [numbers(1, 4, 4)],
            (4, 4),
            0.5,
            lambda w: torch.full((*w.shape[:1], *w.shape[2:], 3), 1 / 3),
            [np.arange(4)] * 2,
            cpu,
        ),
    )
    labels = np.zeros((6, 6), np.int32)
    rows = torch.stack([numbers(6, 6), numbers(6, 6, seed=1)], -1)
    windows._decide(rows, 0, [windows.taps(np.arange(6.0), 6)] * 2, 1, 5, labels)
    note("decided", labels)
    for shape, extent in (((6, 4), (6, 9)), ((6, 4), (12, 4)), ((7, 4), (7, 4))):
        for slab in (1 << 24, 9, 12, 28):

            def cut(shape: Any = shape, extent: Any = extent, slab: int = slab) -> Any:
                seen_: list[Any] = []

                def read(reader: Any, address: str, crops: Any, wanted: Any) -> Any:
                    found = []
                    for crop in crops:
                        box = crop(extent)
                        seen_.append([*vars(box).values(), wanted])
                        top = next(iter(vars(box).values()))[0]
                        found.append(
                            SimpleNamespace_(torch.arange(top, top + wanted[1]).view(1, -1, 1).expand(wanted).float())
                        )
                    return found

                with (
                    mock.patch.object(segment, "SLAB", slab),
                    mock.patch.object(segment, "read_checked", read),
                    mock.patch.object(segment, "replace", lambda s, x: SimpleNamespace_(x)),
                ):
                    found = segment._slabs(given({}).modalities["image"], "a", shape, extent)
                return [seen_, torch.cat([s.x for s in found], 1)[0, :, 0].tolist()]

            note(f"slabs {shape} {extent} {slab}", lambda cut=cut: digest(cut()))


class SimpleNamespace_:
    def __init__(self, x: Tensor) -> None:
        self.x = x


class Maps:
    """Label maps in memory, by name."""

    label_suffix = ".png"

    def __init__(self, maps: dict[str, np.ndarray]) -> None:
        self.maps = maps

    def label_map(self, address: str, like: str, as_stored: bool) -> np.ndarray:
        return self.maps[address]


@area()
def labelling(note: Note) -> None:
    base = np.arange(12).reshape(3, 4) % 4
    maps = {
        "some": base,
        "void": np.where(base == 3, 255, base),
        "one": np.minimum(base, 1),
        "two voids": np.where(base == 3, 254, np.where(base == 2, 255, base)),
        "far": np.where(base == 3, 150, base),
        "next": np.where(base == 3, 102, base),
        "many": base * 2,
        "none": base * 0,
        "just": np.where(base == 3, 101, base),
    }
    for kind, table in maps.items():
        for count in (1, 2, 3, 4):
            for foreground in (False, True):

                def read(ignore: Any, kind: str = kind, count: int = count, foreground: bool = foreground) -> Any:
                    return pairs.read_labels(Maps(maps), kind, "like", count, foreground, False, ignore)

                every = {ignore: digest(lambda ignore=ignore, read=read: read(ignore)) for ignore in (None, 0, 3, 255)}
                note(f"labels {kind} of {count} foreground {foreground}", digest(every))
                if kind in ("some", "void", "far") and not foreground:
                    note(f"labels {kind} of {count} foreground {foreground} told", lambda read=read: read(None))
    Path("masks").mkdir()
    Path("samples").mkdir()
    for name in ("a.png", "b.png", "b.jpg", "c_mask.png", "d.txt"):
        Path("masks", name).write_bytes(b"x")
    Path("list.csv").write_text(
        "path,mask\nsamples/a.png,masks/a.png\nsamples/b.png,masks/b.png\n,\nsamples/c.png,masks/c_mask.png\n"
    )
    Path("twice.csv").write_text("path,mask\nsamples/a.png,masks/a.png\nsamples/a.png,masks/b.png\n")
    Path("again.csv").write_text(
        "path,mask\nsamples/a.png,masks/a.png\nsamples/a.png,masks/a.png\nsamples/b.png,masks/a.png\n"
    )
    Path("empty.csv").write_text("x,y\n1,2\n")
    for addresses in (
        ["samples/a.png"],
        ["samples/a.jpg"],
        ["samples/a.png", "samples/a.jpg"],
        ["samples/b.png"],
        ["samples/b.bmp"],
        ["samples/c.png"],
        ["samples/d.png"],
        ["masks/a.png"],
        ["samples/a.png", "samples/b.png"],
    ):
        for masks in ("masks", "list.csv", "twice.csv", "again.csv", "empty.csv", "absent"):
            note(
                f"maps of {addresses} in {masks}",
                lambda a=addresses, m=masks: pairs.maps_of(Items(PathTable(a)), m, (".png", ".jpg", ".bmp")),
            )
    note(
        "extent",
        [lambda: pairs.check_extent("m", base, "a", (3, 4)), lambda: pairs.check_extent("m", base, "a", (4, 3))],
    )
    for balance, strength in ((0.0, 0.5), (0.3, 0.5), (1.0, 0.5), (0.3, 1.0)):

        def read(balance: float = balance, strength: float = strength) -> Any:
            Image.fromarray((np.arange(20 * 24).reshape(20, 24) % 251).astype(np.uint8)).save("samples/p.png")
            lone = np.zeros((20, 24), np.uint8)
            lone[15:18, 19:22] = 1
            Path("lone").mkdir(exist_ok=True)
            Image.fromarray(lone).save("lone/p.png")
            config = given(
                {
                    "task": {
                        "name": "segment",
                        "classes": ["x"],
                        "balance": balance,
                        "distort": 1,
                        "strength": strength,
                    },
                    M + "channels": 1,
                }
            )
            task = plugins.tasks.build("segment", config.task.arguments, "task")
            Path("only").mkdir(exist_ok=True)
            Path("samples/p.png").replace("only/p.png")
            examples = pairs.PairedExamples(task, config, "image", "only", "lone")
            keys: list[Any] = [SimpleNamespace(epoch=e, index=0, repeat=r, slot=0) for e in (0, 1, 2) for r in (0, 1)]
            crops = [lambda extent, i=i: Crop((i, 2), (8, 8), (False, i % 2 == 0)) for i in range(6)]
            return [
                [s.x.float() / 255, digest(s.targets[pairs.TARGET]), int(s.targets[pairs.TARGET].sum())]
                for s in examples.read(0, keys, crops)
            ] + [examples.summary, examples.identity]

        note(f"examples balance {balance} strength {strength}", read)


@area()
def naming(note: Note) -> None:
    suffixes = (".nii.gz", ".png", ".jpg", ".nii")
    for addresses in (
        ["x/a.png"],
        ["x/a.png", "y/a.png"],
        ["x/a.png", "x/a.jpg"],
        ["x/a.png", "x/a.jpg", "y/a.png"],
        ["x/1/ct.nii.gz", "x/2/ct.nii.gz"],
        ["x/a.b.nii.gz", "x/b"],
        ["t.npz::3", "t.npz::4"],
        ["x/a.png", "x/a.png.png"],
        ["x/y/", "x/z"],
    ):
        for suffix in (".png", ".nii.gz"):
            note(
                f"results {addresses} {suffix}",
                lambda a=addresses, s=suffix: outputs.result_paths(a, suffixes, Path("out"), s),
            )
    model: Any = torch.nn.Linear(2, 2)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.5)
    config, other = given({}), given({"seed": 1})
    same = outputs.model_identity(model, config)
    changed = torch.nn.Linear(2, 2)
    note(
        "identity",
        [
            same == outputs.model_identity(model, config),
            same == outputs.model_identity(model, other),
            same == outputs.model_identity(changed, config),
        ],
    )
    for name in ("s/a", "s/b", "t/a", "t/c"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("same" if name in ("s/a", "t/c") else name)

    def go(
        out: str,
        addresses: list[str],
        what: Any = model,
        settings: Config = config,
        skip: tuple[str, ...] = (),
        summary: str = "sum",
        text: str = "told",
        files: bool = True,
    ) -> Any:
        os.makedirs(out, exist_ok=True)
        paths = [Path(out) / (Path(a).name + ".r") for a in addresses] if files else []
        with outputs.Results(Path(out), what, settings) as results:
            left = results.open(addresses, paths, [Path(out) / summary])
            for i in left:
                if addresses[i] in skip:
                    results.leave_out(BadSample(addresses[i], "k"))
                    continue
                if files:
                    with results.writing(addresses[i], paths[i], {"n": i}) as path:
                        path.write_text(f"of {addresses[i]}")
                else:
                    results.record({addresses[i]: [i]})
            results.summary(Path(out) / summary, text)
            return [left, [results.row(a) for a in addresses], results.total, len(results.missing)]

    def there(out: str) -> list[str]:
        return sorted(p.name for p in Path(out).iterdir())

    note("first", lambda: [go("o1", ["s/a", "s/b"]), there("o1")])
    note("again", lambda: go("o1", ["s/a", "s/b"]))
    note("other model", lambda: go("o1", ["s/a"], changed))
    note("other config", lambda: go("o1", ["s/a"], settings=other))
    note("fewer", lambda: go("o1", ["s/a"]))
    note("namesake", lambda: go("o1", ["t/a", "s/b"], summary="sum2"))
    Path("s/b").write_text("another content")
    note("changed sample", lambda: go("o1", ["s/a", "s/b"]))
    Path("o1/a.r").write_text("by hand")
    note("changed by hand", lambda: go("o1", ["s/a", "s/b"]))
    Path("o1/a.r").unlink()
    note("removed", lambda: go("o1", ["s/a", "s/b"]))
    note("skipped", lambda: [go("o2", ["s/a", "s/b"], skip=("s/b",)), there("o2")])
    note("skipped again", lambda: go("o2", ["s/a", "s/b"]))
    note("no summary", lambda: [go("o2", ["s/a", "s/b"], text=""), there("o2")])
    note("nothing", lambda: [go("o3", ["s/a"], skip=("s/a",), text=""), there("o3")])
    Path("o4").mkdir()
    Path("o4/a.r").write_text("mine")
    note("not ours", lambda: go("o4", ["s/a"]))
    note("rows", lambda: [go("o5", ["s/a", "s/b"], files=False), go("o5", ["s/b", "s/a"], files=False), there("o5")])
    with Path("o5/predict.manifest.jsonl").open("a") as file:
        file.write('{"cut')
    note(
        "cut off",
        lambda: [go("o5", ["s/a", "s/b"], files=False), Path("o5/predict.manifest.jsonl").read_text().count("\n")],
    )
    Path("o5/predict.manifest.jsonl").write_text('{"x": 1}\n')
    note("no manifest", lambda: go("o5", ["s/a"], files=False))
    Path("many").mkdir()
    for name in ("b.png", "a.png", "c.txt"):
        Path("many", name).write_text("x")
    note("addresses", outputs.addresses_of(["many/b.png", "many", "many/a.png"], (".png",)))


@area()
def beginning(note: Note) -> None:
    from golden.rest_engine import saved

    run = given(
        {
            M + "data.statistics": {"mean": [0.5] * 3, "std": [0.25] * 3},
            M + "data.reader": {"name": "image", "max_pixels": 999},
            M + "data.augment": {"scale": [0.3, 0.9], "flip": [0]},
            M + "mask": {"name": "random", "ratio": 0.5},
        }
    )
    (path,) = saved(run, "run/checkpoints", (5,))
    plain: dict[str, Any] = {"task": {"name": "classify"}, "modalities": {"image": {"batch": 2}}, "train": {"steps": 2}}
    tried: dict[str, Any] = {
        "model.width": [12, 24, None],
        "model.depth": [2, 3],
        "model.heads": [2, 3],
        "model.size": ["tiny"],
        "model.mlp_ratio": [4.0, 2.0],
        "model.class_token": [True, False],
        "model.norm_eps": [1e-6, 1e-5],
        "model.drop_path": [0.2],
        "model.decoder": [{"width": 24}],
        M + "patch": [[4, 4], [2, 2], (4, 4)],
        M + "channels": [3, 1],
        M + "embed": ["patch", "x"],
        M + "position": ["sincos", "learned"],
        M + "size": [[8, 8], [16, 8], [9, 8]],
        M + "mask": ["block"],
        M + "target": [{"normalize": "none"}],
        M + "data.statistics": [
            "measured",
            "imagenet",
            {"mean": [0.5] * 3, "std": [0.25] * 3},
            {"mean": [0.4] * 3, "std": [0.25] * 3},
        ],
        M + "data.reader": [
            "image",
            "video",
            {"max_pixels": 5},
            {"name": "image", "max_pixels": 5},
            {"name": "image", "x": 5},
        ],
        M + "data.augment": [{}, {"scale": [0.5, 1.0]}, {"flip": []}, "x"],
        M + "data.repeats": [2],
        M + "data.max_bad_fraction": [0.5],
        M + "weight": [2.0],
        "modalities": [{}, {"imag": {"batch": 2}}, {"image": {"batch": 2}, "b": {}}, {"image": 3}],
        "model": [None, 3],
        "seed": [4],
        "init": ["else"],
    }
    for key, values in tried.items():
        for value in values:

            def begun(key: str = key, value: Any = value) -> Any:
                found = finetune.from_run(put(plain, key, value), "run", "here").model_dump(mode="json")
                base = finetune.from_run(plain, "run", "here").model_dump(mode="json")
                flat_found, flat_base = (str_items(v) for v in (found, base))
                return {k: v for k, v in flat_found.items() if flat_base.get(k) != v and k != "init"}

            note(f"{key}={value}", begun)
    note(
        "plain",
        lambda: digest(
            {
                k: v
                for k, v in str_items(finetune.from_run(plain, "run", "here").model_dump(mode="json")).items()
                if k != "init"
            }
        ),
    )
    note("from scratch", lambda: finetune.from_scratch({**BASE, "init": "x"}, "here").init)
    note(
        "no task",
        [
            lambda: finetune.check_task(given({}), "here"),
            lambda: finetune.check_task(given({"task": "classify"}), "here").task.name,
        ],
    )
    from mae_ext.model.mae import MAE
    from mae_ext.tasks.backbone import load_backbone

    for changes in ({}, {M + "position": "learned"}, {"model.width": 24}, {"model.depth": 1}, {M + "size": [16, 8]}):

        def loaded(changes: Any = changes) -> Any:
            model = MAE(given(changes), decodes=False)
            load_backbone(model, str(path))
            return [float(v.norm()) for v in model.state_dict().values()]

        note(f"backbone {changes}", loaded)
    learned = given({M + "position": "learned"})
    (placed,) = saved(learned, "learned/checkpoints", (1,))
    sized: dict[str, Any] = {"task": {"name": "classify"}, "modalities": {"image": {"batch": 2}}, "train": {"steps": 2}}
    for any_size in (True, False):
        for size in ([8, 8], [16, 8]):
            with mock.patch.object(Learned, "any_size", any_size):
                note(
                    f"positions of one grid {not any_size} at {size}",
                    lambda size=size: (
                        finetune.from_run(put(sized, M + "size", size), "learned", "here").modalities["image"].size
                    ),
                )
    for size in ([8, 8], [16, 8], [12, 12]):

        def fitted(size: Any = size) -> Any:
            model = MAE(given({M + "position": "learned", M + "size": size}), decodes=False)
            load_backbone(model, str(placed))
            return model.state_dict()["modalities.image.position.table"]

        note(f"backbone learned {size}", fitted)
    note("parse", lambda: parse_config(BASE).init)


def str_items(values: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(values, dict) and values:
        return {k: v for key, value in values.items() for k, v in str_items(value, f"{prefix}{key}.").items()}
    return {prefix: str(values)}
