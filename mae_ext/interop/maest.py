"""Weights of MAE-ST (`mae-st`), masked autoencoders of clips with one table of positions in time and one in space.

Names and sizes: facebookresearch/mae_st, models_mae.py, models_vit.py, util/video_vit.py. What differs from ours and
how it is met: the class token has a position, which is added to it; the decoder has a class token of its own, with a
position (our `decoder.class_token`, which is the sum of both); the decoder answers for fewer frames than a tubelet
holds (our target's `planes`, and the rows of its map once for each frame). Theirs takes frames for its target at equal
steps over the clip, so those of the last tubelet may be others: then its loss is another, and nothing else is.
"""

from math import isqrt, prod
from typing import Any

import torch

from mae_ext.config import Statistics
from mae_ext.errors import CheckpointError
from mae_ext.interop.clips import CLIP, NAME, POOLED, clips, depths_of
from mae_ext.interop.deduced import model_of, one_class_token, or_else, origin_of, with_axes
from mae_ext.interop.format import Foreign, Hints, Written
from mae_ext.interop.mapping import (
    TIMM,
    Ours,
    Theirs,
    Trunk,
    only_modality,
    patches_in,
    patches_out,
    statistics_of,
)
from mae_ext.interop.origin import Origin
from mae_ext.interop.tables import table_of
from mae_ext.model.target import PixelTarget

EPS = 1e-6
KINETICS = Statistics(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))
"""facebookresearch/mae_st, util/kinetics.py."""

GROUPS = [[0], [1, 2]]
"""One table for time, one for height and width together."""

TRUNKS = {
    part: Trunk(f"{start}blocks.{{}}", f"{start}norm", ("attn.q", "attn.k", "attn.v"), TIMM)
    for part, start in (("encoder", ""), ("decoder", "decoder_"))
}


