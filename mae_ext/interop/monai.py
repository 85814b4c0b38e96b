"""Weights of MONAI's ViT, UNETR and MaskedAutoEncoderViT, of images and volumes.

Names and sizes: MONAI 1.6, networks.nets (vit, unetr, masked_autoencoder_vit) and networks.blocks. What differs from
ours and how it is met: queries, keys and values have no biases unless asked for (ours are set to 0); positions are
a table, also where it is of sines and cosines, whose axes are in another order than ours (kept as `learned` where it is
so); the class token has no position; the norm after the blocks of MaskedAutoEncoderViT is one more of them;
`norm_cross_attn` stands in every block and does nothing without cross-attention, which none of the three has; norms add
1e-5 to a variance. A `perceptron` embedding is our matrix, pixels in the same order, and says nothing of its patch.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from math import prod
from typing import Any

import torch
from torch import Tensor

from mae_ext.errors import CheckpointError
from mae_ext.interop.deduced import model_of, one_class_token, or_else, origin_of, put_positions, with_axes
from mae_ext.interop.format import Foreign, Format, Hints, Written
from mae_ext.interop.mapping import (
    READERS,
    Ours,
    Theirs,
    Trunk,
    grid_from,
    only_modality,
    patches_in,
    patches_out,
    statistics_of,
)
from mae_ext.interop.origin import Origin
from mae_ext.interop.tables import table_of

EPS = 1e-5
"""Of nn.LayerNorm, which MONAI's blocks leave as it is."""

DECODER_HEADS = {384: 12}
"""The default of MaskedAutoEncoderViT."""

PARTS = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.out": "attn.out_proj",
    "mlp.up": "mlp.linear1",
    "mlp.down": "mlp.linear2",
}
CROSS = (".norm_cross_attn.", ".cross_attn.")

AXES = "axes are as it was trained with: MONAI's loaders give x, y, z, and the readers here z, y, x"


def is_monai(weights: Mapping[str, Tensor], start: str) -> bool:
    return f"{start}patch_embedding.position_embeddings" in weights and f"{start}blocks.0.mlp.linear1.weight" in weights


def trunk(start: str, blocks: str, norm: str | None) -> Trunk:
    return Trunk(f"{start}{blocks}.{{}}", norm, "attn.qkv", PARTS)


