"""Encoders with the weights their seed gives, in memory, for windows of 16 voxels, 16x16 pixels or 4 frames."""

from pathlib import Path

import torch

from mae_ext.config import parse_config
from mae_ext.features.encoder import FrozenEncoder
from mae_ext.model.mae import MAE

KINDS = {
    "volume": {
        "size": [16, 16, 16], "patch": [8, 8, 8], "channels": 1, "fixed": [0, 1, 2],
        "reader": {"name": "volume", "intensity": {"name": "window", "windows": [[0, 1000]]}},
    },
    "video": {
        "size": [4, 16, 16], "patch": [2, 8, 8], "channels": 3, "fixed": [0],
        "reader": {"name": "video", "stride": 2, "short_side": 0},
    },
    "image": {"size": [16, 16], "patch": [8, 8], "channels": 3, "fixed": [0, 1], "reader": {"name": "image"}},
}  # fmt: skip


def untrained(kind, patch=None, **reader):
    values = KINDS[kind] | ({} if patch is None else {"patch": patch})
    augment = {"fixed": values.pop("fixed"), "scale": None}
    data = {
        "path": "none", "reader": values.pop("reader") | reader, "augment": augment,
        "statistics": "none", "max_bad_fraction": 0.5,
    }  # fmt: skip
    config = parse_config({
        "modalities": {kind: {**values, "batch": 4, "data": data}},
        "model": {"width": 24, "depth": 1, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}},
        "train": {"steps": 1, "workers": 0, "precision": "fp32"},
    })  # fmt: skip
    torch.manual_seed(0)
    return FrozenEncoder(MAE(config).eval(), config, kind, 0, Path("none"))