def grid_of(theirs: Theirs, hints: Hints, patch: tuple[int, ...]) -> tuple[int, ...]:
    """Of the tables of positions. Raises CheckpointError for one of another length, and one that is of no square."""
    size = hints.size or (CLIP if hints.grid is None else None)
    grid = hints.grid or tuple(s // p for s, p in zip(size or (), patch, strict=True))
    if theirs.has("pos_embed_spatial"):
        lengths = [with_axes(theirs, f"pos_embed_{key}", 3).shape[1] for key in ("temporal", "spatial")]
        edge = isqrt(lengths[1])
        if hints.grid is None and hints.size is None and edge**2 == lengths[1]:
            return (lengths[0], edge, edge)
        counts = [grid[0], prod(grid[1:])]
    else:
        joint = "pos_embed" if theirs.has("pos_embed") else "pos_embed_spatial"
        lengths, counts = [with_axes(theirs, joint, 3).shape[1] - theirs.has("cls_token")], [prod(grid)]
    if counts != lengths:
        raise CheckpointError(
            f"{theirs.where}positions for {' times '.join(map(str, lengths))} tokens, and a grid of {list(grid)} has "
            f"{' times '.join(map(str, counts))}; say the grid: PATH::grid=8x14x14"
        )
    return grid


def put_places(theirs: Theirs, decodes: bool) -> str | dict[str, Any]:
    """Positions, and class tokens with theirs in them. -> our positions."""
    separable = theirs.has("pos_embed_spatial")
    for part, start in (("", ""), *[("decoder_", "decoder_")] * decodes):
        ours, tokens = f"modalities.{NAME}.{part}position", f"{start}cls_token"
        placed = theirs.has("cls_token") or theirs.has("pos_embed_class")
        token = theirs.take(tokens).flatten() if placed else None
        if separable:
            theirs.ours[f"{ours}.tables.0"] = with_axes(theirs, f"{start}pos_embed_temporal", 3)[0]
            theirs.ours[f"{ours}.tables.1"] = with_axes(theirs, f"{start}pos_embed_spatial", 3)[0]
            place = None if token is None else theirs.take(f"{start}pos_embed_class").flatten()
        else:
            table = with_axes(theirs, f"{start}pos_embed", 3)[0]
            theirs.ours[f"{ours}.table"] = table if token is None else table[1:].clone()
            place = None if token is None else table[0]
        if token is not None and place is not None:
            if token.shape != place.shape:
                raise CheckpointError(
                    f"{theirs.where}'{tokens}' is of {len(token)} and its place of {len(place)} numbers"
                )
            theirs.ours[f"{'decoder' if part else 'encoder'}.class_token"] = token + place
    return {"name": "separable", "groups": GROUPS} if separable else "learned"


def put_answers(theirs: Theirs, patch: tuple[int, ...], channels: int, grid: tuple[int, ...], notes: list[str]) -> Any:
    """The map to pixels, of as many frames of a tubelet as theirs answers for. -> our target."""
    weight, bias = with_axes(theirs, "decoder_pred.weight", 2), with_axes(theirs, "decoder_pred.bias", 1)
    target: dict[str, Any] = {"name": "pixel", "normalize": "mae"}
    frames, rest = divmod(len(weight), prod(patch[1:]) * channels)
    if rest or not 1 <= frames <= patch[0]:
        raise CheckpointError(
            f"{theirs.where}'decoder_pred.weight' answers {len(weight)} numbers; expected those of 1 to {patch[0]} "
            f"frames of {prod(patch[1:]) * channels}"
        )
    if frames < patch[0]:
        # models_mae.py, forward_loss: frames at equal steps over the clip, rounded down.
        taken = torch.linspace(0, grid[0] * patch[0] - 1, grid[0] * frames).long().view(grid[0], frames)
        places = (taken - torch.arange(grid[0])[:, None] * patch[0]).tolist()
        target["planes"] = places[0]
        nearest = PixelTarget(patch, channels, planes=places[0]).nearest
        rows = [places[0].index(plane) for plane in nearest]
        weight, bias = (each.unflatten(0, (frames, -1))[rows].flatten(0, 1) for each in (weight, bias))
        others = [number for number, planes in enumerate(places) if planes != places[0]]
        note = f"it was trained on frames {places[0]} of each tubelet"
        if others:
            note += f", and of {others} on {[places[i] for i in others]}: there our loss is of others"
        notes.append(note)

    theirs.ours[f"modalities.{NAME}.predict.weight"], theirs.ours[f"modalities.{NAME}.predict.bias"] = weight, bias
    return target


class MAEST:
    """Pretraining files, and fine-tuned ones, whose norm follows the mean over tokens."""

    name = "mae-st"
    title = "MAE-ST"
    package: str | None = None

    def recognises(self, file: Foreign) -> bool:
        kernel = file.weights.get("patch_embed.proj.weight")
        return kernel is not None and kernel.ndim == 5 and "blocks.0.attn.q.weight" in file.weights

    def read(self, file: Foreign, hints: Hints) -> Origin:
        theirs, notes = Theirs(file.weights, self.title, file.where), list[str]()
        decodes = any(name.startswith("decoder_") for name in file.weights)
        for part in ("encoder", *["decoder"] * decodes):
            theirs.put_trunk(part, TRUNKS[part])
        convolution = with_axes(theirs, "patch_embed.proj.weight", 5)
        _, channels, *patch = convolution.shape
        theirs.ours[f"modalities.{NAME}.embed.project.weight"] = patches_in(convolution)
        theirs.ours[f"modalities.{NAME}.embed.project.bias"] = theirs.take("patch_embed.proj.bias")
        grid = grid_of(theirs, hints, tuple(patch))
        modality = clips(file, or_else(hints, grid=grid), convolution)
        modality |= {"position": put_places(theirs, decodes), "mask": {"name": "random", "ratio": 0.9}}
        modality["data"]["statistics"] = statistics_of(file, channels, KINETICS)
        if decodes:
            theirs.put("decoder.project", "decoder_embed")
            theirs.ours["decoder.mask_token"] = theirs.take("mask_token").flatten()
            modality["target"] = put_answers(theirs, tuple(patch), channels, grid, notes)
        elif theirs.has("head.weight"):
            notes.append(POOLED)
        left, model = theirs.left({"head.": "a head for classes"}), model_of(theirs.ours, hints, file.where, EPS)
        return origin_of(theirs, file, self.name, (NAME, modality, model), left, tuple(notes))

    def write(self, origin: Origin, name: str) -> Written:
        weights, modality = only_modality(origin, name)
        if len(modality.grid) != 3 or modality.grid[1] != modality.grid[2]:
            raise CheckpointError(
                f"{origin.where}: {self.title} is of clips of squares; this grid is {list(modality.grid)}"
            )
        ours, notes, tokens = Ours(weights), list[str](), one_class_token(origin, self.title)
        decodes = self._decodes(origin, modality, tokens, notes)
        kernel = patches_out(weights[f"modalities.{name}.embed.project.weight"], modality.patch, modality.channels)
        ours.theirs["patch_embed.proj.weight"] = kernel
        ours.theirs["patch_embed.proj.bias"] = weights[f"modalities.{name}.embed.project.bias"]
        for part, depth in depths_of(origin, decodes).items():
            ours.give_trunk(part, TRUNKS[part], depth)
            self._give_places(ours, origin, name, part, tokens)
        biases = [key for key in ours.theirs if key.endswith((".attn.q.bias", ".attn.k.bias", ".attn.v.bias"))]
        if not any(ours.theirs[key].any() for key in biases):
            for key in biases:
                del ours.theirs[key]
            notes.append("queries, keys and values have no biases: no_qkv_bias=True")
        if decodes:
            ours.give("decoder.project", "decoder_embed")
            ours.theirs["mask_token"] = weights["decoder.mask_token"][None, None]
            planes = modality.target.arguments.get("planes")
            for kind in ("weight", "bias"):
                rows = weights[f"modalities.{name}.predict.{kind}"]
                if planes is not None:
                    rows = rows.unflatten(0, (modality.patch[0], -1))[list(planes)].flatten(0, 1)
                ours.theirs[f"decoder_pred.{kind}"] = rows
        return Written(ours.theirs, notes=tuple(notes))

    def peer(self, written: Written) -> None:
        return None

    def _decodes(self, origin: Origin, modality: Any, tokens: bool, notes: list[str]) -> bool:
        """Whether the decoder goes along; if not, notes say why."""
        if not origin.decodes:
            return False
        wide, target = origin.config.model.decoder, modality.target
        reasons = {
            "its class token is the encoder's, and theirs is one of its own": tokens and not wide.class_token,
            "it has a class token, and the encoder has none": wide.class_token and not tokens,
            "its MLPs are of another ratio than the encoder's": wide.mlp_ratio is not None,
            "its target is another than pixels": target.name != "pixel",
        }
        notes += [f"the encoder alone, without the decoder: {why}" for why, holds in reasons.items() if holds]
        return not any(reasons.values())

    def _give_places(self, ours: Ours, origin: Origin, name: str, part: str, tokens: bool) -> None:
        """A place of a class token is in the token already, and 0 beside it."""
        start, mine = ("", "position") if part == "encoder" else ("decoder_", "decoder_position")
        position = origin.config.modalities[name].position
        width = len(ours.weights[f"{part}.trunk.norm.weight"])
        rows = torch.zeros(int(tokens), width)
        if tokens:
            ours.theirs[f"{start}cls_token"] = ours.weights[f"{part}.class_token"][None, None]
        if position.name == "separable" and position.arguments.get("groups") == GROUPS:
            for number, key in enumerate(("temporal", "spatial")):
                ours.theirs[f"{start}pos_embed_{key}"] = ours.weights[f"modalities.{name}.{mine}.tables.{number}"][None]
            if tokens:
                ours.theirs[f"{start}pos_embed_class"] = rows[None]
        else:
            table = table_of(origin, name, decoder=part == "decoder")
            ours.theirs[f"{start}pos_embed"] = torch.cat([rows, table])[None]
