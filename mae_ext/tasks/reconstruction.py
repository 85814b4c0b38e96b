"""Reconstruction beside a task's labels: of hidden patches of the same samples, and of others that nobody labelled."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from math import isfinite
from typing import Protocol, TypeVar

from torch import Tensor, nn

from mae_ext.config import Config, ModalityConfig
from mae_ext.data.batch import Batch
from mae_ext.data.loading.batches import ModalityData
from mae_ext.data.sources.classes import check_apart
from mae_ext.engine.task import backbone_of
from mae_ext.errors import ConfigError, UserError
from mae_ext.model.mae import MAE
from mae_ext.model.mask import check_masks
from mae_ext.model.modality import Modality, build_maskers

UNLABELLED = "_unlabelled"
"""After the name of the modality, that of the stream of samples without labels: in keys of chance, losses, ledgers."""


@dataclass(frozen=True)
class Reconstruction:
    """What a task's loss has beside that of the labels (SSAT, 2310.20704): `weight` times pretraining's loss of the
    same samples, with the modality's own mask, target and decoder; 0 is none. All but the loss ignores the decoder.

    unlabelled: a source of samples of the same modality, of which each step reads `batch` (the modality's own number by
    default) as a second stream, and adds `weight` times their loss too (SSMAE, 2601.20072). Labelled samples may be
    among them, those of data.test may not. Streams are batched as the modalities of a joint run are, so each is a
    function of the step. Raises ValueError for arguments that mean nothing together.
    """

    weight: float = 0.0
    unlabelled: str | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        weight, unlabelled, batch = self.weight, self.unlabelled, self.batch
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not isfinite(weight) or weight < 0:
            raise ValueError(f"reconstruct={weight!r}: expected the weight of its loss, 0 (off) or more")
        if unlabelled is not None and not isinstance(unlabelled, str):
            raise ValueError(f"unlabelled={unlabelled!r}: expected a path of samples, as data.path takes it")
        if unlabelled is not None and not weight:
            raise ValueError(
                f"unlabelled={unlabelled}: nothing is learned of it without reconstruct; set it, to 0.1 say"
            )
        whole = batch is None or (isinstance(batch, int) and not isinstance(batch, bool) and batch > 0)
        if not whole or (batch is not None and unlabelled is None):
            raise ValueError(f"unlabelled_batch={batch!r}: expected a whole number of samples, and unlabelled, a path")

    def check(self, config: Config) -> None:
        """Raises ConfigError for what goes with no reconstruction."""
        if not self.weight:
            return
        for name, m in config.modalities.items():
            try:
                check_masks(*build_maskers(m, f"modalities.{name}"), m.grid)
            except ValueError as error:
                raise ConfigError(f"task.reconstruct: modalities.{name}.{error}") from None
        if config.train.freeze == "encoder":
            raise ConfigError(
                f"task.reconstruct={self.weight:g} teaches the encoder, which train.freeze=encoder keeps as it is; "
                f"set it to 0, or train.freeze to none"
            )
        if self.unlabelled is not None and config.train.micro_batch is not None:
            raise ConfigError(
                "train.micro_batch counts the samples of modalities, and task.unlabelled has more: set train.accumulate"
            )

    def streams(self, config: Config, labelled: ModalityData) -> dict[str, ModalityData]:
        """By name: of samples without labels, if the task has any, beside `labelled`, which is this rank's.

        Raises UserError for a batch that does not split, and for files, or patients, that are held out as well.
        """
        if self.unlabelled is None:
            return {}
        modality, plan, accumulate = labelled.config, labelled.plan, config.train.accumulate
        batch = self.batch or modality.batch
        for what, parts in (("train.accumulate", accumulate), ("data.repeats", plan.repeats)):
            if batch % (plan.world * parts):
                raise UserError(
                    f"task.unlabelled_batch={batch} does not split over {plan.world} ranks with {what}={parts}; "
                    f"expected a multiple of {plan.world * parts}"
                )
        name = labelled.name + UNLABELLED
        data = ModalityData(config.seed, name, self._without_labels(modality, batch), plan.rank, plan.world)
        if labelled.held_out is not None:
            check_apart(data.items, labelled.held_out.listed, self.unlabelled, str(modality.data.test))
        return {name: data}

    def _without_labels(self, modality: ModalityConfig, batch: int) -> ModalityConfig:
        data = modality.data.model_copy(update={"path": self.unlabelled, "test": None})
        return modality.model_copy(update={"batch": batch, "data": data})


def backbone_for(config: Config) -> MAE:
    """What a task's model keeps as `backbone`: an encoder, and a decoder where the task's loss asks for one."""
    return MAE(config, decodes=bool(config.task.arguments.get("reconstruct")))


def without_decoder(model: MAE) -> None:
    """What tells an encoder from one that never had a decoder, in place: for whoever takes it away."""
    model.decoder = None
    for modality in model.modalities.values():
        assert isinstance(modality, Modality)
        modality.predict = modality.decoder_position = None


class Reconstructs(Protocol):
    reconstruction: Reconstruction


Tasks = TypeVar("Tasks", bound=Reconstructs)
Loss = Callable[[Tasks, nn.Module, str, Batch], Tensor]


def with_reconstruction(loss: Loss[Tasks]) -> Loss[Tasks]:
    """Decorates a task's loss of labels, which is not asked of a stream without any."""

    @wraps(loss)
    def both(self: Tasks, model: nn.Module, name: str, batch: Batch) -> Tensor:
        weight = self.reconstruction.weight
        if not weight:
            return loss(self, model, name, batch)
        # Labels first: shares of weights are put together as the model's own forward begins (engine/sharded.py).
        own = None if name.endswith(UNLABELLED) else loss(self, model, name, batch)
        modality = name.removesuffix(UNLABELLED)
        hidden = backbone_of(model)(batch.x, batch.mask, modality, batch.valid, batch.spacing, batch.files)
        beside: Tensor = weight * hidden.float()
        return beside if own is None else own + beside

    return both
