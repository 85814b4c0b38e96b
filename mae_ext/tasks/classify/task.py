"""The task of classification: an encoder, its tokens pooled, one linear layer."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from mae_ext.config import Config
from mae_ext.data.batch import Batch
from mae_ext.data.change.distort import distort
from mae_ext.data.change.mix import Mix
from mae_ext.data.loading.batches import ModalityData, build_reader
from mae_ext.data.loading.examples import HeldOut
from mae_ext.data.plan import Key
from mae_ext.data.sample import CropSampler, Sample, read_checked
from mae_ext.data.sources.classes import labelled_split, settled, share_or_count
from mae_ext.data.sources.table import Items
from mae_ext.errors import ConfigError, UserError, reasons
from mae_ext.features.encoder import FrozenEncoder
from mae_ext.probing.attentive import AttentivePool
from mae_ext.progress import Progress
from mae_ext.rng import rng
from mae_ext.tasks.classify.bags import Bags, Gate, Joining, bag_loss, shown_in
from mae_ext.tasks.classify.judge import class_scores, probabilities, write_predictions
from mae_ext.tasks.finetuning import FineTuning
from mae_ext.tasks.reconstruction import Reconstruction, backbone_for, with_reconstruction

TARGET = "classes"
Pooling = Literal["mean", "class", "attentive"]
HEAD_STD = 2e-5
"""Of the last layer's first weights (facebookresearch/mae, main_finetune.py)."""


class Classifier(nn.Module):
    def __init__(self, config: Config, name: str, pool: Pooling, classes: int, gated: bool = False) -> None:
        super().__init__()
        assert config.model.width
        self.pool = pool
        self.backbone = backbone_for(config)
        if pool == "attentive":
            grid = config.modalities[name].grid
            self.gather = AttentivePool(config.model.width, grid, rng(config.seed, "init", "pool"))
        # The mean of normalised tokens is not normalised (MAE's fc_norm).
        self.norm = nn.LayerNorm(config.model.width, eps=config.model.norm_eps)
        self.head = nn.Linear(config.model.width, classes)
        nn.init.trunc_normal_(self.head.weight, std=HEAD_STD, generator=rng(config.seed, "init", "head"))
        nn.init.zeros_(self.head.bias)
        self.gate = Gate(config.model.width, rng(config.seed, "init", "gate")) if gated else None

    def forward(self, x: Tensor, name: str, spacing: Tensor | None = None, of_bags: bool = False) -> Tensor:
        """(B, C, *S) in reader units -> (B, classes) float32 logits; of bags with one column more, where windows have a
        gate: what each counts."""
        tokens = self.backbone.encode_all(x, name, spacing)
        patches = self.backbone.encoder.patches(tokens)
        match self.pool:
            case "class":
                pooled = tokens[:, 0]
            case "attentive":
                pooled = self.gather(patches, self.backbone.modality(name).grid_of(x))
            case "mean":
                pooled = patches.mean(1)
        pooled = self.norm(pooled)
        logits: Tensor = self.head(pooled)
        if of_bags and self.gate is not None:
            logits = torch.cat([logits, self.gate(pooled)], 1)
        return logits.float()


class ClassExamples:
    """Samples with their class as a distribution, (classes,) float32, which smoothing and mixing spread."""

    def __init__(self, task: "Classification", config: Config, name: str, items: Items) -> None:
        self.task, self.seed, self.name = task, config.seed, name
        self.modality = config.modalities[name]
        self.reader = build_reader(self.modality, f"modalities.{name}.data.reader")
        self.items, self.classes = items, items.classes
        assert items.labels is not None
        self.numbers = items.labels
        self.identity = json.dumps([items.classes, items.labels.tolist()]).encode()
        self.together = 2 if task.mix.mixup or task.mix.cutmix else 1

    def read(self, index: int, keys: Sequence[Key], crops: Sequence[CropSampler]) -> list[Sample]:
        shape = (self.modality.channels, *self.modality.size)
        as_stored = not (self.task.distort or self.task.erase)
        samples = read_checked(self.reader, self.items.addresses[index], crops, shape, as_stored)
        target = smoothed(torch.tensor(int(self.numbers[index])), len(self.classes), self.task.smoothing)
        labelled = []
        for sample, key in zip(samples, keys, strict=True):
            generator = rng(self.seed, "distort", self.name, key.epoch, index, key.repeat)
            x = distort(sample.x, self.task.distort, self.task.strength, self.task.erase, generator)
            labelled.append(replace(sample, x=x, targets={TARGET: target}))
        return labelled

    def finish(self, batch: Batch, keys: Sequence[Key], step: int) -> Batch:
        return self.task.mix(batch, keys, self.seed, self.name, step, TARGET)


