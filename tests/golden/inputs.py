"""The inputs of the golden cases, made by integer arithmetic: the same bytes in every version of every library.

Everything is lossless. Pictures are PNG in the modes that people have; clips are GIF and array rows; scans are NIfTI
and NRRD in several orientations, spacings and units. Each has enough structure that a step can learn something from it.
"""

import io
import json
import tarfile
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

STRIPES = {"across": (0, 3), "down": (3, 0), "slanted": (2, 2)}
"""Classes of pictures: steps of the wave along rows and columns."""

MOTIONS = {"left": -2, "right": 2, "still": 0}
"""Classes of clips: columns that the square moves on by in a frame."""


def noise(key: int, shape: tuple[int, ...], most: int) -> np.ndarray:
    """Whole numbers 0..most-1. The raw stream of PCG64, which NumPy promises to keep."""
    raw = np.random.PCG64(key).random_raw(int(np.prod(shape)))
    return (raw >> np.uint64(33)).astype(np.int64).reshape(shape) % most


def wave(phase: np.ndarray) -> np.ndarray:
    """A triangle of period 32, 0..128."""
    return np.abs(phase % 32 - 16) * 8


def picture(kind: str, key: int) -> np.ndarray:
    """(H, W, 3) uint8 of about 40 x 40, its colour and phase its own."""
    down, across = STRIPES[kind]
    height, width = 34 + key % 11, 46 - key % 9
    y, x = np.mgrid[:height, :width]
    gain = 2 + noise(key, (3,), 5)
    base = noise(100 + key, (3,), 70)
    plane = wave(down * y + across * x + int(noise(200 + key, (1,), 32)[0]))[..., None] * gain // 5
    return np.clip(plane + base + noise(300 + key, (height, width, 3), 24), 0, 255).astype(np.uint8)


