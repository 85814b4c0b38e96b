"""The one training loop. A step: batch -> loss -> finite? -> backward, clip, step, log, maybe save."""

import fcntl
import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from mae_ext.config import Config
from mae_ext.data.doubts import one_sided
from mae_ext.data.loader import Loader, ModalityData, StepData
from mae_ext.downstream.during import ProbesDuring
from mae_ext.engine import checkpoint
from mae_ext.engine.cpu import settle_in
from mae_ext.engine.distributed import Ranks, check_split, join, leave
from mae_ext.engine.log import Evaluations, Ledger, Log, say, warn
from mae_ext.engine.optim import adamw, freeze, lr_at, peak_lr, rising, schedule
from mae_ext.engine.resume import Progress, Stopped, check_same, restore, snapshot
from mae_ext.engine.step import DTYPES, NonFinite, Objective, Step
from mae_ext.engine.task import Task, backbone_of, build_model, task_of
from mae_ext.errors import CheckpointError, NothingUsable, RunError, UserError, some
from mae_ext.model.linear import is_native


@dataclass
class StopFlag:
    """Set by the first SIGTERM, SIGINT or SIGUSR1; the second one exits at once."""

    received: int = 0
    previous: dict[int, Any] = field(default_factory=dict)

    def __call__(self, number: int, _: FrameType | None) -> None:
        if self.received:
            os._exit(128 + number)
        self.received = number

    def __enter__(self) -> "StopFlag":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            try:
                self.previous[number] = signal.signal(number, self)
            except ValueError:  # not the main thread: whoever embeds us handles signals
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def train(config: Config, out: str | Path, allow_change: bool = False) -> Path:
    """Train, or go on from the newest checkpoint in `out`, and return the run directory.

    Raises UserError, RunError, or Stopped after a signal.
    """
    out = Path(out)
    settle_in()  # before torch's threads are there, which take it over
    ranks = join(config.train.device)
    try:
        with StopFlag() as stop, _own(out, ranks):
            return _train(config, out, ranks, stop, allow_change)
    except OSError as error:
        raise RunError(f"--out {out}: {error}; make room or mend the disk, and run the same command") from None
    except RuntimeError as error:
        if ranks.world == 1 or not _lost_rank(error):
            raise
        raise RunError(
            f"rank {ranks.rank} lost touch with another, which was killed or crashed: {str(error).splitlines()[0]}. "
            f"Start again with as many ranks as are left; the run goes on from its last checkpoint"
        ) from None
    finally:
        leave()


