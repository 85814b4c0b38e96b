# ruff: noqa: E501, PLC3002 - tables of inputs, a line for each
"""Pictures and label pictures: what readers make of them."""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from PIL import Image
from recorded.listings import smooth
from recorded.record import Soft, digest, each, joined, room

from mae_ext.data.crops import center_sampler
from mae_ext.data.image import labels as label_image
from mae_ext.data.image import picture
from mae_ext.data.image.reader import ImageReader
from mae_ext.data.sample import Crop


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
