"""The one training loop. A step: batch -> loss -> finite? -> backward, clip, step, log, maybe save, maybe judge."""

import fcntl
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mae_ext.config import Config
from mae_ext.data.loading.loader import Loader, ModalityData, StepData
from mae_ext.data.sample import Batch
from mae_ext.data.sources.meant import one_sided
from mae_ext.engine import checkpoint
from mae_ext.engine.begin import Begun, begin
from mae_ext.engine.cpu import is_native, on_device, settle_in
from mae_ext.engine.distributed import Ranks, join, leave
from mae_ext.engine.evaluation import Evaluations, evaluate
from mae_ext.engine.failure import record
from mae_ext.engine.ledger import Ledger
from mae_ext.engine.log import Log, announced, say, warn
from mae_ext.engine.meaning import of_first_batch, remarks
from mae_ext.engine.optim import adamw, freeze, lr_at, peak_lr
from mae_ext.engine.resume import (
    Progress,
    Stopped,
    restore,
    snapshot,
)  # fmt: skip
from mae_ext.engine.step import DTYPES, NonFinite, Objective, Step, Taken
from mae_ext.engine.stop import HeedfulRanks, Interrupted, StopFlag
from mae_ext.engine.task import backbone_of, build_model, task_of
from mae_ext.errors import CheckpointError, NoneUsable, RunError, UserError, cause_of
from mae_ext.overrides import configured
from mae_ext.probing.during import ProbesDuring
from mae_ext.progress import watched_by


def train(
    config: Config | str | Path,
    out: str | Path,
    allow_change: bool = False,
    *,
    data: str | Path | None = None,
    test: str | Path | None = None,
    steps: int | None = None,
    sets: Sequence[str] = (),
) -> Path:
    """Train, or go on from the newest checkpoint in `out`, and return the run directory.

    config: a Config, a YAML file, or the name of a recipe ("image_folder"). data, test, steps, sets: as --data, --test,
    --steps and --set of the commands; several modalities as "image=photos,clip=films". Raises UserError, RunError, or
    Stopped after a signal.
    """
    out = Path(out)
    asked = [None if path is None else str(path) for path in (data, test)]
    config = str(config) if isinstance(config, Path) else config
    if isinstance(config, str) or sets or steps is not None or any(asked):
        config = configured(config, asked[0], sets, steps, asked[1])
    unset = [name for name, modality in config.modalities.items() if modality.data.path is None]
    if unset:
        raise UserError(f"modalities.{unset[0]}.data.path is not set: give --data PATH, in Python data=PATH")
    settle_in()  # before torch's threads are there, which take it over
    ranks = join(config.train.device)
    try:
        with StopFlag() as stop, _own(out, ranks):
            return _train(config, out, ranks, stop, allow_change)
    except OSError as error:
        raise RunError(
            f"{cause_of(error)}; then run the same command, which goes on from the last checkpoint"
        ) from error
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
    begun = _begun(config, out, ranks, stop, allow_change)
    task, config, data, found, at, model = begun.task, begun.config, begun.data, begun.found, begun.at, begun.model
    optimizer, scaler, total, warmup = begun.optimizer, begun.scaler, begun.total, begun.warmup
    if ranks.main:
        _clear(out, found)  # before ranks meet in `wrap`, after which each writes files of its own
    objective: nn.Module = ranks.wrap(Objective(model, config, task))
    if config.train.compile:
        objective = torch.compile(objective)  # type: ignore[assignment]
    ledger = Ledger(out, at.step, ranks)
    take_step = Step(config, model, objective, optimizer, scaler, ranks, lambda: ledger.share(config, data), at.skipped)

    def extra() -> dict[str, Any]:
        return {"scaler": scaler.state_dict(), "skipped": take_step.skipped, "statistics": at.statistics}

    def save(step: int) -> bool:
        try:
            for journal in (ledger.journal, log and log.metrics, probes and probes.journal):
                if journal:
                    journal.sync()
            tensors, state = snapshot(model, optimizer, data, config, extra())
            path = checkpoint.save(out / "checkpoints", step, config, tensors, state)
            checkpoint.prune(path.parent, config.train.keep)
            return True
        except (OSError, CheckpointError) as error:
            cause = cause_of(error) if isinstance(error, OSError) else error
            warn(f"step {step}: could not save a checkpoint: {cause}; training goes on, the older ones are untouched")
            return False

    if ranks.main:
        checkpoint.write_durably(out / "config.yaml", config.to_yaml())
        for name, modality in data.items():
            if unsaid := one_sided(modality.reader, modality.items.addresses):
                warn(f"{name}: {unsaid}")
        say(_opening(config, data, model, ranks, at.step, total, out))
        for remark in remarks(config, total, warmup):
            warn(remark)
        if ranks.device.type == "cpu" and not is_native(DTYPES[config.train.precision]):
            say(
                f"this processor has no {config.train.precision} products: they are taken in fp32, of rounded numbers; "
                f"train.precision=fp32 is at least as fast"
            )
    asked_probe = config.train.probe
    probes = None
    if asked_probe and ranks.main:
        probes = ProbesDuring(asked_probe, backbone_of(model), config, out, at.step, total)
    log = Log(out, at.step, total, config.train.tensorboard) if ranks.main else None
    evaluations = Evaluations(out, at.step, config.train.evaluate_every, total, ranks)
    loader = Loader(StepData(data), config, at.step, total, ranks.device)
    saved_at, incidents, done = at.step, 0, at.step

    def judge(step: int) -> None:
        """The probe and the evaluation that are due after a step. Raises Interrupted, on all ranks."""
        if asked_probe and asked_probe.due(step, total):
            left = False
            try:
                if probes:
                    with stop.interrupts():
                        probes(step)
            except Interrupted:
                left = True
            # The others wait here, and not in the next step, where a silent rank is a lost one.
            if ranks.from_main(left):
                raise Interrupted
        if evaluations.due(step):
            evaluations.write(step, evaluate(task, model, config, ranks, stop))

    def awaited(done: int) -> dict[str, Batch]:
        """The next batch. One rank alone waits for none after a signal, and saves what it has: data may be slow."""
        nonlocal saved_at
        try:
            with stop.interrupts() if ranks.world == 1 else nullcontext():
                return next(loader)
        except Interrupted:
            if done > saved_at and save(done):
                saved_at = done
            raise

    try:
        judge(at.step)  # untrained, or what a signal left no time for
        for step in range(at.step, total):
            began = time.perf_counter()
            lr = lr_at(step, peak_lr(config), config.train.min_lr, warmup, total)
            batches = awaited(done)
            for remark in of_first_batch(config, batches) if log and step == at.step else ():
                warn(remark)
            taken = take_step(step, batches, lr, bool(stop.received), ledger.note(step + 1, batches))
            done = step + 1
            for incident in loader.incidents[incidents:]:
                warn(f"a loader worker was replaced at step {incident.step + 1}: {incident.what}")
            incidents = len(loader.incidents)
            if log:
                log.write(_row(config, data, done, taken, lr, loader.waited, time.perf_counter() - began))
            judged = evaluations.due(done) or (asked_probe is not None and asked_probe.due(done, total))
            due = done % config.train.save_every == 0 or done == total or taken.stopping or judged
            if ranks.main and due and save(done):
                saved_at = done
            if taken.stopping and done < total:
                raise Interrupted
            judge(done)
    except Interrupted:
        saved_at = ranks.from_main(saved_at)  # a rank that left now would have the launcher end the others
        raise Stopped(
            f"stopped by a signal after step {done}, saved at step {saved_at}; the same command goes on"
            if done
            else "stopped by a signal before the first step; the same command starts again"
        ) from None
    except NonFinite as failure:
        told = ranks.from_main(record(failure, out, config, model, optimizer, extra(), data, ranks))
        raise RunError(told) from None
    except NoneUsable as none:
        ledger.last_words(done + 1, none.bad)
        raise
    finally:
        loader.close()
        ledger.close()
        evaluations.close()
        if log:
            log.close()
        if probes:
            probes.close()
    if ranks.main and saved_at < total:
        raise RunError(f"the last checkpoint, of step {total}, could not be saved; make room and run the same command")
    if log and at.step < total:
        skipped = f"; {log.skipped} updates were skipped by fp16's loss scaler" if log.skipped else ""
        say(f"done: {total} steps{skipped}, run in {out}")
    return out


