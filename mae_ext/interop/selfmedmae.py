"""Weights of SelfMedMAE (`selfmedmae`): its masked autoencoder of volumes, and the encoder of its UNETR.

Names and sizes: cvlab-stonybrook/SelfMedMAE, lib.models.mae3d, lib.networks (mae_vit, vision_transformer).
What differs from ours and how it is met: sines and cosines lie first axis first (kept as learned tables); the class
token has no position in pretraining, and one in the UNETR, which is added to it. The target is normalised by a layer
norm (our `layernorm`). Its transformer of images has another target and other positions, and is not taken.
"""

from dataclasses import replace
from typing import Any

from mae_ext.errors import CheckpointError
from mae_ext.interop.deduced import model_of, one_class_token, origin_of, put_positions, with_axes
from mae_ext.interop.format import Foreign, Hints, Written
from mae_ext.interop.mapping import (
    READERS,
    TIMM,
    Ours,
    Theirs,
    Trunk,
    grid_from,
    only_modality,
    patches_in,
    patches_out,
    statistics_of,
)
from mae_ext.interop.monai import AXES
from mae_ext.interop.origin import Origin
from mae_ext.interop.tables import table_of

NAME = READERS[3]
EPS = 1e-6
DECODER_HEADS = {384: 12}
"""configs/mae3d_btcv_1gpu.yaml."""

RATIO = 4.0
"""Of MLPs, which their classes leave as it is."""

PROJECTION = "encoder.patch_embed.proj"
TRUNKS = {part: Trunk(f"{part}.blocks.{{}}", f"{part}.norm", "attn.qkv", TIMM) for part in ("encoder", "decoder")}
TABLES = {"position": "encoder_pos_embed", "decoder_position": "decoder_pos_embed"}


class SelfMedMAE:
    name = "selfmedmae"
    title = "SelfMedMAE"
    package: str | None = None

    def recognises(self, file: Foreign) -> bool:
        kernel, tables = file.weights.get(f"{PROJECTION}.weight"), ("encoder_pos_embed", "encoder.pos_embed")
        named = "encoder.cls_token" in file.weights and any(table in file.weights for table in tables)
        return kernel is not None and kernel.ndim == 5 and named

    def read(self, file: Foreign, hints: Hints) -> Origin:
        theirs, decodes = Theirs(file.weights, self.title, file.where), "encoder_to_decoder.weight" in file.weights
        for part in ("encoder", *["decoder"] * decodes):
            theirs.put_trunk(part, TRUNKS[part])
        convolution, token = with_axes(theirs, f"{PROJECTION}.weight", 5), theirs.take("encoder.cls_token").flatten()
        _, channels, *patch = convolution.shape
        theirs.ours[f"modalities.{NAME}.embed.project.weight"] = patches_in(convolution)
        theirs.ours[f"modalities.{NAME}.embed.project.bias"] = theirs.take(f"{PROJECTION}.bias")
        if theirs.has("encoder.pos_embed"):
            joint = with_axes(theirs, "encoder.pos_embed", 3)[0]
            if joint.shape[1] != len(token):
                raise CheckpointError(
                    f"{theirs.where}'encoder.cls_token' is of {len(token)}, its place of {joint.shape[1]}"
                )
            token, tables = token + joint[0], {"position": joint[1:].clone()}
        else:
            tables = {k: with_axes(theirs, v, 3)[0] for k, v in TABLES.items() if decodes or k == "position"}
        theirs.ours["encoder.class_token"] = token
        if hints.size is not None:
            grid = tuple(s // p for s, p in zip(hints.size, patch, strict=True))
            hints = replace(hints, grid=grid)
        grid = grid_from(len(tables["position"]), len(patch), hints, file.where)
        if decodes:
            theirs.put("decoder.project", "encoder_to_decoder")
            theirs.ours["decoder.mask_token"] = theirs.take("mask_token").flatten()
            theirs.put(f"modalities.{NAME}.predict", "decoder.head")
        modality = {
            "size": [g * p for g, p in zip(grid, patch, strict=True)],
            "patch": patch,
            "channels": channels,
            "position": put_positions(theirs.ours, NAME, tables, grid),
            "target": {"name": "pixel", "normalize": "layernorm"},
            "data": {"reader": NAME, "statistics": statistics_of(file, channels, None)},
        }
        left = theirs.left({} if decodes else {"decoder": "of a decoder that is none of masked patches"})
        model = model_of(theirs.ours, hints, file.where, EPS, DECODER_HEADS)
        return origin_of(theirs, file, self.name, (NAME, modality, model), left, (AXES,))

    def write(self, origin: Origin, name: str) -> Written:
        weights, modality = only_modality(origin, name)
        ours, model, notes = Ours(weights), origin.config.model, list[str]()
        if len(modality.patch) != 3:
            raise CheckpointError(f"{origin.where}: patches of {list(modality.patch)}; {self.title} has volumes")
        if not one_class_token(origin, self.title):
            raise CheckpointError(f"{origin.where}: {self.title} has a class token, and this model has none")
        if model.mlp_ratio != RATIO:
            raise CheckpointError(f"{origin.where}: mlp_ratio={model.mlp_ratio:g}; that of {self.title} is {RATIO:g}")
        decodes = origin.decodes and self._like_theirs(model.decoder, modality, notes)
        ours.give_trunk("encoder", TRUNKS["encoder"], model.depth or 0)
        kernel = patches_out(weights[f"modalities.{name}.embed.project.weight"], modality.patch, modality.channels)
        ours.theirs[f"{PROJECTION}.weight"] = kernel
        ours.theirs[f"{PROJECTION}.bias"] = weights[f"modalities.{name}.embed.project.bias"]
        ours.theirs["encoder.cls_token"] = weights["encoder.class_token"][None, None]
        ours.theirs["encoder_pos_embed"] = table_of(origin, name)[None]
        if decodes:
            ours.give_trunk("decoder", TRUNKS["decoder"], model.decoder.depth)
            ours.give("decoder.project", "encoder_to_decoder")
            ours.give(f"modalities.{name}.predict", "decoder.head")
            ours.theirs["mask_token"] = weights["decoder.mask_token"][None, None]
            ours.theirs["decoder_pos_embed"] = table_of(origin, name, decoder=True)[None]
        return Written(ours.theirs, notes=tuple(notes))

    def peer(self, written: Written) -> None:
        return None

    def _like_theirs(self, decoder: Any, modality: Any, notes: list[str]) -> bool:
        """Whether the decoder goes along; if not, notes say why."""
        reasons = {
            "its MLPs are of another ratio": decoder.mlp_ratio not in (None, RATIO),
            "it has a class token of its own": decoder.class_token,
            "its target is another than pixels normalised by a layer norm": modality.target.name != "pixel"
            or modality.target.arguments != {"normalize": "layernorm"},
        }
        notes += [f"the encoder alone, without the decoder: {why}" for why, holds in reasons.items() if holds]
        return not any(reasons.values())