def smoothed(label: Tensor, classes: int, smoothing: float) -> Tensor:
    """() int64 -> (classes,) float32: the class, with `smoothing` of it spread over all (1512.00567)."""
    return one_hot(label, classes).float() * (1 - smoothing) + smoothing / classes


class Classification(FineTuning):
    """Fine-tune for classes, of any modality.

    pool: mean of the patch tokens, the first class token, or what learned queries gather from patch tokens, which tells
    apart what differs only in where it is seen (a rotation). labels: the share of each class's samples that is used,
    with a point (0.1; 1.0 is all), or so many a class (10, "1 each"); which ones depends on the seed alone. smoothing,
    mixup, cutmix: of labels, and the parameters of the two mixtures, 0 is off (MAE, 2111.06377, table 9: 0.1, 0.8, 1).
    distort: so many random operations on values and place, each with `strength` 0..1 (table 9: RandAugment with 2 of
    0.5), and `erase`: the chance of an erased box (MAE's code: 0.25). classes: found in the data; a checkpoint holds
    them, a config need not. reconstruct, unlabelled, unlabelled_batch: as `Reconstruction` has them.
    """

    chief = ("accuracy", "most")

    def __init__(
        self,
        pool: Pooling = "mean",
        labels: float | int | str = 1.0,
        smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        distort: int = 0,
        strength: float = 0.5,
        erase: float = 0.0,
        classes: Sequence[str] = (),
        reconstruct: float = 0.0,
        unlabelled: str | None = None,
        unlabelled_batch: int | None = None,
        windows: Joining | None = None,
        overlap: float = 0.25,
    ) -> None:
        if windows is not None and windows not in get_args(Joining):
            raise ValueError(f"windows={windows!r}: expected {', '.join(get_args(Joining))}, or null for the middle")
        if not 0 <= overlap <= 0.9:
            raise ValueError(f"overlap={overlap}: expected 0 to 0.9, a share of a window's side")
        if pool not in get_args(Pooling):
            raise ValueError(
                f"pool={pool!r}: expected 'mean' (over patch tokens), 'class' (the class token) or 'attentive'"
            )
        for what, value, most in (("smoothing", smoothing, 0.999), ("strength", strength, 1.0), ("erase", erase, 1.0)):
            if not 0 <= value <= most:
                raise ValueError(f"{what}={value}: expected 0 to {most:g}")
        for what, value in (("mixup", mixup), ("cutmix", cutmix), ("distort", distort)):
            if not 0 <= value < 100:
                raise ValueError(f"{what}={value}: expected 0 (off) or more")
        if not isinstance(distort, int):
            raise ValueError(f"distort={distort}: expected a whole number of operations")
        self.pool, self.labels, self.smoothing, self.mix = pool, share_or_count(labels), smoothing, Mix(mixup, cutmix)
        self.distort, self.strength, self.erase, self.classes = distort, strength, erase, tuple(classes)
        self.reconstruction = Reconstruction(reconstruct, unlabelled, unlabelled_batch)
        self.bags = None if windows is None else Bags(windows, overlap)

    def data(self, config: Config, rank: int = 0, world: int = 1) -> dict[str, ModalityData]:
        name, modality = self.modality_of(config)
        mixes = self.mix.mixup or self.mix.cutmix
        if mixes and modality.batch % (2 * world):
            raise UserError(
                f"modalities.{name}.batch={modality.batch}: mixup and cutmix pair samples, so over {world} ranks "
                f"expected a multiple of {2 * world}"
            )
        if mixes and modality.data.repeats > 1:
            raise UserError(
                f"modalities.{name}.data.repeats={modality.data.repeats}: mixup and cutmix would mix a file with "
                f"itself; expected 1, or both of them 0"
            )
        bag, share = modality.data.repeats, modality.batch // (world * config.train.accumulate)
        if self.bags is not None and share % bag:
            raise UserError(
                f"task.windows: the {bag} crops of one reading (data.repeats) are answered together, and {share} "
                f"samples are computed at a time; expected a multiple of {bag}: change modalities.{name}.batch, or "
                f"train.accumulate"
            )
        return super().data(config, rank, world)

    def examples(self, config: Config, name: str) -> tuple[ClassExamples, HeldOut | None]:
        modality = config.modalities[name]
        assert modality.data.path is not None
        suffixes = tuple(build_reader(modality, f"modalities.{name}.data.reader").suffixes)
        split = labelled_split(name, modality.data.path, modality.data.test, suffixes, self.labels, config.seed)
        if self.classes and self.classes != split.classes:
            raise UserError(
                f"task.classes: the config has {', '.join(self.classes)}, the training data {', '.join(split.classes)}"
            )
        train = ClassExamples(self, config, name, split.train)
        if split.test is None or split.listed is None:
            return train, None
        return train, HeldOut(split.listed, ClassExamples(self, config, name, split.test))

    def settle(self, config: Config, data: dict[str, ModalityData], old: Config | None) -> Config:
        config = super().settle(config, data, old)
        examples = data[self.modality_of(config)[0]].examples
        assert isinstance(examples, ClassExamples)
        return config.model_copy(update={"task": settled(config.task, examples.classes, old)})

    def model(self, config: Config) -> nn.Module:
        if not self.classes:
            raise ConfigError("task.classes is empty; they are found in the data when a run is started")
        if self.pool == "class" and not config.model.class_token:
            raise ConfigError("task.pool=class, but model.class_token is false; use mean")
        gated = self.bags is not None and self.bags.how == "attentive"
        return Classifier(config, self.modality_of(config)[0], self.pool, len(self.classes), gated)

    @with_reconstruction
    def loss(self, model: nn.Module, name: str, batch: Batch) -> Tensor:
        targets = batch.targets[TARGET]
        if self.bags is None:
            return cross_entropy(model(batch.x, name, batch.spacing), targets)
        weight = shown_in(batch.x, batch.valid) if self.bags.how == "weighted" else None
        return bag_loss(model(batch.x, name, batch.spacing, True), targets, batch.files, weight, self.bags)

    def answers(
        self, model: nn.Module, config: Config, examples: ClassExamples, rows: Sequence[int], device: torch.device,
        bad: list[Any],
    ) -> Iterator[tuple[int, list[float]]]:  # fmt: skip
        encoder = FrozenEncoder(model.backbone, config, examples.name, 0, Path(), keeps=True)  # type: ignore[arg-type]
        for answered, values in probabilities(
            model, encoder, examples.items, rows, device, bad, len(examples.classes), self.bags
        ):
            yield from zip(answered, values.tolist(), strict=True)

    def scores(
        self, examples: ClassExamples, answers: list[tuple[int, list[float]]], bad: list[Any]
    ) -> dict[str, float]:
        if not answers:
            source = examples.modality.data.test
            raise UserError(f"{source}: none of its {len(examples.items)} samples can be read: {reasons(bad)}")
        wanted = torch.from_numpy(examples.numbers)[[row for row, _ in answers]]
        return class_scores(torch.tensor([values for _, values in answers]), wanted)

    def predict(
        self, model: nn.Module, config: Config, sources: Sequence[str], out: Path, progress: Progress | None = None
    ) -> list[Path]:
        encoder = FrozenEncoder(model.backbone, config, self.modality_of(config)[0], 0, Path())  # type: ignore[arg-type]
        return write_predictions(model, encoder, self.classes, sources, out, progress, self.bags)
