"""A light head of segmentation: tokens spread over their patches, beside the input itself, through two convolutions."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from mae_ext.errors import ConfigError
from mae_ext.model.grid import unpatchify

FINEST = 8
"""Places along an axis of a patch for which a token answers by itself. Larger patches get the most that divide them,
each place repeated: 16^3 of 16 channels would be 50 million weights after ViT-B, and detail comes from the input."""


class UpsampleHead(nn.Module):
    """Each token says `features` channels for every place of its patch; a convolution of the input says as many more of
    every voxel; two 3^n convolutions, each with a norm and GELU, make classes of both.

    What an encoder knows is what lies where, to a patch, and what the input shows is where its border runs; so one
    linear layer and three narrow convolutions at full resolution are enough (docs/results.md: a Dice of 0.789 in 250
    steps from 10 scans, against 0.819 of UNETR in 500). A token's places are spread as by a pixel shuffle (1609.05158),
    the input joins as UNETR's first skip does (2103.10504), without its way up by 2: so patches may have any edges. The
    norm is over all channels and voxels of a sample, one group (1803.08494): a norm by channel would take away what
    tokens say of a whole window that holds nothing.

    layers: how many of the encoder's are joined. features: channels at full resolution. Raises ConfigError for more
    axes than there are convolutions for.
    """

    def __init__(
        self, width: int, patch: tuple[int, ...], channels: int, classes: int, features: int = 16, layers: int = 1
    ) -> None:
        super().__init__()
        if len(patch) > 3:
            raise ConfigError(
                f"task.head=upsample takes 1 to 3 axes, not the {len(patch)} of {list(patch)}; use linear"
            )
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(patch) - 1]
        self.levels, self.features = layers, features
        self.places = tuple(max(n for n in range(1, FINEST + 1) if p % n == 0) for p in patch)
        """Along each axis of a patch."""
        self.repeats = tuple(p // n for p, n in zip(patch, self.places, strict=True))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.spread = nn.Linear(layers * width, prod(self.places) * features)
        nn.init.xavier_uniform_(self.spread.weight)
        nn.init.zeros_(self.spread.bias)

        def step(inputs: int) -> list[nn.Module]:
            # No bias: one for all voxels of a channel is what the norm's own is.
            return [convolution(inputs, features, 3, padding=1, bias=False), nn.GroupNorm(1, features), nn.GELU()]

        self.stem = nn.Sequential(*step(channels))
        self.join = nn.Sequential(*step(2 * features), *step(features))
        self.out = convolution(features, classes, 1)

    def forward(self, layers: Sequence[Tensor], grid: tuple[int, ...], x: Tensor) -> Tensor:
        """layers: (B, N, D) each, the last one normed. x: (B, C, *S) normalised. -> (B, classes, *S)."""
        tokens = torch.cat([norm(layer) for norm, layer in zip(self.norms, layers, strict=True)], -1)
        y = unpatchify(self.spread(tokens), grid, self.places)
        for axis, times in enumerate(self.repeats, start=2):
            if times > 1:
                y = y.unsqueeze(axis + 1).expand(*y.shape[: axis + 1], times, *y.shape[axis + 1 :])
                y = y.flatten(axis, axis + 1)
        stem = self.stem(x)
        out: Tensor = self.out(self.join(torch.cat([y.to(stem.dtype), stem], 1)))
        return out.float()

    def probabilities(self, layers: Sequence[Tensor], grid: tuple[int, ...], x: Tensor) -> Tensor:
        """As forward -> (B, *S, classes) of sum 1."""
        return self.forward(layers, grid, x).softmax(1).movedim(1, -1)
