# ruff: noqa: E501 - tables of inputs, a line for each
"""Crops and their arithmetic: augment, label maps and boxes in crops, distortions, and the order of an epoch."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recorded.record import digest, each, joined, room

from mae_ext.config import AugmentConfig
from mae_ext.data import crops as augment
from mae_ext.data import labelmap, plan, sample
from mae_ext.data.batch import Batch
from mae_ext.data.change import distort, mix
from mae_ext.data.image import boxes
from mae_ext.data.sample import Crop
from mae_ext.data.sources import folds


def said(crop: Crop) -> str:
    boxed = ",".join(f"{a}:{b}" for a, b in zip(crop.start, crop.stop, strict=True))
    return f"{boxed} {''.join(str(int(f)) for f in crop.flip)}"


SIZES: dict[int, tuple[tuple[int, ...], ...]] = {2: ((8, 8), (9, 16), (1, 1)), 3: ((4, 8, 8), (5, 6, 9))}
SOURCES: dict[int, tuple[tuple[int, ...], ...]] = {
    2: ((8, 8), (9, 16), (7, 30), (31, 8), (1, 1), (1, 50), (100, 101)),
    3: ((4, 8, 8), (3, 7, 9), (2, 40, 30), (11, 1, 5), (20, 21, 22), (6, 100, 10)),
}
AUGMENTS: dict[str, dict[str, Any]] = {
    "the default": {},
    "small": {"scale": (0.05, 0.1), "aspect": (1, 1)},
    "one area": {"scale": (0.5, 0.5), "aspect": (0.5, 2.0)},
    "whole": {"scale": None},
    "whole, no flip": {"scale": None, "flip": ()},
    "wide": {"scale": (1.0, 1.0), "aspect": (3.0, 4.0), "flip": (0, -1)},
    "fixed first": {"fixed": (0,), "flip": (0,)},
    "fixed last": {"fixed": (-1,), "scale": None, "flip": (1,)},
    "fixed": {"fixed": (0, 1), "flip": (0, 1, -1)},
    "fixed, all": {"fixed": (0, 1, -1), "scale": None},
    "fixed third": {"fixed": (2,)},
    "fixed fourth": {"fixed": (3,)},
    "fixed below": {"fixed": (-3,)},
    "fixed far below": {"fixed": (-4,)},
    "flip third": {"flip": (2,)},
    "flip fourth": {"flip": (3,)},
    "flip below": {"flip": (-3,)},
    "flip far below": {"flip": (-4,)},
}


@room
def data_crops(_: Path) -> Iterator[tuple[str, Any]]:
    for axes in (2, 3):
        for size, (label, given) in product(SIZES[axes], AUGMENTS.items()):
            config = AugmentConfig(**given)

            def drawn(config: Any = config, size: Any = size, axes: int = axes) -> list[str]:
                found = []
                for seed in range(6):
                    sampler = augment.crop_sampler(config, size, torch.Generator().manual_seed(seed))
                    found += [said(sampler(extent)) for extent in SOURCES[axes]]
                    if hasattr(sampler, "alternatives"):
                        found += [said(c) for c in sampler.alternatives(SOURCES[axes][2])]
                return found

            yield f"drawn: {label}, size {size}", drawn
            yield (
                f"judged: {label}, size {size}",
                lambda c=config, s=size, a=axes: each(
                    lambda: digest([said(augment.evaluation_sampler(c, s)(extent)) for extent in SOURCES[a]]),
                    lambda: digest([augment.training_shape(c, s, extent) for extent in SOURCES[a]]),
                ),
            )
        for size, share in product(SIZES[axes], (1.0, 0.875, 0.5, 0.01, 0.0, -0.1, 1.0001)):
            yield (
                f"centre: size {size}, share {share}",
                lambda c=size, s=share, a=axes: [said(augment.center_sampler(c, s)(extent)) for extent in SOURCES[a]],
            )
    rest = augment.CenterCrop((4, 4), 1.0, (True, False))
    for place in (0.0, 0.2, 0.5, 0.999999, 1.0):
        fixed = augment.FixedCrop((4, 4), (0, 1), rest, ((place, 1 - place), (1 - place, place)))
        yield (
            f"fixed at {place}",
            [said(c) for e in ((4, 4), (5, 4), (3, 9), (2, 1), (12, 13)) for c in fixed.alternatives(e)],
        )
    for number, row in enumerate(([0.0] * 4, [1.0] * 4, [0.5] * 4, [0.999, 0.001, 0.999, 0.001])):
        for scale, aspect in product(
            ((0.2, 1.0), (1.0, 1.0), (0.01, 0.02)), ((0.75, 4 / 3), (1, 1), (0.1, 0.2), (5, 9))
        ):
            one = augment.RandomResizedCrop(scale, aspect, (tuple(row),) * 2, (False, True))
            yield (
                f"resized {number} {scale} {np.round(aspect, 2).tolist()}",
                " | ".join(said(one(e)) for e in SOURCES[2]),
            )
    yield from label_maps()


def label_maps() -> Iterator[tuple[str, Any]]:
    chance = np.random.default_rng(8)
    for shape in ((9, 12), (5, 6, 7), (1, 4), (2, 1, 3)):
        labels = chance.integers(0, 5, shape).astype(np.int32)
        n = len(shape)
        zero = (0,) * n
        for what, (start, stop, size) in {
            "whole": (zero, shape, shape),
            "shrunk": (zero, shape, tuple(max(1, s // 2) for s in shape)),
            "enlarged": (zero, shape, tuple(2 * s + 1 for s in shape)),
            "before": (tuple(-2 for _ in shape), shape, tuple(s + 2 for s in shape)),
            "before, resized": (tuple(-3 for _ in shape), shape, tuple(s + 1 for s in shape)),
            "after": (zero, tuple(s + 2 for s in shape), tuple(s + 2 for s in shape)),
            "around, resized": ((-1,) * n, tuple(s + 2 for s in shape), (5,) * n),
            "one": (tuple(s - 1 for s in shape), shape, (1,) * n),
        }.items():
            flips = ((False,) * n, (True,) + (False,) * (n - 1), (False,) * (n - 1) + (True,), (True,) * n)
            crops = [Crop(start, stop, flip) for flip in flips]
            name = f"labels {shape} {what} {said(crops[0])} to {size}, flips"
            yield name, lambda la=labels, c=crops, s=size: digest(*(labelmap.cut(la, b, s) for b in c))
        for number, (kinds, grown) in enumerate(
            product((labels, labels + 1, labels * 0, (labels == 3) * 7), (1, 2, 30))
        ):
            box = Crop(zero, tuple(min(grown + i, s + 1) for i, s in enumerate(shape)), (True,) + (False,) * (n - 1))
            name = f"toward foreground {number} of {shape} {np.unique(kinds).tolist()} box {said(box)}"
            yield (
                name,
                lambda k=kinds, b=box: " | ".join(
                    said(labelmap.toward_foreground(k, b, torch.Generator().manual_seed(seed))) for seed in range(20)
                ),
            )
        moved = Crop((1,) * n, tuple(min(3, s) for s in shape), (False,) * n)
        if min(shape) > 2:
            yield (
                f"toward foreground of {shape}, box {said(moved)}",
                lambda la=labels, b=moved: " | ".join(
                    said(labelmap.toward_foreground(la, b, torch.Generator().manual_seed(seed))) for seed in range(20)
                ),
            )
    suffixes = (".nii", ".nii.gz", ".dcm/", ".png")
    yield (
        "stems",
        [
            labelmap.stem(a, suffixes)
            for a in (
                "a/b.nii.gz",
                "b.nii",
                "x/series/",
                "b.PNG",
                "a.tar::0+9::c/d.png",
                "f.npz::k::17",
                "none",
                "a.b.c",
                "s.dcm/",
            )
        ],
    )
    yield "recorded crop", lambda: [said(sample.whole((3, 4))), [3, 4]]


@room
def data_boxes_in_crops(_: Path) -> Iterator[tuple[str, Any]]:
    found = torch.tensor([
        [0, 0, 10, 20], [2, 3, 4, 5], [5, 5, 6, 19], [9, 0, 10, 1], [-1, -1, 3, 3], [0, 0, 0, 0], [4, 10, 9, 11], [3, 8, 3.5, 18],
        [0, 0, 5, 5], [1, 1, 9.4, 1.4],
    ], dtype=torch.float32)  # fmt: skip
    for (top, left), (bottom, right) in (
        ((0, 0), (20, 10)),
        ((4, 2), (12, 10)),
        ((5, 5), (6, 6)),
        ((10, 0), (20, 10)),
        ((0, 4), (20, 5)),
        ((4, 4), (14, 14)),
    ):
        for flip, size in product(
            ((False, False), (True, False), (False, True), (True, True)), ((20, 10), (8, 8), (5, 40))
        ):
            crop = Crop((top, left), (bottom, right), flip)
            cut, shown = boxes.crop_boxes(found, crop, size)
            yield f"boxes in {said(crop)} to {size}", joined([cut + 0.0, shown, boxes.uncrop_boxes(found, crop, size)])
    crop = Crop((0, 0), (10, 10), (False, False))
    for side in (0.99, 1.0, 1.01):
        yield (
            f"a box {side} thin",
            boxes.crop_boxes(torch.tensor([[1, 1, 1 + side, 6], [1, 1, 6, 1 + side]]), crop, (10, 10))[1],
        )
    for part in (1.9, 2.0, 2.1):
        box = torch.tensor([[10 - part, 1, 20 - part, 6], [1, 10 - part, 6, 20 - part], [part - 10, 0, part, 6]])
        yield f"a box that shows {part} of 10", boxes.crop_boxes(box, crop, (10, 10))[1]
    yield "no boxes", [*boxes.crop_boxes(torch.zeros(0, 4), crop, (10, 10))]


@room
def data_distortions(_: Path) -> Iterator[tuple[str, Any]]:
    generator = torch.Generator().manual_seed(5)
    inputs = {
        f"{c}x{'x'.join(map(str, s))}": torch.randn(c, *s, generator=generator) * 40 + 7
        for c, s in product((1, 2, 3), ((8, 11), (3, 7, 9), (2, 1)))
    }
    inputs["bytes"] = torch.randint(0, 256, (3, 9, 10), generator=generator, dtype=torch.uint8)
    inputs["grey bytes"] = torch.randint(0, 256, (1, 6, 5), generator=generator, dtype=torch.uint8)
    yield "operations", [[f.__name__ for f in distort.OPERATIONS], [f.__name__ for f in distort.VALUES]]
    for (label, x), operation in product(inputs.items(), distort.OPERATIONS):
        wide = x.float() / 255 if x.dtype == torch.uint8 else x
        yield f"{operation.__name__} of {label}", joined(operation(wide, amount) for amount in (-1.0, -0.4, 0.05, 1.0))
    for (label, x), (count, strength, erase) in product(
        inputs.items(),
        ((0, 0.5, 0.0), (1, 0.5, 0.0), (2, 1.0, 0.0), (3, 0.1, 0.5), (0, 0.0, 1.0), (2, 0.0, 0.0), (5, 1.0, 0.3)),
    ):
        yield (
            f"distort {label} {count} {strength} {erase}",
            lambda x=x, a=(count, strength, erase): joined(
                distort.distort(x, *a, torch.Generator().manual_seed(seed), among=among)
                for seed in range(4)
                for among in (distort.OPERATIONS, distort.VALUES)
            ),
        )
    yield from mixtures()


def mixtures() -> Iterator[tuple[str, Any]]:
    generator = torch.Generator().manual_seed(6)
    for kind, shape in (
        ("float", (6, 2, 8, 9)),
        ("bytes", (6, 3, 5, 7)),
        ("volume", (4, 1, 3, 6, 5)),
        ("pairs", (4, 1, 6, 6)),
    ):
        x = (
            torch.randn(shape, generator=generator)
            if kind != "bytes"
            else torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        )
        y = torch.eye(8)[: shape[0]]
        keys = [plan.Key(0, i, i, 0, slot) for i, slot in enumerate(range(4, 4 + shape[0]))]
        for mixup, cutmix, seed, name, step in (
            (0, 0, 1, "a", 0),
            (0.8, 0, 1, "a", 0),
            (0, 1.0, 1, "a", 0),
            (0.2, 1.0, 1, "a", 0),
            (0.8, 0.3, 1, "a", 3),
            (0.8, 0, 2, "a", 0),
            (0.8, 1, 1, "b", 0),
        ):

            def mixed(
                x: Any = x, y: Any = y, keys: Any = keys, m: Any = (mixup, cutmix), s: Any = (seed, name, step)
            ) -> Any:
                batch = mix.Mix(*m)(Batch(x, targets={"y": y, "z": y}), keys, *s, "y")
                return [str(batch.x.dtype), joined([batch.x, batch.targets["y"], batch.targets["z"]])]

            yield f"mix {kind} {mixup} {cutmix} {seed} {name} {step}", mixed
        shifted = [plan.Key(0, i, i, 0, i) for i in range(shape[0])]
        yield (
            f"mix {kind} of other slots",
            lambda x=x, y=y, k=shifted: [mix.Mix(1.0, 0)(Batch(x, targets={"y": y}), k, 1, "a", 0, "y").targets["y"]],
        )
    pair = torch.arange(2 * 1 * 6 * 10, dtype=torch.float32).view(2, 1, 6, 10)
    for share, at in product((0.0, 0.25, 0.5, 0.99, 1.0), ((0.0, 0.0), (0.5, 0.5), (0.9, 0.1), (1.0, 1.0))):
        pasted, left = mix.cutmix(pair, share, np.array(at))
        yield f"cutmix {share} at {at}", joined([pasted, [left], mix.mixup(pair, share)])


@room
def data_order(_: Path) -> Iterator[tuple[str, Any]]:
    for files, batch, repeats, world in product((1, 3, 10), (4, 12), (1, 2), (1, 2, 4, 5)):
        for seed, name in ((0, "a"), (1, "a"), (0, "b")):

            def keys(
                files: int = files,
                batch: int = batch,
                repeats: int = repeats,
                world: int = world,
                seed: int = seed,
                name: str = name,
            ) -> Any:
                found = []
                for rank, step in product(range(world), (0, 1, 7)):
                    one = plan.Plan(seed, name, files, batch, repeats, rank, world)
                    for key in one.keys(step):
                        found += [key.epoch, key.place, key.index, key.repeat, key.slot]
                    found += [*one.candidates(one.keys(step)[-1]), one.samples_per_epoch]
                return found

            if (seed, name) == (0, "a") or world == 2:
                yield f"order: {files} files, batch {batch}, {repeats} views, {world} ranks, seed {seed}, {name}", keys
    yield (
        "order at the defaults",
        [[k.index for k in plan.Plan(3, "x", 7, 5).keys(2)], plan.Plan(3, "x", 7, 5).keys(2)[0]],
    )
    chance = np.random.default_rng(12)
    for number in range(24):
        n = int(chance.integers(4, 40))
        groups = [f"p{i}" for i in chance.integers(0, max(3, n // (1 + number % 4)), n)]
        if number % 3 == 0:
            groups = list(range(n))
        kinds = [["a", "b", "c", "d"][i] for i in chance.choice(4, n, p=(0.6, 0.25, 0.1, 0.05))]
        if number % 4 == 1:
            kinds = [ord(k) for k in kinds]
        for count, seed in ((2, 0), (5, 0), (3, 1)):
            yield (
                f"folds {number}: {n} samples in {count}, seed {seed}",
                lambda g=groups, k=kinds, c=count, s=seed: " ".join(map(str, folds.deal(g, k, c, s))),
            )
    ties = [f"p{i // 4}" for i in range(24)]
    mixed = ["b" if i % 4 < 2 else "a" for i in range(24)]
    yield "folds of patients of two classes alike", lambda: folds.deal(ties, mixed, 3, 0)
    uneven = [f"p{i}" for i in (0,) * 9 + (1,) * 5 + (2,) * 4 + (3,) * 3 + (4, 5, 6, 7, 7, 8)]
    for count in (1, 2, 3, 4, 9, 10):
        yield f"folds of uneven patients in {count}", lambda c=count: folds.deal(uneven, ["x"] * len(uneven), c, 0)
    batch = Batch(
        torch.arange(12).view(4, 3),
        valid=torch.ones(4, 1, dtype=torch.bool),
        spacing=torch.ones(4, 2),
        sources=list("abcd"),
        bad=[{"a": 1}],
        targets={"t": torch.arange(4)},
        files=torch.arange(4),
    )
    for start, stop in ((0, 2), (2, 4), (1, 1)):
        yield (
            f"rows {start} to {stop} of a batch",
            lambda a=start, b=stop: [
                (r := batch.rows(a, b)).x,
                r.valid,
                r.spacing,
                r.sources,
                r.bad,
                r.targets,
                r.files,
            ],
        )
