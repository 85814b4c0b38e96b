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

    def put(self, here: str, there: str) -> None:
        """A layer's weight and bias."""
        for kind in ("weight", "bias"):
            self.ours[f"{here}.{kind}"] = self.take(f"{there}.{kind}")

    def put_qkv(self, here: str, roles: tuple[str, str, str]) -> None:
        """Three maps as one. A key's bias changes nothing in a softmax, and some have none at all: absent, it is 0."""
        weights = [self.take(f"{role}.weight") for role in roles]
        query, key, value = (self.weights.get(f"{role}.bias") for role in roles)
        if (query is None) != (value is None) or (query is None and key is not None):
            self.take(next(f"{role}.bias" for role in roles if f"{role}.bias" not in self.weights))
        zero = weights[0].new_zeros(len(weights[0]))
        biases = [zero if bias is None else bias for bias in (query, key, value)]
        self.ours[f"{here}.weight"], self.ours[f"{here}.bias"] = torch.cat(weights), torch.cat(biases)
