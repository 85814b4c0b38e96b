"""Weights of transformers' `ViTMAEForPreTraining`, which are also the published weights of MAE in another naming.

Two quirks of theirs are kept by the mapping, not by our model: query, key and value are three matrices, and the patch
projection is a convolution with channels first.
"""

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor

from mae_ext.config import Config, Statistics, parse_config
from mae_ext.data.loading.statistics import IMAGENET
from mae_ext.errors import CheckpointError
from mae_ext.interop.mapping import Theirs
from mae_ext.model.position import coordinates_of, sincos

TRUNKS = {"encoder": "vit.layers", "decoder": "decoder.decoder_layers"}
NORMS = {"encoder": "vit.layernorm", "decoder": "decoder.decoder_norm"}
ROLES = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
PARTS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attention.out": "attention.o_proj",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}
VERSION_4 = {
    "vit.encoder.layer.": "vit.layers.",
    "attention.attention.query.": "attention.q_proj.",
    "attention.attention.key.": "attention.k_proj.",
    "attention.attention.value.": "attention.v_proj.",
    "attention.output.dense.": "attention.o_proj.",
    "intermediate.dense.": "mlp.fc1.",
    "output.dense.": "mlp.fc2.",
}
"""Names of transformers 4, which files on its hub still carry, to those of transformers 5. Tried in this order."""


def _renamed(name: str) -> str:
    for old, new in VERSION_4.items():
        name = name.replace(old, new)
    return name


def vitmae_config(theirs: Mapping[str, object], batch: int, steps: int = 1) -> Config:
    """Our config for a transformers `ViTMAEConfig.to_dict()`: same shapes, same epsilon, same target.

    As their model, it takes pixels that are normalised already. To feed it images in 0..1 or uint8, as our readers give
    them, set the modality's data.statistics to "imagenet", with which the published weights were trained.
    """
    size, patch = theirs["image_size"], theirs["patch_size"]
    return parse_config(
        {
            "modalities": {
                "image": {
                    "size": [size, size],
                    "patch": [patch, patch],
                    "channels": theirs["num_channels"],
                    "batch": batch,
                    "mask": {"name": "random", "ratio": theirs["mask_ratio"]},
                    "target": {"name": "pixel", "normalize": "mae" if theirs["norm_pix_loss"] else "none"},
                    "data": {"statistics": "none"},
                }
            },
            "model": {
                "width": theirs["hidden_size"],
                "depth": theirs["num_hidden_layers"],
                "heads": theirs["num_attention_heads"],
                "mlp_ratio": float(theirs["intermediate_size"]) / float(theirs["hidden_size"]),  # type: ignore[arg-type]
                "norm_eps": theirs["layer_norm_eps"],
                "decoder": {
                    "width": theirs["decoder_hidden_size"],
                    "depth": theirs["decoder_num_hidden_layers"],
                    "heads": theirs["decoder_num_attention_heads"],
                },
            },
            "train": {"steps": steps, "precision": "fp32"},
        },
        "transformers ViTMAE config",
    )


def from_vitmae(weights: Mapping[str, Tensor], config: Config, name: str = "image") -> dict[str, Tensor]:
    """Their state dict -> ours, complete, with the config's statistics. Raises CheckpointError for what is missing.

    Position tables are not mapped: ours are the same fixed sines and cosines. Raises CheckpointError if theirs are not,
    which happens: transformers 5.23 builds a new ViTMAE with all-zero position tables.
    """
    theirs = Theirs({_renamed(name): tensor for name, tensor in weights.items()}, "transformers' ViTMAEForPreTraining")
    ours = theirs.ours
    depths = {"encoder": config.model.depth, "decoder": config.model.decoder.depth}
    for part, depth in depths.items():
        theirs.put_trunk(part, depth or 0, TRUNKS[part], ROLES, PARTS, NORMS[part])
    theirs.put("decoder.project", "decoder.decoder_embed")
    theirs.put(f"modalities.{name}.predict", "decoder.decoder_pred")
    projection = "vit.embeddings.patch_embeddings.projection"
    ours[f"modalities.{name}.embed.project.weight"] = rearrange(
        theirs.take(f"{projection}.weight"), "d c h w -> d (h w c)"
    )
    ours[f"modalities.{name}.embed.project.bias"] = theirs.take(f"{projection}.bias")
    ours["encoder.class_token"] = theirs.take("vit.embeddings.cls_token").flatten()
    ours["decoder.mask_token"] = theirs.take("decoder.mask_token").flatten()
    widths = {
        "vit.embeddings.position_embeddings": config.model.width,
        "decoder.decoder_pos_embed": config.model.decoder.width,
    }
    for key, width in widths.items():
        fixed, table = sincos(coordinates_of(config.modalities[name].grid), width or 0), theirs.take(key)[0, 1:]
        if table.shape != fixed.shape or (table - fixed).abs().max() > 1e-4:
            raise CheckpointError(
                f"{key} is not MAE's sine-cosine table; these weights were trained with other positions"
            )
    channels, setting = config.modalities[name].channels, config.modalities[name].data.statistics
    plain = Statistics(mean=(0.0,) * channels, std=(1.0,) * channels)
    statistics = {"none": plain, "imagenet": IMAGENET}.get(setting) if isinstance(setting, str) else setting
    if statistics is None:
        raise CheckpointError(f"modalities.{name}.data.statistics={setting}: of weights from elsewhere, say which")
    return ours | {f"modalities.{name}.{which}": torch.tensor(getattr(statistics, which)) for which in ("mean", "std")}
