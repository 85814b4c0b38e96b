"""mae_ext: masked autoencoders for images, video and CT/MRI volumes, on one trunk and one engine.

What is named in `__all__` is public: docs/reference has it, and it stays here while files move. So does
`mae_ext.rng.rng`, whose module has its name.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mae_ext.cores import settle_threads
from mae_ext.version import __version__ as __version__

if TYPE_CHECKING:
    from mae_ext.config import Config, load_config, parse_config
    from mae_ext.data.batch import Batch
    from mae_ext.data.loading.batches import ModalityData
    from mae_ext.data.loading.examples import Examples, HeldOut
    from mae_ext.data.sample import Crop, Reader, Sample, verdicts
    from mae_ext.data.sources.table import Items
    from mae_ext.engine.task import Task
    from mae_ext.engine.train import train
    from mae_ext.errors import BadSample, CheckpointError, ConfigError, RunError, UserError, WrongShape
    from mae_ext.features.encoder import Features, FrozenEncoder, load_encoder
    from mae_ext.features.windowed import Windows
    from mae_ext.model.embed import Embedder
    from mae_ext.model.grid import grid_of, patchify, take_patches, unpatchify
    from mae_ext.model.mae import MAE
    from mae_ext.model.mask import Mask, Masker, from_scores, num_keep
    from mae_ext.model.target import PixelTarget
    from mae_ext.tasks.finetuning import FineTuning


settle_threads()  # torch, which is imported later, reads this once

_HOME = {
    # What programs use (docs/reference/package.md).
    "Config": "mae_ext.config",
    "load_config": "mae_ext.config",
    "parse_config": "mae_ext.config",
    "train": "mae_ext.engine.train",
    "load_encoder": "mae_ext.features.encoder",
    "FrozenEncoder": "mae_ext.features.encoder",
    "Features": "mae_ext.features.encoder",
    "Windows": "mae_ext.features.windowed",
    "Items": "mae_ext.data.sources.table",
    "MAE": "mae_ext.model.mae",
    "Mask": "mae_ext.model.mask",
    "UserError": "mae_ext.errors",
    "ConfigError": "mae_ext.errors",
    "CheckpointError": "mae_ext.errors",
    "WrongShape": "mae_ext.errors",
    "RunError": "mae_ext.errors",
    # What plug-ins use besides (docs/reference/contracts.md).
    "Masker": "mae_ext.model.mask",
    "num_keep": "mae_ext.model.mask",
    "from_scores": "mae_ext.model.mask",
    "Embedder": "mae_ext.model.embed",
    "take_patches": "mae_ext.model.grid",
    "patchify": "mae_ext.model.grid",
    "unpatchify": "mae_ext.model.grid",
    "grid_of": "mae_ext.model.grid",
    "PixelTarget": "mae_ext.model.target",
    "Reader": "mae_ext.data.sample",
    "Sample": "mae_ext.data.sample",
    "Crop": "mae_ext.data.sample",
    "Batch": "mae_ext.data.batch",
    "BadSample": "mae_ext.errors",
    "verdicts": "mae_ext.data.sample",
    "Task": "mae_ext.engine.task",
    "Examples": "mae_ext.data.loading.examples",
    "HeldOut": "mae_ext.data.loading.examples",
    "ModalityData": "mae_ext.data.loading.batches",
    "FineTuning": "mae_ext.tasks.finetuning",
}

__all__ = [
    "MAE",
    "BadSample",
    "Batch",
    "CheckpointError",
    "Config",
    "ConfigError",
    "Crop",
    "Embedder",
    "Examples",
    "Features",
    "FineTuning",
    "FrozenEncoder",
    "HeldOut",
    "Items",
    "Mask",
    "Masker",
    "ModalityData",
    "PixelTarget",
    "Reader",
    "RunError",
    "Sample",
    "Task",
    "UserError",
    "Windows",
    "WrongShape",
    "from_scores",
    "grid_of",
    "load_config",
    "load_encoder",
    "num_keep",
    "parse_config",
    "patchify",
    "take_patches",
    "train",
    "unpatchify",
    "verdicts",
]


def __getattr__(name: str) -> Any:
    # On first use: importing PyTorch takes seconds, which `mae-ext --help` should not.
    if name not in _HOME:
        raise AttributeError(f"module 'mae_ext' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
