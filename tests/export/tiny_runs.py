"""Runs to take away: a checkpoint of weights that nobody trained, far from those that a model begins with."""

from pathlib import Path

import torch

from mae_ext.config import Config, parse_config
from mae_ext.engine import commit
from mae_ext.engine.task import build_model

KINDS = {
    "image": {"size": [16, 24], "patch": [8, 8], "channels": 3},
    "clip": {"size": [4, 16, 16], "patch": [2, 8, 8], "channels": 3},
    "volume": {"size": [16, 16, 24], "patch": [8, 8, 8], "channels": 1},
}
READERS = {
    "image": {"name": "image"},
    "clip": {"name": "video", "stride": 2},
    "volume": {"name": "volume", "spacing": [3.0, 1.5, 1.5], "intensity": {"name": "window", "windows": [[-100, 300]]}},
}


def tiny(kind: str, task: dict | None = None, data: dict | None = None, **keys) -> Config:
    shape = KINDS[kind] | {key: value for key, value in keys.items() if key in ("size", "patch")}
    channels = shape["channels"]
    statistics = {"mean": [0.4 + 0.05 * i for i in range(channels)], "std": [0.2 + 0.05 * i for i in range(channels)]}
    rest = {key: value for key, value in keys.items() if key not in ("size", "patch", "model")}
    return parse_config(
        {
            "task": task or "pretrain",
            "modalities": {
                kind: {
                    **shape,
                    "batch": 2,
                    "data": {"reader": READERS[kind], "statistics": statistics, **(data or {})},
                    **rest,
                }
            },
            "model": {
                "width": 24,
                "depth": 2,
                "heads": 2,
                "decoder": {"width": 16, "depth": 1, "heads": 2},
                **keys.get("model", {}),
            },
            "train": {"steps": 1, "precision": "fp32"},
        }
    )


def saved(folder: Path, config: Config) -> Path:
    """A run directory with one checkpoint: everything that is trained is moved by noise, with a keyed generator."""
    model, generator = build_model(config), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    commit.save(folder / "checkpoints", 1, config, {"model": model.state_dict()}, {})
    (folder / "config.yaml").write_text(config.to_yaml())
    return folder
