"""What the decoder has to answer for a hidden patch, and what its error is.

A factory `(patch, channels, **arguments) -> nn.Module` with the methods of PixelTarget, and what it may have besides:

    def term(self, encoded, predicted, x, mask, valid) -> Tensor

a scalar that is added to the modality's loss in pretraining. encoded: (B, K, D) the kept patch tokens as the encoder
gives them, without the class token; predicted: (B, P, pix) what the decoder says of mask.pred, both in the run's
precision; x: (B, C, *S) normalised; valid: (B, 1, *S) bool or None. It has to be a mean over samples of what each alone
comes to: a batch is cut over ranks and accumulation steps.

    def prepare(self, x, valid, spacing) -> Tensor

for what cannot be told from a patch alone: (B, C, *S) normalised, (B, 1, *S) bool or None, (B, n) or None -> maps (B,
C', *M) of the whole picture, of which each length is a multiple of the grid's and divides S's. What the target is then
given of a patch is that of the maps, (B, P, pix') with pix' = C' * prod(M / grid), in the order of `patchify`, and as
weights the shares of its pixels that count. No gradient is taken of it.
"""

from collections.abc import Sequence
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

Normalize = Literal["none", "mae", "channel", "layernorm"]


class PixelTarget(nn.Module):
    """Pixels, as they are or normalised patch by patch. "norm-pix" means three different things in published code:

    - "mae": (t - mean) / sqrt(var + 1e-6) over all pixels and channels of the patch, unbiased variance
      (facebookresearch/mae, models_mae.py).
    - "channel": (t - mean) / (sqrt(var) + 1e-6) per channel, unbiased (VideoMAE, engine_for_pretraining.py).
    - "layernorm": (t - mean) / sqrt(var + 1e-6) over all, biased (SelfMedMAE).

    Where only a part of a patch counts (`valid`), mean and variance are those of that part: air beside a body would
    otherwise set both. floor: smallest standard deviation a patch is divided by, in the units of the normalised input,
    so that the noise of an empty patch is not blown up into a target. loss: "mse" or "l1". planes: places along a
    patch's first axis that alone count, as MAE-ST (2205.09113) answers for one frame of a tubelet of two; elsewhere in
    the patch the nearest of them is what is wanted. None is all.

    >>> import torch
    >>> from mae_ext import PixelTarget
    >>> target = PixelTarget(patch=(4, 4), channels=3)
    >>> wanted = target(torch.rand(2, 5, 48))
    >>> wanted.mean(-1).abs().max() < 1e-6, target.error(wanted + 1, wanted).mean()
    (tensor(True), tensor(1.))
    """

    def __init__(
        self,
        patch: tuple[int, ...],
        channels: int,
        normalize: Normalize = "mae",
        floor: float = 0.0,
        loss: Literal["mse", "l1"] = "mse",
        planes: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if normalize not in ("none", "mae", "channel", "layernorm"):
            raise ValueError(f"normalize={normalize!r} must be none, mae, channel or layernorm")
        if loss not in ("mse", "l1"):
            raise ValueError(f"loss={loss!r} must be mse or l1")
        if not floor >= 0:
            raise ValueError(f"floor={floor} must be at least 0")
        if planes is not None and not (planes and sorted({*planes} & {*range(patch[0])}) == list(planes)):
            raise ValueError(f"planes={planes} must be some of 0 to {patch[0] - 1}, ascending")
        self.pix, self.channels = prod(patch) * channels, channels
        self.planes, self.first = planes and list(planes), patch[0]
        self.nearest = [min(planes or [i], key=lambda plane: abs(plane - i)) for i in range(patch[0])]
        self.normalize, self.floor, self.loss = normalize, floor, loss

    def statistics(self, tokens: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, P, pix) float32, (B, P, pix) | None -> mean and divisor, each (B, P, C) for "channel", else (B, P, 1).

        weight: 1 where a pixel counts, 0 where it does not. Of a patch of which none counts: those of all its pixels.
        """
        if self.normalize == "none":
            zero = torch.zeros_like(self._by_channel(tokens)[..., 0, :])
            return zero, zero + 1
        values = self._by_channel(self._at(tokens, self.planes))
        correction = 0 if self.normalize == "layernorm" else 1
        var, mean = torch.var_mean(values, dim=-2, correction=correction)
        if weight is not None:
            counts = self._by_channel(self._at(weight, self.planes))
            count = counts.sum(-2)
            some = (count > 0) & (count < values.shape[-2])  # a patch that counts whole keeps its numbers to the bit
            part = (values * counts).sum(-2) / count.clamp(min=1)
            rest = ((values - part[..., None, :]) * counts).square().sum(-2) / (count - correction).clamp(min=1)
            mean, var = torch.where(some, part, mean), torch.where(some, rest, var)
        if self.floor:
            var = var.clamp(min=self.floor**2)
        return mean, var.sqrt() + 1e-6 if self.normalize == "channel" else (var + 1e-6).sqrt()

    def _at(self, tokens: Tensor, planes: Sequence[int] | None) -> Tensor:
        """(B, P, pix) -> the same of so many places along the first axis of a patch, (B, P, pix')."""
        if planes is None or self.planes is None:
            return tokens
        split = tokens.unflatten(-1, (self.first, -1))
        # One by one: a list as an index is a tensor made on the CPU, for which a GPU is waited for.
        return torch.stack([split[:, :, plane] for plane in planes], 2).flatten(2)

    def _by_channel(self, tokens: Tensor) -> Tensor:
        """(B, P, pix) -> (B, P, pixels, C) for "channel", else (B, P, pix, 1)."""
        per = self.channels if self.normalize == "channel" else 1
        return tokens.unflatten(-1, (-1, per)) if per > 1 else tokens[..., None]

    def spread(self, statistic: Tensor) -> Tensor:
        """(B, P, 1 or C) -> broadcastable over (B, P, pix): channels are the fastest axis of a patch."""
        return statistic.repeat(1, 1, self.pix // self.channels) if statistic.shape[-1] > 1 else statistic

    def forward(self, tokens: Tensor, weight: Tensor | None = None) -> Tensor:
        """(B, P, pix) normalised pixels -> (B, P, pix) what is to be predicted. weight: of `statistics`."""
        wanted = self._at(tokens, self.nearest)
        if self.normalize == "none":
            return wanted
        mean, divisor = self.statistics(tokens, weight)
        return (wanted - self.spread(mean)) / self.spread(divisor)

    def error(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        """(B, P, pix), (B, P, pix) -> (B, P, pix), not yet averaged."""
        difference = predicted - wanted
        return difference.abs() if self.loss == "l1" else difference.square()
