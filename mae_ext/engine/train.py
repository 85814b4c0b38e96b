"""The one training loop. A step: batch -> loss -> finite? -> backward, clip, step, log, maybe save."""

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from mae_ext.config import Config
from mae_ext.data.loader import Loader, ModalityData, StepData
from mae_ext.data.sample import Batch
from mae_ext.data.statistics import resolve_statistics
from mae_ext.downstream.during import ProbesDuring
from mae_ext.engine import checkpoint
from mae_ext.engine.cpu import settle_in
from mae_ext.engine.distributed import Ranks, check_split, join, leave
from mae_ext.engine.log import Ledger, Log, say, warn
from mae_ext.engine.optim import adamw, lr_at, peak_lr, schedule
from mae_ext.engine.resume import Progress, Stopped, check_same, restore, snapshot
from mae_ext.errors import CheckpointError, RunError, UserError
from mae_ext.model.mae import MAE
from mae_ext.model.transformer import drop_path_gates
from mae_ext.rng import rng

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Objective(nn.Module):
    """All modalities of a step in one forward, so that DistributedDataParallel sees one graph."""

    def __init__(self, model: MAE, config: Config) -> None:
        super().__init__()
        self.model = model
        self.weights = {name: m.weight for name, m in config.modalities.items()}

    def forward(self, batches: dict[str, Batch], gates: dict[str, Tensor | None]) -> tuple[Tensor, Tensor]:
        """-> the weighted sum of the losses, and the losses (one per modality, detached)."""
        losses = [self.model(b.x, b.mask, name, b.valid, b.spacing, gates[name]).float() for name, b in batches.items()]
        total = torch.stack([w * loss for w, loss in zip(self.weights.values(), losses, strict=True)]).sum()
        return total, torch.stack([loss.detach() for loss in losses])


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


