"""Small inputs of each modality, and configs whose steps take milliseconds."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml
from PIL import Image

TESTS = Path(__file__).parents[3] / "tests"

VIDEO = {
    "size": [4, 16, 16], "patch": [2, 4, 4], "batch": 8, "mask": {"name": "tube", "ratio": 0.75},
    "data": {"reader": {"name": "video", "stride": 2}, "repeats": 2, "augment": {"fixed": [0]}},
}  # fmt: skip
VOLUME = {
    "size": [8, 16, 16], "patch": [2, 4, 4], "channels": 1, "batch": 8, "mask": {"name": "foreground", "ratio": 0.75},
    "data": {
        "reader": {"name": "volume", "spacing": [1.0, 1.0, 1.0], "body": "otsu", "intensity": "percentile"},
        "repeats": 2, "augment": {"fixed": [0, 1, 2], "flip": [2]},
    },
}  # fmt: skip


def write_config(folder: Path, overrides: Mapping[str, Any], name: str = "config") -> Path:
    """16x16 pixels, 32 wide, batches of 8; dotted keys override."""
    values: dict[str, Any] = {
        "seed": 3,
        "modalities": {
            "image": {
                "size": [16, 16], "patch": [4, 4], "batch": 8, "mask": {"name": "random", "ratio": 0.75}, "data": {},
            }
        },
        "model": {
            "width": 32, "depth": 2, "heads": 2, "drop_path": 0.1, "decoder": {"width": 16, "depth": 1, "heads": 2},
        },
        "train": {
            "steps": 60, "lr": 1e-2, "warmup_steps": 10, "precision": "fp32", "clip": 1.0, "device": "cpu",
            "workers": 0, "save_every": 20, "tensorboard": False,
        },
    }  # fmt: skip
    for dotted, value in overrides.items():
        node = values
        *parents, last = dotted.split(".")
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def make_photos(folder: Path, count: int = 40) -> Path:
    """PNG where the number is even, JPEG where it is odd."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (24 + number % 17, 40 - number % 13, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.{('png', 'jpg')[number % 2]}")
    return folder


def make_clips(folder: Path, count: int = 10) -> Path:
    """A bright square that wanders, in H.264."""
    import av

    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        with av.open(str(folder / f"{k}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            for i in range(12):
                pixels = np.full((32, 48, 3), 20 * k, np.uint8)
                pixels[k : k + 12, 3 * i : 3 * i + 12] = 250 - 20 * k
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))
    return folder


def make_scans(folder: Path, count: int = 10) -> Path:
    """Balls in noise, with slices of 1 and of 2 mm."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(0)
    for n in range(count):
        thick = 1 + n % 2
        z, y, x = np.mgrid[-12:12:thick, -12:12, -12:12]
        ball = np.where(z**2 + y**2 + x**2 < 100, 400 + 10 * n, 10)
        voxels = (ball + chance.normal(0, 5, ball.shape)).T.astype(np.float32)
        nib.Nifti1Image(voxels, np.diag([1, 1, thick, 1])).to_filename(folder / f"{n}.nii.gz")
    return folder


MODALITIES = {
    "images": (make_photos, {}),
    "clips": (make_clips, {"modalities": {"video": VIDEO}}),
    "volumes": (make_scans, {"modalities": {"volume": VOLUME}}),
}
"""What makes its files, and what its config says beyond that of images."""


def install_faulty_reader(folder: Path) -> None:
    """`faulty` of tests/faults/faulty_reader.py is a reader of this process and of those that it starts."""
    info = folder / "site" / "faulty_reader-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-reader\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mae_ext.readers]\nfaulty = faults.faulty_reader:FaultyReader\n")
    sys.path.insert(0, str(info.parent))
    paths = [str(info.parent), str(TESTS), str(TESTS.parent)]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
