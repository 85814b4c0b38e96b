"""Runs whose decoder answers nothing, so that what is right is known of every voxel, and scans for them."""

import nibabel as nib
import numpy as np
import torch

from mae_ext.config import parse_config
from mae_ext.engine import commit
from mae_ext.model.mae import MAE

OBLIQUE = np.array([[0.1, -1.8, 0.3, 20], [1.4, 0.1, -0.2, -30], [0.15, 0.2, -2.9, 10], [0, 0, 0, 1]], float)
"""Axes at other directions than the patient's, one backwards, and of three lengths."""

SCANS = {
    "size": [8, 8, 8], "patch": [4, 4, 4], "channels": 1,
    "target": {"name": "pixel", "normalize": "none"},
    "data": {"reader": {"name": "volume", "intensity": "none"}, "augment": {"fixed": [0, 1, 2]}},
}  # fmt: skip
PICTURES = {
    "size": [16, 16], "patch": [4, 4], "channels": 3, "target": {"name": "pixel", "normalize": "none"}, "data": {},
}  # fmt: skip
FILMS = {
    "size": [4, 16, 16], "patch": [2, 8, 8], "channels": 3, "target": {"name": "pixel", "normalize": "none"},
    "data": {"reader": {"name": "video", "stride": 2}, "augment": {"fixed": [0]}},
}  # fmt: skip


def run_of(folder, kind, mean=0.0, std=1.0, silent=True, **changes):
    """Of untrained weights. silent: they answer 0 to everything: the data's mean, where targets are plain pixels; a
    patch's mean, where they are normalised patch by patch."""
    modality = {"batch": 2} | kind | {key: value for key, value in changes.items() if key != "reader"}
    channels = modality["channels"]
    data = {"path": "none", "statistics": {"mean": [mean] * channels, "std": [std] * channels}} | modality["data"]
    if "reader" in changes:
        data = data | {"reader": data["reader"] | changes["reader"]}
    model = {"width": 24, "depth": 1, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}
    config = parse_config({
        "modalities": {"data": modality | {"data": data}}, "model": model, "train": {"steps": 1, "workers": 0},
    })  # fmt: skip
    weights = MAE(config).state_dict()
    if silent:
        weights |= {key: torch.zeros_like(value) for key, value in weights.items() if ".predict." in key}
    commit.save(folder / "checkpoints", 1, config, {"model": weights}, {})
    (folder / "config.yaml").write_text(config.to_yaml())
    return folder


def scan(path, voxels, affine=OBLIQUE):
    """voxels: (i, j, k), in the order of the file's own axes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path
