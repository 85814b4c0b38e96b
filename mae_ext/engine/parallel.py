"""How a model that trains lies over ranks: whole on each of them (DDP), or in shares (FSDP2, `train.parallel: fsdp`).

A step asks one object, `Run.parallel`, for what differs between the two: how its objective is wrapped, when gradients
are exchanged, and what their norms are. Everything that looks at weights from outside of a step (evaluations, probes,
observers) looks at `Run.whole()`, in which all of them are together.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mae_ext.config import Config
from mae_ext.engine.checkpoint import read_tensors
from mae_ext.engine.distributed import Ranks

Groups = dict[str, dict[str, Tensor]]
"""As `Run.snapshot` has them: {"model": {name: tensor}, "optimizer": ...}."""


class Parallel(Protocol):
    """sharded: whether a rank has but a share of each weight, so that ranks save together, and gather."""

    sharded: bool

    def shard(self, model: nn.Module) -> None:
        """In place, before its optimiser is made; the weights stay what they are."""
        ...

    def wrap(self, objective: nn.Module, ranks: Ranks) -> nn.Module:
        """What a step calls: its backward pass leaves the mean gradient of all ranks, where they are exchanged."""
        ...

    def exchange(self, now: bool) -> None:
        """Whether the next backward pass exchanges gradients, or adds to those that this rank has."""
        ...

    def norms(self, gradients: list[Tensor]) -> Tensor:
        """-> (n) float32: the norm of each whole gradient, on every rank."""
        ...

    def whole(self, model: nn.Module, config: Config) -> nn.Module:
        """The model with all of its weights as they are now, always the same object. A meeting of all ranks."""
        ...

    def gathered(self, tensors: Groups) -> Groups:
        """Of a snapshot, every tensor whole, in the host's memory where it was in shares; on rank 0. A meeting."""
        ...

    def park(self) -> None:
        """What `whole` gave is not looked at until the next time."""
        ...

    def read(self, own: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
        """The tensors of a checkpoint's part, laid over ranks as those of `own` are. Raises CheckpointError."""
        ...


class Replicated:
    """Every rank has the model. One process is a group of one, and pays nothing for it."""

    sharded = False

    def __init__(self) -> None:
        self.wrapped: DistributedDataParallel | None = None

    def shard(self, model: nn.Module) -> None:
        pass

    def wrap(self, objective: nn.Module, ranks: Ranks) -> nn.Module:
        if ranks.world == 1:
            return objective
        ids = [ranks.device.index] if ranks.device.type == "cuda" else None
        self.wrapped = DistributedDataParallel(objective, device_ids=ids, gradient_as_bucket_view=True)
        return self.wrapped

    def exchange(self, now: bool) -> None:
        if self.wrapped is not None:
            self.wrapped.require_backward_grad_sync = now

    def norms(self, gradients: list[Tensor]) -> Tensor:
        return torch.stack(torch._foreach_norm(gradients))

    def whole(self, model: nn.Module, config: Config) -> nn.Module:
        return model

    def gathered(self, tensors: Groups) -> Groups:
        return tensors

    def park(self) -> None:
        pass

    def read(self, own: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
        return read_tensors(path)


def parallel_of(config: Config, ranks: Ranks) -> Parallel:
    """One process has nothing to share, whatever the config says."""
    if config.train.parallel == "ddp" or ranks.world == 1:
        return Replicated()
    from mae_ext.engine.sharded import Sharded  # FSDP takes seconds to load

    return Sharded(ranks)
