"""Where a batch is stacked: straight into memory that another process maps, where somebody has said which."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from mae_ext.data.stages import stage


class Room(Protocol):
    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """-> (*shape), in that memory."""
        ...


_rooms: list[Room] = []


@contextmanager
def made_in(room: Room) -> Iterator[None]:
    """What `stacked` makes in the meantime is made there. Of a process that does one thing at a time."""
    _rooms.append(room)
    try:
        yield
    finally:
        _rooms.pop()


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """B tensors (*S) -> (B, *S), as `torch.stack`."""
    first = tensors[0]
    if not _rooms or any((t.shape, t.dtype) != (first.shape, first.dtype) for t in tensors):
        return torch.stack(list(tensors))
    with stage("share"):
        return torch.stack(list(tensors), out=_rooms[-1].empty((len(tensors), *first.shape), first.dtype))
