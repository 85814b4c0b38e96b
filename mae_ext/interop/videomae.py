"""Weights of transformers' `VideoMAEForPreTraining`, which are also VideoMAE's published ones in another naming.

What differs and how it is met: keys have no bias (ours is set to 0), neither has the map into the decoder; positions
are one sequence over all tokens (our `sequence`); targets are normalised per channel (our `channel`). Their last
decoder norm has an epsilon of 1e-5 whatever the config says, so predictions agree to rounding only where layer_norm_eps
is 1e-5 as well, and to about 1e-5 otherwise.
"""

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from mae_ext.config import Config, Statistics, parse_config
from mae_ext.data.loading.statistics import IMAGENET
from mae_ext.errors import ConfigError
from mae_ext.interop.mapping import Theirs

TRUNKS = {"encoder": "videomae.encoder.layer", "decoder": "decoder.decoder_layers"}
NORMS = {"encoder": "videomae.layernorm", "decoder": "decoder.norm"}
ROLES = ("attention.attention.query", "attention.attention.key", "attention.attention.value")
PARTS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attention.out": "attention.output.dense",
    "mlp.up": "intermediate.dense",
    "mlp.down": "output.dense",
}
VERSION_4 = {".q_bias": ".query.bias", ".v_bias": ".value.bias"}
"""Names of transformers 4, which files on its hub still carry, to those of transformers 5."""


def videomae_config(theirs: Mapping[str, Any], batch: int, ratio: float = 0.9, steps: int = 1) -> Config:
    """Our config for a transformers `VideoMAEConfig.to_dict()`: same shapes, same epsilon, same target, tube masks.

    Raises ConfigError for settings that have no counterpart here: norm_pix_loss=False (inputs are then normalised and
    targets are not) and use_mean_pooling=True (no norm after the encoder).
    """
    for name, wanted in (("norm_pix_loss", True), ("use_mean_pooling", False)):
        if theirs[name] is not wanted:
            raise ConfigError(f"transformers VideoMAE config: {name}={theirs[name]}; only {wanted} can be mapped")
    channels = theirs["num_channels"]
    # Theirs undoes ImageNet's statistics inside the loss, for three channels and for no others.
    plain = Statistics(mean=(0.0,) * channels, std=(1.0,) * channels)
    statistics = IMAGENET if channels == len(IMAGENET.mean) else plain
    return parse_config(
        {
            "modalities": {
                "video": {
                    "size": [theirs["num_frames"], *_pair(theirs["image_size"])],
                    "patch": [theirs["tubelet_size"], *_pair(theirs["patch_size"])],
                    "channels": channels,
                    "batch": batch,
                    "mask": {"name": "tube", "ratio": ratio},
                    "position": "sequence",
                    "target": {"name": "pixel", "normalize": "channel"},
                    "data": {"reader": "video", "statistics": statistics.model_dump()},
                }
            },
            "model": {
                "width": theirs["hidden_size"],
                "depth": theirs["num_hidden_layers"],
                "heads": theirs["num_attention_heads"],
                "mlp_ratio": theirs["intermediate_size"] / theirs["hidden_size"],
                "norm_eps": theirs["layer_norm_eps"],
                "class_token": False,
                "decoder": {
                    "width": theirs["decoder_hidden_size"],
                    "depth": theirs["decoder_num_hidden_layers"],
                    "heads": theirs["decoder_num_attention_heads"],
                },
            },
            "train": {"steps": steps, "precision": "fp32"},
        },
        "transformers VideoMAE config",
    )


def from_videomae(weights: Mapping[str, Tensor], config: Config, name: str = "video") -> dict[str, Tensor]:
    """Their state dict -> ours, complete, with the config's statistics. Raises CheckpointError for what is missing."""
    for old, new in VERSION_4.items():
        weights = {key.replace(old, new): tensor for key, tensor in weights.items()}
    theirs = Theirs(weights, "transformers' VideoMAEForPreTraining")
    ours = theirs.ours
    depths = {"encoder": config.model.depth, "decoder": config.model.decoder.depth}
    for part, depth in depths.items():
        theirs.put_trunk(part, depth or 0, TRUNKS[part], ROLES, PARTS, NORMS[part])
    ours["decoder.project.weight"] = theirs.take("encoder_to_decoder.weight")
    ours["decoder.project.bias"] = torch.zeros(len(ours["decoder.project.weight"]))
    ours["decoder.mask_token"] = theirs.take("mask_token").flatten()
    theirs.put(f"modalities.{name}.predict", "decoder.head")
    projection = "videomae.embeddings.patch_embeddings.projection"
    ours[f"modalities.{name}.embed.project.weight"] = rearrange(
        theirs.take(f"{projection}.weight"), "d c t h w -> d (t h w c)"
    )
    ours[f"modalities.{name}.embed.project.bias"] = theirs.take(f"{projection}.bias")
    statistics = config.modalities[name].data.statistics
    assert isinstance(statistics, Statistics)
    for which in ("mean", "std"):
        ours[f"modalities.{name}.{which}"] = torch.tensor(getattr(statistics, which))
    return ours


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
