"""Copies beside kernels, on two streams that run as far and in whatever order their events let them."""

import random
import weakref
from collections import deque
from functools import partial

import pytest
import torch

from mae_ext.data.batch import Batch
from mae_ext.data.loading.copies import Copies


class Event:
    def __init__(self, streams):
        self.streams, self.done = streams, False

    def query(self):
        return self.done

    def synchronize(self):
        self.streams.run_until(lambda: self.done)

    def elapsed_time(self, end):
        assert self.done and end.done
        return 2.0  # ms


class Streams:
    """A `Lane` whose work is done late: by `run`, an operation at a time, from either stream as far as events allow.

    Memory that a part lets go is the next part's at once, as with torch's allocator, whose pools know one stream.
    """

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.copying, self.computing = deque(), deque()
        self.free, self.made = [], 0

    def put(self, stream, work=lambda: None, after=None):
        event = Event(self)
        stream.append((work, event, after))
        return event

    def send(self, part):
        began = self.put(self.copying)
        moved = {}
        for name, batch in part.items():
            room = self.free.pop() if self.free else torch.empty(4)
            self.made += 1
            moved[name] = Batch(room)
            weakref.finalize(moved[name], self.free.append, room)
            # The memory itself: that of a source may be somebody else's when this is done.
            end = self.put(self.copying, partial(room.copy_, batch.x))
        return moved, began, end

    def computed(self):
        return self.put(self.computing)

    def compute_after(self, event):
        self.put(self.computing, after=event)

    def send_after(self, event):
        self.put(self.copying, after=event)

    def run_until(self, enough):
        while not enough():
            ready = [s for s in (self.copying, self.computing) if s and (s[0][2] is None or s[0][2].done)]
            assert ready or enough(), "each stream waits for the other"
            work, event, _ = self.chance.choice(ready).popleft()
            work()
            event.done = True


def host_part(value):
    """A part in memory that is written over as soon as nobody holds the part."""
    x = torch.full((4,), float(value))
    batch = Batch(x)
    weakref.finalize(batch, x.fill_, -1.0)
    return {"m": batch}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_part_is_whole_when_it_is_computed_however_late_copies_and_kernels_are(seed, count):
    streams, seen = Streams(seed), []
    copies = Copies(torch.device("cpu"), streams)
    for step in range(6):
        parts = [host_part(10 * step + part) for part in range(count)]
        for moved in copies(parts):
            x = moved["m"].x
            streams.put(streams.computing, lambda x=x: seen.append(x.tolist()))
            if streams.chance.random() < 0.3:
                progress = streams.chance.randrange(1, 4)
                for _ in range(progress):
                    streams.run_until(lambda: not streams.copying or streams.copying[0][2] is not None)
        del parts
    streams.run_until(lambda: not streams.copying and not streams.computing)
    assert seen == [[10.0 * step + part] * 4 for step in range(6) for part in range(count)]
    # However far ahead the host was, the device had memory for the part computed, its neighbours, and no more.
    assert len(streams.free) <= 4 < 6 * count <= streams.made


def test_the_next_part_is_sent_before_this_one_is_computed_and_none_beyond_it():
    streams = Streams(0)
    coming = Copies(torch.device("cpu"), streams)([host_part(n) for n in range(4)])
    assert [streams.made for _ in coming] == [2, 3, 4, 4]


def test_the_host_waits_for_no_copy_that_is_less_than_a_step_behind_and_times_those_that_ended():
    streams = Streams(1)
    copies = Copies(torch.device("cpu"), streams)
    for _ in range(2):
        list(copies([host_part(n) for n in range(3)]))
    ended = 6 - 4  # the two that are more than a step and a part behind
    assert copies.taken() == pytest.approx(ended * 0.002)
    streams.run_until(lambda: not streams.copying)
    list(copies([host_part(0)]))
    assert copies.taken() >= (6 - ended) * 0.002


def test_parts_that_are_where_they_are_computed_are_given_as_they_are():
    parts = [host_part(n) for n in range(3)]
    assert all(a is b for a, b in zip(Copies(torch.device("cpu"))(parts), parts, strict=True))
