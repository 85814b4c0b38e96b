"""How many parts a batch is computed in, where `train.micro_batch` leaves that to arithmetic or to a GPU's memory."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from mae_ext.config import Config
from mae_ext.data.batch import Batch
from mae_ext.data.loading.batches import ModalityData
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.log import say
from mae_ext.engine.optimizers import moments_of
from mae_ext.engine.precision import autocast
from mae_ext.engine.task import Task
from mae_ext.errors import ConfigError, RunError

SPARE = 0.1
"""Share of a GPU's memory that is left alone: what steps need and a trial has not, such as the batches that are copied
ahead, and room between tensors."""


def numbers_of_parts(config: Config, world: int) -> list[int]:
    """Every number of equal parts that the batches of a rank split into, ascending."""
    batches = [m.batch for m in config.modalities.values()]
    return [parts for parts in range(1, min(batches) // world + 1) if not any(b % (world * parts) for b in batches)]


def in_parts(config: Config, parts: int) -> Config:
    """Settled: with a number of parts, and nothing left to be found."""
    train = config.train.model_copy(update={"accumulate": parts, "micro_batch": None})
    return config.model_copy(update={"train": train})


def with_parts(config: Config, world: int) -> Config:
    """A number in train.micro_batch becomes train.accumulate: the fewest parts of at most so many samples each, over
    all modalities. "auto" stays. Raises ConfigError where even the smallest part has more."""
    most, numbers = config.train.micro_batch, numbers_of_parts(config, world)
    if not isinstance(most, int) or not numbers:  # without any, the batches do not split over the ranks at all
        return config
    sizes = {parts: config.samples_per_step // (world * parts) for parts in numbers}
    fitting = [parts for parts, size in sizes.items() if size <= most]
    if not fitting:
        raise ConfigError(
            f"train.micro_batch={most}: the smallest equal parts of the batches over {world} ranks have "
            f"{sizes[numbers[-1]]} samples; expected so many or more"
        )
    return in_parts(config, fitting[0])


def fewest_parts(numbers: Sequence[int], attempt: Callable[[int], None]) -> int:
    """The first of `numbers` (ascending) that `attempt` does not run out of memory with. Raises RunError if none is."""
    for parts in numbers:
        try:
            attempt(parts)
        except torch.OutOfMemoryError:
            pass  # and not here, where the error holds on to what there was
        else:
            return parts
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    raise RunError(
        f"train.micro_batch=auto: not even batches in {numbers[-1]} parts fit into the memory of this device; "
        f"set train.checkpointing, or take a smaller model or train.parallel=fsdp over more ranks"
    )


def tried(config: Config, task: Task, data: Mapping[str, ModalityData], model: nn.Module, ranks: Ranks) -> int:
    """The fewest parts that fit on this rank's GPU; 1 on a CPU, which has no such limit. model: not yet in shares.

    Forward and backward, twice, over a first sample of each modality as often as a part has samples. Ranks do not meet:
    one that runs out of memory would leave the others waiting. Weights, buffers and generators are as before.
    """
    if ranks.device.type != "cuda":
        return 1
    samples = {name: _first(d, ranks.world).to(ranks.device) for name, d in data.items()}
    free, total = torch.cuda.mem_get_info(ranks.device)
    spare = int(SPARE * total)
    if config.train.parallel == "ddp" or ranks.world == 1:  # shares of weights and moments are less than it has here
        spare += 4 * moments_of(model, config.train.optimizer)  # which are not there yet

    def attempt(parts: int) -> None:
        held = torch.empty(min(spare, free), dtype=torch.uint8, device=ranks.device)
        rows = {name: m.batch // (ranks.world * parts) for name, m in config.modalities.items()}
        try_step(config, task, model, {name: batch.repeated(rows[name]) for name, batch in samples.items()})
        del held

    with undisturbed(model):
        return fewest_parts(numbers_of_parts(config, ranks.world), attempt)


def agreed(config: Config, ranks: Ranks) -> Config:
    """With the parts of the rank that needs the most, on every rank; says so, and of a CPU that nothing was tried."""
    config = in_parts(config, max(ranks.gather(config.train.accumulate)))
    parts, samples = config.train.accumulate, config.samples_per_step // (ranks.world * config.train.accumulate)
    if ranks.main:
        how = "what fits" if ranks.device.type == "cuda" else "on a CPU nothing is tried"
        say(f"train.micro_batch=auto: {samples} samples at once on a rank, train.accumulate={parts} ({how})")
    return config


def try_step(config: Config, task: Task, model: nn.Module, batches: Mapping[str, Batch]) -> None:
    """What a step does with a part, the second time with gradients that are there already. None are left."""
    try:
        for _ in range(2):
            with autocast(next(model.parameters()).device, config.train.precision):
                losses = [config.weight_of(n) * task.loss(model, n, b).float() for n, b in batches.items()]
            torch.stack(losses).sum().backward()
    finally:
        model.zero_grad(set_to_none=True)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Buffers and torch's generators are left as they were. Weights nothing in it may change."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    cpu, gpus = torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        torch.set_rng_state(cpu)
        torch.cuda.set_rng_state_all(gpus)


def _first(data: ModalityData, world: int) -> Batch:
    """The views of the first file that can be read."""
    one = copy.copy(data)
    one.plan = replace(data.plan, batch=world * data.plan.repeats)
    return one.batch(0)
