"""What comes before the first step and is a `Run`: files, settings, statistics, the model with its weights."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mae_ext import plugins
from mae_ext.config import Config
from mae_ext.data.loading.batches import ModalityData
from mae_ext.data.loading.statistics import share_of, shared_by
from mae_ext.engine.checkpoint import latest, read_config, steps_of
from mae_ext.engine.compiling import extent_of
from mae_ext.engine.cpu import on_device
from mae_ext.engine.crew import Crew
from mae_ext.engine.distributed import Ranks, check_split, lost_rank
from mae_ext.engine.evaluation import announce, check_held_out
from mae_ext.engine.ledger import Ledger
from mae_ext.engine.log import announced, warn
from mae_ext.engine.meaning import check_meaning
from mae_ext.engine.micro_batch import agreed, in_parts, tried, with_parts
from mae_ext.engine.numerics import standing_of
from mae_ext.engine.optim import Schedule, freeze
from mae_ext.engine.optimizers import optimizer_of
from mae_ext.engine.parallel import Parallel, Replicated, parallel_of
from mae_ext.engine.precision import LossScale
from mae_ext.engine.resume import (
    Standing,
    asked_statistics,
    check_same,
    kept_statistics,
    lasting,
    measured_anew,
    restore,
    snapshot,
    to_measure,
)
from mae_ext.engine.stop import HeedfulRanks, Interrupted, StopFlag
from mae_ext.engine.task import Task, build_model, task_of
from mae_ext.errors import NoneMeasurable, Stopped
from mae_ext.interop.origin import Report
from mae_ext.progress import watched_by


@dataclass(frozen=True)
class Run:
    """All that a step needs. config: settled, with numbers where it left them to the data.

    at: where it stood when it was made; checkpoint: the one that it goes on from, or None. observers, loggers: by
    name, not yet open; none where a step is replayed.
    """

    config: Config
    task: Task
    data: dict[str, ModalityData]
    ranks: Ranks
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: LossScale
    schedule: Schedule
    at: Standing = field(default_factory=Standing)
    checkpoint: Path | None = None
    start: Report | None = None
    """What became of the weights that it started from, in the process that loaded them."""
    observers: dict[str, Any] = field(default_factory=dict)
    loggers: dict[str, Any] = field(default_factory=dict)
    parallel: Parallel = field(default_factory=Replicated)

    @contextmanager
    def whole(self) -> Iterator[nn.Module]:
        """The model with all of its weights as they are now, on every rank, and always the same object: what looks at
        them from outside of a step looks at this one. All ranks enter it together, and may differ inside."""
        try:
            yield self.parallel.whole(self.model, self.config)
        finally:
            self.parallel.park()

    @property
    def numerics(self) -> dict[str, Any]:
        """What its last bits depend on (engine/numerics.py)."""
        return standing_of(self.config, self.ranks, extent_of(self.config, self.ranks))

    def snapshot(self, skipped: int) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """What a checkpoint holds. skipped: updates in a row that fp16's loss scaler has left out by now."""
        extra = {"scaler": self.scaler.state_dict(), "skipped": skipped, "statistics": self.at.statistics}
        extra["numerics"] = self.numerics
        return snapshot(self.model, self.optimizer, self.data, self.lasting | extra)

    @cached_property
    def lasting(self) -> dict[str, Any]:
        return lasting(self.data, self.config)


def assembled(
    config: Config, data: dict[str, ModalityData], ranks: Ranks, at: Standing | None = None,
    checkpoint: Path | None = None,
) -> Run:  # fmt: skip
    """The run of a settled config at its start, or as a checkpoint left it (and `at`, read from it)."""
    task, at = task_of(config), at or Standing()
    samples = next((d.plan.samples_per_epoch for d in data.values()), 0)
    torch.manual_seed(0)  # nothing of ours draws from it; a plug-in that does is at least the same in every run
    model = build_model(config)
    report = task.start(model, config) if checkpoint is None and config.init is not None else None
    model = on_device(model, ranks.device).train()
    freeze(model, config.train.freeze)
    if config.train.micro_batch == "auto":
        config = in_parts(config, tried(config, task, data, model, ranks))
    parallel = parallel_of(config, ranks)
    parallel.shard(model)
    optimizer, scaler = optimizer_of(model, config.train), LossScale(ranks.device, config.train.precision)
    if checkpoint is not None:
        restore(checkpoint, config, model, optimizer, scaler, at, parallel)
    alone = ranks.world == 1 and extent_of(config, ranks) is None
    schedule = replace(Schedule.of(config, samples), spare=alone)
    return Run(config, task, data, ranks, model, optimizer, scaler, schedule, at, checkpoint, report, parallel=parallel)


