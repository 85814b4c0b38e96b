"""An encoder's weights from one run into the model of another."""

from math import prod
from pathlib import Path

from torch import Tensor

from mae_ext.config import Config
from mae_ext.engine.checkpoint import read_config, read_tensors
from mae_ext.engine.optim import BACKBONE
from mae_ext.errors import CheckpointError
from mae_ext.model.mae import MAE


def load_backbone(model: MAE, checkpoint: str) -> None:
    """Every weight of `model`, an MAE that decodes nothing, from a checkpoint of pretraining or of another task.

    Learned positions of another grid are resampled, as the encoder itself does with samples of another size.
    Raises CheckpointError naming what is missing or of another shape: an encoder is loaded whole or not at all.
    """
    stored: dict[str, Tensor] = {
        name.removeprefix(BACKBONE): value
        for name, value in read_tensors(Path(checkpoint) / "model.safetensors").items()
    }
    _fit_positions(model, stored, read_config(Path(checkpoint)))
    own = model.state_dict()
    loaded = {name: stored[name] for name in own if name in stored and stored[name].shape == own[name].shape}
    wrong = [
        f"{name} is absent"
        if name not in stored
        else f"{name} is {list(stored[name].shape)}, not {list(own[name].shape)}"
        for name in own
        if name not in loaded
    ]
    if wrong:
        share = sum(prod(own[name].shape) for name in loaded) / sum(prod(value.shape) for value in own.values())
        raise CheckpointError(
            f"{checkpoint} is of another architecture: {len(loaded)} of {len(own)} tensors of the encoder "
            f"({share:.0%} of its numbers) fit; {'; '.join(wrong[:3])}{'; ...' if len(wrong) > 3 else ''}"
        )
    model.load_state_dict(loaded)


def _fit_positions(model: MAE, stored: dict[str, Tensor], run: Config) -> None:
    """In place: the position tables of the run, on the grids of the model."""
    for name in model.modalities:
        modality, prefix = model.modality(name), f"modalities.{name}.position."
        fitted = getattr(modality.position, "fitted", None)
        if fitted is None or name not in run.modalities or run.modalities[name].grid == modality.grid:
            continue
        for key in [key for key in stored if key.startswith(prefix)]:
            stored[key] = fitted(key.removeprefix(prefix), stored[key], run.modalities[name].grid)
