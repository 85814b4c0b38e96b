"""An encoder's weights from one run into the model of another."""

from math import prod
from pathlib import Path

from torch import Tensor

from mae_ext.engine.checkpoint import read_tensors
from mae_ext.engine.optim import BACKBONE
from mae_ext.errors import CheckpointError
from mae_ext.model.mae import MAE


def load_backbone(model: MAE, checkpoint: str) -> None:
    """Every weight of `model`, an MAE that decodes nothing, from a checkpoint of pretraining or of another task.

    Raises CheckpointError naming what is missing or of another shape: an encoder is loaded whole or not at all.
    """
    found: dict[str, Tensor] = {
        name.removeprefix(BACKBONE): value
        for name, value in read_tensors(Path(checkpoint) / "model.safetensors").items()
    }
    own = model.state_dict()
    loaded = {name: found[name] for name in own if name in found and found[name].shape == own[name].shape}
    wrong = [
        f"{name} is absent"
        if name not in found
        else f"{name} is {list(found[name].shape)}, not {list(own[name].shape)}"
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
