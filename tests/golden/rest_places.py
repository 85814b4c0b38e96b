"""Boxes and windows: targets and decoding of boxes, and maps from windows that slide."""

# ruff: noqa: PLC3002
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from golden.rest import Note, area, digest
from golden.rest_engine import given
from golden.rest_model import numbers
from golden.rest_tasks import moved
from PIL import Image
from torch import Tensor

from mae_ext.data.loading import blend
from mae_ext.data.loading import rows as rows_
from mae_ext.data.loading import slabs as slabs_
from mae_ext.data.loading.windows import starts
from mae_ext.data.sources.table import Items, PathTable
from mae_ext.tasks.detect import detections, fcos, pyramid
from mae_ext.tasks.segment import windows


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
            {f"{w} {o}": starts(length, w, o) for w in (4, 8) for o in (0.0, 0.25, 0.5, 0.6, 0.9)},
        )
    for at in ([0.0, 1.0, 2.0], [-1.0, 0.5, 2.5, 9.0], [0.25], []):
        note(f"taps {at}", rows_.taps(np.array(at, dtype=float), 4))
    note("weights", blend.weights((4, 6), torch.device("cpu")))

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
                    mock.patch.object(blend, "HELD", 1),
                    mock.patch.object(rows_, "CHUNK", 8),
                    mock.patch.object(rows_, "TOGETHER", 1),
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
    (placed,) = rows_.onto(iter([rows]), [np.arange(1.0, 5.0), np.arange(6.0)], (6, 6))
    labels[1:5] = placed.argmax(-1)
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
                    mock.patch.object(slabs_, "SLAB", slab),
                    mock.patch.object(slabs_, "read_checked", read),
                    mock.patch.object(slabs_, "replace", lambda s, x, valid: SimpleNamespace_(x)),
                ):
                    found = slabs_.read_slabs(given({}).modalities["image"], "a", shape, extent)
                return [seen_, torch.cat([s.x for s in found], 1)[0, :, 0].tolist()]

            note(f"slabs {shape} {extent} {slab}", lambda cut=cut: digest(cut()))


class SimpleNamespace_:
    def __init__(self, x: Tensor) -> None:
        self.x, self.valid = x, None
