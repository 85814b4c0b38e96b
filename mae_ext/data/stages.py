"""What making a batch takes, by stage: seconds of the process that makes it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

STAGES = ("read", "decode", "transform", "share")
"""read: bytes of files, where a reader takes them through `data/sources/address.py`. decode: what becomes of them,
crops included, and the reading of decoders that open files themselves. transform: masks, mixtures, and all else.
share: into memory that the training process maps. Each second is counted once, in the innermost stage."""


class Stopwatch:
    """Seconds by stage, since they were last taken. Of one thread."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def taken(self) -> dict[str, float]:
        seconds, self._seconds = self._seconds, dict.fromkeys(STAGES, 0.0)
        return seconds

    def _turn(self) -> None:
        now = time.perf_counter()
        if self._open:
            self._seconds[self._open[-1]] += now - self._since
        self._since = now


_here = threading.local()


@contextmanager
def timed(watch: Stopwatch) -> Iterator[None]:
    """Stages of this thread in the meantime are told to this watch; of others, and at other times, to none."""
    before, _here.watch = getattr(_here, "watch", None), watch
    try:
        yield
    finally:
        _here.watch = before


@contextmanager
def stage(name: str) -> Iterator[None]:
    """One of STAGES; a stage within it is not of it."""
    watch: Stopwatch | None = getattr(_here, "watch", None)
    with nullcontext() if watch is None else watch(name):
        yield
