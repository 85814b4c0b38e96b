"""Images of discs and scans of boxes with their label maps, and the command that learns from them."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from tasks.segment.small_runs import SHORT

from mae_ext.cli import run


@pytest.fixture
def blobs(tmp_path):
    """images/ and masks/, train/ and test/: bright discs on noise, each disc with its own number, of 16 bits."""
    for split, count in (("train", 8), ("test", 3)):
        for part in ("images", "masks"):
            (tmp_path / split / part).mkdir(parents=True)
        for number in range(count):
            chance = np.random.default_rng((number, count))
            y, x = np.mgrid[:28, :36]
            mask = np.zeros((28, 36), np.uint16)
            for which in (300, 301):
                cy, cx = chance.integers(5, 23), chance.integers(5, 31)
                mask[(y - cy) ** 2 + (x - cx) ** 2 < 20] = which
            grey = np.clip(60 + 120 * (mask > 0) + chance.normal(0, 8, mask.shape), 0, 255).astype(np.uint8)
            Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / split / "images" / f"{number}.png")
            Image.fromarray(mask).save(tmp_path / split / "masks" / f"{number}.png")
    return tmp_path


@pytest.fixture
def organs(tmp_path):
    """scans/ and labels/: two boxes of different brightness, some scans stored in other axis orders."""
    for part in ("scans", "labels"):
        (tmp_path / part).mkdir()
    for number in range(4):
        chance = np.random.default_rng(number)
        labels = np.zeros((12, 11, 10), np.uint8)
        labels[2:6, 3:8, 2:7], labels[7:10, 3:8, 3:8] = 1, 2
        values = (labels * 50 + chance.normal(0, 4, labels.shape)).astype(np.float32)
        affine = np.diag([1.0, -1.0, 1.0, 1.0]) if number % 2 else np.diag([1.0, 1.0, 1.0, 1.0])
        for part, array in (("scans", values), ("labels", labels)):
            nib.Nifti1Image(array, affine).to_filename(tmp_path / part / f"{number}.nii.gz")
    return tmp_path


@pytest.fixture
def fine_tune(tiny, tmp_path):
    def go(modalities, task, data, *more, out="ft", overrides=None):
        config = tiny(SHORT | {"modalities": modalities, "task": {"name": "segment", **task}} | (overrides or {}))
        return run(["finetune", str(config), "--init", "none", "--data", str(data), "--out", str(tmp_path / out),
                    *map(str, more)])  # fmt: skip

    return go
