"""Probes of a model while it trains. They take nothing from the training: no randomness, no gradient, no data."""

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError
from torch import nn

from mae_ext.config import Config, one_modality
from mae_ext.data.loading.batches import build_reader
from mae_ext.data.sources.table import list_items
from mae_ext.engine.evaluation import require_readable
from mae_ext.engine.log import Journal, say
from mae_ext.engine.task import backbone_of
from mae_ext.errors import UserError
from mae_ext.features.encoder import Features, FrozenEncoder
from mae_ext.probing.labelled import labelled, matched
from mae_ext.probing.probe import PROBES, probe_encoder
from mae_ext.probing.spec import ProbeSpec
from mae_ext.train_config import ProbeConfig


def check_probe(spec: ProbeConfig, config: Config) -> None:
    """Raises UserError for what can be known before anything is trained: the modality, the pool, and both sources.

    Sources: missing, empty, without labels, with classes or patients that do not go together, or all bad.
    """
    name = one_modality(spec.modality, config, "train.probe", "train.probe.modality={}")
    if spec.pool == "class" and not config.model.class_token:
        raise UserError("train.probe.pool=class: this model has no class token (model.class_token is false); use mean")
    suffixes = tuple(build_reader(config.modalities[name], f"modalities.{name}.data.reader").suffixes)
    tables = []
    for key, source in (("train", spec.train), ("test", spec.test)):
        items = list_items(source, suffixes)
        if items.labels is None and items.marks is None:
            raise UserError(f"train.probe.{key} '{source}': no labels; expected class folders or a labelled list")
        addresses = [items.addresses[i] for i in range(len(items))]
        patients = None if items.patients is None else [items.patients[i] for i in range(len(items))]
        nothing = np.zeros((len(items), 1), dtype=np.float32)
        labels = None if items.labels is None else items.labels.astype(np.int64)
        table = Features(nothing, labels, tuple(items.classes), addresses, [], items.marks, patients)
        tables.append(labelled(table, f"train.probe.{key} '{source}'"))
        require_readable(config, name, items, f"train.probe.{key} '{source}'")
    matched(*tables)


class ProbesDuring:
    """The observer "probe", which `train.probe` names: adds a row to probes.jsonl at the start, every `every` steps and
    at the end. Arguments are those of `ProbeConfig`."""

    def __init__(
        self,
        every: int,
        train: str,
        test: str,
        modality: str | None = None,
        pool: Literal["mean", "class"] = "mean",
        k: int = 20,
    ) -> None:
        try:
            self.spec = ProbeConfig(every=every, train=train, test=test, modality=modality, pool=pool, k=k)
        except ValidationError as error:
            raise ValueError("; ".join(f"{e['loc'][0]}: {e['msg']}" for e in error.errors())) from None

    def check(self, config: Config) -> None:
        check_probe(self.spec, config)

    def due(self, step: int, total: int) -> bool:
        return self.spec.due(step, total)

    def open(self, model: nn.Module, config: Config, out: Path, start: int) -> None:
        name = one_modality(self.spec.modality, config, "train.probe", "train.probe.modality={}")
        self.initialised = config.init is not None
        self.encoder = FrozenEncoder(backbone_of(model), config, name, start, out, keeps=True)
        self.journal = Journal(out / PROBES, start)
        self.done = {row["step"] for row in self.journal.rows if row.get("in_training")}

    def __call__(self, step: int) -> dict[str, float]:
        if step in self.done:
            return {}
        self.done.add(step)
        self.encoder.step = step
        spec = ProbeSpec(self.spec.train, self.spec.test, pool=self.spec.pool, k=self.spec.k)
        row = probe_encoder(self.encoder, spec, "pretrained" if step or self.initialised else "untrained")
        self.journal.write({**row, "in_training": True})
        scores = {kind: row[kind].get("accuracy", row[kind]["auroc"]) for kind in ("linear", "knn")}
        scores = {kind: value for kind, value in scores.items() if value is not None}
        said = ", ".join(f"{kind} {value:.4f}" for kind, value in scores.items())
        say(f"step {step}: probe {said} ({row['seconds']:.1f} s)")
        return scores

    def sync(self) -> None:
        self.journal.sync()

    def close(self) -> None:
        self.journal.close()
