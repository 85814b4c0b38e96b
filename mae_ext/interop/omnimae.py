"""Weights of OmniMAE (`omnimae`), one masked autoencoder of images and clips. Its clips are taken in.

Names and sizes: facebookresearch/omnivore, omnimae.omni_mae_model and omnivision.models.vision_transformer. What
differs from ours and how it is met: the decoder's positions and the mask token are as wide as the encoder's tokens, and
go through the map into the decoder (here they are gone through it, as a table and as the mask token); its attention has
no biases (ours are set to 0). Positions are stored, a fixed sequence, and kept as learned tables, since the decoder's
are none of ours. An image is a tubelet of the same picture twice, at the places of the first. The loss adds 1e-6 to the
variance of a channel where our `channel` adds it to the deviation (omnivision.losses.mae_loss).
"""

from math import isqrt, prod
from typing import Any

import torch
from torch import Tensor

from mae_ext.errors import CheckpointError
from mae_ext.interop.clips import CLIP, NAME, POOLED, clips, depths_of
from mae_ext.interop.deduced import model_of, or_else, origin_of, with_axes
from mae_ext.interop.format import Foreign, Hints, Written
from mae_ext.interop.mapping import TIMM, Ours, Theirs, Trunk, only_modality, patches_in, patches_out, positions_like
from mae_ext.interop.origin import Origin
from mae_ext.interop.tables import table_of
from mae_ext.model.position import SequenceSinCos

EPS = 1e-6
DECODER_HEADS = {384: 16, 512: 16}
PROJECTION = "trunk.patch_embed.proj.1"
TRUNKS = {
    "encoder": Trunk("trunk.blocks.{}", "trunk.norm", "attn.qkv", TIMM),
    "decoder": Trunk("trunk.decoder.decoder_blocks.{}", "trunk.decoder.norm", "attn.qkv", TIMM),
}
MAP = "trunk.decoder.decoder_embed"

SAME = 1e-5
"""Of a decoder's table and that of a fixed sequence: nearer, and it is that one."""


