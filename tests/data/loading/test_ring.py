"""Slots that go round between a worker and its parent: both sides in one process, and with a worker that is killed."""

import os
import signal
import time
from functools import partial
from multiprocessing import Pipe, reduction

import numpy as np
import pytest
import torch

from mae_ext.data.batch import Batch
from mae_ext.data.loading.ring import ALIGNMENT, GRAIN, Pin, Ring, Shelf
from mae_ext.data.loading.workers import Worker, WorkerLost
from mae_ext.data.room import made_in, stacked
from mae_ext.model.mask import Mask


class Both:
    """A ring with both of its sides here."""

    def __init__(self, pin=None):
        self.shelf, self.ring, self.pipes = Shelf(), Ring(pin), Pipe()

    def made(self, make):
        """What make() gives, as the parent has it, in a slot that was filled anew."""
        self.shelf.give(self.ring.freed())
        slot = self.shelf.take()
        with made_in(slot):
            made = make()
        filled = self.shelf.fill(slot, made)
        if filled.fresh:
            reduction.send_handle(self.pipes[0], slot.handle, os.getpid())
        self.pinned = None
        received, self.pinned = self.ring.receive(filled, self.pipes[1])
        return received

    @property
    def slots(self):
        return len(self.shelf.slots)


@pytest.fixture
def both():
    return Both()


def full(value, count=1000):
    return lambda: stacked([torch.full((count,), value), torch.full((count,), value)])


def test_a_batch_comes_through_whole_with_every_type_that_it_may_hold(both):
    batch = Batch(
        x=torch.arange(24, dtype=torch.uint8).view(2, 3, 4),
        mask=Mask(torch.tensor([[0], [1]]), torch.tensor([[1], [0]]), (2,)),
        valid=torch.tensor([[[True]], [[False]]]),
        spacing=torch.tensor([[1.5], [2.5]]),
        sources=["a", "b"],
        bad=[{"path": "c"}],
        targets={
            "half": torch.ones(2, dtype=torch.bfloat16) / 3, "none": torch.zeros(2, 0), "one": torch.tensor(7),
            "strided": torch.arange(6).view(2, 3).T, "float16": torch.tensor([0.1]).half(),
        },
    )  # fmt: skip
    there = both.made(lambda: batch)
    assert (there.sources, there.bad, there.mask.grid) == (["a", "b"], [{"path": "c"}], (2,))
    for one, other in [
        (batch.x, there.x), (batch.mask.keep, there.mask.keep), (batch.mask.pred, there.mask.pred),
        (batch.valid, there.valid), (batch.spacing, there.spacing),
        *((batch.targets[name], there.targets[name]) for name in batch.targets),
    ]:  # fmt: skip
        assert one.dtype == other.dtype and torch.equal(one, other)
        assert not other.numel() or other.data_ptr() % ALIGNMENT == 0


def test_one_slot_goes_round_as_long_as_nobody_holds_what_is_in_it(both):
    places = set()
    for value in range(5):
        x = both.made(full(value))
        assert x.unique().tolist() == [value]
        places.add(x.data_ptr())
        del x
    assert both.slots == 1 and len(places) == 1


@pytest.mark.parametrize(
    "keep",
    [lambda x: x, lambda x: x[1, 3:5], lambda x: x.numpy()[0], lambda x: x.view(-1).detach(),
     lambda x: (x.float().requires_grad_() * x).sum()],
    ids=["itself", "a view", "an array", "detached", "a graph"],
)  # fmt: skip
def test_what_somebody_holds_never_changes_and_its_slot_comes_back_when_it_is_let_go(both, keep):
    held = keep(both.made(full(3)))
    seen = np.asarray(held.detach() if isinstance(held, torch.Tensor) else held).copy()
    others = [both.made(full(value)) for value in (4, 5)]
    assert both.slots == 3
    assert np.array_equal(np.asarray(held.detach() if isinstance(held, torch.Tensor) else held), seen)
    if isinstance(held, torch.Tensor) and held.requires_grad:
        held.backward()  # of a product with what lies in the slot
    del held, others
    assert sorted(both.ring.freed()) == [0, 1, 2] and both.ring.freed() == ()


