"""Processes that make batches, each on a socket of its own: one can die or hang without the others or the run noticing.

Not torch's DataLoader: its workers share a queue and an event, which one that is killed may leave locked, and a tensor
can be fetched only while the worker that made it still answers: one that spins in a decoder with the GIL held stops the
run, not for a timeout but for ever. Here what is made lies in a slot of a ring (`ring.py`) that both sides have mapped.
Once spoken of, it needs nobody.
"""

import contextlib
import fcntl
import os
import pickle
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

import torch

from mae_ext.data.loading.ring import Filled, Pin, Ring, Shelf
from mae_ext.data.loading.sandbox import START_S, forkserver, start
from mae_ext.data.room import made_in
from mae_ext.data.stages import Stopwatch, stage, timed
from mae_ext.errors import RunError, UserError

AHEAD = 64
"""Steps that a worker is sent at most before it has answered. What is sent and not yet read fills a pipe (on Linux at
some 270), and two who both wait until the other reads wait for ever; so the rest are kept until it has."""


class WorkerLost(Exception):
    """A worker died or hung over the first step that it still owed."""


class Worker:
    """A process that answers make(step) for each step that it is asked for, in that order.

    make: picklable; what it returns may hold tensors. lifeline: the reading end of a pipe that only the parent writes.
    pinned, stages: of the last answer, whether a GPU copies from its memory by itself (see `Pin`), and the seconds that
    each of STAGES took.
    """

    def __init__(self, make: Callable[[int], Any], lifeline: Connection, pin: Pin | None = None) -> None:
        context = forkserver()
        self.ring, self.pinned, self.stages = Ring(pin), False, dict[str, float]()
        self.owed: deque[int] = deque()
        self._kept: deque[int] = deque()
        self._pipe, end = context.Pipe()
        self._process = context.Process(target=_work, args=(end, lifeline, make), daemon=True, name="mae_ext worker")
        start(self._process)
        end.close()  # so that the pipe ends when the worker does
        # Until it begins it imports, and that is not the batch's fault.
        self._since = time.monotonic() + START_S

    def ask(self, step: int) -> None:
        if not self.owed:
            self._since = max(self._since, time.monotonic())
        self.owed.append(step)
        self._kept.append(step)
        self._send()

    def _send(self) -> None:
        while self._kept and len(self.owed) - len(self._kept) < AHEAD:
            with contextlib.suppress(OSError):  # it is dead, which `answer` will find
                self._pipe.send((self._kept.popleft(), self.ring.freed()))

    def answer(self, timeout_s: float, patience_s: float) -> tuple[Any] | None:
        """The first owed result in a tuple, or None if it takes more than `patience_s` from now.

        Raises WorkerLost when the worker died, or works on that step for more than `timeout_s`; and what `make` raised.
        """
        until = time.monotonic() + patience_s
        while True:
            try:
                # Before its end, what it still had to say.
                if self._pipe.poll(max(0.0, until - time.monotonic())):
                    kind, value = self._pipe.recv()
                    if kind != "begun":
                        made, self.stages = value
                        if kind == "made":
                            made, self.pinned = self.ring.receive(made, self._pipe)
                        self.owed.popleft()
                        self._since = time.monotonic()
                        self._send()
                        break
                    self._since = value
                    if self._pipe.poll(0):  # its batch may lie here: begun long ago is not hung
                        continue
            except (EOFError, OSError, pickle.UnpicklingError):
                raise WorkerLost(self._obituary()) from None
            now = time.monotonic()
            if now > self._since + timeout_s:
                raise WorkerLost(f"no batch for {timeout_s:g} s")
            if now >= until:
                return None
        if kind == "raised":
            raise made
        return (made,)

    def end(self) -> None:
        """It is not asked: it may hang."""
        self._process.kill()
        self._process.join(5.0)
        self._pipe.close()
        self.ring.close()

    def _obituary(self) -> str:
        self._process.join(5.0)
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"worker {self._process.pid} was killed by {signal.Signals(-code).name}"
        return f"worker {self._process.pid} ended with exit code {code}"


def _work(pipe: Connection, lifeline: Connection, make: Callable[[int], Any]) -> None:
    """The worker's life: a step, "begun", "made" with where it lies, again, until the parent is gone."""
    # Ctrl-C and a closed terminal reach the whole process group; the parent decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    torch.set_num_threads(1)
    _end_with_parent(lifeline)
    shelf, watch = Shelf(), Stopwatch()
    while True:
        try:
            step, freed = pipe.recv()
            pipe.send(("begun", time.monotonic()))  # a clock that all processes share
            shelf.give(freed)
            try:
                with timed(watch):
                    filled = _made(shelf, make, step)
            except Exception as error:  # noqa: BLE001 it is raised again where the batch is asked for
                pipe.send(("raised", (_portable(error), watch.taken())))
                continue
            pipe.send(("made", (filled, watch.taken())))
            if filled.fresh:
                reduction.send_handle(pipe, shelf.slots[filled.slot].handle, os.getppid())
        except (EOFError, ConnectionError):
            return


def _made(shelf: Shelf, make: Callable[[int], Any], step: int) -> Filled:
    """make(step), in a slot."""
    slot = shelf.take()
    try:
        with made_in(slot), stage("transform"):
            made = make(step)
        with stage("share"):
            return shelf.fill(slot, made)
    except Exception:
        shelf.give([slot.number])
        raise


def _portable(error: Exception) -> Exception:
    """The error with its traceback as a note, as a traceback itself cannot be sent."""
    if not isinstance(error, RunError | UserError):
        error.add_note("In a worker:\n" + "".join(traceback.format_tb(error.__traceback__)))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 some exceptions only pickle one way
    except Exception:  # noqa: BLE001
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


def _end_with_parent(lifeline: Connection) -> None:
    """A worker that spins in a decoder never looks whether its parent still lives; the kernel does (Linux).

    It sends SIGIO, which ends a process, when the far end of the pipe closes. The pipe is opened anew because owner and
    flags belong to the open file, which all workers share.
    """
    if sys.platform != "linux":
        return
    line = os.open(f"/proc/self/fd/{lifeline.fileno()}", os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(line, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(line, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    if lifeline.poll(0):  # the end of the pipe: too late for a signal
        os._exit(1)
