"""A ring of slots: memory that a worker and its parent both map once and keep, in which tensors change hands.

A slot is a file in memory. The worker fills one, the parent looks into it, and it goes back when nobody holds a tensor
in it any more: pages are made, mapped and pinned once, and not for every batch. A file grows where what is made is
larger, and there are as many as are in use at once. Both sides have their own mapping, so what lies in a slot is there
also when its worker is gone; what a worker was writing when it ended was never spoken of, and is never read.
"""

import io
import mmap
import os
import pickle
import sys
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from math import prod
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
from torch import Tensor

ALIGNMENT = 64
"""Bytes: what torch's own allocator aligns memory to, on which kernels rely for speed."""

GRAIN = 1 << 20
"""Bytes that a slot grows by, at least."""


class Filled(NamedTuple):
    """What a worker says of a slot. start, length: of its table, a pickle without tensors. fresh: to be mapped anew."""

    slot: int
    capacity: int
    start: int
    length: int
    fresh: bool


class Slot:
    """The worker's side of one. What is made in it stays where it is until `clear`."""

    def __init__(self, number: int, capacity: int) -> None:
        self.number, self.handle, self.fresh = number, _memory_file(), True
        self._maps: list[mmap.mmap] = []
        self._bases: list[tuple[int, int]] = []
        self.used = self.capacity = 0
        self._grow(capacity)

    def clear(self) -> None:
        self.used, self._maps, self._bases = 0, self._maps[-1:], self._bases[-1:]

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """-> (*shape), in the slot."""
        count = prod(shape)
        if not count:
            return torch.empty(shape, dtype=dtype)
        start = self.room(count * dtype.itemsize)
        return torch.frombuffer(self._maps[-1], dtype=dtype, count=count, offset=start).view(shape)

    def place(self, tensor: Tensor) -> tuple[int, torch.dtype, tuple[int, ...]]:
        """Where it lies in the slot, into which it is copied where it was not made there."""
        tensor = tensor.detach()
        if tensor.numel() and tensor.is_contiguous():
            for base, capacity in self._bases:
                if base <= tensor.data_ptr() < base + capacity:
                    return tensor.data_ptr() - base, tensor.dtype, tuple(tensor.shape)
        copy = self.empty(tuple(tensor.shape), tensor.dtype).copy_(tensor)
        start = copy.data_ptr() - self._bases[-1][0] if copy.numel() else 0
        return start, tensor.dtype, tuple(tensor.shape)

    def write(self, content: bytes) -> int:
        start = self.room(len(content))
        self._maps[-1][start : start + len(content)] = content
        return start

    def room(self, size: int) -> int:
        """So many bytes -> where they begin."""
        start = -(-self.used // ALIGNMENT) * ALIGNMENT
        if start + size > self.capacity:
            self._grow(start + size)
        self.used = start + size
        return start

    def _grow(self, size: int) -> None:
        capacity = -(-max(size, 1) // GRAIN) * GRAIN
        os.ftruncate(self.handle, capacity)
        if hasattr(os, "posix_fallocate"):  # where there is no memory, an error, and no signal in the midst of a write
            os.posix_fallocate(self.handle, self.capacity, capacity - self.capacity)
        # What was made before stays where it is: its mapping is of the same pages.
        self._maps.append(mmap.mmap(self.handle, capacity))
        self._bases.append((torch.frombuffer(self._maps[-1], dtype=torch.uint8).data_ptr(), capacity))
        self.capacity, self.fresh = capacity, True


class Shelf:
    """The worker's side of the ring."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self._free: list[int] = []
        self._capacity = 0

    def give(self, freed: Iterable[int]) -> None:
        """These hold nothing that is used."""
        self._free += freed

    def take(self) -> Slot:
        """A slot to make something in."""
        if not self._free:
            self.slots.append(Slot(len(self.slots), self._capacity))
            self._free.append(len(self.slots) - 1)
        slot = self.slots[self._free.pop()]  # of those that are free the one that was used last: caches know it
        slot.clear()
        return slot

    def fill(self, slot: Slot, made: Any) -> Filled:
        """What was made, which may be in the slot already, as the parent will find it there."""
        table = io.BytesIO()
        _Pickler(slot, table).dump(made)
        start, length = slot.write(table.getvalue()), table.tell()
        fresh, slot.fresh = slot.fresh, False
        self._capacity = max(self._capacity, slot.capacity)
        return Filled(slot.number, slot.capacity, start, length, fresh)


class _Pickler(pickle.Pickler):
    """Of an object without its tensors, which it places in a slot."""

    def __init__(self, slot: Slot, table: io.BytesIO) -> None:
        super().__init__(table, protocol=5)
        self._slot = slot

    def persistent_id(self, value: Any) -> Any:
        return self._slot.place(value) if type(value) is Tensor else None


class Pin:
    """Registers memory with CUDA, so that the device copies from it by itself; and says when that cannot be."""

    def __init__(self, refused: Callable[[str], None]) -> None:
        self.refused = refused

    def register(self, address: int, size: int) -> bool:
        error = int(torch.cuda.cudart().cudaHostRegister(address, size, 0))
        if error:
            self.refused(f"CUDA error {error} when {size} bytes of shared memory were registered")
        return not error

    def unregister(self, address: int) -> None:
        torch.cuda.cudart().cudaHostUnregister(address)


class Mapping:
    """The parent's side of a slot."""

    def __init__(self, handle: int, capacity: int, pin: Pin | None) -> None:
        self.memory, self._pin = mmap.mmap(handle, capacity), pin
        self._address = torch.frombuffer(self.memory, dtype=torch.uint8).data_ptr()
        self.pinned = pin is not None and pin.register(self._address, capacity)
        self.retired = self.held = False
        self._lock = threading.RLock()  # what releases may run within anything, also within what is locked here

    def retire(self) -> None:
        """It is not to be used again; it goes as soon as nobody holds what lies in it."""
        with self._lock:
            self.retired = True
            self._settle()

    def hold(self) -> memoryview:
        with self._lock:
            self.held = True
            return memoryview(self.memory)

    def release(self) -> None:
        with self._lock:
            self.held = False
            self._settle()

    def _settle(self) -> None:
        if self.retired and not self.held and self.pinned and self._pin is not None:
            self.pinned = False
            self._pin.unregister(self._address)


class Ring:
    """The parent's side of the ring of one worker. pin: registers the memory of each slot, once.

    A tensor that somebody holds never changes: a slot is given back when the last tensor that lies in it is gone,
    views of it, arrays of it and what autograd keeps included.
    """

    def __init__(self, pin: Pin | None = None) -> None:
        self._pin, self._maps = pin, dict[int, Mapping]()
        self._free: deque[int] = deque()

    @property
    def capacity(self) -> int:
        """Bytes of the largest slot."""
        return max((len(mapping.memory) for mapping in self._maps.values()), default=0)

    def freed(self) -> tuple[int, ...]:
        """Slots that nobody holds any more, each said once."""
        return tuple(self._free.popleft() for _ in range(len(self._free)))

    def receive(self, filled: Filled, pipe: Connection) -> tuple[Any, bool]:
        """-> what the worker made, and whether the memory that it lies in is pinned."""
        if filled.fresh:
            with os.fdopen(reduction.recv_handle(pipe), "rb") as file:
                if filled.slot in self._maps:
                    self._maps[filled.slot].retire()
                self._maps[filled.slot] = Mapping(file.fileno(), filled.capacity, self._pin)
        mapping = self._maps[filled.slot]
        view = mapping.hold()
        weakref.finalize(view, self._release, filled.slot, mapping).atexit = False
        return _Unpickler(view, filled).load(), mapping.pinned

    def close(self) -> None:
        for mapping in self._maps.values():
            mapping.retire()

    def _release(self, slot: int, mapping: Mapping) -> None:
        mapping.release()
        self._free.append(slot)


class _Unpickler(pickle.Unpickler):
    """Of a table in a slot, with tensors that lie there; each of them keeps the view."""

    def __init__(self, view: memoryview, filled: Filled) -> None:
        super().__init__(io.BytesIO(view[filled.start : filled.start + filled.length]))
        self._view = view

    def persistent_load(self, place: tuple[int, torch.dtype, tuple[int, ...]]) -> Tensor:
        start, dtype, shape = place
        if not prod(shape):
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(self._view, dtype=dtype, count=prod(shape), offset=start).view(shape)


def _memory_file() -> int:
    if sys.platform == "linux":
        return os.memfd_create("mae_ext batch")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
