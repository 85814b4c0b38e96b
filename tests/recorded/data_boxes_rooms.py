# ruff: noqa: E501, PLC3002 - tables of inputs, a line for each
"""Label files of boxes: what is read of them, and whose each entry is."""

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recorded.record import digest, joined, room

from mae_ext.data.image import box_files, boxes

# Boxes ----------------------------------------------------------------------------------------------------------------


def voc(
    path: Path, rows: list[tuple[Any, ...]], size: tuple[Any, Any] | None = (60, 80), root: str = "annotation"
) -> None:
    sized = "" if size is None else f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
    objects = "".join(
        f"<object><name>{r[0]}</name>{f'<difficult>{r[5]}</difficult>' if len(r) > 5 else ''}<bndbox><xmin>{r[1]}</xmin><ymin>{r[2]}</ymin><xmax>{r[3]}</xmax><ymax>{r[4]}</ymax></bndbox></object>"
        for r in rows
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<{root}>{sized}{objects}</{root}>")


def table(found: boxes.BoxTable) -> Any:
    identity = [
        found.identity,
        *(
            type(found)(**{**vars(found), name: value}).identity
            for name, value in (
                ("ignored", ~found.ignored),
                ("labels", found.labels + 1),
                ("sizes", found.sizes + 1),
                ("boxes", found.boxes + 1),
                ("ends", found.ends + 1),
                ("classes", (*found.classes, "more")),
            )
        ),
    ]
    one = [list(vars(found[i]).values()) for i in range(len(found))]
    return [
        found.classes,
        digest(found.ends, found.sizes, found.labels, found.ignored),
        joined([found.boxes]),
        found.most,
        found.count,
        found.dropped,
        digest(one),
        len({*identity}),
        digest(identity[0]),
    ]


@room
def data_box_files(folder: Path) -> Iterator[tuple[str, Any]]:
    many = [("cat", 1, 1, 80, 60), ("dog", 5, 6, 30, 40, 1), ("ant", 10, 10, 20, 20, 0), ("cat", 2, 3, 9, 9, " 1 ")]
    cases: dict[str, list[tuple[Any, ...]]] = {
        "good": many, "none": [], "one pixel": [("a", 3, 3, 3, 9)], "one row": [("a", 3, 3, 9, 3)], "turned": [("a", 9, 3, 3, 9)], "to the edge": [("a", 1, 1, 81, 61)], "over by 1": [("a", 0, 0, 81, 61)], "over by more": [("a", 1, 1, 81.01, 60)], "below 0": [("a", -0.5, 1, 9, 9)], "far below 0": [("a", -1, 1, 9, 9)], "outside": [("a", 80.5, 1, 81, 9)], "beside the edge": [("a", 81, 1, 82, 9)], "three": [("a", 1, 1, 9, 9), ("b", 90, 1, 99, 9, 1), ("c", 2, 2, 8, 8, 1)], "words": [("a", "x", 1, 2, 3)], "infinite": [("a", "inf", 1, 2, 3)], "nameless": [(" ", 1, 1, 2, 3)], "two classes": [("a", 1, 1, 9, 9), ("b", 1, 1, 9, 9)], "swapped": [("a", 1, 1, 55, 79)], "shares": [("a", 0.1, 0.1, 0.5, 0.6)], "half shares": [("a", 0.1, 0.1, 1, 1), ("a", 2, 2, 9, 9)], "difficult yes": [("a", 1, 1, 9, 9, "yes"), ("a", 1, 1, 9, 9, 2)],
    }  # fmt: skip
    for label, rows in cases.items():
        for size in (
            ((60, 80), None, (0, 80), (60, -1), ("x", 80)) if label in ("good", "outside", "below 0") else ((60, 80),)
        ):
            root = folder / "voc" / f"{label} {size}"
            voc(root / "img.xml", rows, size)
            voc(root / "other.xml", [("zebra", 1, 1, 9, 9)], (60, 80))
            for faulty in ("refuse", "drop"):
                yield (
                    f"voc {label}, {size}, {faulty}",
                    lambda r=root, f=faulty: table(
                        boxes.read_boxes({"train": ["x/img.jpg"]}, str(r), faulty=f)["train"]
                    ),
                )
    chance = np.random.default_rng(31)
    for number in range(8):
        corner = chance.integers(-1, 82, (6, 2))
        drawn = [
            (str(chance.choice(["a", "b", "c"])), *c, *(c + chance.integers(-3, 30, 2)), int(chance.integers(0, 2)))
            for c in corner
        ]
        voc(folder / "chance" / str(number) / "img.xml", drawn)
        yield (
            f"voc by chance {number}",
            lambda n=number: table(
                boxes.read_boxes({"train": ["img.jpg"]}, f"{folder}/chance/{n}", faulty="drop")["train"]
            ),
        )
    for label, text in {
        "doctype": "<!DOCTYPE a><annotation/>",
        "text": "no xml",
        "another root": "<voc/>",
        "deep": "<annotation>" + "<a>" * 15 + "</a>" * 15 + "</annotation>",
        "too deep": "<annotation>" + "<a>" * 16 + "</a>" * 16 + "</annotation>",
        "no box": "<annotation><object><name>a</name></object></annotation>",
        "no xmax": "<annotation><object><name>a</name><bndbox><xmin>1</xmin><ymin>1</ymin><ymax>3</ymax></bndbox></object></annotation>",
        "half a size": "<annotation><size><width>9</width></size></annotation>",
        "empty": "",
    }.items():
        root = folder / "xml" / label
        root.mkdir(parents=True)
        (root / "a.xml").write_text(text)
        (root / ".b.xml").write_text("hidden")
        yield f"xml {label}", lambda r=root: table(boxes.read_boxes({"train": ["a.jpg"]}, str(r))["train"])
    for label, name in {"nothing": None, "json": "a.json", "yolo": "a.txt"}.items():
        root = folder / "empty" / label
        root.mkdir(parents=True)
        if name:
            (root / name).write_text("{}")
        yield f"a folder with {label}", lambda r=root: box_files.read_annotations(str(r))
    yield from cocos(folder)
    yield from matches(folder)
    row = boxes.ImageBoxes(torch.tensor([[0, 0, 10.5, 5.0]]), torch.zeros(1), torch.zeros(1), (5, 10))
    for extent, size in product(((5, 10), (10, 5), (4, 10), (5, 9), (4, 9), (3, 9)), ((5, 10), None)):
        yield (
            f"an image of {extent}, labelled {size}",
            lambda e=extent, s=size: boxes.ImageBoxes(row.boxes, row.labels, row.ignored, s).check("a", e),
        )


def coco(**changes: Any) -> dict[str, Any]:
    base = {
        "images": [
            {"id": 2, "file_name": "b.jpg", "width": 80, "height": 60},
            {"id": 1, "file_name": "sub/a.jpg", "width": 90, "height": 50},
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 5, "name": "ant"}],
        "annotations": [
            {"image_id": 1, "category_id": 7, "bbox": [1, 2, 30, 20]},
            {"image_id": 2, "category_id": 3, "bbox": [0, 0, 80, 60], "iscrowd": 1},
            {"image_id": 1, "category_id": 3, "bbox": [5, 5, 4, 4], "iscrowd": 0},
        ],
    }
    return base | changes


