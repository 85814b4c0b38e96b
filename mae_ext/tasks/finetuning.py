"""What all tasks that begin with an encoder share: one modality, its sources, its statistics, weights, evaluation."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from mae_ext.config import Config, ModalityConfig
from mae_ext.data.loading.batches import ModalityData
from mae_ext.data.loading.examples import Examples, HeldOut
from mae_ext.data.loading.statistics import resolve_statistics
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.evaluation import of_all_ranks
from mae_ext.engine.pretrain import with_statistics
from mae_ext.engine.task import backbone_of
from mae_ext.errors import ConfigError, UserError
from mae_ext.interop.origin import Report
from mae_ext.tasks.backbone import load_backbone
from mae_ext.tasks.reconstruction import Reconstruction


class FineTuning(ABC):
    """A `Task` on one modality, to inherit from. Its own are, besides the three abstract methods, `model`, `loss` and
    `predict`, as in `Task`; and `settle`, where it has numbers or names to find in the data.

    Sources are listed and labels parsed in `examples`, once in a run. Every rank then judges a share of what is held
    out, and all of them know the scores of the whole. `tests/plugin_example` has a whole one, a regression.

    >>> from mae_ext import FineTuning
    >>> sorted(FineTuning.__abstractmethods__)
    ['answers', 'examples', 'scores']
    """

    reconstruction = Reconstruction()
    """What its loss has beside that of the labels: nothing, unless a task that has the arguments says so."""

    def check(self, config: Config) -> None:
        self.reconstruction.check(config)

    @abstractmethod
    def examples(self, config: Config, name: str) -> tuple[Examples, HeldOut | None]:
        """What is learned from, and what of data.test is judged on, where that is set. data.path is.

        Raises UserError for what cannot be used, by name, and where a sample is in both.
        """

    @abstractmethod
    def answers(
        self, model: nn.Module, config: Config, examples: Any, rows: Sequence[int], device: torch.device,
        bad: list[Any],
    ) -> Iterable[tuple[int, Any]]:  # fmt: skip
        """(row, what the model says of it) for those of the held-out samples at `rows` that can be read.

        bad: gains the others, as `errors.reasons` takes them. What is said goes from rank to rank: it is on the CPU.
        """

    @abstractmethod
    def scores(self, examples: Any, answers: list[tuple[int, Any]], bad: list[Any]) -> dict[str, float]:
        """How right the answers of all ranks are, which come in the order of the samples; bad: those without one."""

    def modality_of(self, config: Config) -> tuple[str, ModalityConfig]:
        """The name and the config of the one modality. Raises ConfigError for another number of them."""
        if len(config.modalities) > 1:
            raise ConfigError(
                f"task {config.task.name} takes one modality, and the config has {', '.join(config.modalities)}"
            )
        return next(iter(config.modalities.items()))

    def data(self, config: Config, rank: int = 0, world: int = 1) -> dict[str, ModalityData]:
        name, modality = self.modality_of(config)
        if modality.data.path is None:
            raise UserError(f"modalities.{name}.data.path is not set: give --data PATH")
        train, judged = self.examples(config, name)
        masked = self.reconstruction.weight > 0
        labelled = ModalityData(config.seed, name, modality, rank, world, train, judged, masked)
        return {name: labelled, **self.reconstruction.streams(config, labelled)}

    def settle(self, config: Config, data: dict[str, ModalityData], old: Config | None) -> Config:
        if old is not None and old.task.name != config.task.name:
            raise UserError(
                f"--out holds a run of the task '{old.task.name}', and this one is of '{config.task.name}': choose "
                f"another"
            )
        return resolve_statistics(config, data) if old is None else with_statistics(config, old)

    def start(self, model: nn.Module, config: Config) -> Report:
        return load_backbone(backbone_of(model), config)

    def evaluate(
        self, model: nn.Module, config: Config, data: dict[str, ModalityData], ranks: Ranks
    ) -> dict[str, float]:
        name, modality = self.modality_of(config)
        held_out = data[name].held_out
        if held_out is None:
            return {}
        examples, bad = held_out.examples, list[Any]()
        assert examples is not None
        rows = range(ranks.rank, len(examples.items), ranks.world)
        mine = list(self.answers(model, config, examples, rows, ranks.device, bad))
        answers, bad = of_all_ranks(ranks, mine, bad, len(examples.items), modality.data)
        return self.scores(examples, answers, bad)
