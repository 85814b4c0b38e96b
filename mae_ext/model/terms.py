"""Terms of pretraining's loss besides the reconstruction error: of inner blocks, or of a whole batch.

A `Term` says which blocks it needs and is given all that the encoder made. `terms_of` makes those that a config asks
for; a task of one's own may append others to `MAE.terms`. They are of training alone.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mae_ext.config import Config
from mae_ext.model.align import agreement, contrast
from mae_ext.model.all_ranks import of_all_ranks
from mae_ext.model.magma import magma
from mae_ext.model.uniformity import uniformity
from mae_ext.train_config import AlignConfig

PART = "terms."
"""How names of weights begin that learn with a term and are no part of what is pretrained."""


class Seen(NamedTuple):
    """Of a rank's samples. tokens: (B, K, D) patch tokens as the encoder gives them. layers: the same after each block
    that any term asks for, not normed. files: (B,) int64 of which file each sample is, or None: each of its own."""

    tokens: Tensor
    layers: Mapping[int, Tensor]
    files: Tensor | None


class Term(nn.Module):
    """`term(Seen)` is a scalar that is added to the loss, with its weight. It draws no numbers.

    A mean over samples is right for any number of ranks; what compares samples takes them from `of_all_ranks`, and
    says so in `TrainConfig.comparing`, by which a batch in parts is refused.
    """

    blocks: tuple[int, ...] = ()
    """Of the encoder, counted from 1: those that it is given the output of."""

    def at(self, share: float) -> None:
        """Called before each step of a run: how much of the run is over, 0..1."""


class Uniformity(Term):
    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, seen: Seen) -> Tensor:
        return self.weight * uniformity(seen.tokens, seen.files)


class Magma(Term):
    """Of block depth - 2, as MAGMA's recipes have it (at least the first), and the last."""

    strength: Tensor

    def __init__(self, weight: float, warmup: float, depth: int) -> None:
        super().__init__()
        self.weight, self.warmup, self.blocks = weight, warmup, (max(1, depth - 2),)
        self.register_buffer("strength", torch.ones(()), persistent=False)  # a tensor: a number would be compiled anew

    def at(self, share: float) -> None:
        self.strength.fill_(min(1.0, share / self.warmup) if self.warmup else 1.0)

    def forward(self, seen: Seen) -> Tensor:
        means = [tokens.float().mean(1) for tokens in (seen.layers[self.blocks[0]], seen.tokens)]
        inner, last = of_all_ranks(torch.cat(means, 1))[0].chunk(2, 1)
        with torch.autocast(inner.device.type, enabled=False):  # small differences, of which bf16 has too few digits
            return self.weight * self.strength * magma(inner, last)


class Align(Term):
    """Of mean patch tokens (the pool `mean`), through `project` where there is one."""

    def __init__(self, config: AlignConfig, width: int) -> None:
        super().__init__()
        self.config, self.project = config, None
        if config.project is not None:
            hidden, out = config.project
            self.project = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))

    def forward(self, seen: Seen) -> Tensor:
        if seen.files is None:
            raise ValueError("train.align compares views of one file: give `files`, of which file each sample is")
        rows, files = of_all_ranks(seen.tokens.float().mean(1), seen.files)
        assert files is not None
        with torch.autocast(rows.device.type, enabled=False):
            rows = rows if self.project is None else self.project(rows)
            if self.config.form == "cosine":
                return self.config.weight * agreement(rows, files)
            return self.config.weight * contrast(rows, files, self.config.temperature)


def terms_of(config: Config) -> nn.ModuleDict:
    """By their keys in `train`. New weights are drawn from torch's global generator."""
    model, train, terms = config.model, config.train, nn.ModuleDict()
    assert model.width and model.depth
    if train.uniformity:
        terms["uniformity"] = Uniformity(train.uniformity)
    if train.magma:
        terms["magma"] = Magma(train.magma, train.magma_warmup, model.depth)
    if train.align is not None and train.align.weight:
        terms["align"] = Align(train.align, model.width)
    return terms


def without_terms(config: Config) -> Config:
    """The same model without the weights of `PART`, which nobody needs who encodes."""
    return config.model_copy(update={"train": config.train.model_copy(update={"align": None})})
