"""Ranks: torchrun's environment in, a group out. One process is a group of one, and pays nothing for it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mae_ext.config import Config
from mae_ext.engine.joining import meet, reason
from mae_ext.errors import Passing, RunError, UserError

T = TypeVar("T")

PATIENCE = timedelta(hours=12)
"""Where rank 0 works for all: it measures statistics, probes, saves. As long as that takes for any source."""


@dataclass(frozen=True)
class Ranks:
    rank: int
    world: int
    device: torch.device
    waiting: dist.ProcessGroup | None = None
    """Of all ranks, on CPUs, for what rank 0 does while the others wait."""

    @property
    def main(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """(n) -> (n), summed over ranks."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def from_main(self, value: T) -> T:
        """Rank 0's value, on every rank, however long it takes rank 0 to come to it."""
        box: list[Any] = [value]
        if self.world > 1:
            dist.broadcast_object_list(box, src=0, group=self.waiting)
        return box[0]  # type: ignore[no-any-return]

    def on_main(self, work: Callable[[], T]) -> T:
        """What rank 0's work gives, on every rank; and what it refuses (UserError, RunError), every rank refuses."""
        result: T | None = None
        refused: UserError | RunError | None = None
        if self.main:
            try:
                result = work()
            except (UserError, RunError) as error:
                refused = error
        result, refused = self.from_main((result, refused))
        if refused is not None:
            raise refused
        return result  # type: ignore[return-value]

    def gather(self, value: T, patiently: bool = False) -> list[T]:
        """Every rank's value, in the order of ranks, on every rank.

        patiently: however long a rank takes to come to it; and by way of CPUs, where a rank that is gone is noticed.
        """
        if self.world == 1:
            return [value]
        box: list[Any] = [None] * self.world
        dist.all_gather_object(box, value, group=self.waiting if patiently else None)
        return box

    def to_main(self, value: T) -> list[T]:
        """Every rank's value, in their order, on rank 0, however long they take; [] on the others."""
        if self.world == 1:
            return [value]
        box: list[Any] | None = [None] * self.world if self.main else None
        dist.gather_object(value, box, dst=0, group=self.waiting)
        return box or []


def check_split(config: Config, world: int) -> None:
    """Raises UserError where a batch does not split evenly over ranks, accumulation steps and repeats."""
    for name, m in config.modalities.items():
        for what, parts in (("train.accumulate", config.train.accumulate), ("data.repeats", m.data.repeats)):
            if m.batch % (world * parts):
                raise UserError(
                    f"modalities.{name}.batch={m.batch} does not split over {world} ranks with {what}={parts}; "
                    f"expected a multiple of {world * parts}"
                )


def join(device: str = "auto", silence_s: float = 600.0) -> Ranks:
    """Read torchrun's environment and join its group: NCCL on GPUs, gloo on CPUs. Raises UserError and RunError.

    silence_s: after which a rank that is alive and silent counts as hung, in all meetings but those that wait for
    rank 0's work; and for how long others are waited for that have not been started yet.
    """
    start = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    env = {name: os.environ.get(name, value) for name, value in start.items()}
    if not all(value.isdecimal() for value in env.values()) or not int(env["RANK"]) < int(env["WORLD_SIZE"]):
        raise UserError(f"{env}: expected whole numbers, RANK below WORLD_SIZE, as torchrun sets them")
    rank, world, local = map(int, env.values())
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device=cuda, but PyTorch sees no GPU here; use cpu, or auto")
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local)
    if world > 1 and not dist.is_initialized():
        meet("nccl" if cuda else "gloo", rank, world, timedelta(seconds=silence_s))
    waiting = dist.new_group(backend="gloo", timeout=PATIENCE) if world > 1 else None
    return Ranks(rank, world, torch.device("cuda", local) if cuda else torch.device("cpu"), waiting)


def lost_rank(error: RuntimeError) -> bool:
    """Whether it is of a meeting that another rank did not come to."""
    text = str(error).lower()
    return any(sign in text for sign in ("gloo", "nccl", "connection", "peer", "process group", "socket"))


def lost_touch(ranks: Ranks, error: RuntimeError) -> Passing:
    """What to say of it."""
    return Passing(
        f"rank {ranks.rank} lost touch with another, which was killed, hung or crashed: {reason(error)}. "
        f"Start again with as many ranks as are left; the run goes on from its last checkpoint"
    )


@contextmanager
def joined(device: str = "auto", silence_s: float = 600.0) -> Iterator[Ranks]:
    """Those of `join`, until the context ends. Raises Passing, a RunError, where one is lost within."""
    ranks = join(device, silence_s)
    try:
        yield ranks
    except RuntimeError as error:
        if ranks.world == 1 or not lost_rank(error):
            raise
        raise lost_touch(ranks, error) from None
    finally:
        leave()


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
