"""Terms of pretraining's loss besides the reconstruction error: of inner blocks, or of a whole batch.

A `Term` says which blocks it needs and is given all that the encoder made. `terms_of` makes those that a config asks
for; a task of one's own may append others to `MAE.terms`. They are of training alone.
"""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from mae_ext.config import Config
from mae_ext.model.uniformity import uniformity


class Seen(NamedTuple):
    """Of a rank's samples. tokens: (B, K, D) patch tokens as the encoder gives them. layers: the same after each block
    that any term asks for, not normed. files: (B,) int64 of which file each sample is, or None: each of its own."""

    tokens: Tensor
    layers: Mapping[int, Tensor]
    files: Tensor | None


class Term(nn.Module):
    """`term(Seen)` is a scalar that is added to the loss, with its weight. It draws no numbers and learns no weights.

    A mean over samples is right for any number of ranks; what compares samples takes them from `of_all_ranks`, and
    says so in `TrainConfig.comparing`, by which a batch in parts is refused.
    """

    blocks: tuple[int, ...] = ()
    """Of the encoder, counted from 1: those that it is given the output of."""


class Uniformity(Term):
    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, seen: Seen) -> Tensor:
        return self.weight * uniformity(seen.tokens, seen.files)


def terms_of(config: Config) -> nn.ModuleDict:
    """By their keys in `train`."""
    weight = config.train.uniformity
    return nn.ModuleDict({"uniformity": Uniformity(weight)} if weight else {})
