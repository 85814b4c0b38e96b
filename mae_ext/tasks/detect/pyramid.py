"""The simple feature pyramid of ViTDet (2203.16527, section 3): several scales from the last map of a plain ViT."""

from itertools import pairwise
from math import ceil, log2

from einops import rearrange
from torch import Tensor, nn

STRIDES = (4, 8, 16, 32)
"""Pixels of the input between neighbours of a level's map (2203.16527, section 3; for patches of 16)."""


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each place, as ViTDet has in its pyramid (2203.16527, appendix A.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        out: Tensor = rearrange(self.norm(rearrange(x, "b c h w -> b h w c")), "b h w c -> b c h w")
        return out


class Pyramid(nn.Module):
    """strides: wanted pixels between places, one a level, finest first; a level gets the nearest patch * 2^k.

    So patches of 16 give 4, 8, 16 and 32, patches of 8 the same, and patches of 14 give 3.5, 7, 14 and 28. This is axis
    by axis: neither patches nor grids need be square. A grid that a coarse level does not divide is rounded up, so that
    the map covers the whole image. Raises ValueError for levels that are not each coarser than the one before.

    strides, grids: of each level, as they came out: ((pixels down, pixels across), ...) and ((rows, columns), ...).
    grids_of(grid): those of another grid of tokens.
    """

    def __init__(
        self,
        width: int,
        channels: int,
        patch: tuple[int, ...],
        grid: tuple[int, ...],
        strides: tuple[int, ...] = STRIDES,
    ) -> None:
        super().__init__()
        if len(patch) != 2:
            raise ValueError(
                f"patch {list(patch)} has {len(patch)} axes; a pyramid of maps is for images, which have 2"
            )
        if not strides or min(strides) < 1:
            raise ValueError(f"strides={list(strides)}: expected pixels, at least one level, finest first")
        doublings = [tuple(round(log2(p / stride)) for p in patch) for stride in strides]
        if any(a <= b for fine, coarse in pairwise(doublings) for a, b in zip(fine, coarse, strict=True)):
            raise ValueError(
                f"strides={list(strides)}: with patches of {list(patch)} they come out as "
                f"{[tuple(p / 2**k for p, k in zip(patch, level, strict=True)) for level in doublings]}; expected each "
                "level coarser than the one before, by a factor of 2 or more"
            )
        self.grid = (grid[0], grid[1])
        self.strides = tuple((patch[0] / 2.0**down, patch[1] / 2.0**across) for down, across in doublings)
        self.doublings = doublings
        self.grids = self.grids_of(grid)
        self.levels = nn.ModuleList(_level(width, channels, level) for level in doublings)

    def grids_of(self, grid: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        return tuple((ceil(grid[0] * 2.0**down), ceil(grid[1] * 2.0**across)) for down, across in self.doublings)

    def forward(self, tokens: Tensor, grid: tuple[int, ...] | None = None) -> list[Tensor]:
        """(B, N, D) patch tokens -> a map (B, channels, rows, columns) for each level, finest first.

        grid: of the tokens, where it is another than the one this was built for.
        """
        rows, columns = grid or self.grid
        x = rearrange(tokens, "b (h w) d -> b d h w", h=rows, w=columns)
        return [level(x) for level in self.levels]


def _level(width: int, channels: int, doublings: tuple[int, ...]) -> nn.Sequential:
    """Doubled by transposed convolutions that halve the channels, a norm and GELU between two; halved by max pooling;
    then a 1x1 and a 3x3 convolution to `channels`, each with a norm (2203.16527, appendix A.2)."""
    layers: list[nn.Module] = []
    for i in range(max(0, *doublings)):
        if layers:
            layers += [ChannelNorm(width), nn.GELU()]
        factor = (2 if i < doublings[0] else 1, 2 if i < doublings[1] else 1)
        layers.append(nn.ConvTranspose2d(width, max(1, width // 2), factor, factor))
        width = max(1, width // 2)
    if min(doublings) < 0:
        layers.append(nn.MaxPool2d(tuple(2 ** max(0, -k) for k in doublings), ceil_mode=True))
    layers += [nn.Conv2d(width, channels, 1, bias=False), ChannelNorm(channels)]
    layers += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), ChannelNorm(channels)]
    return nn.Sequential(*layers)