def put_embedding(theirs: Theirs, start: str, file: Foreign, hints: Hints) -> dict[str, Any]:
    """Patch embedding -> the modality, of its axes. Raises CheckpointError for a matrix whose patch nothing says."""
    name = f"{start}patch_embedding.patch_embeddings"
    count = with_axes(theirs, f"{start}patch_embedding.position_embeddings", 3).shape[1]
    if theirs.has(f"{name}.1.weight"):
        name = f"{name}.1"
        matrix = with_axes(theirs, f"{name}.weight", 2)
        if hints.patch is None or matrix.shape[1] % prod(hints.patch):
            raise CheckpointError(
                f"{file.where}: a perceptron embeds patches of {matrix.shape[1]} numbers, whose extents are not in the "
                f"file; say them: PATH::patch=16x16x16"
            )
        patch, channels = list(hints.patch), matrix.shape[1] // prod(hints.patch)
    else:
        convolution = with_axes(theirs, f"{name}.weight", 4, 5)
        matrix, (_, channels, *patch) = patches_in(convolution), convolution.shape
    if len(patch) not in READERS:
        raise CheckpointError(f"{file.where}: patches of {len(patch)} axes; MONAI's networks have 2 or 3")
    modality = READERS[len(patch)]
    theirs.ours[f"modalities.{modality}.embed.project.weight"] = matrix
    theirs.ours[f"modalities.{modality}.embed.project.bias"] = theirs.take(f"{name}.bias")
    if hints.size is not None and len(hints.size) == len(patch):
        hints = or_else(hints, grid=tuple(s // p for s, p in zip(hints.size, patch, strict=True)))
    grid = grid_from(count, len(patch), hints, file.where)
    return {
        "size": [g * p for g, p in zip(grid, patch, strict=True)],
        "patch": patch,
        "channels": channels,
        "data": {"reader": modality, "statistics": statistics_of(file, channels, None)},
    }


def said(hints: Hints, config: Mapping[str, Any]) -> Hints:
    """What the arguments of their class, as `write` leaves them in a config.json, say beside hints."""
    extents = {"size": config.get("img_size"), "patch": config.get("patch_size")}
    lists = {key: tuple(value) if isinstance(value, list) else None for key, value in extents.items()}
    heads = {"heads": config.get("num_heads"), "decoder_heads": config.get("decoder_num_heads")}
    return or_else(hints, **lists, **heads)


def leftovers(theirs: Theirs, reasons: Mapping[str, str]) -> dict[str, str]:
    """Raises CheckpointError for names that are no weights of these networks."""
    idle = {name: "does nothing without cross-attention" for name in theirs.weights if any(c in name for c in CROSS)}
    return theirs.left({**idle, **reasons})


def placed_modality(origin: Origin, name: str, title: str) -> Any:
    """Raises CheckpointError for what no network of MONAI is."""
    _, modality = only_modality(origin, name)
    if len(modality.size) not in READERS:
        raise CheckpointError(f"{origin.where}: samples of {len(modality.size)} axes; {title} has 2 or 3")
    one_class_token(origin, title)
    return modality


def give_encoder(ours: Ours, origin: Origin, name: str, start: str) -> dict[str, Any]:
    """Embedding, positions and blocks; -> the arguments that their three classes share."""
    modality, model = origin.config.modalities[name], origin.config.model
    embed = f"modalities.{name}.embed.project"
    theirs = f"{start}patch_embedding.patch_embeddings"
    ours.theirs[f"{theirs}.weight"] = patches_out(ours.weights[f"{embed}.weight"], modality.patch, modality.channels)
    ours.theirs[f"{theirs}.bias"] = ours.weights[f"{embed}.bias"]
    ours.theirs[f"{start}patch_embedding.position_embeddings"] = table_of(origin, name)[None]
    give_blocks(ours, "encoder", f"{start}blocks", model.depth or 0)
    return {
        "in_channels": modality.channels,
        "img_size": list(modality.size),
        "patch_size": list(modality.patch),
        "hidden_size": model.width,
        "mlp_dim": len(ours.weights["encoder.trunk.blocks.0.mlp.up.weight"]),
        "num_heads": model.heads,
        "proj_type": "conv",
        "spatial_dims": len(modality.size),
    }


def give_blocks(ours: Ours, part: str, blocks: str, depth: int) -> None:
    ours.give_trunk(part, trunk("", blocks, None), depth)
    for i in range(depth):
        width = len(ours.weights[f"{part}.trunk.norm.weight"])
        ours.theirs[f"{blocks}.{i}.norm_cross_attn.weight"] = torch.ones(width)
        ours.theirs[f"{blocks}.{i}.norm_cross_attn.bias"] = torch.zeros(width)


def biased(ours: Ours) -> bool:
    """Whether queries, keys and values have biases. Where all are 0 they are left out, as MONAI's are by default."""
    names = [name for name in ours.theirs if name.endswith(".attn.qkv.bias")]
    if any(ours.theirs[name].any() for name in names):
        return True
    for name in names:
        del ours.theirs[name]
    return False


def about_eps(origin: Origin) -> list[str]:
    eps = origin.config.model.norm_eps
    return [f"norms there add {EPS:g} to a variance, and here {eps:g}: features differ by that"] * (eps != EPS)


def read_encoder(file: Foreign, hints: Hints, one: Format, start: str, reasons: Mapping[str, str]) -> Origin:
    """A ViT whose names begin with `start`. reasons: of `leftovers`."""
    theirs, hints = Theirs(file.weights, one.title, file.where), said(hints, file.config)
    modality = put_embedding(theirs, start, file, hints)
    name = modality["data"]["reader"]
    theirs.put_trunk("encoder", trunk(start, "blocks", f"{start}norm"))
    if theirs.has("cls_token"):
        theirs.ours["encoder.class_token"] = theirs.take("cls_token").flatten()
    table = theirs.take(f"{start}patch_embedding.position_embeddings")[0]
    grid = tuple(s // p for s, p in zip(modality["size"], modality["patch"], strict=True))
    modality["position"] = put_positions(theirs.ours, name, {"position": table}, grid)
    model, left = model_of(theirs.ours, hints, file.where, EPS), leftovers(theirs, reasons)
    return origin_of(theirs, file, one.name, (name, modality, model), left, (AXES,) * (len(grid) > 2))


class ViT:
    """MONAI's ViT, with and without `classification`."""

    name = "monai-vit"
    title = "MONAI ViT"
    package: str | None = "monai"

    def recognises(self, file: Foreign) -> bool:
        return is_monai(file.weights, "") and "decoder_embed.weight" not in file.weights

    def read(self, file: Foreign, hints: Hints) -> Origin:
        return read_encoder(file, hints, self, "", {"classification_head.": "a head for classes"})

    def write(self, origin: Origin, name: str) -> Written:
        placed_modality(origin, name, self.title)
        ours, model, notes = Ours(origin.weights), origin.config.model, about_eps(origin)
        config = give_encoder(ours, origin, name, "")
        ours.give("encoder.trunk.norm", "norm")
        config |= {"num_layers": model.depth, "qkv_bias": biased(ours), "classification": bool(model.class_token)}
        if model.class_token:
            ours.theirs["cls_token"] = ours.weights["encoder.class_token"][None, None]
            ours.theirs["classification_head.0.weight"] = torch.zeros(2, model.width or 0)
            ours.theirs["classification_head.0.bias"] = torch.zeros(2)
            config["num_classes"] = 2
            notes.append("a head for two classes, all zeros, since theirs has no class token without one")
        return Written(ours.theirs, config, tuple(notes))

    def peer(self, written: Written) -> Callable[[Tensor], Tensor] | None:
        if find_spec("monai") is None:
            return None
        from monai.networks.nets.vit import ViT as Network

        return features_of(Network(**written.config), written)


class UNETR:
    """The `vit.` in MONAI's UNETR; its convolutions are left over."""

    name = "monai-unetr"
    title = "MONAI UNETR"
    package: str | None = "monai"

    def recognises(self, file: Foreign) -> bool:
        return is_monai(file.weights, "vit.")

    def read(self, file: Foreign, hints: Hints) -> Origin:
        convolutions = {name: "a convolution of UNETR" for name in file.weights if not name.startswith("vit.")}
        return read_encoder(file, hints, self, "vit.", convolutions)

    def write(self, origin: Origin, name: str) -> Written:
        modality, model = placed_modality(origin, name, self.title), origin.config.model
        if model.class_token:
            raise CheckpointError(f"{origin.where}: UNETR has no class token, and this model does; monai-vit has one")
        if set(modality.patch) != {16} or model.depth != 12:
            raise CheckpointError(
                f"{origin.where}: UNETR has patches of 16 along each axis and 12 blocks; this model has patches of "
                f"{list(modality.patch)} and {model.depth} blocks"
            )
        ours = Ours(origin.weights)
        config = {k: v for k, v in give_encoder(ours, origin, name, "vit.").items() if k != "patch_size"}
        ours.give("encoder.trunk.norm", "vit.norm")
        notes = ("the encoder alone: load it with strict=False; UNETR's convolutions begin new", *about_eps(origin))
        return Written(ours.theirs, {**config, "qkv_bias": biased(ours)}, notes)

    def peer(self, written: Written) -> Callable[[Tensor], Tensor] | None:
        if find_spec("monai") is None:
            return None
        from monai.networks.nets.unetr import UNETR as Network

        return features_of(Network(out_channels=2, **written.config), written, "vit")


class MAE:
    """MONAI's MaskedAutoEncoderViT. It says nothing of a target; pixels as they are stand here for that."""

    name = "monai-mae"
    title = "MONAI MaskedAutoEncoderViT"
    package: str | None = "monai"

    def recognises(self, file: Foreign) -> bool:
        return is_monai(file.weights, "") and "decoder_embed.weight" in file.weights

    def read(self, file: Foreign, hints: Hints) -> Origin:
        theirs, hints = Theirs(file.weights, self.title, file.where), said(hints, file.config)
        modality = put_embedding(theirs, "", file, hints)
        name = modality["data"]["reader"]
        tables = {}
        for part, blocks in (("encoder", "blocks"), ("decoder", "decoder_blocks")):
            depth = theirs.depth(trunk("", blocks, None))
            theirs.put_trunk(part, trunk("", blocks, f"{blocks}.{depth}"))
        for key, table in (
            ("position", "patch_embedding.position_embeddings"),
            ("decoder_position", "decoder_pos_embedding"),
        ):
            tables[key] = with_axes(theirs, table, 3)[0]
        theirs.ours["encoder.class_token"] = theirs.take("cls_token").flatten()
        theirs.ours["decoder.mask_token"] = theirs.take("mask_tokens").flatten()
        theirs.put("decoder.project", "decoder_embed")
        theirs.put(f"modalities.{name}.predict", "decoder_pred")
        grid = tuple(s // p for s, p in zip(modality["size"], modality["patch"], strict=True))
        modality["position"] = put_positions(theirs.ours, name, tables, grid)
        modality["target"] = {"name": "pixel", "normalize": "none"}
        model, left = model_of(theirs.ours, hints, file.where, EPS, DECODER_HEADS), leftovers(theirs, {})
        notes = ("MONAI has no loss for it: the target is set to pixels as they are", *(AXES,) * (len(grid) > 2))
        return origin_of(theirs, file, self.name, (name, modality, model), left, notes)

    def write(self, origin: Origin, name: str) -> Written:
        modality, model, ours = placed_modality(origin, name, self.title), origin.config.model, Ours(origin.weights)
        if not origin.decodes:
            raise CheckpointError(f"{origin.where}: it has no decoder, and {self.title} is none without; use monai-vit")
        if not model.class_token or model.decoder.class_token:
            raise CheckpointError(
                f"{origin.where}: {self.title} has one class token, which goes through encoder and decoder; this model "
                f"has {'another in its decoder' if model.class_token else 'none'}"
            )
        wide, config = model.decoder, give_encoder(ours, origin, name, "")
        give_blocks(ours, "decoder", "decoder_blocks", wide.depth)
        ours.give("encoder.trunk.norm", f"blocks.{model.depth}")
        ours.give("decoder.trunk.norm", f"decoder_blocks.{wide.depth}")
        ours.give("decoder.project", "decoder_embed")
        ours.give(f"modalities.{name}.predict", "decoder_pred")
        ours.theirs["cls_token"] = ours.weights["encoder.class_token"][None, None]
        ours.theirs["mask_tokens"] = ours.weights["decoder.mask_token"][None, None]
        ours.theirs["decoder_pos_embedding"] = table_of(origin, name, decoder=True)[None]
        config |= {
            "num_layers": model.depth,
            "decoder_hidden_size": wide.width,
            "decoder_mlp_dim": len(ours.weights["decoder.trunk.blocks.0.mlp.up.weight"]),
            "decoder_num_layers": wide.depth,
            "decoder_num_heads": wide.heads,
            "pos_embed_type": "learnable",
            "decoder_pos_embed_type": "learnable",
            "qkv_bias": biased(ours),
        }
        notes = [] if modality.target.arguments.get("normalize") == "none" else ["it says nothing of its target"]
        return Written(ours.theirs, config, (*notes, *about_eps(origin)))

    def peer(self, written: Written) -> Callable[[Tensor], Tensor] | None:
        if find_spec("monai") is None:
            return None
        from monai.networks.nets.masked_autoencoder_vit import MaskedAutoEncoderViT as Network

        return features_of(Network(**written.config), written)


def features_of(network: Any, written: Written, part: str = "") -> Callable[[Tensor], Tensor]:
    """network: theirs, whose encoder is `part` of it, or all. -> (B, C, *S) -> (B, [1 +] N, D): nothing is masked."""
    network.load_state_dict(written.weights, strict=not part)
    encoder = network.get_submodule(part).train(False)

    def features(x: Tensor) -> Tensor:
        tokens = encoder.patch_embedding(x)
        if hasattr(encoder, "cls_token"):
            tokens = torch.cat([encoder.cls_token.expand(len(tokens), -1, -1), tokens], 1)
        for block in encoder.blocks:
            tokens = block(tokens)
        out: Tensor = encoder.norm(tokens) if hasattr(encoder, "norm") else tokens
        return out

    return features
