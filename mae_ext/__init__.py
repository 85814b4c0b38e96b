"""mae_ext: masked autoencoders for images, video and CT/MRI volumes, on one trunk and one engine."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mae_ext.cores import settle_threads
from mae_ext.version import __version__

if TYPE_CHECKING:
    from mae_ext.config import load_config
    from mae_ext.engine.train import train
    from mae_ext.features.encoder import load_encoder
    from mae_ext.model.mae import MAE
    from mae_ext.model.mask import Mask

__all__ = ["MAE", "Mask", "__version__", "load_config", "load_encoder", "train"]

settle_threads()  # torch, which is imported later, reads this once

_HOME = {
    "MAE": "mae_ext.model.mae",
    "Mask": "mae_ext.model.mask",
    "load_config": "mae_ext.config",
    "load_encoder": "mae_ext.features.encoder",
    "train": "mae_ext.engine.train",
}


def __getattr__(name: str) -> Any:
    # On first use: importing PyTorch takes seconds, which `mae-ext --help` should not.
    if name not in _HOME:
        raise AttributeError(f"module 'mae_ext' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)
