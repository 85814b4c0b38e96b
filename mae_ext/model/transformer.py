"""Pre-norm transformer blocks: all that the encoder and the decoder share. They see tokens, never a modality."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mae_ext.model.recompute import Checkpointing, recomputed


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D): softmax self-attention."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(rearrange(mixed, "b h n d -> b n (h d)"))
        return out


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        out: Tensor = self.down(F.gelu(self.up(x)))
        return out


class Block(nn.Module):
    """Attention and an MLP, each over a norm of what comes in and added to it (ViT, 2010.11929, equations 2 and 3)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, eps: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.attention = Attention(width, heads)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.checkpointing: Checkpointing | Literal[False] = False

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """(B, N, D), (2, B) | None -> (B, N, D). gate: what each branch of each sample counts (drop path)."""
        if self.checkpointing and torch.is_grad_enabled():  # within what is compiled, whose kernels it cannot look into
            return recomputed(self.through, self.checkpointing, x, gate)
        return self.through(x, gate)

    def through(self, x: Tensor, gate: Tensor | None) -> Tensor:
        """As forward, and everything is kept for the backward pass."""
        first, second = (None, None) if gate is None else gate
        x = x + gated(self.attention(self.norm1(x)), first)
        return x + gated(self.mlp(self.norm2(x)), second)


def gated(change: Tensor, gate: Tensor | None) -> Tensor:
    """(B, N, D), (B,) | None -> (B, N, D)."""
    return change if gate is None else gate[:, None, None] * change


class Transformer(nn.Module):
    """A stack of blocks and the norm after them."""

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float = 4.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.width, self.depth = width, depth
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, eps) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=eps)

    @property
    def checkpointing(self) -> Checkpointing | Literal[False]:
        """What of each block is computed again in the backward pass: less memory, more time (model/recompute.py)."""
        return self.blocks[0].checkpointing if self.depth else False  # type: ignore[return-value]

    @checkpointing.setter
    def checkpointing(self, what: Checkpointing | Literal[False]) -> None:
        for block in self.blocks:
            block.checkpointing = what  # type: ignore[assignment]

    def forward(self, x: Tensor, gates: Tensor | None = None) -> Tensor:
        """(B, N, D), (depth, 2, B) | None -> (B, N, D)."""
        for i in range(self.depth):
            x = self._block(i, x, gates)
        return self.norm(x)  # type: ignore[no-any-return]

    def layers(self, x: Tensor, taken: Sequence[int], gates: Tensor | None = None) -> list[Tensor]:
        """(B, N, D) -> [(B, N, D)]: after the blocks `taken`, counted from 1, as they are, and the normed last."""
        after = {}
        for i in range(self.depth):
            x = self._block(i, x, gates)
            if i + 1 in taken:
                after[i + 1] = x
        return [*(after[number] for number in taken), self.norm(x)]

    def _block(self, i: int, x: Tensor, gates: Tensor | None) -> Tensor:
        return self.blocks[i](x, None if gates is None else gates[i])  # type: ignore[no-any-return]


def drop_path_gates(rate: float, depth: int, batch: int, generator: torch.Generator) -> Tensor:
    """-> (depth, 2, B) float32: 0 with a probability rising linearly from 0 to `rate` over depth, else 1 / (1 - p).

    Stochastic depth (1603.09382) with the linear rule; drawn by the caller so that it is a function of (seed, step).
    """
    p = torch.linspace(0, rate, depth)[:, None, None]
    return (torch.rand(depth, 2, batch, generator=generator) >= p).float() / (1 - p)
