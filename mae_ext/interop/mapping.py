"""What mapping another library's state dict onto ours takes, whatever the library."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mae_ext.errors import CheckpointError


class Theirs:
    """weights: their state dict. kind: what it is expected to be, for messages. ours: what has been mapped so far."""

    def __init__(self, weights: Mapping[str, Tensor], kind: str) -> None:
        self.weights, self.kind, self.ours = weights, kind, dict[str, Tensor]()

    def take(self, name: str) -> Tensor:
        """Raises CheckpointError for a weight that is not there."""
        if name not in self.weights:
            raise CheckpointError(f"no weight '{name}'; expected those of {self.kind}")
        return self.weights[name]

    def put(self, mine: str, yours: str) -> None:
        """A layer's weight and bias, from their name for it to ours."""
        for kind in ("weight", "bias"):
            self.ours[f"{mine}.{kind}"] = self.take(f"{yours}.{kind}")

    def put_qkv(self, mine: str, roles: tuple[str, str, str]) -> None:
        """Three maps as one. A key's bias changes nothing in a softmax, and some have none at all: absent, it is 0."""
        weights = [self.take(f"{role}.weight") for role in roles]
        names = [f"{role}.bias" for role in roles]
        missing = [name for name in names if name not in self.weights]
        if missing not in ([], [names[1]], names):
            self.take(missing[0])
        biases = [self.weights.get(name, weights[0].new_zeros(len(weights[0]))) for name in names]
        self.ours[f"{mine}.weight"], self.ours[f"{mine}.bias"] = torch.cat(weights), torch.cat(biases)

    def put_trunk(
        self, part: str, depth: int, blocks: str, roles: tuple[str, str, str], parts: Mapping[str, str], norm: str
    ) -> None:
        """All blocks of our encoder or decoder and the norm after them; blocks, roles, parts, norm: their names."""
        for i in range(depth):
            block, their_block = f"{part}.trunk.blocks.{i}", f"{blocks}.{i}"
            query, key, value = (f"{their_block}.{role}" for role in roles)
            self.put_qkv(f"{block}.attention.qkv", (query, key, value))
            for mine, yours in parts.items():
                self.put(f"{block}.{mine}", f"{their_block}.{yours}")
        self.put(f"{part}.trunk.norm", norm)
