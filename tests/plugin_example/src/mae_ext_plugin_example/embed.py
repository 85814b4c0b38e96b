"""A convolutional embedder that keeps the promise of every embedder: a token sees its own patch and nothing else."""

from math import prod

from einops import rearrange
from torch import Tensor, nn

from mae_ext import take_patches

CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class ConvStem(nn.Module):
    """Two convolutions inside each patch, then a linear map. For 1 to 3 axes. hidden: channels between them."""

    any_size = True  # nothing here depends on `size`

    def __init__(
        self, size: tuple[int, ...], patch: tuple[int, ...], channels: int, width: int, hidden: int = 32
    ) -> None:
        super().__init__()
        if len(patch) not in CONVOLUTIONS:
            raise ValueError(f"conv_stem has 1 to 3 axes, not {len(patch)}")
        if not hidden > 0:
            raise ValueError(f"hidden={hidden} must be positive")
        self.patch = patch
        convolution = CONVOLUTIONS[len(patch)]
        self.stem = nn.Sequential(
            convolution(channels, hidden, kernel_size=3, padding=1),
            nn.GELU(),
            convolution(hidden, hidden, kernel_size=3, padding=1),
            nn.GELU(),
        )
        self.project = nn.Linear(hidden * prod(patch), width)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """(B, C, *S) normalised, (B, K) -> (B, K, D)."""
        axes = [f"p{i}" for i in range(len(self.patch))]
        # Each kept patch becomes an image of its own, so that no convolution reaches over its edge.
        alone = rearrange(
            take_patches(x, self.patch, keep),
            f"b k ({' '.join(axes)} c) -> (b k) c {' '.join(axes)}",
            **dict(zip(axes, self.patch, strict=True)),
        )
        tokens: Tensor = self.project(self.stem(alone).flatten(1))
        return rearrange(tokens, "(b k) d -> b k d", b=len(x))
