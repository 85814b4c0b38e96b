"""The attentive probe: learned queries gather from frozen tokens what a mean would wash out, and a layer classifies.

Where an encoder says something in a few tokens only, or says opposite things in different places (the edges of a zoom),
the mean of its tokens says nothing. One block of cross-attention with learned queries and a residual MLP, as in V-JEPA
(2404.08471, section 4) and CAE (2202.03026), with two changes. The keys' projection is folded into the queries, which
changes nothing but the cost: tokens are never projected one by one. And keys know their token's place, which an encoder
has used up: opposite motions on opposite sides are a rotation, and queries that start with a side of their own tell its
sense in a few epochs where others, at the same rate, learn the clips by heart (docs/results.md).
"""

from math import cos, pi
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae_ext.model.position import coordinates_of, sincos
from mae_ext.probing.scores import DRAWS, MANY, accuracy, split
from mae_ext.rng import rng

LEARNING_RATES = (3e-4, 1e-3, 3e-3)
WEIGHT_DECAY = 0.1
BATCH = 64
HEADS = (12, 8, 6, 4, 3, 2, 1)


class AttentivePool(nn.Module):
    """The most queries of `HEADS` that divide D, each over all D features of a token.

    Built from `generator` alone. In fp32 under autocast too: it costs a thousandth of the encoder.
    """

    place: Tensor

    def __init__(self, width: int, grid: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("place", _places(grid, width), persistent=False)
        heads = next(h for h in HEADS if width % h == 0)

        def drawn(*shape: int, fan_in: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator) * fan_in**-0.5)

        self.query = drawn(heads, width, fan_in=width)
        self.value = drawn(heads, width, width // heads, fan_in=width)
        self.up, self.down = drawn(2 * width, width, fan_in=width), drawn(width, 2 * width, fan_in=2 * width)

    def forward(self, tokens: Tensor, grid: tuple[int, ...] | None = None) -> Tensor:
        """(B, N, D) of about unit variance, N tokens of the grid, row-major -> (B, D) normalised, float32.

        grid: of the tokens, where it is another than the one this was built for.
        """
        place = self.place if grid in (None, self.grid) else _places(grid, tokens.shape[2], tokens.device)
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = tokens.float()
            weight = ((tokens + place) @ self.query.T).softmax(1)
            gathered = torch.einsum("bnh,bnd->bhd", weight, tokens)
            x = torch.einsum("bhd,hde->bhe", gathered, self.value).flatten(1)
            x = F.layer_norm(x, x.shape[1:])
            return F.layer_norm(x + F.gelu(x @ self.up.T) @ self.down.T, x.shape[1:])


def _places(grid: tuple[int, ...], width: int, device: torch.device | None = None) -> Tensor:
    """-> (N, D), as large as the tokens it is added to; all zero where the grid is a single token."""
    place = sincos(coordinates_of(grid, device), width)
    place = place - place.mean(0)
    return place / place.square().mean().sqrt().clamp(min=1e-6)


class AttentiveHead(nn.Module):
    """A pool and a linear layer that starts from zero."""

    def __init__(self, width: int, grid: tuple[int, ...], classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.pool = AttentivePool(width, grid, generator)
        self.classify = nn.Parameter(torch.zeros(classes, width))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) standardised -> (B, classes)."""
        x: Tensor = self.pool(tokens)
        return x @ self.classify.T + self.bias


def attentive_votes(
    x: Tensor, y: Tensor, x_test: Tensor, grid: tuple[int, ...], epochs: int = 60, seed: int = 0,
    groups: Tensor | None = None,
) -> tuple[Tensor, dict[str, Any]]:  # fmt: skip
    """(n, N, D) tokens of a grid, (n,) int64, (m, N, D) -> (m, classes) float64 probabilities, and what was chosen.

    The learning rate is the best of `LEARNING_RATES` on a tenth of train, held out class by class (the mean of five
    draws where that is less than `MANY` / 10 samples); then all of train is fitted. Tokens are standardised by train.
    groups: patients of train, held out whole.
    """
    fitting = Fitting(x, y, grid, epochs, seed)
    tried = dict.fromkeys(LEARNING_RATES, 0.0)
    draws = 1 if len(y) >= MANY else DRAWS
    for draw in range(draws):
        fit, held = split(y, seed, draw, groups)
        for lr in tried if len(held) else ():
            votes = fitting.votes(fitting.head(fit, lr), x[held])
            tried[lr] += accuracy(votes.argmax(1), y[held]) / draws
    best = max(tried, key=lambda lr: (round(tried[lr], 9), -lr))
    head = fitting.head(torch.arange(len(y)), best)
    return fitting.votes(head, x_test), {
        "train_accuracy": accuracy(fitting.votes(head, x).argmax(1), y),
        "lr": best,
        "held_out_accuracy": {f"{lr:g}": round(value, 6) for lr, value in tried.items()},
        "heads": len(head.pool.query),
        "epochs": epochs,
    }


class Fitting:
    """Heads for (n, N, D) tokens and (n,) labels, standardised by all of these tokens."""

    def __init__(self, x: Tensor, y: Tensor, grid: tuple[int, ...], epochs: int, seed: int) -> None:
        self.x, self.y, self.grid, self.epochs, self.seed = x, y, grid, epochs, seed
        flat = x.flatten(0, 1)
        # Over a part of the tokens where there are millions: a mean and a deviation need no more.
        std, mean = torch.std_mean(flat[:: max(1, len(flat) // 200_000)].double(), 0, correction=0)
        self.mean, self.scale = mean.float(), (1 / std.clamp(min=1e-6)).float()

    def head(self, rows: Tensor, lr: float) -> AttentiveHead:
        """One that has learned these rows, at a rate that falls from `lr` to 0 along half a cosine."""
        head = AttentiveHead(self.x.shape[2], self.grid, int(self.y.max()) + 1, rng(self.seed, "attentive"))
        optimizer = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=WEIGHT_DECAY)
        with torch.enable_grad():
            for epoch in range(self.epochs):
                order = rows[torch.randperm(len(rows), generator=rng(self.seed, "attentive", epoch))]
                for group in optimizer.param_groups:
                    group["lr"] = lr * (1 + cos(pi * epoch / self.epochs)) / 2
                for part in order.split(BATCH):
                    loss = F.cross_entropy(head(self._standardised(self.x[part])), self.y[part])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
        return head

    @torch.no_grad()
    def votes(self, head: AttentiveHead, x: Tensor) -> Tensor:
        """-> (n, classes) float64 probabilities."""
        return torch.cat([head(self._standardised(part)).double().softmax(1) for part in x.split(BATCH)])

    def _standardised(self, x: Tensor) -> Tensor:
        return (x.float() - self.mean) * self.scale
