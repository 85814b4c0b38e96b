"""Signals: the first lets the step end and saves, or ends at once what changes nothing; the second ends the process."""

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeVar

from mae_ext.engine.distributed import Ranks
from mae_ext.launcher import Launcher

T = TypeVar("T")


class Interrupted(BaseException):
    """A signal ended what was under way, on all ranks. No Exception: nothing between here and the loop may keep it."""


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)

ECHO_S = 5.0
"""Seconds in which a launcher hands a signal on."""


@dataclass
class StopFlag:
    """Set by the first of SIGNALS; a second one exits at once, except SIGHUP.

    Under a launcher that restarts, the same signal within ECHO_S is no second one: a scheduler sends it to all
    processes, and the launcher, which is one of them, hands on what it was sent.

    A terminal that closes sends that several times: by the kernel, and by the shell. What was started to ignore it
    (nohup) goes on ignoring it.
    """

    received: int = 0
    leaving: bool = False
    at: float = 0.0
    previous: dict[int, Any] = field(default_factory=dict)

    def __call__(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _let_go_of_terminal()
            if self.received:
                return
        if self.received:
            launcher = Launcher.here()
            if launcher is not None and number == self.received and time.monotonic() < self.at + ECHO_S:
                return
            if launcher is not None and number != signal.SIGTERM:  # which is also how a launcher ends what is left
                launcher.end(128 + number, f"ended at once by a second signal, {signal.Signals(number).name}")
            os._exit(128 + number)
        self.received, self.at = number, time.monotonic()
        if self.leaving:
            raise Interrupted

    def __enter__(self) -> "StopFlag":
        for number in SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            try:
                self.previous[number] = signal.signal(number, self)
            except ValueError:  # not the main thread: whoever embeds us handles signals
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """For work that changes nothing and comes after a save: a signal, also an earlier one, raises Interrupted."""
        if self.received:
            raise Interrupted
        self.leaving = True
        try:
            yield
        finally:
            self.leaving = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside of `interrupts`, for what may not be left in the middle."""
        was, self.leaving = self.leaving, False
        try:
            yield
        finally:
            self.leaving = was


def _let_go_of_terminal() -> None:
    """What is said goes nowhere once nobody can read it: writing to a terminal that is gone is an error."""
    for output in (1, 2):
        poller = select.poll()
        poller.register(output, 0)
        if poller.poll(0):  # nothing was asked for, so it has hung up
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, output)
            os.close(nowhere)


@dataclass(frozen=True)
class HeedfulRanks(Ranks):
    """Ranks that hear in every meeting whether one was told to stop (where they wait for rank 0: whether it was).

    Then they stop together: Interrupted is raised on all.
    """

    stop: StopFlag = field(default_factory=StopFlag)
    parted: list[bool] = field(default_factory=list)

    def gather(self, value: T, patiently: bool = True) -> list[T]:
        return self._meet(value, left=False, patiently=patiently)

    def from_main(self, value: T) -> T:
        with self.stop.held():
            stopped, answer = super().from_main((bool(self.stop.received), value))
        if stopped:
            raise Interrupted
        return answer

    def on_main(self, work: Callable[[], T]) -> T:
        """As of Ranks; a signal ends the work at once, and then all ranks leave."""

        def heedful() -> T | None:
            try:
                with self.stop.interrupts():
                    return work()
            except Interrupted:
                # `from_main`, which follows, tells everyone; also of a signal to another rank, which helped.
                self.stop.received = self.stop.received or signal.SIGTERM
                return None

        return super().on_main(heedful)  # type: ignore[return-value]

    def alone(self, work: Callable[[], T]) -> T:
        """What every rank does by itself, without meeting another: a signal ends it at once."""
        with self.stop.interrupts():
            return work()

    def part(self, left: bool) -> None:
        """The last meeting of an evaluation. left: whether a signal ended this rank's. Raises Interrupted on all."""
        if not self.parted:
            self._meet(None, left)

    def _meet(self, value: T, left: bool, patiently: bool = True) -> list[T]:
        with self.stop.held():  # a rank that left a collective in the middle would take the others with it
            answers = super().gather((left, value), patiently)
            if any(stopped for stopped, _ in answers):
                self.parted.append(True)
                raise Interrupted
        return [answer for _, answer in answers]