@dataclass
class Step:
    """One optimiser step as a function: forward, backward, check, update."""

    config: Config
    model: MAE
    objective: Callable[..., tuple[Tensor, Tensor]]
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    ranks: Ranks

    def __call__(self, step: int, batches: dict[str, Batch], lr: float, stop: bool) -> tuple[list[float], float, bool]:
        """-> (losses of the modalities over all ranks, gradient norm, whether any rank was told to stop).

        Raises NonFinite, with parameters and optimiser untouched.
        """
        train, device = self.config.train, self.ranks.device
        names, parts = list(batches), train.accumulate
        losses = torch.zeros(len(names), device=device)
        gates = {name: self._gates(name, step, len(batches[name].x)) for name in names}
        for part in range(parts):
            micro = {n: b.rows(part * len(b.x) // parts, (part + 1) * len(b.x) // parts) for n, b in batches.items()}
            gate = {n: None if g is None else g.chunk(parts, -1)[part] for n, g in gates.items()}
            with torch.autocast(device.type, DTYPES[train.precision], enabled=train.precision != "fp32"):
                loss, each = self._in_sync(part == parts - 1, micro, gate)
            self.scaler.scale(loss / parts).backward()
            losses += each / parts
        self.scaler.unscale_(self.optimizer)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        # One small reduction for everything that all ranks must agree on before anything is updated.
        scaled_up = train.precision == "fp16"  # infinite gradients are how the loss scaler finds its scale
        healthy = losses.isfinite().all() & (norm.isfinite() | scaled_up)
        agreed = self.ranks.sum(torch.cat([losses / self.ranks.world, torch.stack([~healthy, norm.new_tensor(stop)])]))
        *loss_list, unhealthy, stopping = agreed.tolist()
        if unhealthy:
            raise NonFinite(step, dict(zip(names, losses.tolist(), strict=True)), norm.item(), self._culprits())
        if train.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, train.clip, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss_list, norm.item(), stopping > 0

    def _in_sync(self, last: bool, *arguments: Any) -> tuple[Tensor, Tensor]:
        """Ranks exchange gradients only in the last backward of a step."""
        if isinstance(self.objective, nn.parallel.DistributedDataParallel):
            self.objective.require_backward_grad_sync = last
        return self.objective(*arguments)

    def _gates(self, name: str, step: int, rows: int) -> Tensor | None:
        rate = self.config.model.drop_path
        if not (rate > 0 and self.model.training):
            return None
        batch = self.config.modalities[name].batch
        drawn = drop_path_gates(rate, self.model.encoder.trunk.depth, batch, rng(self.config.seed, "drop", name, step))
        start = self.ranks.rank * rows
        return drawn[..., start : start + rows].to(self.ranks.device)

    def _culprits(self) -> list[str]:
        return [n for n, p in self.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()][:10]


class NonFinite(Exception):
    """A loss or a gradient that is NaN or infinite, found before the update."""

    def __init__(self, step: int, losses: dict[str, float], grad_norm: float, culprits: list[str]) -> None:
        super().__init__(f"losses {losses}, gradient norm {grad_norm}")
        self.step = step
        self.record: dict[str, Any] = {
            "step": step,
            "losses": losses,
            "grad_norm": grad_norm,
            "nonfinite_gradients": culprits,
        }


def train(config: Config, out: str | Path, allow_change: bool = False) -> Path:
    """Train, or go on from the newest checkpoint in `out`, and return the run directory.

    Raises UserError, RunError, or Stopped after a signal.
    """
    out = Path(out)
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
    data = {n: ModalityData(config.seed, n, m, ranks.rank, ranks.world) for n, m in config.modalities.items()}
    if found is None:
        config = ranks.from_main(resolve_statistics(config, data) if ranks.main else config)
        at = Progress()
    else:
        at = Progress.read(found)
        config = check_same(config, found, at, data, allow_change)
    total, warmup = schedule(config, next(iter(data.values())).plan.samples_per_epoch)
    torch.manual_seed(0)  # nothing of ours draws from it; a plug-in that does is at least the same in every run
    settle_in()
    model = MAE.from_config(config).to(ranks.device).train()
    optimizer = adamw(model, config.train)
    scaler = torch.amp.GradScaler(ranks.device.type, enabled=config.train.precision == "fp16")
    if found is not None:
        restore(found, model, optimizer, scaler, at)
    objective: nn.Module = ranks.wrap(Objective(model, config))
    if config.train.compile:
        objective = torch.compile(objective)  # type: ignore[assignment]
    take_step = Step(config, model, objective, optimizer, scaler, ranks)

    def save(step: int) -> bool:
        try:
            for journal in (ledger.journal, *([log.metrics] if log else []), *([probes.journal] if probes else [])):
                journal.sync()
            tensors, state = snapshot(model, optimizer, scaler, data)
            path = checkpoint.save(out / "checkpoints", step, config, tensors, state)
            checkpoint.prune(path.parent, config.train.keep)
            return True
        except (OSError, CheckpointError) as error:
            warn(f"step {step}: could not save a checkpoint ({error}); training goes on, the older ones are untouched")
            return False

    if ranks.main:
        _clear(out, found)
        checkpoint.write_durably(out / "config.yaml", config.to_yaml())
        for name, modality in data.items():
            for what, count in modality.items.ignored.items():
                warn(f"{name}: {count} {what} passed over")
        say(_opening(config, data, model, ranks, at.step, total, out))
    asked = config.train.probe if ranks.main else None
    probes = ProbesDuring(asked, model, config, out, at.step, total) if asked else None
    log = Log(out, at.step, total, config.train.tensorboard) if ranks.main else None
    ledger = Ledger(out / (f"bad_samples.{ranks.rank}.jsonl" if ranks.rank else "bad_samples.jsonl"), at.step)
    loader = Loader(StepData(data), config, at.step, total, ranks.device)
    saved_at, incidents = at.step, 0
    try:
        if probes:
            probes(at.step)  # untrained, or what a signal left no time for
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
            if probes and not stopping:
                probes(done)
            if ranks.main and (done % config.train.save_every == 0 or done == total or stopping) and save(done):
                saved_at = done
            if stopping and done < total:
                raise Stopped(
                    f"stopped by a signal after step {done}, saved at step {saved_at}; the same command goes on"
                )
    except NonFinite as failure:
        raise RunError(_record(failure, out, config, model, optimizer, scaler, data, ranks)) from None
    finally:
        loader.close()
        ledger.journal.close()
        if log:
            log.close()
        if probes:
            probes.close()
    if ranks.main and saved_at < total:
        raise RunError(f"the last checkpoint, of step {total}, could not be saved; make room and run the same command")
    return out


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
    config: Config, data: dict[str, ModalityData], model: MAE, ranks: Ranks, start: int, total: int, out: Path
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
        listed = "\n  ".join(bad[:20] + ([f"and {len(bad) - 20} more"] if len(bad) > 20 else []))
        raise RunError(
            f"modality '{name}': {len(bad)} of {len(data.items)} files are bad, and max_bad_fraction is {limit:g} "
            f"(bad_samples.jsonl says why). Repair or remove them, or raise the limit with "
            f"--set modalities.{name}.data.max_bad_fraction=...:\n  {listed}"
        )


def _record(
    failure: NonFinite, out: Path, config: Config, model: MAE, optimizer: torch.optim.AdamW,
    scaler: torch.amp.GradScaler, data: dict[str, ModalityData], ranks: Ranks,
) -> str:  # fmt: skip
    """Write failure-XXXXXXXX/: what happened, and the state just before the step, from which `replay` repeats it."""
    step = failure.step
    where = out / f"failure-{step + 1:08d}"
    if ranks.main:
        sources = {
            n: [d.items.addresses[i] for i in dict.fromkeys(k.index for k in d.plan.keys(step))]
            for n, d in data.items()
        }
        try:
            where.mkdir(parents=True, exist_ok=True)
            tensors, state = snapshot(model, optimizer, scaler, data)
            checkpoint.save(where / "checkpoints", step, config, tensors, state)
            checkpoint.write_durably(where / "record.json", json.dumps({**failure.record, "files": sources}, indent=1))
        except OSError as error:
            warn(f"the failure record could not be written: {error}")
    return (
        f"step {step + 1}: {failure}. Nothing was updated and every checkpoint is as it was. "
        f"{where}/record.json names the files; `mae-ext replay {where}` repeats the step"
    )


def replay(failure: str | Path) -> dict[str, Any]:
    """Repeat the step of a failure record, bit for bit: the losses and gradient norm, finite or not."""
    found = checkpoint.find(failure)
    if not (Path(failure) / "record.json").is_file():
        raise UserError(f"{failure} is not the folder of a failure: it has no record.json")
    config, at = checkpoint.read_config(found), Progress.read(found)
    data = {n: ModalityData(config.seed, n, m) for n, m in config.modalities.items()}
    at.set_aside(data)
    settle_in()
    ranks = Ranks(0, 1, torch.device("cpu"))
    model = MAE.from_config(config).train()
    optimizer = adamw(model, config.train)
    scaler = torch.amp.GradScaler("cpu", enabled=config.train.precision == "fp16")
    restore(found, model, optimizer, scaler, at)
    step = Step(config, model, Objective(model, config), optimizer, scaler, ranks)
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