def _train(config: Config, out: Path, ranks: Ranks, stop: StopFlag, allow_change: bool) -> Path:
    check_split(config, ranks.world)
    found = ranks.from_main(checkpoint.latest(out, warn) if ranks.main else None)
    task = task_of(config)
    data = task.data(config, ranks.rank, ranks.world)
    if found is None:
        config = ranks.from_main(task.settle(config, data, None) if ranks.main else config)
        at = Progress()
    else:
        at = Progress.read(found)
        config = task.settle(config, data, checkpoint.read_config(found))
        check_same(config, found, at, data, allow_change)
    task = task_of(config)  # as settled
    total, warmup = schedule(config, next(iter(data.values())).plan.samples_per_epoch)
    torch.manual_seed(0)  # nothing of ours draws from it; a plug-in that does is at least the same in every run
    model = build_model(config)
    if found is None and config.init is not None:
        task.start(model, config)
    model = model.to(ranks.device).train()
    freeze(model, config.train.freeze)
    optimizer = adamw(model, config.train)
    scaler = torch.amp.GradScaler(ranks.device.type, enabled=config.train.precision == "fp16")
    if found is not None:
        restore(found, model, optimizer, scaler, at)
    if ranks.main:
        _clear(out, found)  # before ranks meet in `wrap`, after which each writes files of its own
    objective: nn.Module = ranks.wrap(Objective(model, config, task))
    if config.train.compile:
        objective = torch.compile(objective)  # type: ignore[assignment]
    take_step = Step(config, model, objective, optimizer, scaler, ranks)

    def save(step: int) -> bool:
        try:
            for journal in (ledger.journal, *([log.metrics] if log else []), *([probes.journal] if probes else [])):
                journal.sync()
            tensors, state = snapshot(model, optimizer, scaler, data, config)
            path = checkpoint.save(out / "checkpoints", step, config, tensors, state)
            checkpoint.prune(path.parent, config.train.keep)
            return True
        except (OSError, CheckpointError) as error:
            warn(f"step {step}: could not save a checkpoint ({error}); training goes on, the older ones are untouched")
            return False

    if ranks.main:
        checkpoint.write_durably(out / "config.yaml", config.to_yaml())
        for name, modality in data.items():
            for what, count in modality.items.ignored.items():
                warn(f"{name}: {count} {what} passed over")
            if unsaid := one_sided(modality.reader, modality.items.addresses):
                warn(f"{name}: {unsaid}")
        say(_opening(config, data, model, ranks, at.step, total, out))
        if told := rising(config):
            warn(told)
        if ranks.device.type == "cpu" and not is_native(DTYPES[config.train.precision]):
            say(
                f"this processor has no {config.train.precision} products: they are taken in fp32, of rounded numbers; "
                f"train.precision=fp32 is at least as fast"
            )
    asked = config.train.probe if ranks.main else None
    probes = ProbesDuring(asked, backbone_of(model), config, out, at.step, total) if asked else None
    log = Log(out, at.step, total, config.train.tensorboard) if ranks.main else None
    ledger = Ledger(out / (f"bad_samples.{ranks.rank}.jsonl" if ranks.rank else "bad_samples.jsonl"), at.step)
    evaluations = Evaluations(out, at.step, config.train.evaluate_every, total, ranks)
    loader = Loader(StepData(data), config, at.step, total, ranks.device)
    saved_at, incidents = at.step, 0

    def probe(step: int) -> None:
        if probes:
            probes(step)
        if config.train.probe and config.train.probe.due(step, total):
            ranks.from_main(None)  # the others wait here, and not in the next step, where a silent rank is a lost one

    try:
        if evaluations.due(at.step):  # stopped between the save and the evaluation
            evaluations.write(at.step, _evaluate(task, model, config, ranks))
        probe(at.step)  # untrained, or what a signal left no time for
        for step in range(at.step, total):
            began = time.perf_counter()
            lr = lr_at(step, peak_lr(config), config.train.min_lr, warmup, total)
            batches = next(loader)
            for name, batch in batches.items():
                ledger.add(step + 1, batch.bad)
                _stop_if_too_many(name, data[name], ledger, config)
            losses, norm, stopping = take_step(step, batches, lr, bool(stop.received))
            done = step + 1
            for incident in loader.incidents[incidents:]:
                warn(f"a loader worker was replaced at step {incident.step + 1}: {incident.what}")
            incidents = len(loader.incidents)
            if log:
                seconds = time.perf_counter() - began
                log.write(_row(config, data, done, losses, lr, norm, loader.waited, seconds))
            if ranks.main and (done % config.train.save_every == 0 or done == total or stopping) and save(done):
                saved_at = done
            if stopping and done < total:
                saved_at = ranks.from_main(saved_at)  # a rank that left now would have the launcher end the others
                raise Stopped(
                    f"stopped by a signal after step {done}, saved at step {saved_at}; the same command goes on"
                )
            probe(done)
            if evaluations.due(done):
                evaluations.write(done, _evaluate(task, model, config, ranks))
    except NothingUsable as failure:
        ledger.add(step + 1, failure.bad)
        raise
    except NonFinite as failure:
        told = ranks.from_main(_record(failure, out, config, model, optimizer, scaler, data, ranks))
        raise RunError(told) from None
    finally:
        loader.close()
        ledger.journal.close()
        evaluations.close()
        if log:
            log.close()
        if probes:
            probes.close()
    if ranks.main and saved_at < total:
        raise RunError(f"the last checkpoint, of step {total}, could not be saved; make room and run the same command")
    return out


def _evaluate(task: Task, model: nn.Module, config: Config, ranks: Ranks) -> dict[str, float]:
    model.eval()
    precision = config.train.precision
    with torch.no_grad(), torch.autocast(ranks.device.type, DTYPES[precision], enabled=precision != "fp32"):
        found = task.evaluate(model, config, ranks)
    model.train()
    return found


def _clear(out: Path, found: Path | None) -> None:
    """Out of the way: checkpoints too damaged to go on from, and what a run killed while writing left behind."""
    for path in checkpoint.steps_of(out / "checkpoints"):
        if found is not None and path.name > found.name:
            checkpoint.set_aside(path)
    checkpoint.sweep(out / "checkpoints")
    for leftover in out.glob("*.tmp-*"):
        leftover.unlink(missing_ok=True)


def _row(
    config: Config, data: dict[str, ModalityData], done: int, losses: list[float], lr: float, norm: float,
    waited: float, seconds: float,
) -> dict[str, Any]:  # fmt: skip
    name, modality = next(iter(config.modalities.items()))
    row: dict[str, Any] = {
        "step": done,
        "epoch": done * modality.batch / data[name].plan.samples_per_epoch,
        "loss": sum(m.weight * loss for m, loss in zip(config.modalities.values(), losses, strict=True)),
        "lr": lr,
        "grad_norm": norm,
        "samples_per_s": config.samples_per_step / seconds,
        "data_wait": waited,
        "seconds": seconds,
    }
    if len(losses) > 1:
        row |= {f"loss/{n}": loss for n, loss in zip(config.modalities, losses, strict=True)}
    return row


