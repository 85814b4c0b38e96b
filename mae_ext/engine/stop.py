"""Signals: the first lets the step end and saves, or ends an evaluation at once; the second ends the process."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeVar

from mae_ext.engine.distributed import Ranks

T = TypeVar("T")


class Interrupted(BaseException):
    """A signal ended what was under way, on all ranks. No Exception: nothing between here and the loop may keep it."""


@dataclass
class StopFlag:
    """Set by the first SIGTERM, SIGINT or SIGUSR1; the second one exits at once."""

    received: int = 0
    leaving: bool = False
    previous: dict[int, Any] = field(default_factory=dict)

    def __call__(self, number: int, _: FrameType | None) -> None:
        if self.received:
            os._exit(128 + number)
        self.received = number
        if self.leaving:
            raise Interrupted

    def __enter__(self) -> "StopFlag":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
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


@dataclass(frozen=True)
class HeedfulRanks(Ranks):
    """Ranks that hear in every `gather` whether one of them was told to stop, and then stop together."""

    stop: StopFlag = field(default_factory=StopFlag)
    parted: list[bool] = field(default_factory=list)

    def gather(self, value: T) -> list[T]:
        return self._meet(value, left=False)

    def part(self, left: bool) -> None:
        """The last meeting of an evaluation. left: whether a signal ended this rank's. Raises Interrupted on all."""
        if not self.parted:
            self._meet(None, left)

    def _meet(self, value: T, left: bool) -> list[T]:
        with self.stop.held():  # a rank that left a collective in the middle would take the others with it
            found = super().gather((left, value))
            if any(told for told, _ in found):
                self.parted.append(True)
                raise Interrupted
        return [given for _, given in found]
