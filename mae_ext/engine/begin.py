"""What comes before the first step: files, settings, statistics, the model with its weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from mae_ext.config import Config
from mae_ext.data.loading.loader import ModalityData
from mae_ext.engine import checkpoint
from mae_ext.engine.cpu import on_device
from mae_ext.engine.distributed import Ranks, check_split
from mae_ext.engine.evaluation import announce, check_held_out
from mae_ext.engine.ledger import Ledger
from mae_ext.engine.log import warn
from mae_ext.engine.meaning import check_meaning
from mae_ext.engine.optim import adamw, freeze, schedule
from mae_ext.engine.resume import (
    Progress,
    asked_statistics,
    check_same,
    kept_statistics,
    measured_anew,
    restore,
    to_measure,
)
from mae_ext.engine.stop import HeedfulRanks
from mae_ext.engine.task import Task, build_model, task_of
from mae_ext.errors import NoneMeasurable
from mae_ext.probing.during import check_probe


@dataclass(frozen=True)
class Begun:
    """found: the checkpoint that the run goes on from, or None. total, warmup: in steps. config: settled."""

    task: Task
    config: Config
    data: dict[str, ModalityData]
    found: Path | None
    at: Progress
    model: nn.Module
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    total: int
    warmup: int


def begin(config: Config, out: Path, ranks: HeedfulRanks, allow_change: bool) -> Begun:
    """Reads and measures, and writes nothing. A signal raises Interrupted; see `HeedfulRanks`."""
    check_split(config, ranks.world)
    check_meaning(config)
    found = ranks.on_main(lambda: checkpoint.latest(out, warn))
    task, asked = task_of(config), asked_statistics(config)
    data = ranks.alone(lambda: task.data(config, ranks.rank, ranks.world))
    if found is None and ranks.main:
        announce(config, data)  # before it is measured, which may take long
    with _told_of_all_bad(out, ranks):
        ranks.on_main(lambda: _check_judged(config))
    if found is None:
        with _told_of_all_bad(out, ranks):
            config = _settled(task, config, data, ranks)
        at = Progress(statistics=asked)
    else:
        at = Progress.read(found)
        config = task.settle(config, data, checkpoint.read_config(found))
        check_same(config, found, at, data, allow_change, asked)
        if ranks.main:
            announce(config, data)
        if anew := to_measure(asked, at):
            before = config
            config = ranks.on_main(lambda: measured_anew(before, anew, data))
        at = replace(at, statistics=asked | {n: at.statistics.get(n, asked[n]) for n in kept_statistics(config, found)})
    return ranks.alone(lambda: _built(config, data, found, at, ranks.device))


def _built(
    config: Config, data: dict[str, ModalityData], found: Path | None, at: Progress, device: torch.device
) -> Begun:
    task = task_of(config)  # as settled
    total, warmup = schedule(config, next(iter(data.values())).plan.samples_per_epoch)
    torch.manual_seed(0)  # nothing of ours draws from it; a plug-in that does is at least the same in every run
    model = build_model(config)
    if found is None and config.init is not None:
        task.start(model, config)
    model = on_device(model, device).train()
    freeze(model, config.train.freeze)
    optimizer = adamw(model, config.train)
    scaler = torch.amp.GradScaler(device.type, enabled=config.train.precision == "fp16")
    if found is not None:
        restore(found, config, model, optimizer, scaler, at)
    return Begun(task, config, data, found, at, model, optimizer, scaler, total, warmup)


def _check_judged(config: Config) -> None:
    """Raises UserError for held-out data, or a probe's, that cannot be judged at all: now, and not hours from now."""
    check_held_out(config)
    if config.train.probe:
        check_probe(config.train.probe, config)


def _settled(task: Task, config: Config, data: dict[str, ModalityData], ranks: Ranks) -> Config:
    return ranks.on_main(lambda: task.settle(config, data, None))


@contextmanager
def _told_of_all_bad(out: Path, ranks: Ranks) -> Iterator[None]:
    """Where all files are bad before anything is trained, the ledger says why before the run ends."""
    try:
        yield
    except NoneMeasurable as none:
        if ranks.main:
            ledger = Ledger(out, 0, Ranks(0, 1, ranks.device))
            ledger.last_words(0, none.bad)
            ledger.close()
        raise