def cocos(folder: Path) -> Iterator[tuple[str, Any]]:
    base = coco()
    one = base["annotations"][0]
    odd: dict[str, Any] = {
        "good": base, "no sizes": coco(images=[{k: v for k, v in i.items() if len(k) < 5 or k == "file_name"} for i in base["images"]]), "a list": [], "no images": {k: v for k, v in base.items() if k != "images"}, "images of numbers": coco(images=[1]), "two ids": coco(images=[base["images"][0]] * 2), "a text for an id": coco(images=[{**base["images"][0], "id": "1"}]), "no name": coco(images=[{"id": 1}]), "an empty name": coco(images=[{"id": 1, "file_name": " "}]), "two names": coco(categories=[*base["categories"], {"id": 9, "name": " cat"}]), "an unknown image": coco(annotations=[one | {"image_id": 9}]), "an unknown class": coco(annotations=[one | {"category_id": 9}]), "three numbers": coco(annotations=[one | {"bbox": [1, 2, 3]}]), "words": coco(annotations=[one | {"bbox": [1, 2, "x", 3]}]), "no box": coco(annotations=[{k: v for k, v in one.items() if k != "bbox"}]), "corners": coco(annotations=[one | {"bbox": [40, 30, 85, 49]}]), "swapped": coco(annotations=[one | {"bbox": [0, 0, 40, 85]}]), "backslashes": coco(images=[base["images"][0], base["images"][1] | {"file_name": "sub\\a.jpg"}]), "negative width": coco(annotations=[one | {"bbox": [40, 30, -5, 5]}]), "outside": coco(annotations=[one | {"bbox": [40, 30, 60, 5]}]), "nan": coco(annotations=[one | {"bbox": [float("nan"), 0, 1, 1]}]), "size 0": coco(images=[i | {"width": 0} for i in base["images"]]), "shares": coco(annotations=[one | {"bbox": [0.1, 0.1, 0.5, 0.5]}]),
    }  # fmt: skip
    for label, content in odd.items():
        path = folder / f"{label}.json"
        path.write_text(json.dumps(content))
        for faulty in ("refuse", "drop"):
            yield (
                f"coco {label}, {faulty}",
                lambda p=path, f=faulty: (lambda t: [table(t["train"]), table(t["test"])])(
                    boxes.read_boxes({"train": ["data/sub/a.jpg"], "test": ["data/b.jpg"]}, str(p), faulty=f)
                ),
            )
    (folder / "text.json").write_text("{no")
    for path in ("text.json", "none.json", "none", "a.xml"):
        yield f"labels of {path}", lambda p=path: box_files.read_annotations(str(folder / p))
    good = str(folder / "good.json")
    for label, classes in {"given": ("ant", "cat", "dog"), "short": ("cat",), "none": ()}.items():
        yield (
            f"coco, classes {label}",
            lambda c=classes: table(boxes.read_boxes({"train": ["sub/a.jpg"]}, good, c)["train"]),
        )
    yield (
        "a class of the test alone",
        lambda: table(boxes.read_boxes({"train": ["b.jpg"], "test": ["sub/a.jpg"]}, good)["train"]),
    )


