"""One optimiser step as a function of the state and a batch: forward, backward, check, update."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mae_ext.config import Config
from mae_ext.data.sample import Batch
from mae_ext.engine.cpu import settle_in
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.task import Task, task_of
from mae_ext.model.transformer import drop_path_gates
from mae_ext.rng import rng

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

MAX_SKIPPED = 20
"""Updates in a row that fp16's loss scaler may skip. It begins at 2^16 and halves with each: what 16 halvings do not
cure, at any model's start, is not the scale. In a run that is under way one or two in a row are usual."""

SMALLEST_SCALE = 1.0
"""A gradient that is not finite at this scale is so by itself: below it, scaling makes gradients smaller than they are,
and its purpose is the contrary."""


@contextmanager
def as_evaluated(model: nn.Module, config: Config) -> Iterator[None]:
    """Predictions are computed as evaluations are: in the run's precision, and without denormals."""
    settle_in()
    device, precision = next(model.parameters()).device.type, config.train.precision
    with torch.no_grad(), torch.autocast(device, DTYPES[precision], enabled=precision != "fp32"):
        yield


class Objective(nn.Module):
    """All modalities of a step in one forward, so that DistributedDataParallel sees one graph."""

    def __init__(self, model: nn.Module, config: Config, task: Task | None = None) -> None:
        super().__init__()
        self.model = model
        self.task = task or task_of(config)
        self.weights = {name: m.weight for name, m in config.modalities.items()}

    def forward(self, batches: dict[str, Batch], gates: dict[str, Tensor | None]) -> tuple[Tensor, Tensor]:
        """-> the weighted sum of the losses, and the losses (one per modality, detached)."""
        losses = [self.task.loss(self.model, name, batch, gates[name]).float() for name, batch in batches.items()]
        total = torch.stack([w * loss for w, loss in zip(self.weights.values(), losses, strict=True)]).sum()
        return total, torch.stack([loss.detach() for loss in losses])


class Taken(NamedTuple):
    """Of one step: the losses of the modalities over all ranks, the gradient norm, whether any rank was told to stop.

    skipped: whether fp16's loss scaler left the update out. scale: what it multiplied the loss by; 1 without it.
    """

    losses: list[float]
    norm: float
    stopping: bool
    skipped: bool
    scale: float


@dataclass
class Step:
    """One optimiser step as a function: forward, backward, check, update.

    on_news: called on all ranks, before anything is updated, in a step in which any of them has news; what it raises
    ends the step. skipped: updates that fp16's loss scaler has left out in a row so far.
    """

    config: Config
    model: nn.Module
    objective: Callable[..., tuple[Tensor, Tensor]]
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    ranks: Ranks
    on_news: Callable[[], None] = lambda: None
    skipped: int = 0

    def __call__(self, step: int, batches: dict[str, Batch], lr: float, stop: bool, news: bool = False) -> Taken:
        """Raises NonFinite, with parameters and optimiser untouched. stop, news: of this rank."""
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
        # One small reduction, and one copy, for everything that all ranks must agree on before anything is updated.
        scaled_up = train.precision == "fp16"  # infinite gradients are how the loss scaler finds its scale
        healthy = losses.isfinite().all() & (norm.isfinite() | scaled_up)
        told = torch.cat([torch.stack([~healthy, ~norm.isfinite()]), norm.new_tensor([stop, news])])
        agreed = self.ranks.sum(torch.cat([losses / self.ranks.world, told]))
        scale = self.scaler.scale(norm.new_ones(()))
        *loss_list, unhealthy, infinite, stopping, anyone, grad_norm, scaled = torch.cat(
            [agreed, torch.stack([norm, scale])]
        ).tolist()
        if anyone:
            self.on_news()
        self.skipped = self.skipped + 1 if infinite else 0
        if unhealthy or self.skipped >= MAX_SKIPPED or (infinite and scaled <= SMALLEST_SCALE):
            raise NonFinite(
                step, dict(zip(names, losses.tolist(), strict=True)), grad_norm, self._culprits(),
                None if unhealthy else (self.skipped, scaled),
            )  # fmt: skip
        if train.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, train.clip, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("scale", 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return Taken(loss_list, grad_norm, stopping > 0, infinite > 0, scaled)

    def _in_sync(self, last: bool, *arguments: Any) -> tuple[Tensor, Tensor]:
        """Ranks exchange gradients only in the last backward of a step."""
        if isinstance(self.objective, nn.parallel.DistributedDataParallel):
            self.objective.require_backward_grad_sync = last
        return self.objective(*arguments)

    def _gates(self, name: str, step: int, rows: int) -> Tensor | None:
        rate, depth = self.config.model.drop_path, self.config.model.depth
        if not (rate > 0 and self.model.training):
            return None
        assert depth
        batch = self.config.modalities[name].batch
        drawn = drop_path_gates(rate, depth, batch, rng(self.config.seed, "drop", name, step))
        start = self.ranks.rank * rows
        return drawn[..., start : start + rows].to(self.ranks.device)

    def _culprits(self) -> list[str]:
        return [n for n, p in self.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()][:10]


class NonFinite(Exception):
    """A loss or a gradient that is NaN or infinite, found before the update.

    given_up: with fp16, where the loss is finite and a gradient is not: updates skipped in a row, this one included,
    and the scale.
    """

    def __init__(
        self, step: int, losses: dict[str, float], grad_norm: float, culprits: list[str],
        given_up: tuple[int, float] | None = None,
    ) -> None:  # fmt: skip
        told = f"losses {losses}, gradient norm {grad_norm}"
        if given_up is not None:
            told += (
                f": fp16's loss scaler has skipped {given_up[0]} updates in a row and is down to a scale of "
                f"{given_up[1]:g}, so the gradients are not finite by themselves; train.precision=bf16 or fp32 shows "
                f"whether it is fp16's range"
            )
        super().__init__(told)
        self.step = step
        self.record: dict[str, Any] = {
            "step": step,
            "told": told,
            "losses": losses,
            "grad_norm": grad_norm,
            "nonfinite_gradients": culprits,
        }
        if given_up is not None:
            self.record |= {"skipped_in_a_row": given_up[0], "loss_scale": given_up[1]}
