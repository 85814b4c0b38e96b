"""A convolutional embedder that keeps to its patch: what is hidden stays hidden from every token that is kept."""

from collections.abc import Callable
from contextlib import nullcontext
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mae_ext.model.grid import take_patches

CONVOLUTIONS: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

FULL = 64
"""Pixels of a patch up to which convolutions begin at full resolution by default. On a CPU that level of a patch of
8x8x8 alone costs a quarter of a step of the hippocampus recipe, and with the second level the half of one."""


class ConvEmbed(nn.Module):
    """Convolutions inside each patch, down to one voxel; each resolution adds to the token.

    After the tokenizers of Primus (2503.01835 and later), whose convolutions reach over patches; these end at a patch's
    edge, where they see zeros. A convolution of stride `start`, then residual ones of stride 2 along every axis that is
    longer than 1 still (of odd lengths the larger half is kept). The patch itself, and what each of these gives, is
    mapped to the width by a kernel of its size, and the maps are added up: without its convolutions it is the embedder
    `patch`. hidden: channels at first; twice as many after each halving. start: 1 is full resolution, 2 half of it;
    None is 1 for patches of at most `FULL` pixels, else 2. For 1 to 3 axes, any patch and size.

    >>> import torch
    >>> from mae_ext.model.conv_embed import ConvEmbed
    >>> embed = ConvEmbed(size=(16, 32, 32), patch=(2, 8, 8), channels=1, width=48)
    >>> embed.shapes
    [(1, 4, 4), (1, 2, 2), (1, 1, 1)]
    >>> embed(torch.rand(2, 1, 16, 32, 32), torch.tensor([[0, 5], [3, 7]])).shape
    torch.Size([2, 2, 48])
    """

    any_size = True

    def __init__(
        self, size: tuple[int, ...], patch: tuple[int, ...], channels: int, width: int,
        hidden: int = 8, start: Literal[1, 2] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if len(patch) not in CONVOLUTIONS:
            raise ValueError(f"conv is for 1 to 3 axes, and patch={list(patch)} has {len(patch)}; name 'patch'")
        if type(hidden) is not int or not hidden > 0:  # true is no number of channels
            raise ValueError(f"hidden={hidden} must be a whole number above 0")
        if start not in (None, 1, 2):
            raise ValueError(f"start={start} must be 1, full resolution, or 2, half of it")
        self.patch = patch
        self.shapes = [halved(patch) if (start or (1 if prod(patch) <= FULL else 2)) == 2 else patch]
        while prod(self.shapes[-1]) > 1:
            self.shapes.append(halved(self.shapes[-1]))
        wide = [hidden * 2**level for level in range(len(self.shapes))]
        self.project = nn.Linear(channels * prod(patch), width)
        self.first = convolution(patch, self.shapes[0], channels, hidden)
        self.halve, self.refine = nn.ModuleList(), nn.ModuleList()
        for level, (shape, half) in enumerate(zip(self.shapes, self.shapes[1:], strict=False)):
            self.halve.append(convolution(shape, half, wide[level], wide[level + 1]))
            self.refine.append(convolution(half, half, wide[level + 1], wide[level + 1]))
        self.skips = nn.ModuleList(
            nn.Linear(n * prod(shape), width, bias=False) for n, shape in zip(wide, self.shapes, strict=True)
        )

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """(B, C, *S), (B, K) -> (B, K, D): only the kept patches are ever copied or embedded."""
        pixels = take_patches(x, self.patch, keep)
        tokens: Tensor = self.project(pixels)
        axes = [f"p{i}" for i in range(len(self.patch))]
        # Each kept patch becomes a picture of its own: no convolution reaches over its edge.
        maps = rearrange(
            pixels, f"b k ({' '.join(axes)} c) -> (b k) c {' '.join(axes)}", **dict(zip(axes, self.patch, strict=True))
        )
        for level, skip in zip(self._levels(maps), self.skips, strict=True):
            tokens = tokens + skip(level.flatten(1)).view_as(tokens)
        return tokens

    def _levels(self, maps: Tensor) -> list[Tensor]:
        """(N, C, *patch) -> [(N, channels, *shape)], one for each of `shapes`."""
        # fp32 on a CPU: oneDNN's weight gradients of a 3-d convolution over 2x2x2 voxels in bf16 are wrong, some inf.
        with torch.autocast("cpu", enabled=False) if maps.device.type == "cpu" else nullcontext():
            levels = [F.gelu(self.first(maps))]
            for halve, refine in zip(self.halve, self.refine, strict=True):
                maps = halve(levels[-1])
                levels.append(maps + refine(F.gelu(maps)))
        return levels


def halved(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple((n + 1) // 2 for n in shape)


def convolution(shape: tuple[int, ...], out: tuple[int, ...], channels: int, wide: int) -> nn.Module:
    """(N, channels, *shape) -> (N, wide, *out): 3 wide, and 1 along axes of one voxel, where it sees nothing else."""
    kernel = tuple(3 if n > 1 else 1 for n in shape)
    stride = tuple(1 if n == m else 2 for n, m in zip(shape, out, strict=True))
    return CONVOLUTIONS[len(shape)](channels, wide, kernel, stride, tuple(k // 2 for k in kernel))