def matches(folder: Path) -> Iterator[tuple[str, Any]]:
    def rows(*names: str, size: Any = (5, 6), box: Any = (1, 1, 2, 2)) -> list[box_files.Annotation]:
        return [
            box_files.Annotation(
                f"{i}:{n}",
                tuple(n.split("/")),
                size,
                [box] if i % 2 else [],
                ["a"] if i % 2 else [],
                [False] if i % 2 else [],
            )
            for i, n in enumerate(names)
        ]

    given = {
        "by folder": (rows("x/a.jpg", "y/a.jpg"), ["d/y/a.jpg", "d/x/a.jpg"]), "by case": (rows("A.JPG", "b.jpg"), ["a.jpg"]), "by suffix": (rows("a.png", "b.jpg"), ["x/a.jpg"]), "accents": (rows("u\u0308.jpg"), ["\u00fc.jpg"]), "taken": (rows("a.png", "a.jpg"), ["a.jpg", "a.png"]), "missing": (rows("a.jpg"), ["b.jpg", "a.jpg"]), "ambiguous": (rows("x/a.jpg", "y/a.jpg"), ["a.jpg"]), "contradictory": (rows("a.jpg", "a.jpg"), ["a.jpg"]), "twice": (rows("x/a.jpg", "b.jpg", "x/a.jpg"), ["x/a.jpg"]), "shared": (rows("a.jpg"), ["x/a.jpg", "y/a.jpg"]), "in a shard": (rows("a.jpg"), ["s.tar::0+9::k/a.jpg"]), "unused": (rows("a.jpg", "b.jpg", "c.jpg"), ["a.jpg"]),
    }  # fmt: skip
    from mae_ext.data.image.box_match import match

    for (label, (annotations, images)), suffixed in product(given.items(), (True, False)):
        kept = (
            annotations
            if suffixed
            else [
                box_files.Annotation(
                    a.where, (*a.parts[:-1], a.parts[-1].rpartition(".")[0]), a.size, a.boxes, a.names, a.ignored
                )
                for a in annotations
            ]
        )
        yield (
            f"matched {label}, suffixed {suffixed}",
            lambda k=kept, i=images, s=suffixed: [
                r.where for r in match(box_files.Annotations(k, ("a",), s), {"train": i}, "p")["train"]
            ],
        )
