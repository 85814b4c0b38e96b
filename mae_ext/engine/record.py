"""What a run leaves of its steps: rows, bad files, scores, what observers saw, and words on a terminal."""

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae_ext.data.batch import Batch
from mae_ext.data.loading.loader import Loader
from mae_ext.data.sources.meant import one_sided
from mae_ext.engine.best import Best
from mae_ext.engine.checkpoint import write_durably
from mae_ext.engine.cpu import is_native
from mae_ext.engine.efficiency import Efficiency
from mae_ext.engine.evaluation import Evaluations, evaluate
from mae_ext.engine.ledger import Ledger
from mae_ext.engine.log import Journal, Terminal, say, warn
from mae_ext.engine.loggers import Loggers
from mae_ext.engine.meaning import of_first_batch, remarks
from mae_ext.engine.numerics import as_looked_at, departures
from mae_ext.engine.observe import Observers
from mae_ext.engine.precision import DTYPES
from mae_ext.engine.run import Run
from mae_ext.engine.step import Taken
from mae_ext.engine.stop import StopFlag

START = "start.json"
"""Of a run: what became of the weights that it started from, tensor by tensor."""


@dataclass
class Clock:
    """Of a step, in seconds: when it began and ended, and how long it waited for its batch. ended: None until then.

    stages: what it took to make the batch, as `Loader.stages`.
    """

    began: float
    waited: float
    stages: dict[str, float]
    ended: float | None = None


class Record:
    """Metrics, ledger, evaluations, observers, loggers and the terminal of a run. On all ranks; rank 0 alone writes."""

    def __init__(self, run: Run, out: Path, stop: StopFlag) -> None:
        start, total = run.at.step, run.schedule.steps
        self.run, self.stop = run, stop
        self.ledger = Ledger(out, start, run.ranks)
        self.evaluations = Evaluations(out, start, run.config.train.evaluate_every, total, run.ranks)
        rows = self.evaluations.journal.rows if self.evaluations.journal else []
        self.best = Best(run.config, out, rows) if run.ranks.main and run.config.train.keep_best else None
        self.observers = Observers(run, out, stop)  # before loggers, which a service would show as running for ever
        self.loggers = Loggers(run.loggers if run.ranks.main else {}, out, run.config, start)
        self.metrics = Journal(out / "metrics.jsonl", start) if run.ranks.main else None
        self.terminal = Terminal(total, start) if run.ranks.main else None
        self.skipped = sum(row.get("skipped", 0) for row in self.metrics.rows) if self.metrics else 0
        """Updates that fp16's loss scaler left out since the beginning of the run."""
        self.efficiency = Efficiency(run)
        self.clocks, self.incidents = dict[int, Clock](), 0

    def met(self, step: int, parts: list[dict[str, Batch]], loader: Loader, began: float) -> bool:
        """Of the parts of a step: whether this rank met a bad file that nobody has met so far."""
        self.clocks[step] = Clock(began, loader.waited, loader.stages)
        if self.run.ranks.main and step == self.run.at.step:
            for remark in of_first_batch(self.run.config, parts[0]):
                warn(remark)
        for incident in loader.incidents[self.incidents :]:
            warn(f"a loader worker was replaced at step {incident.step + 1}: {incident.what}")
        self.incidents = len(loader.incidents)
        return self.ledger.note(step + 1, parts)

    def share(self, step: int) -> None:
        """What any rank met in a step becomes known to all. Raises RunError where that makes too many bad files."""
        self.ledger.share(self.run.config, self.run.data, step + 1)

    def write(self, answers: Iterable[Taken]) -> bool:
        """Rows of the steps whose answers have come -> whether, in one of them, any rank was told to stop."""
        stopping = False
        for taken in answers:
            clock = self.clocks.pop(taken.step)
            stopping = stopping or taken.stopping
            if self.metrics and self.terminal:
                seconds = (clock.ended or time.perf_counter()) - clock.began
                row = row_of(self.run, taken, clock.waited, seconds) | self.efficiency.row(seconds)
                row |= {f"loader/{name}": spent for name, spent in clock.stages.items()}
                self.metrics.write(row)
                self.terminal.show(row)
                self.skipped += row.get("skipped", 0)
                self.loggers.write(row["step"], {key: value for key, value in row.items() if key != "step"})
        for clock in self.clocks.values():
            clock.ended = clock.ended or time.perf_counter()
        return stopping

    def due(self, step: int) -> bool:
        """Whether `look` has anything to do after a step, which is saved first."""
        return self.evaluations.due(step) or self.observers.due(step)

    def look(self, step: int, settle: Callable[[], Path | None]) -> None:
        """The observers and the evaluation that are due after a step. Raises Interrupted, on all ranks.

        settle: waits until the step is saved, which no signal, bad file or crash in here can undo then.
        """
        whole = settle() if self.due(step) else None
        if self.observers.due(step):
            with as_looked_at():
                seen = self.observers.look(step)
            self.loggers.write(step, seen)
        if self.evaluations.due(step):
            run = self.run
            with as_looked_at(), run.whole() as model:
                scores = evaluate(run.task, model, run.config, run.data, run.ranks, self.stop)
            self.evaluations.write(step, scores)
            if self.best and self.evaluations.journal:
                self.best.judge(step, scores, self.evaluations.journal, whole)
            self.loggers.write(step, {f"held_out/{key}": value for key, value in scores.items()})

    def flush(self) -> None:
        """Everything is handed to the system, or OSError; of observers it is on the disk."""
        for journal in self._journals():
            journal.flush()
        self.observers.sync()

    def sync(self) -> None:
        """What was flushed is on the disk, or OSError. On the thread that saves: a disk may take long.

        A checkpoint must not be ahead of the rows that led to it; that rows are ahead of it is no harm.
        """
        for journal in self._journals():
            journal.settle()

    def _journals(self) -> list[Journal]:
        return [j for j in (self.ledger.journal, self.metrics, self.evaluations.journal) if j]

    def close(self) -> None:
        with ExitStack() as closing:  # all of them, whatever one raises
            for part in (self.loggers, self.observers, self.terminal, self.metrics, self.evaluations, self.ledger):
                if part:
                    closing.callback(part.close)


