# ruff: noqa: B008, E501, PLC3002 - tables of inputs, a line for each
"""Pictures, label files, lists, folders, shards and arrays: what readers make of them, and what messages say."""

import csv
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from PIL import Image
from recorded.record import Soft, digest, each, joined, room

from mae_ext.config import parse_config
from mae_ext.data import plan, sample
from mae_ext.data.crops import center_sampler
from mae_ext.data.image import box_files, boxes, picture
from mae_ext.data.image import labels as label_image
from mae_ext.data.image.reader import ImageReader
from mae_ext.data.loading import batches, doctor, statistics
from mae_ext.data.sample import Crop, Sample
from mae_ext.data.sources import address as addresses
from mae_ext.data.sources import cache, meant, passed_over
from mae_ext.data.sources import folder as folders
from mae_ext.data.sources import table as source
from mae_ext.data.video import bitstream, film_table


def smooth(height: int, width: int, channels: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width] / max(height, width)
    found = np.stack([128 + 100 * np.sin((3 + c) * y + (2 - c) * x + c) for c in range(channels)], -1).astype(np.uint8)
    return found[..., 0] if channels == 1 else found


def pictures(folder: Path) -> Iterator[tuple[str, str]]:
    grey, rgb, rgba, two = (smooth(24, 32, c) for c in (1, 3, 4, 2))
    sharp = np.random.default_rng(2).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    exif = Image.Exif()
    made: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "grey.png": (Image.fromarray(grey), {}), "rgb.png": (Image.fromarray(rgb), {}), "rgba.png": (Image.fromarray(rgba), {}), "la.png": (Image.fromarray(two, "LA"), {}), "sharp.png": (Image.fromarray(sharp), {}), "bits.png": (Image.fromarray(grey > 128), {}),
        "palette.png": (Image.fromarray(rgb).quantize(9), {}), "palette.gif": (Image.fromarray(rgb).quantize(9), {"transparency": 2}), "deep.png": (Image.fromarray(grey.astype(np.uint16) * 250), {}), "deep.tif": (Image.fromarray(grey.astype(np.uint16) * 250), {}), "int.tif": (Image.fromarray(grey.astype(np.int32) * 9), {}), "float.tif": (Image.fromarray(grey.astype(np.float32) / 7 - 9), {}), "floats.pfm": (Image.fromarray(grey.astype(np.float32)), {}),
        "ink.jpg": (Image.fromarray(rgba, "CMYK"), {"quality": 95}), "rgb.jpg": (Image.fromarray(rgb), {"quality": 95}), "grey.jpg": (Image.fromarray(grey), {"quality": 95}), "rgb.bmp": (Image.fromarray(rgb), {}), "rgb.ppm": (Image.fromarray(rgb), {}), "rgb.webp": (Image.fromarray(rgb), {"lossless": True}), "keyed.png": (Image.fromarray(rgb), {"transparency": (28, 28, 28)}), "rgb.tif": (Image.fromarray(rgb), {}), "rgba.tif": (Image.fromarray(rgba), {}), "rgb.tga": (Image.fromarray(rgb), {}), "thin.png": (Image.fromarray(smooth(1, 40, 3)), {}), "dot.png": (Image.fromarray(smooth(1, 1, 3)), {}),
    }  # fmt: skip
    for name, (picture_, options) in made.items():
        picture_.save(folder / name, **options)
        yield name, str(folder / name)
    for turn in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9):
        exif[0x0112] = turn
        for suffix in ("jpg", "png"):
            Image.fromarray(rgb).save(folder / f"turn{turn}.{suffix}", exif=exif.tobytes())
            yield f"turn {turn}, {suffix}", str(folder / f"turn{turn}.{suffix}")
        tifffile.imwrite(folder / f"turn{turn}.tif", rgb, photometric="rgb", extratags=[(274, 3, 1, turn, True)])
        yield f"turn {turn}, tif", str(folder / f"turn{turn}.tif")
    frames = [Image.fromarray(np.roll(rgb, i, 0)) for i in range(3)]
    frames[0].save(folder / "film.gif", save_all=True, append_images=frames[1:])
    yield "animation", str(folder / "film.gif")
    layers = np.random.default_rng(3).integers(0, 60000, (24, 32, 6)).astype(np.uint16)
    tiffs: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
        "bands": (layers, {"photometric": "minisblack", "planarconfig": "contig"}), "planes": (layers.transpose(2, 0, 1), {"photometric": "minisblack", "planarconfig": "separate"}), "pages": (layers.transpose(2, 0, 1), {"photometric": "minisblack"}), "tiles": (layers[..., :3], {"photometric": "rgb", "tile": (16, 16)}), "packed": (layers[..., :3], {"photometric": "rgb", "compression": "zlib", "predictor": True, "rowsperstrip": 5}), "white is 0": (grey, {"photometric": "miniswhite"}), "white is 0, deep": (layers[..., 0], {"photometric": "miniswhite"}), "strips": (rgb, {"photometric": "rgb", "rowsperstrip": 7}), "floats": (layers[..., :2].astype(np.float32), {"photometric": "minisblack", "planarconfig": "contig"}), "signed": (layers[..., 0].astype(np.int16), {"photometric": "minisblack"}), "int32": (layers[..., 0].astype(np.int32) * 3, {"photometric": "minisblack"}), "not finite": (np.where(layers[..., 0] > 59000, np.nan, 1).astype(np.float32), {"photometric": "minisblack"}), "alpha": (rgba, {"photometric": "rgb", "extrasamples": ["unassalpha"]}), "grey alpha": (two, {"photometric": "minisblack", "extrasamples": ["unassalpha"], "planarconfig": "contig"}), "bits": (grey > 99, {"photometric": "minisblack"}),
    }  # fmt: skip
    for name, (pixels, options) in tiffs.items():
        tifffile.imwrite(folder / f"t {name}.tif", pixels, **options)
        yield f"tiff {name}", str(folder / f"t {name}.tif")
    with tifffile.TiffWriter(folder / "pyramid.tif") as writer:
        large = smooth(256, 320, 3)
        writer.write(large, photometric="rgb", tile=(64, 64), subifds=2)
        writer.write(large[::2, ::2], photometric="rgb", tile=(64, 64), subfiletype=1)
        writer.write(large[::4, ::4] // 2, photometric="rgb", tile=(64, 64), subfiletype=1)
    yield "pyramid", str(folder / "pyramid.tif")
    Image.fromarray(smooth(300, 420, 3)).save(folder / "large.jpg", quality=92)
    yield "large jpeg", str(folder / "large.jpg")
    arrays = {
        "grey": grey,
        "rgb": rgb,
        "rgba": rgba,
        "two": two,
        "bool": grey > 99,
        "u2": layers,
        "f4": layers[..., :3].astype(np.float32),
        "i4": grey.astype(np.int32),
        "u2grey": layers[..., :1],
        "line": grey[0],
        "empty": grey[:0],
        "four": rgb[None],
        "nan": np.full((4, 4), np.nan),
        "f2": grey.astype(np.float16),
        "i1": grey.astype(np.int8),
    }
    np.savez(folder / "rows.npz", **{k: v[None] for k, v in arrays.items()})
    np.savez_compressed(
        folder / "packed.npz", grey=np.asfortranarray(np.stack([grey, 255 - grey])), rgb=np.stack([rgb, 255 - rgb])
    )
    np.savez(folder / "columns.npz", grey=np.asfortranarray(np.stack([grey, 255 - grey])))
    for key in arrays:
        yield f"row of {key}", f"{folder}/rows.npz::{key}::0"
    yield from (
        (f"row {n} of {f} {k}", f"{folder}/{f}.npz::{k}::{n}")
        for f, k, n in (
            ("packed", "grey", 1),
            ("packed", "rgb", 0),
            ("columns", "grey", 1),
            ("rows", "grey", 1),
            ("rows", "none", 0),
            ("none", "grey", 0),
        )
    )
    content = (folder / "rgb.png").read_bytes()
    for name, changed in {
        "cut.png": content[:-200],
        "text.png": b"no picture at all, by any means",
        "empty.png": b"",
        "header.png": content[:20],
        "cut.jpg": (folder / "rgb.jpg").read_bytes()[:400],
        "heic.heic": b"\0\0\0\x18ftypheic" + bytes(50),
        "cut.tif": (folder / "rgb.tif").read_bytes()[:900],
        "png called.jpg": content,
    }.items():
        (folder / name).write_bytes(changed)
        yield f"odd {name}", str(folder / name)
    yield "odd none.png", str(folder / "none.png")


def crop(top: int, left: int, bottom: int, right: int, *flip: bool) -> Callable[..., Crop]:
    return lambda _: Crop((top, left), (bottom, right), flip or (False, False))


def whole(extent: tuple[int, ...]) -> Crop:
    return Crop((0, 0), extent, (False, False))


def seen(reader: ImageReader, address: str, *crops: Any) -> Any:
    samples = reader.read(address, list(crops))
    exact = all(s.x.dtype == torch.float32 for s in samples)
    flat = joined(s.x for s in samples)
    return [str(samples[0].x.dtype), flat if exact else Soft(flat)]


@room
def data_pictures(folder: Path) -> Iterator[tuple[str, Any]]:
    made = dict(pictures(folder))
    for name, address in made.items():
        some = (
            [crop(0, 0, 24, 32), crop(2, 4, 18, 20, True, False), crop(5, 1, 9, 31, False, True)]
            if "turn" not in name
            else [whole, center_sampler((8, 9))]
        )
        if name in ("thin.png", "dot.png", "pyramid", "large jpeg"):
            some = [whole, center_sampler((8, 9), 0.5)]

        def taken(address: str = address, some: Any = some) -> list[Any]:
            exact = lambda c: digest(ImageReader((24, 32), c).read(address, [whole])[0].x)  # noqa: E731
            return each(
                lambda: ImageReader((8, 9)).describe(address), lambda: list(ImageReader((8, 9)).extent(address).size),
                *(lambda c=c: seen(ImageReader((12, 10), c), address, *some) for c in (1, 3, 4)),
                *((lambda: exact(3), lambda: exact(1)) if address.endswith("png") else ()),
            )  # fmt: skip

        yield name, taken
    for name, bands in product(
        (
            "rgb.png",
            "rgba.png",
            "grey.png",
            "deep.png",
            "tiff bands",
            "tiff pages",
            "tiff planes",
            "row of u2",
            "row of two",
            "palette.png",
        ),
        ([0], [2], [3], [1, 0], [5, 4, 3, 0, 0]),
    ):
        yield (
            f"bands {bands} of {name}",
            lambda n=name, b=bands: seen(ImageReader((12, 10), len(b), bands=b), made[n], crop(1, 2, 20, 30)),
        )
    for name, channels in product(
        ("tiff bands", "tiff pages", "tiff floats", "row of two", "rgb.png", "row of u2"), (2, 5, 6)
    ):
        yield (
            f"{channels} channels of {name}",
            lambda n=name, c=channels: seen(ImageReader((12, 10), c), made[n], crop(1, 2, 20, 30)),
        )
    for name, size in product(
        ("sharp.png", "large jpeg", "pyramid", "float.tif", "tiff tiles", "rgba.png", "turn 6, jpg"),
        ((24, 32), (1, 1), (5, 60), (30, 42), (31, 43), (37, 53), (75, 105), (64, 80), (65, 81), (128, 160)),
    ):
        yield (
            f"{name} at {size}",
            lambda n=name, s=size: each(
                lambda: seen(ImageReader(s), made[n], whole),
                lambda: seen(ImageReader(s), made[n], crop(3, 5, 20, 23), crop(0, 0, 2, 2)),
            ),
        )
    for name, (top, left, bottom, right) in product(
        ("rgb.png", "turn 6, jpg"),
        ((0, 0, 25, 32), (-1, 0, 23, 32), (-2, 0, 30, 9), (5, 5, 5, 9), (0, 0, 24, 33), (0, -3, 3, 33)),
    ):
        yield (
            f"box {(top, left, bottom, right)} of {name}",
            lambda n=name, b=(top, left, bottom, right): seen(ImageReader((6, 6)), made[n], crop(*b)),
        )
    for limit in (767, 768, 769):
        yield (
            f"at most {limit} pixels",
            lambda m=limit: each(
                *(
                    lambda n=n: seen(ImageReader((6, 6), max_pixels=m), made[n], whole)
                    for n in ("rgb.png", "rgb.tif", "tiff pages")
                )
            ),
        )
    for label, given in {
        "three axes": {"size": (1, 2, 3)},
        "size 0": {"size": (0, 3)},
        "channels 0": {"channels": 0},
        "channels 7": {"channels": 7},
        "no pixels": {"max_pixels": 0},
        "most pixels": {"max_pixels": 10**12},
        "more pixels": {"max_pixels": 10**12 + 1},
        "bands -1": {"bands": [-1], "channels": 1},
        "bands 2": {"bands": [0, 1]},
        "bands of truth": {"bands": [True], "channels": 1},
        "bands tuple": {"bands": (0, 1, 2)},
        "bands text": {"bands": "012"},
    }.items():
        yield f"made with {label}", lambda g=given: vars(ImageReader(**{"size": (4, 4), **g}))
    window = picture.WINDOW
    try:  # a small window is what a large picture has
        picture.WINDOW = 3000
        for name, size in product(
            (
                "pyramid",
                "tiff tiles",
                "tiff packed",
                "tiff strips",
                "tiff pages",
                "tiff planes",
                "rgba.tif",
                "deep.tif",
                "tiff white is 0",
            ),
            ((6, 8), (40, 50)),
        ):
            for c, some in ((3, (whole, crop(3, 5, 20, 23, True, True), crop(10, 0, 11, 32))), (1, (whole,))):
                yield (
                    f"by parts: {name} at {size}, {c}",
                    lambda n=name, s=size, c=c, some=some: seen(ImageReader(s, c), made[n], *some),
                )
    finally:
        picture.WINDOW = window
    yield from label_pictures(folder)


def label_pictures(folder: Path) -> Iterator[tuple[str, Any]]:
    chance = np.random.default_rng(5)
    labels = chance.integers(0, 4, (12, 14))
    blobs = np.kron(chance.random((4, 4)) > 0.5, np.ones((16, 16))).astype(np.uint8) * 255
    third = blobs.copy()
    third[20:44, 20:44] = 128
    transparent = np.dstack([labels.astype(np.uint8)] * 3 + [np.where(labels > 2, 254, 255).astype(np.uint8)])
    saved: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "l.png": (Image.fromarray(labels.astype(np.uint8)), {}), "deep.png": (Image.fromarray(labels.astype(np.uint16) * 300), {}), "palette.png": (Image.fromarray(labels.astype(np.uint8), "P"), {}), "bits.png": (Image.fromarray(labels > 1), {}), "rgb.png": (Image.fromarray(np.dstack([labels.astype(np.uint8)] * 3)), {}), "colours.png": (Image.fromarray(np.dstack([labels.astype(np.uint8)] * 2 + [labels.astype(np.uint8) * 2])), {}), "transparent.png": (Image.fromarray(transparent), {}), "opaque.png": (Image.fromarray(np.dstack([transparent[..., :3], np.full(labels.shape, 255, np.uint8)])), {}), "la.png": (Image.fromarray(transparent[..., 2:], "LA"), {}), "float.tif": (Image.fromarray(labels.astype(np.float32)), {}), "half.tif": (Image.fromarray(labels.astype(np.float32) / 2), {}), "negative.tif": (Image.fromarray(labels.astype(np.int32) - 1), {}),
        **{f"q{q}.jpg": (Image.fromarray(blobs), {"quality": q}) for q in (10, 50, 90)}, "third.jpg": (Image.fromarray(third), {"quality": 90}), "dark.jpg": (Image.fromarray(blobs // 4), {"quality": 95}), "half.jpg": (Image.fromarray(blobs // 2 + 1), {"quality": 95}), "low.jpg": (Image.fromarray(blobs // 255 * 3), {"quality": 100}), "rgb.jpg": (Image.fromarray(np.dstack([blobs] * 3)), {"quality": 60}), "lossless.webp": (Image.fromarray(np.dstack([blobs] * 3)), {"lossless": True}), "lossy.webp": (Image.fromarray(np.dstack([blobs] * 3)), {"quality": 60}), "jpeg.tif": (Image.fromarray(blobs), {"compression": "jpeg"}), "lzw.tif": (Image.fromarray(blobs), {"compression": "tiff_lzw"}),
    }  # fmt: skip
    reader = ImageReader((4, 4))
    for name, (picture_, options) in saved.items():
        path = folder / f"label {name}"
        picture_.save(path, **options)
        lossy = name.endswith(("jpg", "lossy.webp", "jpeg.tif"))
        yield (
            f"labels of {name}",
            lambda p=path, lossy=lossy: (
                lambda m: (
                    [Soft([float((m > 0).mean())]), str(m.dtype), sorted(set(m.ravel().tolist()))]
                    if lossy
                    else digest(m)
                )
            )(reader.label_map(str(p))),
        )
    for limit in (167, 168):
        yield (
            f"labels of at most {limit} pixels",
            lambda m=limit: digest(ImageReader((4, 4), max_pixels=m).label_map(str(folder / "label l.png"))),
        )
    for label, array in {
        "u1": labels.astype(np.uint8),
        "bool": labels > 1,
        "i8": labels,
        "f4": labels.astype(np.float32),
        "f8 odd": labels + 0.25,
        "nan": np.where(labels > 2, np.nan, labels),
        "three axes": labels[None],
        "one axis": labels[0],
        "complex": labels.astype(complex),
        "negative": labels - 2,
        "largest": labels + 2**31 - 4,
        "too large": labels + 2**31 - 3,
        "empty": labels[:0],
    }.items():
        yield f"labels of an array {label}", lambda a=array: digest(label_image.numbers("a", a, (), 10))
    for most in (0, 1, 254, 255, 256, 257, 65535):

        def written(most: int = most) -> Any:
            values = np.minimum(np.arange(most + 1), most).reshape(1, -1).astype(np.int32)
            label_image.write(values, folder / "written.png")
            with Image.open(folder / "written.png") as found:
                return [
                    found.mode,
                    digest(np.asarray(found).astype(np.int64)),
                    digest(reader.label_map(str(folder / "written.png"))),
                    len(list(folder.glob("tmp-*"))),
                ]

        yield f"labels up to {most} written", written


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


# Lists, folders, shards -----------------------------------------------------------------------------------------------

SUFFIXES = (".jpg", ".png", ".dcm/")


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * (1 + len(name)))
    return root


def listed(path: Any, suffixes: tuple[str, ...] = SUFFIXES, here: Path | None = None) -> Any:
    items = source.list_items(str(path), suffixes)
    told = [
        os.path.relpath(a, here) if here and "::" not in a else (a.replace(str(here), "~") if here else a)
        for a in items.addresses
    ]
    return [
        told,
        items.labels,
        items.classes,
        dict(items.ignored),
        items.marks,
        items.patients and list(items.patients),
        meant.class_counts(items),
        meant.opening(items, "P", "N", " for U").replace(str(here), "~"),
        [m.replace(str(here), "~") for m in meant.odd(items, str(path))],
        meant.one_class(items, str(path)).replace(str(here), "~"),
    ]


@room
def data_lists(folder: Path) -> Iterator[tuple[str, Any]]:
    top = touch(
        folder / "top",
        "a.jpg",
        "b.PNG",
        "sub/c.jpg",
        "sub/d e.jpg",
        "sub/deep/f.jpg",
        "images/g.jpg",
        "h.txt.jpg",
        "other/x.png",
        "k.jpg",
        "l.jpg",
    )
    files = ["a.jpg", "b.PNG", "sub/c.jpg", "sub/d e.jpg", "h.txt.jpg", "k.jpg", "l.jpg", "g.jpg"]

    def texts(name: str, text: str) -> Path:
        (top / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        return top / name

    plain = {
        "paths": "a.jpg\nb.PNG\n\nsub/c.jpg\n", "tabs": "a.jpg\tcat\nb.PNG\tdog\nsub/d e.jpg\tcat\n", "spaces": "a.jpg 3\nsub/d e.jpg 12\nb.PNG 3\n", "commas": "a.jpg, 0\nb.PNG,1\n", "semicolons": "a.jpg;x y\nb.PNG; z\n", "no labels": "a.jpg -1\nb.PNG -1\n", "some -1": "a.jpg -1\nb.PNG 1\n", "mae": "a.jpg 0 -1\nb.PNG 0 -1\n", "three": "a.jpg 10 1\nb.PNG 12 0\n", "three words": "a.jpg x y\nb.PNG z w\n", "mixed": "a.jpg 1\nb.PNG 1 2\n", "quoted": '"sub/d e.jpg" 4\n"a.jpg",5\n', "bom": "\ufeffa.jpg 1\nb.PNG 2\n", "crlf": "a.jpg 1\r\nb.PNG 2\r\n", "missing one": "a.jpg\nnone.jpg\n", "missing all": "n1.jpg\nn2.jpg\nn3.jpg\nn4.jpg\nn5.jpg\nn6.jpg\n", "elsewhere": "c.jpg\ndeep/f.jpg\n", "twice": "a.jpg 1\na.jpg 1\n", "contradictory": "a.jpg 1\na.jpg 2\nb.PNG 3\nb.PNG\n", "header": "path label\na.jpg 1\nb.PNG 2\n", "other header": "video,start,label\na.jpg,1,2\n", "name header": "file_name extra class\na.jpg 1 2\nb.PNG 1 3\n", "frames": "sub 10 1\n", "bare": "a 1\nk 2\n", "backslashes": "sub\\c.jpg\n", "empty": "", "blank": " \n\n", "numbers": "a.jpg 10\nb.PNG 9\nk.jpg 100\n", "large numbers": "a.jpg 99999\nb.PNG 5\n", "larger numbers": "a.jpg 100000\nb.PNG 5\n", "leading zeros": "a.jpg 010\nb.PNG 9\n", "labels with commas": "a.jpg big cat, 1\n",
    }  # fmt: skip
    for label, text in plain.items():
        for suffix in ("txt", "lst", "csv", "tsv"):
            path = texts(f"{label}.{suffix}", text)
            for asked in (
                ("",)
                if suffix in ("lst", "tsv")
                else ("", "::columns=path+-+label", "::columns=path+label", "::root=sub")
                if label in ("three", "elsewhere", "mixed", "three words", "spaces", "missing all")
                else ("",)
            ):
                yield f"plain {label}.{suffix}{asked}", lambda p=path, a=asked: listed(f"{p}{a}", here=top)
    for asked in (
        "columns=label+path",
        "columns=path+path",
        "columns=label",
        "columns=path+x",
        "classes=names.txt",
        "classes=none.txt",
        "classes=few.txt",
        "columns=",
        "x=1",
        "split=a",
        "fold=1/2",
        "train",
    ):
        texts("names.txt", "zero\none\ntwo\nthree\n")
        texts("few.txt", "0 zero\n")
        texts("of classes.txt", "a.jpg 1\nb.PNG 3\n")
        yield f"plain of classes::{asked}", lambda a=asked: listed(f"{top}/of classes.txt::{a}", here=top)
    for name, text in (
        ("classInd.txt", "1 Archery\n2 Ball Games\n"),
        ("label_map.txt", "Archery 1\nBall: 2\n"),
        ("classes.txt", "zero\none\ntwo\n"),
        ("classnames.txt", "x\n"),
    ):
        root = touch(folder / f"index {name}", "Archery/a.jpg", "b.jpg")
        (root / name).write_text(text)
        for which, content in (
            ("labelled", "Archery/a.jpg 1\nb.jpg 2\n"),
            ("unlabelled", "Archery/a.jpg\n"),
            ("more", "Archery/a.jpg 1\nb.jpg 9\n"),
        ):
            (root / f"{which}.lst").write_text(content)
            yield f"{which} beside {name}", lambda r=root, w=which: listed(f"{r}/{w}.lst", here=r)
    (folder / "index classes.txt" / "x_test_split1.txt").write_text("b.jpg 1\nArchery/a.jpg 2\n")
    yield "a split of HMDB", lambda: listed(folder / "index classes.txt" / "x_test_split1.txt")

    def sheet(name: str, rows: list[list[str]], delimiter: str = ",") -> Path:
        out = io.StringIO()
        csv.writer(out, delimiter=delimiter).writerows(rows)
        return texts(name, out.getvalue())

    wide = sheet(
        "wide.csv",
        [
            ["path", "label", "patient", "split", "oedema", "mass", "start"],
            *[
                [
                    f,
                    "abc"[i % 3] if i != 4 else "",
                    f"p{i // 2}",
                    ("train", "test")[i % 3 == 2],
                    str(i % 2),
                    ("1", "0", "", "1.0", "0.0")[i % 5],
                    "1",
                ]
                for i, f in enumerate(files[:7])
            ],
        ],
    )
    sheet("several.csv", [["path", "label"], ["a.jpg", "x|y"], ["b.PNG", "|"], ["k.jpg", "y"], ["l.jpg", ""]])
    sheet("ids.csv", [["id", "label"], ["a", "1"], ["k", "2"], ["sub/c", "1"]])
    sheet("semicolon.csv", [["path", "label"], ["a.jpg", "1"], ["b.PNG", "2"]], ";")
    sheet("tab.tsv", [["filename", "label"], ["a.jpg", "1"], ["g.jpg", "2"]], "\t")
    sheet("nameless.csv", [["path", "label"], ["", "1"], ["a.jpg", "2"], ["", "3"]])
    sheet("odd marks.csv", [["path", "u", "v"], ["a.jpg", "1", "2"]])
    sheet("other columns.csv", [["image", "finding"], ["a.jpg", "1"], ["b.PNG", "2"]])
    sheet(
        "no patient.csv", [["path", "label", "patient"], ["a.jpg", "1", "p"], ["b.PNG", "2", ""], ["k.jpg", "1", "q"]]
    )
    sheet("two patients.csv", [["path", "label", "patient"], ["a.jpg", "1", "p"], ["a.jpg", "1", "q"]])
    sheet("header alone.csv", [["path", "label"]])
    (top / "broken.csv").write_text('path,label\n"a.jpg,1\n')
    for name in (
        "several",
        "ids",
        "semicolon",
        "nameless",
        "odd marks",
        "other columns",
        "no patient",
        "two patients",
        "header alone",
        "broken",
    ):
        yield f"{name}.csv", lambda n=name: listed(f"{top}/{n}.csv", here=top)
    yield "tab.tsv", lambda: listed(f"{top}/tab.tsv", here=top)
    for asked in (
        "train",
        "test",
        "val",
        "split=train",
        "split=",
        "label=oedema",
        "label=oedema+mass",
        "label=none",
        "label=mass",
        "patient=label",
        "patient=none",
        "path=label",
        "path=none",
        "fold=1/2",
        "fold=2/2",
        "rest=1/2",
        "rest=2/2",
        "fold=0/2",
        "fold=3/2",
        "fold=1/1",
        "fold=1/9",
        "fold=a",
        "fold=1/2,rest=1/2",
        "split=train,fold=1/3",
        "label=oedema,rest=2/3",
        "label=oedema+mass,fold=1/2",
        "root=sub",
        "root=none",
        "columns=path",
        "classes=names.txt",
        "foo=1",
        "fold=1/2,patient=path",
    ):
        yield f"wide.csv::{asked}", lambda a=asked: listed(f"{wide}::{a}", here=top)
    for name, asked in product(
        ("several", "ids", "no patient", "other columns", "odd marks"),
        ("fold=1/2", "rest=1/3", "label=u+v", "path=image,label=finding"),
    ):
        yield f"{name}.csv::{asked}", lambda n=name, a=asked: listed(f"{top}/{n}.csv::{a}", here=top)
    for path in (
        "",
        " ",
        "a\0b",
        "x.zip",
        "x.tar.gz",
        "x.tgz",
        "none",
        "none/below",
        "a.jpg",
        "h.txt.jpg",
        "wide.txt",
        "x.tar",
        "x-{1..3}.tar",
        "*.tar",
        "x-{3..1}.tar",
        "x-{0..100000}.tar",
        "none.npz",
        "x.tar::none.txt",
        "y" * 300,
        "none.csv::test",
    ):
        yield f"path {path[:20]!r}", lambda p=path: listed(f"{top}/{p}" if p.strip() and "\0" not in p else p, here=top)
    for name in (
        "a-{1..3}.tar",
        "a-{08..11}.tar",
        "{a,b}-{0..1}.tar",
        "a.tar",
        "{a}.tar",
        "{,x}.tar",
        "{1..1}",
        "{2..1}",
        "{01..2}{x,y}",
        "{0..99999}",
        "{0..100000}",
    ):
        yield f"braces {name}", lambda n=name: source._braces([n], "where")
    for suffix in (
        "a.nii.gz",
        "A.JPG",
        "a.tar.gz",
        "a",
        "a.1",
        "a.123",
        "x/a.b/c",
        "a.verylongsuffix",
        "a.b c",
        ".hidden",
        "a.7z",
        "a.json.gz",
        "a.gz",
        "README",
        "readme.md",
        "Thumbs.db",
        "a.mha",
        "a.hdr",
        "a.img.gz",
        "scan.mp4",
        "a.dcm",
        "a.cls",
    ):
        yield (
            f"passed over {suffix}",
            [
                passed_over.suffix_of(suffix),
                passed_over.beside(suffix),
                passed_over.remedy(passed_over.suffix_of(suffix)),
                passed_over.readers_of(passed_over.suffix_of(suffix)),
            ],
        )
    over = passed_over.PassedOver()
    for number in range(12):
        for _ in range(12 - number):
            over.other(f"d/{number}.x{number}y")
    over.hidden("a/.b")
    over.hidden("a/.DS_Store")
    over.add("links inside a shard", "l", 3)
    over.add_read("members of a name that came before", "m")
    yield (
        "all that is passed over",
        [
            str(over),
            over.doubtful(),
            over.instead(),
            passed_over.PassedOver().instead(),
            dict(over.counts),
            dict(over.suffixes),
        ],
    )


@room
def data_sources(folder: Path) -> Iterator[tuple[str, Any]]:
    trees = {
        "flat": ("b.jpg", "a.jpg", "c.PNG", "d.txt", "e.bmp"), "classes": ("cat/1.jpg", "cat/x/2.jpg", "dog/3.jpg", "4.jpg"), "numbers": ("10/a.jpg", "9/b.jpg", "100/c.jpg"), "odd numbers": ("10/a.jpg", "09/b.jpg"), "splits": ("train/a/1.jpg", "test/a/2.jpg", "val/b/3.jpg"), "splits below": ("a/train/1.jpg", "a/test/2.jpg", "b/train/3.jpg", "b/test/4.jpg"), "one split": ("train/1.jpg", "cat/2.jpg"), "maps": ("imagesTr/1.jpg", "labelsTr/1.jpg"), "maps and more": ("images/1.jpg", "masks/1.jpg", "more/1.jpg"), "capitals": ("Cat/1.jpg", "cat/2.jpg", "cat /3.jpg"), "one class": ("all/cat/1.jpg", "all/dog/2.jpg"), "hidden": (".a.jpg", "._b.jpg", ".h/c.jpg", "d.jpg", ".DS_Store"), "slices": ("p1/s1/1.dcm", "p1/s1/2.dcm", "p1/s2/1.dcm", "p2/1.DCM", "1.dcm", "p3/a.jpg"), "a run": ("config.yaml", "metrics.jsonl", "pictures/a.jpg", "b.jpg"), "a run within": ("r/config.yaml", "r/checkpoints/x", "r/maps/a.jpg", "b.jpg"), "a cache within": ("c/bad_samples.jsonl", "c/a.jpg", "b.jpg"), "predictions": ("predict.manifest.jsonl", "maps/a.jpg", "b.jpg"), "nothing": ("a.bmp", "b.bmp", "c.nii.gz"), "scans": ("a.nii.gz", "b.mha", "c.img", "c.hdr", "d.zip", "e", "f.npz", "g.npy", "h.mkv", "x.jpg"), "empty": (),
    }  # fmt: skip
    for label, names in trees.items():
        root = folder / label
        root.mkdir()
        touch(root, *names)
        yield f"folder {label}", lambda r=root: listed(r, here=r)
        yield (
            f"classes of {label}",
            lambda r=root: (lambda i: meant.check_classes(i.classes, i.addresses, "P" if "P" in str(r) else str(r)))(
                source.list_items(str(r), SUFFIXES)
            ),
        )
    links = touch(folder / "links", "a.jpg", "sub/b.jpg")
    for name, to in (
        ("in.jpg", links / "sub/b.jpg"),
        ("out.jpg", folder / "flat/a.jpg"),
        ("nothing.jpg", links / "none"),
        ("folder", links / "sub"),
        ("folder out", folder / "flat"),
        ("dir.jpg", links / "sub"),
    ):
        (links / name).symlink_to(to)
    os.mkfifo(links / "pipe.jpg")
    yield "folder links", lambda: listed(links, here=links)
    many = touch(folder / "many", *(f"c{i:02d}/{j}.jpg" for i in range(7) for j in range(1 + i)))
    yield "many classes", lambda: listed(many, here=many)
    for suffixes in ((".dcm",), (".dcm", ".dicom")):
        yield (
            f"members {suffixes}",
            lambda s=suffixes: each(
                *(
                    lambda n=n: [Path(m).name for m in folders.members(f"{folder}/{n}/", s)]
                    for n in ("slices/p1/s1", "slices/p2", "flat", "none")
                )
            ),
        )
    yield from shards(folder)
    yield from arrays(folder)
    yield from caches(folder)


def shards(folder: Path) -> Iterator[tuple[str, Any]]:
    members = {
        "plain": [("a.jpg", b"A"), ("b.jpg", b"BB"), ("c.txt", b"c")], "labelled": [("a.jpg", b"A"), ("a.cls", b"3"), ("b.cls", b" 12\n"), ("b.png", b"B"), ("d.jpg", b"D")], "two kinds": [("a.rgb.jpg", b"A"), ("a.seg.png", b"AA"), ("a.cls", b"1"), ("a.seg.cls", b"2")], "a class of one kind": [("a.rgb.jpg", b"A"), ("a.seg.png", b"AA"), ("a.seg.cls", b"2"), ("b.jpg", b"B"), ("b.x.cls", b"3")],
        "first of two": [("a.jpg", b"A"), ("a.png", b"B"), ("a.x.jpg", b"C")], "folders": [("x/a.jpg", b"A"), ("y/a.jpg", b"B"), ("x/a.cls", b"1"), ("y/a.cls", b"2")], "again": [("a.jpg", b"A"), ("b.jpg", b"B"), ("a.jpg", b"AAA")], "hidden": [(".a.jpg", b"A"), ("x/._b.jpg", b"B"), ("../c.jpg", b"C"), ("d.jpg", b"")], "a word for a class": [("a.jpg", b"A"), ("a.cls", b"cat")], "a large class": [("a.jpg", b"A"), ("a.cls", b"1" * 33)], "a class of 9 digits": [("a.jpg", b"A"), ("a.cls", b"123456789")], "a class of 10 digits": [("a.jpg", b"A"), ("a.cls", b"1234567890")], "a negative class": [("a.jpg", b"A"), ("a.cls", b"-1")], "nothing": [("a.txt", b"x")], "capitals": [("A.JPG", b"A"), ("A.Cls", b"7")], "dots": [("a.b.jpg", b"A"), ("a.c.jpg", b"B")], "dicom": [("a.dcm", b"A"), ("b.jpg", b"B")],
    }  # fmt: skip
    root = folder / "shards"
    root.mkdir()
    for label, rows in members.items():
        with tarfile.open(root / f"{label}.tar", "w") as tar:
            for name, content in rows:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        for only in ("", "::rgb.jpg", "::jpg", "::seg.png") if label in ("two kinds", "plain") else ("",):
            yield (
                f"shard {label}{only}",
                lambda n=label, o=only: [
                    listed(f"{root}/{n}.tar{o}", here=root),
                    [
                        bytes(addresses.fetch(a, 100))
                        for a in source.list_items(f"{root}/{n}.tar{o}", SUFFIXES).addresses
                        if "+0::" not in a
                    ],
                    [
                        list(addresses.locate(a))[1:]
                        for a in source.list_items(f"{root}/{n}.tar{o}", SUFFIXES).addresses
                        if "+0::" not in a
                    ],
                ],
            )
    content = (root / "plain.tar").read_bytes()
    for label, cut in {
        "cut.tar": content[:1200],
        "no end.tar": content[:3072],
        "damaged.tar": content[:600] + b"x" + content[601:],
        "header.tar": content[:512] + b"\0" * 100,
        "none.tar": b"",
    }.items():
        (root / label).write_bytes(cut)
        yield f"shard {label}", lambda n=label: listed(f"{root}/{n}", here=root)
    for name in ("{plain,labelled}.tar", "p*.tar", "{plain,absent}.tar", "z*.tar"):
        yield f"shards {name}", lambda n=name: listed(f"{root}/{n}", here=root)
    only = folder / "only shards"
    only.mkdir()
    for name in ("b.tar", "a.tar"):
        (only / name).write_bytes(content)
    yield "a folder of shards", lambda: listed(only, here=only)
    plain = root / "plain.tar"
    for address in (
        f"{plain}::512+1::a.jpg",
        f"{plain}::512+0::a",
        f"{plain}::512+99999999::a",
        f"{plain}::1536+2::b",
        f"{root}/none.tar",
        f"{root}/absent",
        f"{root}",
        f"{plain}/below",
        f"{folder}/links/pipe.jpg",
        "a\0b",
    ):
        for limit in (1, 2, 100):
            yield (
                f"fetched {address.replace(str(folder), '~')!r}, at most {limit}",
                lambda a=address, m=limit: each(
                    lambda: addresses.fetch(a, m), lambda: addresses.head(a, 3), lambda: list(addresses.locate(a))[1:]
                ),
            )


def arrays(folder: Path) -> Iterator[tuple[str, Any]]:
    x = np.arange(2 * 4 * 5).reshape(2, 4, 5).astype(np.uint8)
    made: dict[str, dict[str, Any]] = {
        "plain": {"train_images": x, "train_labels": np.array([[3], [1]])}, "flat labels": {"train_images": x, "train_labels": np.array([3, 1])}, "texts": {"train_images": x, "train_labels": np.array(["b", "a"])}, "empty texts": {"train_images": x, "train_labels": np.array(["b", ""])}, "floats": {"train_images": x, "train_labels": np.array([0.0, 1.0])}, "odd floats": {"train_images": x, "train_labels": np.array([0.5, 1])}, "several": {"train_images": x, "train_labels": np.eye(2)}, "flags": {"train_images": x, "train_labels": np.array([True, False])}, "objects": {"train_images": x, "train_labels": np.array([{}, 1], object)}, "three labels": {"train_images": x, "train_labels": np.array([1, 2, 3])}, "no labels": {"train_images": x}, "test": {"test_images": x, "train_images": x[:1], "val_images": x[:0]}, "no images": {"x": x}, "one number": {"train_images": np.array(3)}, "objects for images": {"train_images": np.array([{}, {}], object)}, "complex": {"train_images": x.astype(complex)}, "negative labels": {"train_images": x, "train_labels": np.array([-1, 4])}, "numbers for texts": {"train_images": x, "train_labels": np.array(["10", "9"])},
    }  # fmt: skip
    for label, given in made.items():
        path = folder / f"{label}.npz"
        np.savez(path, **given)
        for split in ("", "::train", "::test", "::val", "::none") if label in ("plain", "test") else ("",):
            yield f"arrays {label}{split}", lambda p=path, s=split: listed(f"{p}{s}", here=folder)
    np.savez_compressed(folder / "packed.npz", train_images=np.asfortranarray(x))
    np.savez(folder / "columns.npz", train_images=np.asfortranarray(x))
    (folder / "text.npz").write_bytes(b"no zip")
    for name, row, limit in product(("plain", "packed", "columns", "text", "absent"), (0, 1, 2), (19, 20)):
        yield (
            f"row {row} of {name}, at most {limit}",
            lambda n=name, r=row, m=limit: digest(addresses.fetch(f"{folder}/{n}.npz::train_images::{r}", m)),
        )
    for index in (-3, -2, -1, 0, 1, 2):
        yield f"text {index} of two", lambda i=index: source.PathTable(["a\udce4\n", "b"])[i]
    for names in (["1", "2"], ["01"], ["0", "10"], ["99999"], ["100000"], ["a", "1"], ["-1"], ["1234567890"]):
        yield f"are numbers {names}", source.are_numbers(names)


def caches(folder: Path) -> Iterator[tuple[str, Any]]:
    kept = cache.Cache(folder / "kept")
    for key in ({}, {"a": 1}, {"a": 1, "b": [1.5, None]}, {"b": [1.5, None], "a": 1}, {"a": "1"}):
        yield f"entry of {key} {list(key)}", str(kept.path(key).relative_to(folder / "kept"))
    for label, array in {
        "floats": np.linspace(0, 1, 7),
        "empty": np.zeros((0, 3), np.int16),
        "large": np.arange(5000),
        "turned": np.arange(12).reshape(3, 4).T,
        "objects": np.array([{}], object),
        "one": np.array(3),
    }.items():

        def there_and_back(array: Any = array, label: str = label) -> Any:
            made: list[int] = []
            build = lambda: (made.append(1), cache.Entry(array, {"t": [1, 2]}))[1]  # noqa: E731
            one = kept.get_or_build({"x": label}, build)
            two = cache.Cache(folder / "kept").get_or_build({"x": label}, build)
            path = kept.path({"x": label})
            return [
                len(made),
                digest(two.array, one.array),
                str(two.array.dtype),
                dict(two.meta),
                path.stat().st_size,
                digest(path.read_bytes()),
                two.array.flags.writeable,
            ]

        yield f"kept {label}", there_and_back
    for at, what in ((0, "magic"), (9, "length"), (14, "checksum"), (30, "header"), (-1, "data"), (None, "size")):
        for keeps in ("if possible", "always", "never"):

            def damaged(at: int | None = at, keeps: Any = keeps) -> Any:
                one = cache.Cache(folder / f"damaged {keeps}")
                key = {"k": 1}
                one.get_or_build(key, lambda: cache.Entry(np.arange(2000)))
                path = one.path(key)
                content = bytearray(path.read_bytes())
                if at is None:
                    content += b"x"
                else:
                    content[at] ^= 1
                path.write_bytes(content)
                fresh = cache.Cache(folder / f"damaged {keeps}")
                fresh.keeps = keeps
                read = fresh.get_or_build(key, lambda: cache.Entry(np.arange(3)))
                left = len(path.read_bytes())
                path.unlink()
                return [digest(read.array), left]

            yield f"damaged {what}, kept {keeps}", damaged
    base = bytes(range(256)) * 1200

    def identities() -> Any:
        found = {}
        path = folder / "source.bin"
        for label, at in {
            "same": None,
            "first": 0,
            "in the first": 65535,
            "between": 65536,
            "before the last": len(base) - 65537,
            "in the last": len(base) - 65536,
            "last": len(base) - 1,
        }.items():
            content = bytearray(base)
            if at is not None:
                content[at] ^= 1
            path.write_bytes(content)
            os.utime(path, ns=(10**18, 10**18))
            found[label] = digest(cache.source_identity(str(path)))
        path.write_bytes(base + b"x")
        os.utime(path, ns=(10**18, 10**18))
        found["longer"] = digest(cache.source_identity(str(path)))
        os.utime(path, ns=(10**18, 10**18 + 1))
        found["later"] = digest(cache.source_identity(str(path)))
        np.savez(folder / "ident.npz", a=np.arange(4), b=np.arange(4))
        os.utime(folder / "ident.npz", ns=(10**18, 10**18))
        rows = {
            f"{k} {r}": cache.source_identity(f"{folder}/ident.npz::{k}::{r}").get("row") for k in "ab" for r in (0, 1)
        }
        path.write_bytes(bytes(100))
        os.utime(path, ns=(10**18, 10**18))
        return [found, rows, cache.source_identity(str(path))]

    yield "identities", identities

    def swept() -> Any:
        root = folder / "swept" / "ab"
        root.mkdir(parents=True)
        import time

        for name, age in ((".a.tmp-1", 0), (".b.tmp-1", 23.9), (".c.tmp-1", 24.1), ("d.array", 99), (".e.array", 99)):
            (root / name).write_bytes(b"x")
            os.utime(root / name, (time.time() - age * 3600,) * 2)
        return [cache.Cache(folder / "swept").sweep(), sorted(p.name for p in root.iterdir())]

    yield "swept", swept

    def again() -> Any:
        one, key = cache.Cache(folder / "again"), {"k": 2}
        first = one.get_or_build(key, lambda: cache.Entry(np.arange(9)))
        other = cache.Cache(folder / "again")
        path = one.path(key)
        status = path.stat()
        path.unlink()
        other.get_or_build(key, lambda: cache.Entry(np.arange(9) + 1))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        return [digest(first.array), digest(one.get(key).array), one.get({"k": 3}) is None]

    yield "an entry that was made again", again


# Batches --------------------------------------------------------------------------------------------------------------

MODEL = {"model": {"width": 24, "depth": 1, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}}


@room
def data_batches(folder: Path) -> Iterator[tuple[str, Any]]:
    import nibabel as nib

    (folder / "p").mkdir()
    for number in range(9):
        Image.fromarray(np.roll(smooth(20 + number, 30 - number, 3), number * 3, 0)).save(
            folder / "p" / f"{number}.png"
        )
    (folder / "p" / "4.png").write_bytes(b"bad")
    (folder / "p" / "7.png").write_bytes(b"")
    (folder / "v").mkdir()
    for number in range(3):
        x = np.random.default_rng(number).normal(100 * number, 30, (18, 17, 16)).astype(np.float32)
        x[9 + number :] = -1000
        nib.Nifti1Image(x, np.diag([1.0, 1 + number, 2, 1])).to_filename(folder / "v" / f"{number}.nii.gz")
    image_ = {
        "size": [12, 12],
        "patch": [4, 4],
        "channels": 3,
        "batch": 4,
        "data": {"path": str(folder / "p"), "statistics": "none"},
    }
    scan_ = {
        "size": [8, 8, 8],
        "patch": [4, 4, 4],
        "channels": 1,
        "batch": 4,
        "data": {
            "path": str(folder / "v"),
            "statistics": "none",
            "repeats": 2,
            "augment": {"fixed": [0, 1, 2], "flip": [0, 2]},
            "reader": {"name": "volume", "body": -500, "intensity": {"name": "window", "windows": [[-200, 400]]}},
        },
    }
    kinds: dict[str, dict[str, Any]] = {
        "image": image_, "grid": image_ | {"mask": {"name": "grid", "ratio": 0.75}}, "block": image_ | {"mask": {"name": "block", "ratio": 0.5}}, "grey": image_ | {"channels": 1}, "decode": image_ | {"mask": {"name": "random", "ratio": 0.75}, "decode": {"name": "random", "ratio": 0.3}},
        "repeats": image_ | {"data": image_["data"] | {"repeats": 2, "augment": {"scale": [0.3, 0.5], "flip": [0, 1]}}}, "scan": scan_, "scan body": scan_ | {"mask": {"name": "foreground", "ratio": 0.5, "body_ratio": 0.7}}, "scan body decode": scan_ | {"mask": {"name": "foreground", "ratio": 0.6, "body_ratio": 0.7}, "decode": {"name": "foreground", "ratio": 0.3, "body_ratio": 0.2}}, "scan resized": scan_ | {"data": scan_["data"] | {"augment": {"fixed": [0], "scale": [0.2, 0.9]}}}, "tube": scan_ | {"mask": {"name": "tube", "ratio": 0.5}},
    }  # fmt: skip
    for label, modality in kinds.items():
        for seed, rank, world, name in ((0, 0, 1, "m"), (1, 0, 1, "m"), (0, 1, 2, "m"), (0, 0, 1, "n")):

            def made(
                modality: Any = modality, seed: int = seed, rank: int = rank, world: int = world, name: str = name
            ) -> Any:
                config = parse_config(
                    {"seed": seed, "modalities": {name: modality}, "train": {"steps": 1, "workers": 0}, **MODEL}
                )
                data = batches.ModalityData(config.seed, name, config.modalities[name], rank, world)
                found = []
                for step in (0, 1, 5):
                    batch = data.batch(step)
                    mask = digest(batch.mask.keep, batch.mask.pred) if batch.mask is not None else ""
                    found.append(
                        [
                            Soft(joined([batch.x.float()])),
                            digest(
                                batch.files,
                                batch.valid,
                                [Path(s).name for s in batch.sources],
                                [(Path(b["path"]).name, b["kind"]) for b in batch.bad],
                            ),
                            mask,
                            None if batch.spacing is None else joined([batch.spacing]),
                        ]
                    )
                return found

            if (seed, rank, name) == (0, 0, "m") or label in ("image", "scan"):
                yield f"batch {label}, seed {seed}, rank {rank} of {world}, {name}", made
        yield (
            f"statistics of {label}",
            lambda m=modality: (
                lambda c: (
                    statistics.resolve_statistics(c, {"m": batches.ModalityData(0, "m", c.modalities["m"])})
                    .modalities["m"]
                    .data.statistics
                )
            )(
                parse_config(
                    {
                        "modalities": {"m": m | {"data": m["data"] | {"statistics": "measured"}}},
                        "train": {"steps": 1, "workers": 0},
                        **MODEL,
                    }
                )
            ),
        )
    for word in ("imagenet", "none"):
        for channels in (1, 3):
            yield (
                f"statistics {word} for {channels}",
                lambda w=word, c=channels: (
                    lambda cfg: statistics.resolve_statistics(cfg, {}).modalities["m"].data.statistics
                )(
                    parse_config(
                        {
                            "modalities": {"m": image_ | {"channels": c, "data": image_["data"] | {"statistics": w}}},
                            "train": {"steps": 1, "workers": 0},
                            **MODEL,
                        }
                    )
                ),
            )
    for total, count in ((0, 3), (1, 3), (3, 3), (10, 3), (1000, 7), (5, 0)):
        yield f"spread {count} of {total}", plan.spread(total, count)
    chance = torch.Generator().manual_seed(3)
    streams = {
        "floats": [torch.randn(2, 4, 5, generator=chance) * 9 + 1e4 for _ in range(3)], "bytes": [torch.randint(0, 256, (2, 4, 5), generator=chance, dtype=torch.uint8) for _ in range(3)], "constant": [torch.full((2, 3, 3), v) for v in (7.0, 7.0)], "constant below 0": [torch.full((2, 3, 3), -7.0)], "zero": [torch.zeros(2, 2, 2)], "nearly constant": [torch.tensor([[1e6, 1e6, 1e6 + 1.0], [-1e6, -1e6 - 0.0625, -1e6]]).view(2, 3, 1)], "two constants": [torch.full((1, 2, 2), 1.0), torch.full((1, 3, 3), 5.0)],
    }  # fmt: skip
    for label, xs in streams.items():
        for valid in (False, True):

            def measured(xs: Any = xs, valid: bool = valid) -> Any:
                moments = statistics.Moments()
                for i, x in enumerate(xs):
                    where = (torch.arange(x[0].numel()).view(1, *x.shape[1:]) % (2 + i) == 0) if valid else None
                    moments.add(Sample(x, "a", where))
                found = moments.statistics()
                return [list(found.mean), list(found.std), moments.count]

            yield f"moments of {label}, valid {valid}", measured
    mixed = [torch.tensor([0, 51, 255], dtype=torch.uint8), torch.tensor([0.0, 0.2, 1.0])]
    yield (
        "stacked",
        [
            *(sample.stack([Sample(x, "a") for x in xs])[0] for xs in (mixed, mixed[:1])),
            sample.stack_optional([None, None], "x"),
        ],
    )
    yield "stacked in part", lambda: sample.stack_optional([None, torch.ones(1)], "x")
    for patch in ((2, 2), (1, 3), (4, 6)):
        valid = torch.arange(24).view(1, 4, 6) % 5 > 1
        yield (
            f"valid share in {patch}",
            [
                batches.valid_share(Sample(torch.zeros(1, 4, 6), "a", valid), patch),
                batches.valid_share(Sample(torch.zeros(1, 4, 6), "a"), patch),
            ],
        )
    verdicts = [
        doctor.Verdict("a", True, description="JPEG RGB 3x4", doubts=("d",)),
        doctor.Verdict("b", False, "damaged", "x"),
        doctor.Verdict("c", True, description="JPEG RGB 5x4"),
        doctor.Verdict("d", False, "damaged"),
        doctor.Verdict("e", True, "", "told"),
    ]
    for count in (0, 1, 3, 5):
        yield f"summary of {count}", [doctor.summary(verdicts[:count]), *map(str, verdicts[:count])]
    yield "summary of good ones", doctor.summary([verdicts[0], verdicts[2]])
    yield from films()


def films() -> Iterator[tuple[str, Any]]:
    chance = np.random.default_rng(7)
    for codec in ("h264", "hevc", "mpeg4", "vp8", "vp9", "av1", "mjpeg", "other"):
        begins, hidden = [], []
        for number in range(300):
            unit = chance.integers(0, 256, int(chance.integers(3, 9))).astype(np.uint8).tobytes()
            unit = (
                bytes([int(chance.choice([5, 6, 1, 7, 38, 40, 32, 64, 0x65, 2]))])
                + (b"\x06\x01\x84" if number % 5 == 0 else b"")
                + unit
            )
            packet = (
                b"\0\0\0\1" + unit + b"\0\0\1" + bytes([int(chance.choice([5, 1, 6, 32, 38]))]) + unit
                if number % 2
                else len(unit).to_bytes(4, "big") + unit + (3).to_bytes(4, "big") + b"\x65ab"
            )
            packet = b"\0\0\1\xb6" + unit if codec == "mpeg4" and number % 3 else packet if codec[0] == "h" else unit
            extra = bytes([1, 0, 0, 0, 3] + [3] * 20) if not number % 2 else b""
            begins.append(bitstream.can_begin(codec, extra, memoryview(packet)))
            hidden.append(bitstream.is_hidden(codec, memoryview(packet)))
        yield f"packets of {codec}", [sum(begins), sum(hidden), digest(begins, hidden)]
    for number in range(12):
        n = int(chance.integers(3, 20))
        pts = np.arange(n) * 10
        for start in range(0, n - 2, 3):
            pts[start : start + 3] = pts[start : start + 3][[0, 2, 1]]
        if number % 3 == 1:
            pts[1] = film_table.NONE
        if number % 4 == 3:
            pts[2] = pts[0]
        for first in (0, 1, 2):
            yield (
                f"shown {number} from {first}",
                lambda p=pts.copy(), f=first, h=np.array([2] if number % 2 else [], np.int64): [
                    film_table._by_times(p, h, f)
                ],
            )
        order = np.argsort(pts, kind="stable")
        yield f"closed {number}", [film_table._is_closed(np.array(e), order) for e in ([0], [0, 1], [0, 2], [2], [1])]
    for declared, promised, end, packets, rate in product(
        (0, 10, 12, 100), (0.0, 1.0, 1.2), (0.4, 0.49, 0.5, 0.55, 1.0), (10, 11, 98), (10.0,)
    ):

        def lengths(d: int = declared, p: float = promised, e: float = end, n: int = packets, r: float = rate) -> None:
            listing = film_table.Listing("h264", b"", 0.1, r, True)
            listing.rows = [(i, i, 0, 5) for i in range(n)]
            listing.check_length(d, p, e)

        yield f"length {declared} {promised} {end} {packets}", lengths
