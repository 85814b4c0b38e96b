"""Probes of a model while it trains. They take nothing from the training: no randomness, no gradient, no data."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from torch import nn

from mae_ext.config import Config, one_modality
from mae_ext.data.loading.batches import build_reader
from mae_ext.data.sources.table import list_items
from mae_ext.engine.crew import Crew
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.evaluation import require_readable
from mae_ext.engine.log import Journal, say, warn
from mae_ext.engine.task import backbone_of
from mae_ext.errors import RunError, UserError
from mae_ext.features.encoder import Features, FrozenEncoder
from mae_ext.features.shares import Share, Wanted
from mae_ext.model_config import Pooled
from mae_ext.probing.labelled import labelled, matched
from mae_ext.probing.probe import PROBES, probe_encoder
from mae_ext.probing.spec import ProbeSpec
from mae_ext.train_config import ProbeConfig


def check_probe(spec: ProbeConfig, config: Config, where: str = "train.probe") -> None:
    """Raises UserError for what can be known before anything is trained: the modality, the pool, and both sources.

    Sources: missing, empty, without labels, with classes or patients that do not go together, or all bad. where: the
    key of the spec.
    """
    name = one_modality(spec.modality, config, where, where + ".modality={}")
    if spec.pool == "class" and not config.model.class_token:
        raise UserError(f"{where}.pool=class: this model has no class token (model.class_token is false); use mean")
    suffixes = tuple(build_reader(config.modalities[name], f"modalities.{name}.data.reader").suffixes)
    tables = []
    for key, source in (("train", spec.train), ("test", spec.test)):
        items = list_items(source, suffixes)
        if items.labels is None and items.marks is None:
            raise UserError(f"{where}.{key} '{source}': no labels; expected class folders or a labelled list")
        addresses = [items.addresses[i] for i in range(len(items))]
        patients = None if items.patients is None else [items.patients[i] for i in range(len(items))]
        nothing = np.zeros((len(items), 1), dtype=np.float32)
        labels = None if items.labels is None else items.labels.astype(np.int64)
        table = Features(nothing, labels, tuple(items.classes), addresses, [], items.marks, patients)
        tables.append(labelled(table, f"{where}.{key} '{source}'"))
        require_readable(config, name, items, f"{where}.{key} '{source}'")
    matched(*tables)


class ProbesDuring:
    """The observer "probe", which `train.probe` names: adds a row to probes.jsonl at the start, every `every` steps and
    at the end. Arguments are those of `ProbeConfig`; or `sets`, several of these by name, whose rows have it as "set".
    """

    def __init__(
        self,
        every: int | None = None,
        train: str | None = None,
        test: str | None = None,
        modality: str | None = None,
        pool: Pooled = "mean",
        k: int = 20,
        sets: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        one = {"every": every, "train": train, "test": test, "modality": modality, "pool": pool, "k": k}
        if sets is not None and (every, train, test, modality) != (None,) * 4:
            raise ValueError("sets have keys of their own: write every, train, test and modality into each")
        self.specs = {
            name: _spec(name, values) for name, values in (sets if sets is not None else {UNNAMED: one}).items()
        }
        self.total: int | None = None
        self.crew: Crew | None = None

    def share(self, crew: Crew) -> None:
        self.crew = crew

    def helper(self, model: nn.Module, config: Config, ranks: Ranks) -> Callable[[Any], Any]:
        encoders = self._encoders(model, config, 0, Path())

        def answer(question: tuple[str, Wanted]) -> Share:
            name, wanted = question
            return encoders[name].share(wanted, ranks.rank, ranks.world)

        return answer

    def _encoders(self, model: nn.Module, config: Config, step: int, path: Path) -> dict[str, FrozenEncoder]:
        encoders = {}
        for name, spec in self.specs.items():
            modality = one_modality(spec.modality, config, _key(name), _key(name) + ".modality={}")
            encoders[name] = FrozenEncoder(backbone_of(model), config, modality, step, path, keeps=True)
            encoders[name].precision = config.train.precision
            encoders[name].crew = self.crew and self.crew.part(name)
        return encoders

    def check(self, config: Config) -> None:
        for name, spec in self.specs.items():
            check_probe(spec, config, _key(name))

    def due(self, step: int, total: int) -> bool:
        self.total = total  # which a call, that follows, is not told
        return any(spec.due(step, total) for spec in self.specs.values())

    def open(self, model: nn.Module, config: Config, out: Path, start: int) -> None:
        self.initialised, self.encoders = config.init is not None, self._encoders(model, config, start, out)
        self.journal = Journal(out / PROBES, start)
        self.done = {(row.get("set", UNNAMED), row["step"]) for row in self.journal.rows if row.get("in_training")}

    def __call__(self, step: int) -> dict[str, float]:
        scores = dict[str, float]()
        for name, spec in self.specs.items():
            if (name, step) not in self.done and (self.total is None or spec.due(step, self.total)):
                try:
                    looked = self._look(name, spec, step)
                except (UserError, RunError, OSError) as error:
                    if name == UNNAMED:
                        raise
                    warn(f"step {step}: no probe of '{name}' ({error}); the others go on")  # and so does training
                    continue
                scores |= {f"{name}/{key}" if name != UNNAMED else key: value for key, value in looked.items()}
        return scores

    def _look(self, name: str, spec: ProbeConfig, step: int) -> dict[str, float]:
        self.done.add((name, step))
        self.encoders[name].step = step
        asked_of = ProbeSpec(spec.train, spec.test, pool=spec.pool, k=spec.k)
        row = probe_encoder(self.encoders[name], asked_of, "pretrained" if step or self.initialised else "untrained")
        named = {} if name == UNNAMED else {"set": name}
        self.journal.write({**named, **row, "in_training": True})
        scores = {kind: row[kind].get("accuracy", row[kind]["auroc"]) for kind in ("linear", "knn")}
        scores = {kind: value for kind, value in scores.items() if value is not None}
        said = ", ".join(f"{kind} {value:.4f}" for kind, value in scores.items())
        say(f"step {step}: probe {f'{name}: ' * (name != UNNAMED)}{said} ({row['seconds']:.1f} s)")
        return scores

    def sync(self) -> None:
        self.journal.sync()

    def close(self) -> None:
        self.journal.close()


UNNAMED = ""
"""The name of a set that needs none."""


def _key(name: str) -> str:
    return f"train.probe.{name}" if name != UNNAMED else "train.probe"


def _spec(name: str, values: Mapping[str, Any]) -> ProbeConfig:
    try:
        return ProbeConfig(**{key: value for key, value in values.items() if value is not None})
    except ValidationError as error:
        prefix = f"{name}." if name != UNNAMED else ""
        raise ValueError("; ".join(f"{prefix}{e['loc'][0]}: {e['msg']}" for e in error.errors())) from None
