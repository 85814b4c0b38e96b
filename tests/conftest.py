"""Small real inputs that several parts are tested on: pictures written with Pillow, and a run without the training."""

import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mae_ext.config import Config, parse_config
from mae_ext.engine import commit
from mae_ext.model.mae import MAE


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test printed of names that are no text can be handed on to the process that reports."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session", autouse=True)
def own_lists_of_films(tmp_path_factory: pytest.TempPathFactory) -> Generator[None, None, None]:
    """What readers of films and DICOM remember goes with the tests; matplotlib's fonts, dear to list, stay."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR", str(home / "matplotlib")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("lists")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("keys")))
        yield


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


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures of different sizes, PNG and JPEG, flat in one folder."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(40):
        pixels = _stripes(list(STRIPES.values())[number % 3], number)[: 24 + number % 17, : 40 - number % 13]
        Image.fromarray(pixels).save(folder / f"{number:02d}.{('png', 'jpg')[number % 2]}")
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Path]:
    """Write a config whose steps take milliseconds: 16x16 pixels, patch 4, 32 wide, batch 8. Dotted keys override."""

    def write(overrides: dict[str, Any] | None = None, name: str = "tiny") -> Path:
        values: dict[str, Any] = {
            "seed": 3,
            "modalities": {
                "image": {
                    "size": [16, 16], "patch": [4, 4], "batch": 8,
                    "mask": {"name": "random", "ratio": 0.75}, "data": {},
                },
            },
            "model": {
                "width": 32, "depth": 2, "heads": 2, "drop_path": 0.1,
                "decoder": {"width": 16, "depth": 1, "heads": 2},
            },
            "train": {
                "steps": 60, "lr": 1e-2, "warmup_steps": 10, "precision": "fp32", "clip": 1.0, "device": "cpu",
                "workers": 0, "save_every": 20, "tensorboard": False,
            },
        }  # fmt: skip
        for dotted, value in (overrides or {}).items():
            node = values
            *parents, last = dotted.split(".")
            for key in parents:
                node = node.setdefault(key, {})
            node[last] = value
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder from which `faulty` is an installed reader; it is on sys.path, also of processes that tests start."""
    site = tmp_path / "site"
    info = site / "faulty_reader-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-reader\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mae_ext.readers]\nfaulty = faults.faulty_reader:FaultyReader\n")
    monkeypatch.syspath_prepend(site)
    paths = [str(site), str(Path(__file__).parent), str(Path(__file__).parents[1])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return site


@pytest.fixture
def test_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own modules can be run as `python -m faults.x`."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)


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
        commit.save(run / "checkpoints", 7, config, tensors, {})
        (run / "config.yaml").write_text(config.to_yaml())
        return run

    return make


@pytest.fixture(autouse=True)
def denormals():
    """Training flushes denormals for its whole process, which here is everybody's: Hypothesis draws some."""
    yield
    torch.set_flush_denormal(False)
