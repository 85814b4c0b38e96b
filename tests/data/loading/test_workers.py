"""A worker by itself: answers in the order of what was asked, errors that say where, and an end that is told."""

import os
import signal
import time
from functools import partial
from multiprocessing import Pipe

import pytest
import torch

from mae_ext.data.loading.workers import Worker, WorkerLost
from mae_ext.errors import RunError, check_bad


@pytest.fixture
def worker():
    """make -> Worker; all are ended."""
    lifeline, kept_open = Pipe(duplex=False)
    made = []

    def begin(make):
        made.append(Worker(make, lifeline))
        return made[-1]

    yield begin
    for one in made:
        one.end()
    lifeline.close()
    kept_open.close()


def answer(one, timeout_s=60.0):
    while (found := one.answer(timeout_s, 5.0)) is None:
        pass
    return found[0]


def test_answers_come_in_the_order_of_the_questions_and_tensors_are_whole(worker):
    one = worker(partial(torch.full, (1 << 20,)))
    for step in (5, 3, 4):
        one.ask(step)
    assert list(one.owed) == [5, 3, 4]
    for step in (5, 3, 4):
        x = answer(one)
        assert x.shape == (1 << 20,) and bool((x == step).all())
        x += 1  # its own memory, and not the worker's
    assert not one.owed


def test_an_error_is_raised_where_the_batch_is_asked_for_and_says_where_it_arose(worker):
    one = worker(partial(divmod, 7))
    one.ask(0)
    one.ask(2)
    with pytest.raises(ZeroDivisionError) as info:
        answer(one)
    assert "In a worker:" in info.value.__notes__[0] and "workers.py" in info.value.__notes__[0]
    assert answer(one) == (3, 1)


def test_an_error_that_is_meant_for_the_user_has_no_traceback(worker):
    one = worker(partial(check_bad, ("a.png",), allowed=0.0, source="photos"))
    one.ask(4)
    with pytest.raises(RunError, match=r"photos: 1 of 4 samples cannot be used") as info:
        answer(one)
    assert not getattr(info.value, "__notes__", [])


def test_the_signal_of_the_keyboard_is_for_the_parent_alone(worker):
    one = worker(signal.raise_signal)
    one.ask(int(signal.SIGINT))
    assert answer(one) is None
    one.ask(int(signal.SIGUSR1))
    with pytest.raises(WorkerLost, match="was killed by SIGUSR1"):
        answer(one)


def test_a_worker_that_ends_or_hangs_is_told_as_such_and_still_owes_its_steps(worker):
    gone, slow = worker(os._exit), worker(time.sleep)
    gone.ask(3)
    with pytest.raises(WorkerLost, match="ended with exit code 3"):
        answer(gone)
    slow.ask(0)
    answer(slow)  # it has begun: imports do not count
    slow.ask(30)
    began = time.monotonic()
    assert slow.answer(20.0, 0.2) is None and time.monotonic() - began < 5
    with pytest.raises(WorkerLost, match=r"no batch for 0\.5 s"):
        answer(slow, 0.5)
    assert list(gone.owed) == [3] and list(slow.owed) == [30]


def test_a_worker_may_be_asked_for_more_than_a_pipe_holds_and_also_one_that_hangs_is_told_as_such(worker):
    one, hung = worker(partial(divmod, 7)), worker(time.sleep)
    for step in range(1, 1001):
        one.ask(step)
        hung.ask(3600)
    assert [answer(one) for _ in range(1000)] == [divmod(7, step) for step in range(1, 1001)]
    assert not one.owed
    with pytest.raises(WorkerLost, match=r"no batch for 0\.2 s"):
        answer(hung, 0.2)
    assert len(hung.owed) == 1000