def _stored(pixels: np.ndarray, key: int) -> tuple[Image.Image, dict]:
    """One of the modes that a reader meets, by turns."""
    image, options = Image.fromarray(pixels), {}
    if key % 6 == 1:
        image = Image.fromarray(pixels[..., 1])
    elif key % 6 == 2:
        alpha = np.clip(np.mgrid[: len(pixels), : pixels.shape[1]].sum(0) * 5, 0, 255).astype(np.uint8)
        image = Image.fromarray(np.dstack([pixels, alpha]))
    elif key % 6 == 3:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6  # lies on its side
    elif key % 6 == 4:
        image = Image.fromarray(pixels[..., 0] // 32)
        image = image.convert("P")
        image.putpalette([(37 * i * (1 + c)) % 256 for i in range(256) for c in range(3)])
    elif key % 6 == 5:
        image = Image.fromarray(pixels[..., 2].astype(np.uint16) * 257)
    return image, options


def pictures(root: Path) -> None:
    """train/ and test/ with a folder for each class; train/ also has a file that is cut short. labels.csv: a patient
    for each two pictures."""
    rows = ["path,label,patient,split"]
    for part, keys in (("train", range(8)), ("test", range(50, 56))):
        for number, kind in enumerate(STRIPES):
            (root / part / kind).mkdir(parents=True)
            for key in keys:
                image, options = _stored(picture(kind, key + 10 * number), key)
                image.save(root / part / kind / f"{key:02d}.png", **options)
                rows.append(f"{part}/{kind}/{key:02d}.png,{kind},{part}-{number}-{key // 2},{part}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    whole = (root / "train" / "down" / "00.png").read_bytes()
    (root / "train" / "down" / "08.png").write_bytes(whole[: len(whole) // 2])


def clip(kind: str, key: int, frames: int) -> np.ndarray:
    """(T, 28, 36) uint8: a square that moves over stripes that stand still."""
    t, y, x = np.mgrid[:frames, :28, :36]
    ground = wave(2 * y + 3 * x + 5 * key) // 2 + 20 + noise(400 + key, (frames, 28, 36), 16)
    left = (key * 5 + MOTIONS[kind] * t) % 36
    inside = ((x - left) % 36 < 9) & (y >= 6 + key % 8) & (y < 16 + key % 8)
    return np.where(inside, 200 + noise(500 + key, (1, 1, 1), 40), ground).astype(np.uint8)


def clips(root: Path) -> None:
    """train/ and test/ with a folder for each class, GIF with a palette of greys; lengths differ."""
    for part, keys in (("train", range(4)), ("test", range(50, 53))):
        for number, kind in enumerate(MOTIONS):
            (root / part / kind).mkdir(parents=True)
            for key in keys:
                still = [Image.fromarray(frame) for frame in clip(kind, key + 10 * number, 11 + 3 * (key % 4))]
                still[0].save(
                    root / part / kind / f"{key:02d}.gif", save_all=True, append_images=still[1:], duration=40,
                    optimize=False, disposal=1,
                )  # fmt: skip


def body(key: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(D, H, W) Hounsfield units and labels: an ellipsoid in air with a round organ (1) and, in it, a lesion (2)."""
    z, y, x = (2 * axis - n for axis, n in zip(np.mgrid[: shape[0], : shape[1], : shape[2]], shape, strict=True))
    d, h, w = shape
    shift = noise(600 + key, (3,), 7) - 3

    def ball(centre: tuple[int, int, int], share: int) -> np.ndarray:
        """share: of the half axes, in sixteenths."""
        parts = ((z - centre[0]) * 1024 // d, (y - centre[1]) * 1024 // h, (x - centre[2]) * 1024 // w)
        return sum(part**2 for part in parts) < (64 * share) ** 2

    skin = ball((0, 0, 0), 14)
    organ = ball((int(shift[0]), 5 + int(shift[1]), 6), 7) & skin
    lesion = ball((int(shift[0]), 7 + int(shift[1]), 9 + int(shift[2])), 5) & organ
    values = np.where(skin, 20 + 2 * z - y, -1000)
    values = np.where(organ, 130 + 10 * (key % 4), values)
    values = np.where(lesion, 320, values) + noise(700 + key, shape, 30)
    return values, organ.astype(np.uint8) + lesion


AXES = {"RAS": ((0, 1), (1, 1), (2, 1)), "LPS": ((0, -1), (1, -1), (2, 1)), "SRA": ((2, 1), (0, 1), (1, 1))}
"""For each axis of the file, fastest first: which way of the patient (0 right, 1 front, 2 up), and its sign."""


def _stand(values: np.ndarray, code: str, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(D, H, W) up, front, right with mm in that order -> the array as nibabel has it in another order, its affine."""
    world, affine = values.transpose(2, 1, 0), np.eye(4)
    for axis, (way, sign) in enumerate(AXES[code]):
        step = spacing[2 - way]
        affine[:3, axis] = 0
        affine[way, axis] = sign * step
        affine[way, 3] = 4.0 * way - 30 + (step * (world.shape[way] - 1) if sign < 0 else 0)
    world = world.transpose([way for way, _ in AXES[code]])
    return world[tuple(slice(None, None, sign) for _, sign in AXES[code])], affine


def _nifti(
    values: np.ndarray, affine: np.ndarray, path: Path, slope: float = 1.0, inter: float = 0.0, micron: bool = False
):
    affine = affine @ np.diag([1, 1, 1, 1])
    if micron:
        affine[:3] *= 1000
    image = nib.Nifti1Image(values, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("micron" if micron else "mm", "sec")
    image.header.set_slope_inter(slope, inter)
    image.to_filename(path)


CT = {0: "RAS", 1: "LPS", 2: "SRA", 3: "RAS", 4: "LPS", 5: "SRA"}


def scans(root: Path) -> None:
    """CT: train/ and test/ with labels/ beside them, 12-bit stored values, one in micrometres. MR: mr/, thick slices,
    two moments each, and one NRRD."""
    for folder in ("train", "test", "labels", "mr"):
        (root / folder).mkdir(parents=True)
    for key, code in CT.items():
        shape = (26 + key, 34 - key, 30 + 2 * (key % 3))
        values, labels = body(key, shape)
        spacing = (2.0, 1.5, 1.5) if key % 2 else (1.6, 1.25, 1.4)
        stored, affine = _stand(((values + 1024) // 2).astype(np.int16), code, spacing)
        # The stored numbers first, so that nibabel scales nothing: value = 2 * stored - 1024.
        where = root / ("train" if key < 4 else "test") / f"{key}.nii.gz"
        _nifti(stored, affine, where, 2.0, -1024.0, micron=key == 3)
        _nifti(_stand(labels, code, spacing)[0], affine, root / "labels" / f"{key}.nii.gz", micron=key == 3)
    for key in range(3):
        values, _ = body(20 + key, (14 + key, 30, 28))
        # Brighter from left to right, so that a threshold decides how much of the body there is.
        values = np.clip(values + 300, 0, None) * (4 + np.arange(28)) // 24 + noise(1300 + key, values.shape, 30) - 300
        moments = np.stack([np.clip(values + 300, 0, None) * gain // 4 for gain in (3 + key, 5)], -1).astype(np.int16)
        stored, affine = _stand(moments[..., 0], "LPS" if key else "RAS", (4.0, 1.0, 1.2))
        other = _stand(moments[..., 1], "LPS" if key else "RAS", (4.0, 1.0, 1.2))[0]
        _nifti(np.stack([stored, other], -1), affine, root / "mr" / f"{key}.nii.gz")
    values, _ = body(30, (16, 26, 30))
    header = (
        "NRRD0004\ntype: int16\ndimension: 3\nspace: left-posterior-superior\nsizes: 30 26 16\nencoding: raw\n"
        "endian: little\nspace directions: (1.5,0,0) (0,-1.25,0) (0,0,3)\nspace origin: (-12,8,5)\n\n"
    )
    voxels = np.clip(values + 300, 0, None).astype("<i2")
    (root / "mr" / "3.nrrd").write_bytes(header.encode() + voxels.tobytes())


COLOURS = {"bright": (220, 180, 60), "dark": (20, 60, 110)}


def objects(root: Path) -> None:
    """train/ and test/ with one to three rectangles in each picture of 64 x 48, and labels.json, COCO's, of both; one
    in five is a crowd, which is to be ignored."""
    images, annotations = [], []
    for part, keys in (("train", range(8)), ("test", range(50, 55))):
        (root / part).mkdir(parents=True)
        for key in keys:
            pixels = 100 + noise(800 + key, (48, 64, 3), 40)
            images.append({"id": key, "file_name": f"{part}/{key}.png", "width": 64, "height": 48})
            for number, kind in enumerate(("bright", "dark", "bright")[: 1 + key % 3]):
                draw = noise(900 + 10 * key + number, (4,), 1 << 20)
                wide, high = 12 + int(draw[0]) % 16, 11 + int(draw[1]) % 15
                left, top = int(draw[2]) % (64 - wide), int(draw[3]) % (48 - high)
                pixels[top : top + high, left : left + wide] = COLOURS[kind]
                pixels[top : top + high : 3, left : left + wide] += 20
                annotations.append({
                    "id": len(annotations) + 1, "image_id": key, "category_id": 1 + (kind == "dark"),
                    "bbox": [left, top, wide, high], "area": wide * high,
                    "iscrowd": int(len(annotations) % 5 == 3),
                })  # fmt: skip
            Image.fromarray(pixels.astype(np.uint8)).save(root / part / f"{key}.png")
    kinds = [{"id": 1, "name": "bright"}, {"id": 2, "name": "dark"}]
    (root / "labels.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": kinds}))


def cells(root: Path) -> None:
    """train/ and test/ of grey pictures with numbered round cells, and masks/ under the same names."""
    for folder in ("train", "test", "masks"):
        (root / folder).mkdir(parents=True)
    for part, keys in (("train", range(5)), ("test", range(50, 53))):
        for key in keys:
            height, width = 30 + key % 7, 40 - key % 5
            y, x = np.mgrid[:height, :width]
            pixels, labels = 60 + noise(1100 + key, (height, width), 30), np.zeros((height, width), np.uint8)
            for number in range(1, 4):
                draw = noise(1200 + 10 * key + number, (3,), 1 << 20)
                inside = (y - int(draw[0]) % height) ** 2 + (x - int(draw[1]) % width) ** 2 < (
                    4 + int(draw[2]) % 4
                ) ** 2
                pixels[inside], labels[inside] = 150 + wave(4 * x + 3 * y)[inside] // 2, number
            Image.fromarray(pixels.astype(np.uint8)).save(root / part / f"{key}.png")
            Image.fromarray(labels).save(root / "masks" / f"{key}.png")


def together(root: Path) -> None:
    """Of a run on several modalities: pictures in a shard, clips as rows of an array, and two scans."""
    root.mkdir(parents=True)
    with tarfile.open(root / "pictures.tar", "w") as shard:
        for key in range(6):
            held = io.BytesIO()
            Image.fromarray(picture(list(STRIPES)[key % 3], 70 + key)).save(held, "PNG")
            entry = tarfile.TarInfo(f"{key:03d}.png")
            entry.size = held.tell()
            held.seek(0)
            shard.addfile(entry, held)
    rows = np.stack([clip(list(MOTIONS)[key % 3], 70 + key, 12) for key in range(5)])
    np.savez(root / "clips.npz", train_images=np.repeat(rows[..., None], 3, -1))
    (root / "scans").mkdir()
    for key in range(3):
        values, _ = body(80 + key, (20, 22 + key, 24))
        stored, affine = _stand(values.astype(np.int16), "RAS", (2.0, 2.0, 2.0))
        _nifti(stored, affine, root / "scans" / f"{key}.nii.gz")


def make(root: Path) -> None:
    """Everything below `root`, which is empty."""
    pictures(root / "pictures")
    clips(root / "clips")
    scans(root / "scans")
    objects(root / "objects")
    cells(root / "cells")
    together(root / "together")
