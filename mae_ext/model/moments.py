"""A sample as more than its mean token: what the last blocks make of it, and how that differs from place to place."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

LAST = 4
"""Blocks: as many as DINO's evaluation of small models takes (2104.14294, its code), there of class tokens."""


def last_blocks(depth: int) -> Sequence[int]:
    """Counted from 1."""
    return range(max(1, depth + 1 - LAST), depth + 1)


def moments(layers: Sequence[Tensor]) -> Tensor:
    """[(B, N, D)] after each of n blocks -> (B, 2 n D) float32: of each block the mean of the tokens, and their
    standard deviation over places.

    Tokens are normed first, without weights: blocks write in different sizes. What tells classes apart is in several
    blocks of a masked autoencoder, whose last is about what it rebuilds nearby, and in how patches differ as much as in
    what they have in common.
    """
    normed = [layer_norm(tokens.float(), tokens.shape[-1:]) for tokens in layers]
    return torch.cat([part for x in normed for part in (x.mean(1), x.std(1, correction=0))], dim=-1)