def begin(config: Config, out: Path, ranks: Ranks, stop: StopFlag, allow_change: bool) -> Run:
    """Reads and measures, and writes nothing. A signal ends it at once: raises Stopped."""
    heedful = HeedfulRanks(ranks.rank, ranks.world, ranks.device, ranks.waiting, stop)
    try:
        with watched_by(announced) if ranks.main else nullcontext():
            return replace(_begun(config, out, heedful, allow_change), ranks=ranks)
    except Interrupted:
        pass
    except RuntimeError as error:
        # Told to stop, a rank that lists files leaves at once, and others that wait for it lose it.
        if not (stop.received and ranks.world > 1 and lost_rank(error)):
            raise
    raise Stopped(
        "stopped by a signal before a step was taken; the same command goes on"
        if steps_of(out / "checkpoints")
        else "stopped by a signal before the first step; the same command starts again",
        # A launcher of which a rank has died ends the others with this one, and may start all again.
        agreed=stop.received != signal.SIGTERM,
    )


def _begun(config: Config, out: Path, ranks: HeedfulRanks, allow_change: bool) -> Run:
    config = with_parts(config, ranks.world)
    check_split(config, ranks.world)
    extent_of(config, ranks)  # which refuses what cannot be
    check_meaning(config)
    observers, loggers = (
        {spec.name: registry.build(spec.name, spec.arguments, where) for spec in specs}
        for registry, specs, where in (
            (plugins.observers, config.train.all_observers, "train.observe"),
            (plugins.loggers, config.train.all_loggers, "train.loggers"),
        )
    )
    ranks.on_main(lambda: [logger.check() for logger in loggers.values()])
    checkpoint = ranks.on_main(lambda: latest(out, warn))
    task, statistics = task_of(config), asked_statistics(config)
    data = ranks.alone(lambda: task.data(config, ranks.rank, ranks.world))
    if checkpoint is None and ranks.main:
        announce(data)  # before it is measured, which may take long
    with _told_of_all_bad(out, ranks):
        ranks.on_main(lambda: _check_judged(config, data, observers))
    if checkpoint is None:
        with _told_of_all_bad(out, ranks):
            unsettled = config
            config = _with_help(ranks, lambda: task.settle(unsettled, data, None), unsettled, data)
        at = Standing(statistics=statistics)
    else:
        at = Standing.read(checkpoint)
        config = task.settle(config, data, read_config(checkpoint))
        check_same(config, checkpoint, at, data, allow_change, statistics)
        if ranks.main:
            announce(data)
        if anew := to_measure(statistics, at):
            before = config
            config = _with_help(ranks, lambda: measured_anew(before, anew, data), before, data)
        kept = kept_statistics(config, checkpoint)
        at = replace(at, statistics=statistics | {n: at.statistics.get(n, statistics[n]) for n in kept})
    run = ranks.alone(lambda: assembled(config, data, ranks, at, checkpoint))
    if config.train.micro_batch == "auto":
        run = replace(run, config=agreed(run.config, ranks))
    return replace(run, observers=observers, loggers=loggers)


def _with_help(
    ranks: HeedfulRanks, work: Callable[[], Config], config: Config, data: dict[str, ModalityData]
) -> Config:
    """What rank 0's work gives, on every rank, as `on_main`; of files that it measures, every rank reads a share."""
    crew = Crew(Ranks(ranks.rank, ranks.world, ranks.device, ranks.waiting), ranks.stop)
    if ranks.world == 1:
        return ranks.on_main(work)
    if not ranks.main:
        crew.serve({"": lambda name: share_of(config, data, name, ranks.rank, ranks.world)})

    def helped() -> Config:
        try:
            with shared_by(lambda name: lambda own: crew.ask(name, lambda: own(0, ranks.world))):
                return work()
        finally:
            crew.done()

    return ranks.on_main(helped)


def _check_judged(config: Config, data: dict[str, ModalityData], observers: dict[str, Any]) -> None:
    """Raises UserError for held-out data, or a probe's, that cannot be judged at all: now, and not hours from now."""
    check_held_out(config, data)
    for observer in observers.values():
        observer.check(config)


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