def _opening(
    config: Config, data: dict[str, ModalityData], model: nn.Module, ranks: Ranks, start: int, total: int, out: Path
) -> str:
    files = ", ".join(f"{len(d.items)} {n} files" for n, d in data.items())
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    begin = f"going on from step {start}" if start else "starting"
    return (
        f"{begin}: {total} steps of {config.samples_per_step} samples, {files}, {millions:.1f} M parameters, "
        f"{ranks.world} x {ranks.device.type} {config.train.precision}, run in {out}"
    )


def _stop_if_too_many(name: str, data: ModalityData, ledger: Ledger, config: Config) -> None:
    bad, limit = ledger.bad(name), config.modalities[name].data.max_bad_fraction
    if len(bad) > limit * len(data.items):
        raise RunError(
            f"modality '{name}': {len(bad)} of {len(data.items)} files are bad, and max_bad_fraction is {limit:g} "
            f"(bad_samples.jsonl says why). Repair or remove them, or raise the limit with "
            f"--set modalities.{name}.data.max_bad_fraction=...:\n  " + some(bad, "\n  ", 20)
        )


def _record(
    failure: NonFinite, out: Path, config: Config, model: nn.Module, optimizer: torch.optim.AdamW,
    scaler: torch.amp.GradScaler, data: dict[str, ModalityData], ranks: Ranks,
) -> str:  # fmt: skip
    """Write failure-XXXXXXXX/: what happened, and the state just before the step, from which `replay` repeats it."""
    step = failure.step
    where = _free_for(out / f"failure-{step + 1:08d}", config)
    if ranks.main:
        sources = {
            n: [d.items.addresses[i] for i in dict.fromkeys(k.index for k in d.plan.keys(step))]
            for n, d in data.items()
        }
        try:
            where.mkdir(parents=True, exist_ok=True)
            tensors, state = snapshot(model, optimizer, scaler, data, config)
            checkpoint.save(where / "checkpoints", step, config, tensors, state)
            checkpoint.write_durably(where / "record.json", json.dumps({**failure.record, "files": sources}, indent=1))
        except OSError as error:
            warn(f"the failure record could not be written: {error}")
    return (
        f"step {step + 1}: {failure}. Nothing was updated and every checkpoint is as it was. "
        f"{where}/record.json names the files; `mae-ext replay {where}` repeats the step"
    )


def _free_for(where: Path, config: Config) -> Path:
    """The folder itself, or where another config failed at this step before, the next of its name that is free."""
    known, number, found = config.to_yaml(), 1, where
    while any(path.read_text(encoding="utf-8") != known for path in found.glob("checkpoints/step-*/config.yaml")):
        number += 1
        found = where.with_name(f"{where.name}-{number}")
    return found


def replay(failure: str | Path) -> dict[str, Any]:
    """Repeat the step of a failure record, bit for bit: the losses and gradient norm, finite or not."""
    found = checkpoint.find(failure)
    if not (Path(failure) / "record.json").is_file():
        raise UserError(f"{failure} is not the folder of a failure: it has no record.json")
    settle_in()
    config, at = checkpoint.read_config(found), Progress.read(found)
    task = task_of(config)
    data = task.data(config)
    at.set_aside(data)
    ranks = Ranks(0, 1, torch.device("cpu"))
    model = build_model(config).train()
    freeze(model, config.train.freeze)
    optimizer = adamw(model, config.train)
    scaler = torch.amp.GradScaler("cpu", enabled=config.train.precision == "fp16")
    restore(found, model, optimizer, scaler, at)
    step = Step(config, model, Objective(model, config, task), optimizer, scaler, ranks)
    try:
        losses, norm, _ = step(at.step, StepData(data)[at.step], 0.0, False)
    except NonFinite as again:
        return again.record
    return {"step": at.step, "losses": dict(zip(config.modalities, losses, strict=True)), "grad_norm": norm}


class _own:
    """Only one process group trains into a run directory at a time. The lock dies with its holder."""

    def __init__(self, out: Path, ranks: Ranks) -> None:
        self.out, self.ranks = out, ranks

    def __enter__(self) -> None:
        if not self.ranks.main:
            return
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self.file = (self.out / ".lock").open("w")
        except OSError as error:
            raise UserError(f"--out {self.out}: cannot be written to: {error}") from None
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.file.close()
            raise UserError(f"--out {self.out}: another process is training there; wait, or choose another") from None

    def __exit__(self, *_: object) -> None:
        if self.ranks.main:
            self.file.close()


def _lost_rank(error: RuntimeError) -> bool:
    text = str(error).lower()
    return any(sign in text for sign in ("gloo", "nccl", "connection", "peer", "process group", "socket"))
