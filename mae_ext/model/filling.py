"""A picture of what was predicted: hidden patches filled in where they were."""

from math import prod

import torch
from torch import Tensor

from mae_ext.model.grid import nearness, patchify, take, unpatchify
from mae_ext.model.mask import Mask
from mae_ext.model.modality import Modality
from mae_ext.model.units import in_units


def filled_in(
    modality: Modality, x: Tensor, mask: Mask, predicted: Tensor, own_statistics: bool, valid: Tensor | None
) -> Tensor:
    """(B, C, *S) in reader units, (B, P, pix) predicted of mask.pred -> (B, C, *S) float32; see `MAE.reconstruct`."""
    original, x, target = in_units(x), modality.normalize(x), modality.pixels
    tokens = patchify(x, modality.patch)
    weight = [] if valid is None else [patchify(modality.counts(valid, x), modality.patch)]
    mean, divisor = target.statistics(tokens, *weight)
    if own_statistics:
        mean, divisor = take(mean, mask.pred), take(divisor, mask.pred)
    else:
        near = nearness(mask.pred, mask.keep, mask.grid)
        mean, divisor = near @ take(mean, mask.keep), near @ take(divisor, mask.keep)
    pixels = predicted * target.spread(divisor) + target.spread(mean)
    where = mask.pred[..., None].expand(-1, -1, tokens.shape[-1])
    hidden = torch.zeros_like(tokens, dtype=torch.bool).scatter(1, where, True)
    filled = modality.denormalize(unpatchify(tokens.scatter(1, where, pixels), mask.grid, modality.patch))
    # Not `filled` alone: normalised and back is not the same to the last bit.
    return torch.where(unpatchify(hidden, mask.grid, modality.patch), filled, original)


def statistics_caption(normalised: bool, own: bool) -> str:
    """Whether a picture shows more than the model was given."""
    if not normalised:
        return "patch statistics: predicted (the target is plain pixels)"
    return "patch statistics: " + ("the target's own (leaks)" if own else "interpolated from visible patches")


def visible_pixels(mask: Mask, patch: tuple[int, ...]) -> Tensor:
    """-> (B, 1, *S) bool: the pixels that the encoder sees."""
    tokens = torch.zeros(len(mask.keep), prod(mask.grid), prod(patch), dtype=torch.bool, device=mask.keep.device)
    tokens.scatter_(1, mask.keep[..., None].expand(-1, -1, prod(patch)), True)
    return unpatchify(tokens, mask.grid, patch)