def test_a_batch_that_is_larger_makes_its_slot_grow_and_what_was_made_in_it_before_stays_in_place(both):
    assert both.made(full(1)).nbytes < GRAIN and both.ring.capacity == GRAIN

    def make():
        first = stacked([torch.arange(1000)])
        return first, stacked([torch.full((GRAIN,), 7.0)] * 3), first[:, :10]

    for _ in range(2):
        small, large, view = both.made(make)
        assert small.flatten().tolist() == list(range(1000)) and view.flatten().tolist() == list(range(10))
        assert large.shape == (3, GRAIN) and bool((large == 7).all())
        assert view.data_ptr() == small.data_ptr()  # it is not there twice
        del small, large, view
    assert both.slots == 1 and both.ring.capacity > 3 * 4 * GRAIN
    assert both.made(full(2)).unique().tolist() == [2]


class Registry(Pin):
    """Registers as CUDA would; `most` is how many it can have at once."""

    def __init__(self, most):
        self.most, self.now, self.calls, self.told = most, {}, 0, []
        super().__init__(self.told.append)

    def register(self, address, size):
        self.calls += 1
        if len(self.now) >= self.most:
            self.refused("no more")
            return False
        assert address % 4096 == 0 and address not in self.now
        self.now[address] = size
        return True

    def unregister(self, address):
        del self.now[address]


def test_a_slot_is_registered_once_and_let_go_when_its_worker_is_gone_and_nobody_holds_it():
    registry = Registry(9)
    both = Both(registry)
    held = both.made(full(1))
    for _ in range(4):
        assert both.made(full(2)).unique().tolist() == [2] and both.pinned
    assert registry.calls == 2 == len(registry.now)
    both.made(full(3, GRAIN))  # grown, so mapped and registered anew
    assert registry.calls == 3 and sorted(registry.now.values())[0] == GRAIN and len(registry.now) == 2
    both.ring.close()
    assert list(registry.now) == [held.data_ptr()]
    assert held.unique().tolist() == [1]
    del held
    assert not registry.now


def test_memory_that_cannot_be_registered_is_said_to_be_as_it_is():
    registry = Registry(0)
    both = Both(registry)
    assert both.made(full(1)).unique().tolist() == [1]
    assert both.pinned is False and registry.told == ["no more"]
    both.ring.close()


def ended_over(step):
    """Fills a slot for a step, and is killed in the midst of the next."""
    x = stacked([torch.full((1 << 18,), float(step))])
    if step == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def test_what_a_killed_worker_had_finished_is_whole_and_what_it_was_writing_is_never_read():
    lifeline, kept_open = Pipe(duplex=False)
    worker = Worker(ended_over, lifeline)
    try:
        for step in (0, 1):
            worker.ask(step)
        worker._process.join(60)  # it is gone before anybody looks
        (x,) = worker.answer(60.0, 60.0)
        assert x.unique().tolist() == [0.0]
        with pytest.raises(WorkerLost, match="SIGKILL"):
            worker.answer(60.0, 60.0)
        worker.end()
        assert x.unique().tolist() == [0.0]
    finally:
        worker.end()
        lifeline.close()
        kept_open.close()


def test_a_worker_has_as_many_slots_as_are_held_at_once_and_no_more():
    lifeline, kept_open = Pipe(duplex=False)
    worker, held = Worker(partial(torch.full, (1000,)), lifeline), []
    try:
        for step in range(12):
            worker.ask(step)
            while (answer := worker.answer(60.0, 5.0)) is None:
                time.sleep(0.01)
            held = [*held[-2:], answer[0]]
            del answer
            assert [x[0].item() for x in held] == list(range(max(0, step - 2), step + 1))
        assert len(worker.ring._maps) == 4  # three that are held, and the one that is made
    finally:
        worker.end()
        lifeline.close()
        kept_open.close()
