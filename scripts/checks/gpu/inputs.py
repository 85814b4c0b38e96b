"""Files for the sections: JPEG photographs, clips as rows of an .npz, scans as .nii.gz, and tiny ones with labels."""

import json
from collections.abc import Callable
from multiprocessing import get_context
from os import sched_getaffinity
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from gpu.results import Check
from numpy.typing import NDArray
from PIL import Image

Bytes = NDArray[np.uint8]


def smooth(number: int, height: int, width: int) -> Bytes:
    """(height, width, 3): broad shapes with some grain, so that a JPEG of it is as long as a photograph's."""
    chance = np.random.default_rng(number)
    coarse = Image.fromarray(chance.integers(0, 256, (height // 24 + 2, width // 24 + 2, 3), dtype=np.uint8))
    shapes = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy: Bytes = np.clip(shapes + chance.integers(-9, 10, shapes.shape), 0, 255).astype(np.uint8)
    return noisy


def photo(task: tuple[Path, int, int, int]) -> None:
    folder, number, height, width = task
    Image.fromarray(smooth(number, height, width)).save(folder / f"{number:05d}.jpg", quality=90)


def scan(task: tuple[Path, int, tuple[int, int, int]]) -> None:
    """A ball of soft tissue in air, in Hounsfield units, int16, at 1.5 x 1.5 x 2 mm."""
    folder, number, shape = task
    chance = np.random.default_rng(number)
    axes = [np.linspace(-1, 1, side, dtype=np.float32) for side in shape]
    radius = np.sqrt(sum(axis.reshape([-1 if i == k else 1 for i in range(3)]) ** 2 for k, axis in enumerate(axes)))
    voxels = np.where(radius < 0.9, 40, -1000).astype(np.int16) + chance.integers(-30, 31, shape, dtype=np.int16)
    image = nib.Nifti1Image(voxels, np.diag([1.5, 1.5, 2.0, 1.0]))
    nib.openers.Opener.default_compresslevel = 1
    image.to_filename(folder / f"{number:03d}.nii.gz")


def clips(folder: Path, count: int, frames: int, height: int, width: int) -> None:
    """The frames of one clip are parts of one picture, which moves."""
    rows = []
    for number in range(count):
        picture = smooth(number, height + frames, width + frames)
        rows.append(np.stack([picture[i : i + height, i : i + width] for i in range(frames)]))
    np.savez(folder / "clips.npz", train_images=np.stack(rows), train_labels=np.arange(count) % 2)


def spread(function: Callable[[Any], None], tasks: list[Any]) -> None:
    """Over the processors that there are."""
    count = min(len(sched_getaffinity(0)), 16, len(tasks))
    if count < 3:
        for task in tasks:
            function(task)
        return
    with get_context("fork").Pool(count) as pool:
        pool.map(function, tasks, chunksize=1)


def small(folder: Path, side: int) -> None:
    """Pictures in class folders, their masks and boxes; scans and their masks: for tasks."""
    images, boxes = [], []
    for number in range(16):
        kind, pixels = ("round", "square")[number % 2], smooth(number, side, side)
        at, length = 4 + number % 5, side // 3
        pixels[at : at + length, at : at + length] = 250 - 100 * (number % 2)
        mask = np.zeros((side, side), np.uint8)
        mask[at : at + length, at : at + length] = 1 + number % 2
        part = "classes_test" if number > 11 else "classes"
        for place, content in ((folder / part / kind, pixels), (folder / "masks", mask), (folder / "flat", pixels)):
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(place / f"{number:02d}.png")
        images.append({"id": number, "file_name": f"{number:02d}.png", "width": side, "height": side})
        boxes.append({"image_id": number, "category_id": 1 + number % 2, "bbox": [at, at, length, length]})
    kinds = [{"id": 1, "name": "round"}, {"id": 2, "name": "square"}]
    (folder / "boxes.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": kinds}))
    for name in ("scans", "scan_masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(6):
        chance = np.random.default_rng(number)
        voxels = chance.normal(0, 20, (24, 24, 20)).astype(np.float32)
        voxels[6:16, 6:16, 5:14] += 300
        inside = np.zeros(voxels.shape, np.uint8)
        inside[6:16, 6:16, 5:14] = 1
        nib.Nifti1Image(voxels, np.eye(4)).to_filename(folder / "scans" / f"{number}.nii.gz")
        nib.Nifti1Image(inside, np.eye(4)).to_filename(folder / "scan_masks" / f"{number}.nii.gz")


def inputs(check: Check) -> None:
    """Small ones for all sections, and those of true sizes for `runs`."""
    tiny = check.tiny
    small(check.inputs / "small", 48)
    folders = {name: check.inputs / name for name in ("photos", "clips", "scans", "small_clips")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    clips(folders["small_clips"], 8, 6, 24, 24)
    photos = 24 if tiny else 2048
    spread(photo, [(folders["photos"], n, *((60, 80) if tiny else (375, 500))) for n in range(photos)])
    if tiny:
        clips(folders["clips"], 6, 10, 32, 40)
    else:
        clips(folders["clips"], 32, 64, 256, 340)
    scans, shape = (4, (24, 24, 20)) if tiny else (24, (256, 256, 160))
    spread(scan, [(folders["scans"], n, shape) for n in range(scans)])
    for name, count in (("photos", photos), ("clips", 6 if tiny else 32), ("scans", scans)):
        held = sum(path.stat().st_size for path in folders[name].iterdir())
        check.row(name, count=count, MB=round(held / 1e6, 1))
