"""One optimiser step as a function of the state and a batch: forward, backward, check, update."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mae_ext.config import Config
from mae_ext.data.batch import Batch
from mae_ext.data.loading.copies import Copies
from mae_ext.engine.compiling import compiled
from mae_ext.engine.gate import Gate
from mae_ext.engine.precision import autocast
from mae_ext.engine.run import Run
from mae_ext.engine.task import Task
from mae_ext.errors import NonFinite
from mae_ext.model.mae import Encoder
from mae_ext.model.transformer import drop_path_gates
from mae_ext.rng import rng

LAG = {"cpu": 0}
"""Steps that the host reads behind, by kind of device; 1 where it is not named. A CPU has its answer at once."""


class Taken(NamedTuple):
    """Of one step: the losses of the modalities over all ranks, the gradient norm, whether any rank was told to stop.

    skipped: whether fp16's loss scaler left the update out. scale: what it multiplied the loss by; 1 without it.
    """

    step: int
    losses: list[float]
    norm: float
    stopping: bool
    skipped: bool
    scale: float


class Objective(nn.Module):
    """What a step makes smaller: the task's losses of all modalities, in one forward.

    So DistributedDataParallel and torch.compile see one graph. Here the gates of a batch reach the encoder.
    """

    def __init__(self, model: nn.Module, config: Config, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task
        self.weights = {name: m.weight for name, m in config.modalities.items()}  # a compiler looks into no config
        self.encoders = [module for module in model.modules() if isinstance(module, Encoder)]

    def forward(self, batches: dict[str, Batch]) -> tuple[Tensor, Tensor]:
        """-> the weighted sum of the losses, and the losses (one per modality, detached)."""
        losses = []
        try:
            for name, batch in batches.items():
                self._drop(None if batch.gates is None else batch.gates.permute(1, 2, 0))
                losses.append(self.task.loss(self.model, name, batch.in_units()).float())
        finally:
            self._drop(None)
        total = torch.stack([self.weights.get(n, 1.0) * loss for n, loss in zip(batches, losses, strict=True)]).sum()
        return total, torch.stack([loss.detach() for loss in losses])

    def _drop(self, gates: Tensor | None) -> None:
        for encoder in self.encoders:
            encoder.gates = gates


class Unread(NamedTuple):
    """What the device will have said of a step once `ready`: losses, by `streams`, what ranks told each other, more.

    names, norms: of each parameter that has a gradient, and (n) of the gradients, where they were made.
    """

    step: int
    streams: list[str]
    answer: Tensor
    ready: torch.cuda.Event | None
    names: list[str]
    norms: Tensor


class Step:
    """One optimiser step as a function: forward, backward, check, update.

    No parameter, moment or loss scale is ever changed by a step that was not finite, nor by any after it: that is
    decided on the device (`Gate`). The host reads how steps went from `answers`, `lag` steps later (by default `LAG`),
    so that with 1 nothing here waits for a GPU.

    on_news: called with a step, on all ranks, when the answer says that any of them had news of it; what it raises ends
    the run. skipped: updates that fp16's loss scaler has left out in a row, as far as answers were read.
    """

    def __init__(self, run: Run, on_news: Callable[[int], None] = lambda _: None, lag: int | None = None) -> None:
        self.run, self.on_news, self.skipped = run, on_news, run.at.skipped
        self.lag = LAG.get(run.ranks.device.type, 1) if lag is None else lag
        objective = compiled(Objective(run.model, run.config, run.task), run.config, run.ranks)
        self.objective: Callable[..., tuple[Tensor, Tensor]] = run.parallel.wrap(objective, run.ranks)
        self.gate, self.copies = Gate(run.ranks.device, run.at.skipped), Copies(run.ranks.device)
        self.unread: deque[Unread] = deque()

    def __call__(self, step: int, parts: list[dict[str, Batch]], stop: bool, news: bool = False) -> None:
        """Takes the step; `answers` says how it went. parts: equal shares of this rank's batch. stop, news: its own."""
        run, train, count = self.run, self.run.config.train, len(parts)
        run.schedule.set(run.optimizer, step)
        gates = {name: self._gates(name, step, count * len(batch.x)) for name, batch in parts[0].items()}
        losses = torch.zeros(len(gates), device=run.ranks.device)
        for part, batches in enumerate(self.copies(parts)):
            micro = {n: replace(b, gates=_share(gates[n], part, len(b.x))) for n, b in batches.items()}
            run.parallel.exchange(part == count - 1)  # once
            with autocast(run.ranks.device, train.precision):
                loss, each = self.objective(micro)
            run.scaler.scale(loss / count).backward()
            losses += each / count
        run.schedule.let_go(run.optimizer, step)
        run.scaler.unscale_(run.optimizer)

        # What `get_total_norm` does, by hand: the norm of each gradient says which was not finite.
        learning = {name: p for name, p in run.model.named_parameters() if p.grad is not None}
        norms = run.parallel.norms([p.grad for p in learning.values() if p.grad is not None])
        norm = torch.linalg.vector_norm(norms)

        # One small reduction for everything that all ranks must agree on.
        infinite, scale = ~norm.isfinite(), run.scaler.scale(norm.new_ones(()))
        unhealthy = ~losses.isfinite().all()
        if train.precision != "fp16":  # where infinite gradients are how the loss scaler finds its scale
            unhealthy = unhealthy | infinite
        flags = torch.stack([unhealthy, infinite, norm.new_full((), stop), norm.new_full((), news)])
        agreed = run.ranks.sum(torch.cat([losses / run.ranks.world, flags]))
        run.optimizer.found_inf = self.gate(agreed[-4] > 0, agreed[-3] > 0, scale)  # type: ignore[attr-defined]
        own = torch.stack([norm, scale, self.gate.skipped, self.gate.closed])
        self._send(Unread(step, list(gates), torch.cat([agreed, losses, own]), None, list(learning), norms))

        if train.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(learning.values(), train.clip, norm)
        run.optimizer.step()
        run.scaler.update_unless(self.gate.closed)
        run.optimizer.zero_grad(set_to_none=True)

    def answers(self, everything: bool = False) -> Iterator[Taken]:
        """How steps went, in their order, each once: every `train.log_every` steps, or everything there is.

        Raises NonFinite for the first that was not finite, with the state as it was just before it.
        """
        keep = 0 if everything else self.lag
        if self.unread and (everything or (self.unread[-1].step + 1) % self.run.config.train.log_every == 0):
            while len(self.unread) > keep:
                yield self._read(self.unread.popleft())

    def _read(self, unread: Unread) -> Taken:
        if unread.ready is not None:
            unread.ready.synchronize()
        values = unread.answer.tolist()
        losses, values = values[: len(unread.streams)], values[len(unread.streams) :]
        unhealthy, infinite, stopping, news, *own, norm, scale, skipped, closed = values
        if news:
            self.on_news(unread.step)
        if closed:
            culprits = [n for n, of in zip(unread.names, unread.norms.isfinite().tolist(), strict=True) if not of][:10]
            of_each = dict(zip(unread.streams, own, strict=True))
            raise NonFinite(unread.step, of_each, norm, culprits, None if unhealthy else (int(skipped), scale))
        self.skipped = int(skipped)
        return Taken(unread.step, losses, norm, stopping > 0, infinite > 0, scale)

    def _send(self, unread: Unread) -> None:
        """Towards the host, behind the work that the device has, and ahead of what it will be given."""
        if unread.answer.device.type == "cuda":
            answer, ready = unread.answer.to("cpu", non_blocking=True), torch.cuda.Event()  # into pinned memory
            ready.record()
            unread = unread._replace(answer=answer, ready=ready)
        self.unread.append(unread)

    def _gates(self, name: str, step: int, rows: int) -> Tensor | None:
        """(rows, depth, 2): this rank's part of the drop path of the global batch."""
        config, ranks = self.run.config, self.run.ranks
        rate, depth = config.model.drop_path, config.model.depth
        if not (rate > 0 and self.run.model.training):
            return None
        assert depth
        drawn = drop_path_gates(rate, depth, rows * ranks.world, rng(config.seed, "drop", name, step))
        start = ranks.rank * rows
        drawn = drawn[..., start : start + rows].permute(2, 0, 1).contiguous()
        if ranks.device.type == "cuda":
            drawn = drawn.pin_memory()  # else the copy waits for the device
        return drawn.to(ranks.device, non_blocking=True)


def _share(gates: Tensor | None, part: int, rows: int) -> Tensor | None:
    return None if gates is None else gates[part * rows : (part + 1) * rows]
