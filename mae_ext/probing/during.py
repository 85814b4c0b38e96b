"""Probes of a model while it trains. They take nothing from the training: no randomness, no gradient, no data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from mae_ext.config import Config, one_modality
from mae_ext.data.loading.loader import build_reader
from mae_ext.data.sources.table import list_items
from mae_ext.engine.evaluation import require_readable
from mae_ext.engine.log import Journal, say, warn
from mae_ext.errors import RunError, UserError
from mae_ext.features.encoder import Features, FrozenEncoder
from mae_ext.model.mae import MAE
from mae_ext.probing.labelled import labelled, matched
from mae_ext.probing.probe import PROBES, Reading, judged
from mae_ext.schedule import ProbeConfig


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
    """Called with each step that is done; adds a row to probes.jsonl when one is due.

    start: of the run or of its going on; rows of later steps are dropped, as they will be made again. What can never
    work `check_probe` has refused before; later trouble is a warning, and training goes on.
    """

    def __init__(self, spec: ProbeConfig, model: MAE, config: Config, out: Path, start: int, total: int) -> None:
        name = one_modality(spec.modality, config, "train.probe", "train.probe.modality={}")
        self.spec, self.model, self.total, self.initialised = spec, model, total, config.init is not None
        self.encoder = FrozenEncoder(model, config, name, start, out, keeps=True)
        self.journal = Journal(out / PROBES, start)
        self.done = {row["step"] for row in self.journal.rows if row.get("in_training")}

    def __call__(self, step: int) -> None:
        if step in self.done or not self.spec.due(step, self.total):
            return
        self.done.add(step)
        spec = self.spec
        self.encoder.step = step
        read = Reading(self.encoder)
        weights = "pretrained" if step or self.initialised else "untrained"
        try:
            with _aside(self.model):
                row = judged(read, spec.train, spec.test, spec.k, spec.pool, 100, 0, False, None, weights)
        except (UserError, RunError, OSError) as error:
            warn(f"step {step}: no probe ({error}); training goes on")
            return
        self.journal.write({**row, "in_training": True})
        found = [(kind, row[kind].get("accuracy", row[kind]["auroc"])) for kind in ("linear", "knn")]
        said = ", ".join(f"{kind} {value:.4f}" for kind, value in found if value is not None)
        say(f"step {step}: probe {said} ({row['seconds']:.1f} s)")

    def close(self) -> None:
        self.journal.close()


@contextmanager
def _aside(model: MAE) -> Iterator[None]:
    """In eval mode, and with the global generators, from which a plug-in may draw, left as they were."""
    was, cpu = model.training, torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    model.eval()
    try:
        yield
    finally:
        model.train(was)
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)
