"""Several blocks of the encoder for the decoder (MFF, 2308.00261), so that the last need not keep pixels."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Fusion(nn.Module):
    """A mean of the encoder's inner `blocks`, a linear map of each, and of the last as it is, with learned weights.

    All weigh the same at first. A part of the decoder: the encoder's own output stays that of its last block.
    """

    def __init__(self, blocks: Sequence[int], depth: int, width: int) -> None:
        super().__init__()
        self.last, self.blocks = depth, (*blocks, depth)
        self.maps = nn.ModuleList(nn.Linear(width, width) for _ in blocks)
        self.weights = nn.Parameter(torch.zeros(len(self.blocks)))

    def forward(self, layers: Mapping[int, Tensor], norm: nn.Module) -> Tensor:
        """{block: (B, [c +] K, D) as it leaves it} -> (B, [c +] K, D), by the encoder's norm."""
        *inner, last = self.weights.softmax(0).unbind()
        mixed = last * layers[self.last]
        for number, share, own in zip(self.blocks, inner, self.maps, strict=False):
            mixed = mixed + share * own(layers[number])
        out: Tensor = norm(mixed)
        return out
