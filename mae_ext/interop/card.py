"""Our own weights as one file that says all of itself: safetensors, with the config in its metadata.

What a run keeps for going on (moments, counters) stays behind, and so do paths of the machine it ran on. The file is
what `load_encoder` and `--init` take, as they take a run.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mae_ext.config import Config, PlugIn, TrainConfig, parse_config, uncached
from mae_ext.errors import CheckpointError
from mae_ext.interop.format import Foreign, Hints, Written
from mae_ext.interop.origin import Origin
from mae_ext.model.mae import MAE
from mae_ext.strict_json import dumps
from mae_ext.version import __version__

KEY = "mae_ext"
"""Of the card in the metadata: JSON of one key, since safetensors writes several in any order, and a file that is made
again would have other bytes."""

VERSION = 1
"""Of the card. Raise it when a card means something else than before."""

OURS = ("encoder.trunk.", "backbone.encoder.trunk.")
"""How names of ours begin, with a card or without: of a run, and of a task's."""


class Card:
    name, title, package = "safetensors", "safetensors with a card of mae-ext", None

    def recognises(self, file: Foreign) -> bool:
        return KEY in file.metadata or any(key.startswith(OURS) for key in file.weights)

    def read(self, file: Foreign, hints: Hints) -> Origin:
        """Raises CheckpointError for no card, one of another version, and weights that are not those it speaks of."""
        where, card = file.where, _card(file)
        if hints != Hints():
            raise CheckpointError(f"{where}: its card says all of it; remove what stands after '::'")
        if card is None:
            raise CheckpointError(
                f"{where}: weights of mae-ext without a card that says their config; expected the run, or the folder "
                f"of the checkpoint that they are in"
            )
        if (version := card.get("version")) != VERSION:
            raise CheckpointError(f"{where}: a card of version {version}; this version of mae-ext reads {VERSION}")
        config = parse_config(card.get("config") or {}, f"{where}: its card")
        decodes = any(key.startswith("decoder.") for key in file.weights)
        _check(file.weights, config, decodes, where)
        weights = {key: weight.float() for key, weight in file.weights.items()}
        return Origin(weights, config, where, self.name, decodes)

    def write(self, origin: Origin, name: str) -> Written:
        config = _portable(origin.config, name)
        others = tuple(f"modalities.{other}." for other in origin.config.modalities if other != name)
        weights = {key: weight for key, weight in origin.weights.items() if not key.startswith(others)}
        card = {"format": KEY, "version": VERSION, "mae_ext": __version__, "config": config.model_dump(mode="json")}
        return Written(weights, _for_people(config, name, weights, origin.decodes), metadata={KEY: dumps(card)})

    def peer(self, written: Written) -> Callable[[Tensor], Tensor] | None:
        return None


def _card(file: Foreign) -> dict[str, Any] | None:
    if KEY not in file.metadata:
        return None
    try:
        card = json.loads(file.metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file.where}: its card cannot be read: {error}") from None
    if not isinstance(card, dict):
        raise CheckpointError(f"{file.where}: its card is no object, but {type(card).__name__}")
    return card


def _check(weights: Mapping[str, Tensor], config: Config, decodes: bool, where: str) -> None:
    """That these are all weights of that model, and finite."""
    depths = {"encoder": config.model.depth, **({"decoder": config.model.decoder.depth} if decodes else {})}
    for part, depth in depths.items():  # before a model of that depth is made, whatever it is
        if (last := f"{part}.trunk.blocks.{(depth or 0) - 1}.norm1.weight") not in weights:
            raise CheckpointError(f"{where}: no weight '{last}', which its card speaks of: it is damaged")
    with torch.device("meta"):
        wanted = {key: weight.shape for key, weight in MAE(config, decodes).state_dict().items()}
    for key in sorted(wanted.keys() | weights.keys()):
        if key not in weights:
            raise CheckpointError(f"{where}: no weight '{key}', which its card speaks of: it is damaged")
        if key not in wanted or weights[key].shape != wanted[key]:
            raise CheckpointError(f"{where}: weight '{key}' {list(weights[key].shape)} is none that its card speaks of")
        if not weights[key].isfinite().all():
            raise CheckpointError(f"{where}: weight '{key}' holds numbers that are not finite: it is damaged")


def _portable(config: Config, name: str) -> Config:
    """Of one modality, without what was the training's: its task, its schedule, its loggers, and paths of a machine."""
    modality = uncached(config).modalities[name]
    data = modality.data.model_copy(update={"path": None, "test": None})
    return config.model_copy(
        update={
            "task": PlugIn(name="pretrain"),
            "init": None,
            "init_parts": None,
            "modalities": {name: modality.model_copy(update={"data": data})},
            "train": TrainConfig(steps=1, precision="fp32"),
        }
    )


def _for_people(config: Config, name: str, weights: Mapping[str, Tensor], decodes: bool) -> dict[str, Any]:
    """What stands in card.json: nothing that the file itself doesn't say."""
    modality, model = config.modalities[name], config.model
    return {
        "format": f"{KEY} {VERSION}",
        "mae_ext": __version__,
        "modality": name,
        "size": list(modality.size),
        "patch": list(modality.patch),
        "channels": modality.channels,
        "encoder": {
            key: getattr(model, key) for key in ("width", "depth", "heads", "mlp_ratio", "norm_eps", "class_token")
        },
        "decoder": model.decoder.model_dump(mode="json") if decodes else None,
        "position": modality.position.model_dump(mode="json"),
        "parameters": sum(weight.numel() for weight in weights.values()),
        "config": config.model_dump(mode="json"),
    }