def grid_of(count: int, hints: Hints, patch: tuple[int, ...], where: str) -> tuple[int, ...]:
    """The grid of so many positions: as hints say, or of the published clip, or as long and of a square.

    Raises CheckpointError where that is another number.
    """
    frames = CLIP[0] // patch[0]
    edge = isqrt(count // frames)
    default = (frames, edge, edge) if prod((frames, edge, edge)) == count else None
    said = None if hints.size is None else tuple(s // p for s, p in zip(hints.size, patch, strict=True))
    grid = hints.grid or said or default
    if grid is None or prod(grid) != count:
        raise CheckpointError(f"{where}: of which grid its {count} positions are is not clear: PATH::grid=8x14x14")
    return grid


class OmniMAE:
    """Pretraining files and fine-tuned ones, whose norm follows the mean over tokens."""

    name = "omnimae"
    title = "OmniMAE"
    package: str | None = None

    def recognises(self, file: Foreign) -> bool:
        kernel = file.weights.get(f"{PROJECTION}.weight")
        return kernel is not None and kernel.ndim == 5 and "trunk.blocks.0.attn.qkv.weight" in file.weights

    def read(self, file: Foreign, hints: Hints) -> Origin:
        theirs, notes = Theirs(file.weights, self.title, file.where), list[str]()
        decodes = any(name.startswith("trunk.decoder.") for name in file.weights)
        for part in ("encoder", *["decoder"] * decodes):
            theirs.put_trunk(part, TRUNKS[part])
        convolution, table = with_axes(theirs, f"{PROJECTION}.weight", 5), with_axes(theirs, "trunk.pos_embed", 3)[0]
        grid = grid_of(len(table), hints, tuple(convolution.shape[2:]), file.where)
        modality = clips(file, or_else(hints, grid=grid), convolution)
        theirs.ours[f"modalities.{NAME}.embed.project.weight"] = patches_in(convolution)
        theirs.ours[f"modalities.{NAME}.embed.project.bias"] = theirs.take(f"{PROJECTION}.bias")
        modality["mask"] = {"name": "random", "ratio": 0.95}  # of clips, in the paper (2206.08356)
        if decodes or positions_like(table, grid) != "sequence":
            modality["position"] = "learned"
            theirs.ours[f"modalities.{NAME}.position.table"] = table
        if decodes:
            self._put_decoder(theirs)
            notes.append(
                "its fixed positions are learned ones here: a decoder's are gone through a map that is trained"
            )
        else:
            notes.append(POOLED)
        left = theirs.left({} if decodes else {"head.": "a head for classes", "trunk.mask_token": "of pretraining"})
        model = model_of(theirs.ours, hints, file.where, EPS, DECODER_HEADS)
        return origin_of(theirs, file, self.name, (NAME, modality, model), left, tuple(notes))

    def write(self, origin: Origin, name: str) -> Written:
        weights, modality = only_modality(origin, name)
        ours, notes, model = Ours(weights), list[str](), origin.config.model
        if len(modality.patch) != 3:
            raise CheckpointError(f"{origin.where}: patches of {list(modality.patch)}; {self.title} has tubelets")
        if model.class_token:
            raise CheckpointError(f"{origin.where}: {self.title} has no class token, and this model does")
        decoder = self._decoder(origin, name, modality, notes) if origin.decodes else None
        for part, depth in depths_of(origin, decoder is not None).items():
            ours.give_trunk(part, TRUNKS[part], depth)
        biases = [name for name in ours.theirs if name.startswith("trunk.decoder.") and name.endswith("qkv.bias")]
        if not any(ours.theirs[name].any() for name in biases):
            for key in biases:
                del ours.theirs[key]
        kernel = patches_out(weights[f"modalities.{name}.embed.project.weight"], modality.patch, modality.channels)
        ours.theirs[f"{PROJECTION}.weight"] = kernel
        ours.theirs[f"{PROJECTION}.bias"] = weights[f"modalities.{name}.embed.project.bias"]
        ours.theirs["trunk.pos_embed"] = table_of(origin, name)[None]
        if decoder is not None:
            ours.theirs |= decoder
            ours.give("decoder.project", MAP)
            ours.give(f"modalities.{name}.predict", "head")
        return Written(ours.theirs, notes=tuple(notes))

    def peer(self, written: Written) -> None:
        return None

    def _put_decoder(self, theirs: Theirs) -> None:
        """What is added before their map into the decoder is added after it here: W (x + p) + b = (W x + b) + W p."""
        theirs.put("decoder.project", MAP)
        theirs.put(f"modalities.{NAME}.predict", "head")
        matrix, bias = (theirs.ours[f"decoder.project.{kind}"].double() for kind in ("weight", "bias"))
        places, token = with_axes(theirs, "trunk.decoder.pos_embed", 3)[0], theirs.take("trunk.mask_token").flatten()
        if matrix.shape != (len(bias), len(token)) or places.shape[1] != len(token):
            raise CheckpointError(
                f"{theirs.where}'trunk.mask_token' is {len(token)} wide and '{MAP}.weight' is {list(matrix.shape)}; "
                f"expected positions and a mask token as wide as what goes through it"
            )
        table, token = places.double() @ matrix.T, matrix @ token.double() + bias
        theirs.ours[f"modalities.{NAME}.decoder_position.table"] = table.float()
        theirs.ours["decoder.mask_token"] = token.float()

    def _decoder(self, origin: Origin, name: str, modality: Any, notes: list[str]) -> dict[str, Tensor] | None:
        """Positions and mask token before the map into the decoder, the smallest that come to these. None, and why in
        notes, where nothing does, or the target is another."""
        wide, target = origin.config.model.decoder, modality.target
        matrix, bias = (origin.weights[f"decoder.project.{kind}"].double() for kind in ("weight", "bias"))
        table, sequence = table_of(origin, name, decoder=True), SequenceSinCos(modality.grid, matrix.shape[1]).table
        places = sequence.double()
        if (places @ matrix.T - table).abs().max() > SAME:
            places = table.double() @ torch.linalg.pinv(matrix).T
        token = torch.linalg.pinv(matrix) @ (origin.weights["decoder.mask_token"].double() - bias)
        reasons = {
            "its positions come from no map of positions as wide as the encoder": (
                (places @ matrix.T - table).abs().max() > SAME
                or (matrix @ token + bias - origin.weights["decoder.mask_token"]).abs().max() > SAME
            ),
            "its MLPs are of another ratio than the encoder's": wide.mlp_ratio is not None,
            "it has a class token": wide.class_token,
            "its target is another than pixels normalised per channel": target.name != "pixel"
            or target.arguments != {"normalize": "channel"},
        }
        notes += [f"the encoder alone, without the decoder: {why}" for why, holds in reasons.items() if holds]
        if any(reasons.values()):
            return None
        return {"trunk.decoder.pos_embed": places.float()[None], "trunk.mask_token": token.float()[None]}
