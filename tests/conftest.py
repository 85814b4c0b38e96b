"""Small real inputs that several parts are tested on: pictures written with Pillow, and a run without the training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mae_ext.config import Config, parse_config
from mae_ext.engine import checkpoint
from mae_ext.model.mae import MAE

STRIPES = {"across": (0, 1), "down": (1, 0), "slanted": (1, 1)}


def _stripes(direction: tuple[int, int], number: int) -> np.ndarray:
    """(40, 40, 3) uint8: stripes in one direction, of a colour and phase that say nothing of the direction."""
    chance = np.random.default_rng(number)
    y, x = np.mgrid[:40, :40]
    wave = np.sin((direction[0] * y + direction[1] * x) * 0.8 + chance.uniform(0, 6))[..., None]
    colour = chance.uniform(30, 90, 3)
    return np.clip(128 + wave * colour + chance.normal(0, 12, (40, 40, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def striped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and test/ with a folder for each direction of stripes: 12 and 4 pictures a class, 40x40 PNG."""
    root = tmp_path_factory.mktemp("striped")
    for part, numbers in (("train", range(12)), ("test", range(100, 104))):
        for name, direction in STRIPES.items():
            (root / part / name).mkdir(parents=True)
            for number in numbers:
                Image.fromarray(_stripes(direction, number)).save(root / part / name / f"{number:03d}.png")
    return root


@pytest.fixture
def make_config() -> Callable[..., Config]:
    """A config of a model that takes milliseconds: 24x16 pixels, patch 8x4, 12 tokens, 24 wide."""

    def make(**image: Any) -> Config:
        modality = {
            "size": [24, 16],
            "patch": [8, 4],
            "batch": 4,
            "mask": {"name": "random", "ratio": 0.75},
            "data": {"path": "photos", "statistics": {"mean": [0.5, 0.4, 0.6], "std": [0.2, 0.3, 0.25]}},
        }
        model = {"width": 24, "depth": 2, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}
        return parse_config(
            {"modalities": {"image": modality | image}, "model": model, "train": {"steps": 10, "workers": 0}}
        )

    return make


@pytest.fixture
def make_run(tmp_path: Path, make_config: Callable[..., Config]) -> Callable[..., Path]:
    """A run directory with the weights that its seed starts from, saved as step 7."""

    def make(name: str = "run", **image: Any) -> Path:
        run, config = tmp_path / name, make_config(**image)
        tensors = {"model": MAE.from_config(config).state_dict()}
        checkpoint.save(run / "checkpoints", 7, config, tensors, {})
        (run / "config.yaml").write_text(config.to_yaml())
        return run

    return make
