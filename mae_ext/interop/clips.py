"""What formats of VideoMAE's family share: tubelets, a fixed sequence of positions, no biases of keys."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mae_ext.errors import CheckpointError
from mae_ext.interop.deduced import with_axes
from mae_ext.interop.format import Foreign, Hints
from mae_ext.interop.mapping import (
    Ours,
    Theirs,
    only_modality,
    patches_in,
    patches_out,
    positions_like,
    statistics_of,
)
from mae_ext.interop.origin import Origin
from mae_ext.interop.tables import table_of

NAME = "video"
CLIP = (16, 224, 224)
"""Frames, height, width of every published model: the model zoos of MCG-NJU/VideoMAE and OpenGVLab/VideoMAEv2."""

DECODER_HEADS = {192: 3, 384: 6, 512: 8, 640: 8}
"""By width: MCG-NJU/VideoMAE and OpenGVLab/VideoMAEv2, modeling_pretrain.py."""

POOLED = "its norm follows the mean over tokens (fc_norm); here it norms each token, and the mean is taken after it"
UNNORMED = "it has no norm after its blocks; one that has learned nothing stands here, before features are given"


def clips(file: Foreign, hints: Hints, convolution: Tensor) -> dict[str, Any]:
    """The modality of tubelets that a (D, C, t, h, w) convolution embeds. Raises CheckpointError for a size that these
    do not divide."""
    _, channels, *patch = convolution.shape
    if hints.patch is not None and hints.patch != tuple(patch):
        raise CheckpointError(f"{file.where}: patch={hints.patch}, and its tubelets are of {tuple(patch)}")
    size = hints.size
    if size is None:
        size = CLIP if hints.grid is None else tuple(g * p for g, p in zip(hints.grid, patch, strict=True))
    if len(size) != len(patch) or any(s % p for s, p in zip(size, patch, strict=True)):
        raise CheckpointError(
            f"{file.where}: clips of {list(size)} are no tubelets of {patch}; say their size: PATH::size=16x224x224"
        )
    return {
        "size": list(size),
        "patch": patch,
        "channels": channels,
        "mask": {"name": "tube", "ratio": 0.9},
        "position": "sequence",
        "target": {"name": "pixel", "normalize": "channel"},
        "data": {"reader": "video", "statistics": statistics_of(file, channels)},
    }


def unplaced(origin: Origin, name: str, kind: str) -> Any:
    """The modality's config. Raises CheckpointError unless it is clips whose tokens are one fixed sequence, without a
    class token: what VideoMAE is."""
    _, modality = only_modality(origin, name)
    if len(modality.patch) != 3:
        raise CheckpointError(f"{origin.where}: patches of {list(modality.patch)}; {kind} has frames, height and width")
    if origin.config.model.class_token or "decoder.class_token" in origin.weights:
        raise CheckpointError(f"{origin.where}: {kind} has no class token, and this model does")
    if positions_like(table_of(origin, name), modality.grid) != "sequence":
        raise CheckpointError(
            f"{origin.where}: {kind} has the fixed positions 'sequence' and no others; these are "
            f"'{modality.position.name}'"
        )
    return modality


def kept_decoder(origin: Origin, modality: Any, notes: list[str]) -> bool:
    """Whether the decoder goes along. If not, notes say why: theirs has no bias in front of it, and one target."""
    if not origin.decodes:
        return False
    reasons = {
        "the map into it has a bias, and theirs has none": origin.weights["decoder.project.bias"].any(),
        "its target is another than pixels normalised per channel": modality.target.name != "pixel"
        or modality.target.arguments != {"normalize": "channel"},
    }
    notes += [f"the encoder alone, without the decoder: {why}" for why, holds in reasons.items() if holds]
    return not any(reasons.values())


def give_ends(ours: Ours, name: str, modality: Any, projection: str, head: str | None) -> None:
    """Patch embedding and, with a decoder, what is beside its blocks."""
    weight = ours.weights[f"modalities.{name}.embed.project.weight"]
    ours.theirs[f"{projection}.weight"] = patches_out(weight, modality.patch, modality.channels)
    ours.theirs[f"{projection}.bias"] = ours.weights[f"modalities.{name}.embed.project.bias"]
    if head is not None:
        ours.theirs["encoder_to_decoder.weight"] = ours.weights["decoder.project.weight"]
        ours.theirs["mask_token"] = ours.weights["decoder.mask_token"][None, None]
        ours.give(f"modalities.{name}.predict", head)


def put_ends(theirs: Theirs, name: str, projection: str, head: str | None) -> Tensor:
    """The way in; -> the convolution, (D, C, t, h, w)."""
    convolution = with_axes(theirs, f"{projection}.weight", 5)
    theirs.ours[f"modalities.{name}.embed.project.weight"] = patches_in(convolution)
    theirs.ours[f"modalities.{name}.embed.project.bias"] = theirs.take(f"{projection}.bias")
    if head is not None:
        theirs.ours["decoder.project.weight"] = theirs.take("encoder_to_decoder.weight")
        theirs.ours["decoder.project.bias"] = torch.zeros(len(theirs.ours["decoder.project.weight"]))
        theirs.ours["decoder.mask_token"] = theirs.take("mask_token").flatten()
        theirs.put(f"modalities.{name}.predict", head)
    return convolution


def put_norm(theirs: Theirs, ways: Mapping[str, str], notes: list[str]) -> None:
    """The norm after the encoder's blocks. ways: their names for it -> a note, "" for none; the first that is there."""
    for name, note in ways.items():
        if theirs.has(f"{name}.weight"):
            theirs.put("encoder.trunk.norm", name)
            notes += [note] * bool(note)
            return
    width = len(theirs.ours["encoder.trunk.blocks.0.norm1.weight"])
    theirs.ours["encoder.trunk.norm.weight"], theirs.ours["encoder.trunk.norm.bias"] = (
        torch.ones(width),
        torch.zeros(width),
    )
    notes.append(UNNORMED)


def depths_of(origin: Origin, decodes: bool) -> dict[str, int]:
    """Blocks of the encoder and, if it goes along, of the decoder."""
    model = origin.config.model
    return {"encoder": model.depth or 0, **({"decoder": model.decoder.depth} if decodes else {})}


def give_biases(ours: Ours, block: str, part: str, number: int, names: Sequence[str]) -> bool:
    """Biases of queries and values, under two names; -> whether a key's bias, which theirs has not, is left out."""
    q, k, v = ours.weights[f"{part}.trunk.blocks.{number}.attention.qkv.bias"].chunk(3)
    for name, bias in zip(names, (q, v), strict=True):
        ours.theirs[f"{block}.{name}"] = bias.clone()
    return bool(k.any())


NO_KEY_BIAS = "biases of keys, which theirs has not and which change nothing in a softmax, are left out"
