"""D5 and D6: odd pictures, and caches whose source, transform or entries are no more what they were."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from data.sources.test_cache import made
from data.volume.test_faults import CENTRE, SIZE, nifti
from fault_list.trial import Outcome, Row
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mae_ext.data.image.reader import ImageReader
from mae_ext.data.sample import whole
from mae_ext.data.sources.cache import Cache
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import BadSample

DRAWS = 20
Made = tuple[str, bytes, "NDArray[np.float64] | None"]
"""Name, content, and the pixels (H, W, 3) of 0..255; None for what no pixels can be had of."""


def noise(draw: int, channels: int = 3) -> NDArray[np.uint8]:
    chance = np.random.default_rng(draw)
    shape = (24 + draw, 30 + draw % 7, channels)[: 3 if channels > 1 else 2]
    return chance.integers(0, 256, shape, dtype=np.uint8)


def saved(image: Image.Image, suffix: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, suffix, **options)
    return file.getvalue()


def shown(content: bytes) -> NDArray[np.float64]:
    """What Pillow shows of it, upright, in RGB."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")).astype(float)


def readable(image: Image.Image, suffix: str, **options: object) -> Made:
    content = saved(image, suffix, **options)
    return f"x.{suffix.lower()}", content, shown(content)


def cut(draw: int, **options: object) -> Made:
    content = saved(Image.fromarray(noise(draw)), "JPEG", **options)
    return "x.jpg", content[: len(content) * (draw + 4) // (DRAWS + 8)], None


def deep(draw: int) -> Made:
    values = np.random.default_rng(draw).integers(0, 65536, (24 + draw, 30)).astype(np.uint16)
    grey = values.astype(float) / 257
    return "x.png", saved(Image.fromarray(values), "PNG"), np.repeat(grey[..., None], 3, axis=2)


def animated(draw: int) -> Made:
    frames = [Image.fromarray(noise(draw + k)[:24, :30]).quantize(64) for k in (0, 1)]
    content = saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=40)
    return "x.gif", content, shown(content)


def turned(draw: int) -> Made:
    exif = Image.Exif()
    exif[0x0112] = 1 + draw % 8
    return readable(Image.fromarray(noise(draw)), "JPEG", exif=exif, quality=95)


def flipped(draw: int) -> Made:
    content = bytearray(saved(Image.fromarray(noise(draw)), "PNG"))
    content[50 + draw * 20] ^= 0x10
    return "x.png", bytes(content), None


PICTURES: dict[str, Callable[[int], Made]] = {
    "JPEG, cut": cut,
    "progressive JPEG, cut": lambda draw: cut(draw, progressive=True),
    "CMYK": lambda draw: readable(Image.fromarray(noise(draw)).convert("CMYK"), "JPEG", quality=95),
    "16 bits": deep,
    "palette": lambda draw: readable(Image.fromarray(noise(draw)).quantize(32), "PNG"),
    "animated": animated,
    "turned by EXIF": turned,
    "no bytes": lambda _: ("x.jpg", b"", None),
    "a web page": lambda draw: ("x.jpg", b"<html>not found</html>" * (draw + 1), None),
    "PNG, a byte flipped": flipped,
}


def picture(number: int, folder: Path, _: Path) -> Outcome:
    kind, lost = list(PICTURES)[number], []
    for draw in range(DRAWS):
        name, content, pixels = PICTURES[kind](draw)
        path = folder / name
        path.write_bytes(content)
        size = (8, 8) if pixels is None else pixels.shape[:2]
        try:
            (sample,) = ImageReader(size).read(str(path), [whole])
        except BadSample as error:
            lost += [] if pixels is None and error.path == str(path) else [f"{kind} {draw}: {error}"]
            continue
        if pixels is None:
            lost.append(f"{kind} {draw}: believed")
            continue
        x = sample.x.permute(1, 2, 0).numpy().astype(float)
        apart = np.abs((x if sample.x.dtype.itemsize == 1 else 255 * x) - pixels).max()
        lost += [] if apart <= 1 else [f"{kind} {draw}: {apart:.0f} of 255 apart"]
    return Outcome(DRAWS, tuple(lost))


TURNS = 50


def voxels(path: Path, cache: Path | None, **options: object) -> NDArray[np.float32]:
    reader = VolumeReader(SIZE, cache=str(cache) if cache else None, **options)
    (sample,) = reader.read(str(path), [CENTRE])
    return np.asarray(sample.x)


def other_source(folder: Path, turn: int) -> list[str]:
    """Of the same name, length and time as before."""
    path, cache = folder / "scan.nii", folder / "cache"
    path.write_bytes(nifti(7, shape=(12, 11, 10)))
    voxels(path, cache)
    at = path.stat()
    path.write_bytes(nifti(8 + turn, shape=(12, 11, 10)))
    os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns))
    return [] if np.array_equal(voxels(path, cache), voxels(path, None)) else [f"{turn}: a stale entry"]


def other_transform(folder: Path, turn: int) -> list[str]:
    path, cache = folder / "scan.nii", folder / "cache"
    path.write_bytes(nifti(turn, shape=(12, 11, 10)))
    voxels(path, cache)
    options = {"spacing": [1.0 + 0.01 * turn, 1.0, 1.5]} if turn % 2 else {"intensity": "zscore"}
    return [] if np.array_equal(voxels(path, cache, **options), voxels(path, None, **options)) else [f"{turn}: stale"]


def spoilt_entry(folder: Path, turn: int) -> list[str]:
    path, cache, chance = folder / "scan.nii", folder / f"cache{turn}", np.random.default_rng(turn)
    path.write_bytes(nifti(turn, shape=(12, 11, 10)))
    voxels(path, cache)
    entries = [p for p in cache.rglob("*") if p.is_file() and p.stat().st_size]
    for entry in entries:
        content = bytearray(entry.read_bytes())
        if turn % 2:
            del content[int(chance.integers(0, len(content))) :]
        else:
            content[int(chance.integers(0, len(content)))] ^= 0x40
        entry.write_bytes(content)
    same = np.array_equal(voxels(path, cache), voxels(path, None))
    return [] if same and entries else [f"{turn}: of {len(entries)} entries a spoilt one was served"]


def two_writers(folder: Path, turn: int) -> list[str]:
    root = folder / f"cache{turn}"
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for i in range(10):
                    Cache(root).get_or_build({"i": i}, lambda i=i: made(i, (64, 64)))
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    entries = [Cache(root).get({"i": i}) for i in range(10)]
    whole_ones = [e is not None and np.array_equal(e.array, made(i, (64, 64)).array) for i, e in enumerate(entries)]
    return [] if codes == [0, 0] and all(whole_ones) else [f"{turn}: {codes}, {whole_ones}"]


CACHES = (other_source, other_transform, spoilt_entry, two_writers)


def cache(number: int, folder: Path, _: Path) -> Outcome:
    lost = [line for turn in range(TURNS) for line in CACHES[number](folder, turn)]
    return Outcome(TURNS, tuple(lost))


ROWS = (
    Row(
        "D5", f"pictures: {', '.join(PICTURES)}, {DRAWS} each: the right pixels, or named in the ledger",
        {"quick": 10, "full": 10}, picture, 120,
    ),
    Row(
        "D6", f"caches: changed source, changed transform, spoilt entries, two writers, {TURNS} each: nothing stale",
        {"quick": 4, "full": 4}, cache, 300,
    ),
)  # fmt: skip