def row_of(run: Run, taken: Taken, waited: float, seconds: float) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    config, losses, done = run.config, taken.losses, taken.step + 1
    name, modality = next(iter(config.modalities.items()))
    row: dict[str, Any] = {
        "step": done,
        "epoch": done * modality.batch / run.data[name].plan.samples_per_epoch,
        "loss": sum(config.weight_of(n) * loss for n, loss in zip(run.data, losses, strict=True)),
        "lr": run.schedule.lr(taken.step),
        "grad_norm": taken.norm,
        "samples_per_s": config.samples_per_step / seconds,
        "data_wait": waited,
        "seconds": seconds,
    }
    if len(losses) > 1:
        row |= {f"loss/{n}": loss for n, loss in zip(run.data, losses, strict=True)}
    if config.train.precision == "fp16":
        row |= {"skipped": int(taken.skipped), "loss_scale": taken.scale}
    return row


def say_what_begins(run: Run, out: Path) -> None:
    """The opening line of a run, and what in its settings and files is followed to the letter and hardly meant."""
    config, start, total, ranks = run.config, run.at.step, run.schedule.steps, run.ranks
    for name, modality in run.data.items():
        if unsaid := one_sided(modality.reader, modality.items.addresses):
            warn(f"{name}: {unsaid}")
    files = ", ".join(f"{len(d.items)} {n} files" for n, d in run.data.items())
    if run.start is not None:
        write_durably(out / START, run.start.to_json())
        say(f"starting from {run.start.summary()}")
    millions = sum(p.numel() for p in run.model.parameters()) / 1e6
    begins = f"going on from step {start}" if start else "starting"
    say(
        f"{begins}: {total} steps of {config.samples_per_step} samples, {files}, {millions:.1f} M parameters, "
        f"{ranks.world} x {ranks.device.type} {config.train.precision}, run in {out}"
    )
    for remark in remarks(config, total, run.schedule.warmup):
        warn(remark)
    if departed := departures(run.at.numerics, run.numerics):
        warn(departed)
    if ranks.device.type == "cpu" and not is_native(DTYPES[config.train.precision]):
        say(
            f"this processor has no {config.train.precision} products: they are taken in fp32, of rounded numbers; "
            f"train.precision=fp32 is at least as fast"
        )