def _begun(config: Config, out: Path, ranks: Ranks, stop: StopFlag, allow_change: bool) -> Begun:
    """`begin`, which a signal ends at once. Raises Stopped."""
    heedful = HeedfulRanks(ranks.rank, ranks.world, ranks.device, ranks.waiting, stop)
    try:
        with watched_by(announced) if ranks.main else nullcontext():
            return begin(config, out, heedful, allow_change)
    except Interrupted:
        pass
    except RuntimeError as error:
        # Told to stop, a rank that lists files leaves at once, and others that wait for it lose it.
        if not (stop.received and ranks.world > 1 and _lost_rank(error)):
            raise
    there = checkpoint.steps_of(out / "checkpoints")
    raise Stopped(
        "stopped by a signal before a step was taken; the same command goes on"
        if there
        else "stopped by a signal before the first step; the same command starts again"
    )


def _clear(out: Path, found: Path | None) -> None:
    """Out of the way: checkpoints too damaged to go on from, and what a run killed while writing left behind."""
    for path in checkpoint.steps_of(out / "checkpoints"):
        if found is not None and path.name > found.name:
            checkpoint.set_aside(path)
    checkpoint.sweep(out / "checkpoints")
    for leftover in out.glob("*.tmp-*"):
        leftover.unlink(missing_ok=True)


def _row(
    config: Config, data: dict[str, ModalityData], done: int, taken: Taken, lr: float, waited: float, seconds: float
) -> dict[str, Any]:
    losses = taken.losses
    name, modality = next(iter(config.modalities.items()))
    row: dict[str, Any] = {
        "step": done,
        "epoch": done * modality.batch / data[name].plan.samples_per_epoch,
        "loss": sum(m.weight * loss for m, loss in zip(config.modalities.values(), losses, strict=True)),
        "lr": lr,
        "grad_norm": taken.norm,
        "samples_per_s": config.samples_per_step / seconds,
        "data_wait": waited,
        "seconds": seconds,
    }
    if len(losses) > 1:
        row |= {f"loss/{n}": loss for n, loss in zip(config.modalities, losses, strict=True)}
    if config.train.precision == "fp16":
        row |= {"skipped": int(taken.skipped), "loss_scale": taken.scale}
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
    model = on_device(build_model(config), ranks.device).train()
    freeze(model, config.train.freeze)
    optimizer = adamw(model, config.train)
    scaler = torch.amp.GradScaler("cpu", enabled=config.train.precision == "fp16")
    restore(found, config, model, optimizer, scaler, at)
    step = Step(config, model, Objective(model, config, task), optimizer, scaler, ranks, skipped=at.skipped)
    try:
        taken = step(at.step, StepData(data)[at.step], 0.0, False)
    except NonFinite as again:
        return again.record
    return {
        "step": at.step,
        "losses": dict(zip(config.modalities, taken.losses, strict=True)),
        "grad_norm": taken.norm,
    }


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
            raise UserError(f"--out {self.out}: cannot be written to: {cause_of(error)}") from None
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
