"""Pre-norm transformer blocks: all that the encoder and the decoder share. They see tokens, never a modality."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mae_ext.model.linear import Linear, is_native


class _CpuAttention(torch.autograd.Function):
    """Softmax attention whose probabilities, (B, H, Q, N), are made again in the backward pass, not kept."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        return _probabilities(q, k) @ v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = ctx.saved_tensors
        p = _probabilities(q, k)
        grad_v = p.transpose(-1, -2) @ grads[0]
        grad_scores = torch._softmax_backward_data(grads[0] @ v.transpose(-1, -2), p, -1, p.dtype)
        grad_scores = grad_scores * q.shape[-1] ** -0.5
        return grad_scores @ k, grad_scores.transpose(-1, -2) @ q, grad_v


def _probabilities(q: Tensor, k: Tensor) -> Tensor:
    scores: Tensor = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return scores.softmax(-1)  # the sum inside is fp32


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, H, Q, d), (B, H, N, d), (B, H, N, d) -> (B, H, Q, d): softmax attention."""
    on_cpu = q.device.type == "cpu" and not torch.compiler.is_compiling()
    if on_cpu and not is_native(q.dtype):
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)
    if on_cpu and q.dtype == torch.bfloat16:
        # The flash kernel's bf16 backward on CPUs is slower than the plain products (28 against 10 ms at 8x16x197x32).
        with torch.autocast("cpu", enabled=False):  # which would leave bf16 in the softmax
            out: Tensor = _CpuAttention.apply(q, k, v)  # type: ignore[no-untyped-call]
            return out
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)

    def forward(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """(B, N, D) -> (B, N, D): self-attention over norm(x)."""
        q, k, v = rearrange(self.qkv(x, before=norm), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        mixed: Tensor = self.out(rearrange(attend(q, k, v), "b h n d -> b n (h d)"))
        return mixed


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = Linear(width, hidden)
        self.down = Linear(hidden, width)

    def forward(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """(B, N, D) -> (B, N, D): two layers over norm(x)."""
        out: Tensor = self.down(self.up(x, before=norm), before=F.gelu)
        return out


class Block(nn.Module):
    def __init__(self, width: int, heads: int, mlp_ratio: float, eps: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.attention = Attention(width, heads)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """(B, N, D), (2, B) | None -> (B, N, D). gate: what each branch of each sample counts (drop path)."""
        for i, (norm, branch) in enumerate(((self.norm1, self.attention), (self.norm2, self.mlp))):
            change = branch(x, norm)
            x = x + (change if gate is None else gate[i, :, None, None] * change)
        return x


class Transformer(nn.Module):
    """A stack of blocks and the norm after them."""

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float = 4.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.width, self.depth = width, depth
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, eps) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=eps)
        self.checkpointing = False
        """Recompute each block's activations in the backward pass: less memory, about a third more compute."""

    def forward(self, x: Tensor, gates: Tensor | None = None) -> Tensor:
        """(B, N, D), (depth, 2, B) | None -> (B, N, D)."""
        for i in range(self.depth):
            x = self._block(i, x, gates)
        return self.norm(x)  # type: ignore[no-any-return]

    def layers(self, x: Tensor, taken: Sequence[int], gates: Tensor | None = None) -> list[Tensor]:
        """(B, N, D) -> [(B, N, D)]: after the blocks `taken`, counted from 1, as they are, and the normed last."""
        found = {}
        for i in range(self.depth):
            found[i + 1] = x = self._block(i, x, gates)
        return [*(found[i] for i in taken), self.norm(x)]

    def _block(self, i: int, x: Tensor, gates: Tensor | None) -> Tensor:
        block, gate = self.blocks[i], None if gates is None else gates[i]
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, gate, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]
        return block(x, gate)  # type: ignore[no-any-return]


def drop_path_gates(rate: float, depth: int, batch: int, generator: torch.Generator) -> Tensor:
    """-> (depth, 2, B) float32: 0 with a probability rising linearly from 0 to `rate` over depth, else 1 / (1 - p).

    Stochastic depth (1603.09382) with the linear rule; drawn by the caller so that it is a function of (seed, step).
    """
    p = torch.linspace(0, rate, depth)[:, None, None]
    return (torch.rand(depth, 2, batch, generator=generator) >= p).float() / (1 - p)
