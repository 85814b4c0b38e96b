"""Files judged several at a time, each in a child that may die of it; what comes of them, in the order of the list."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from mae_ext.data.loading.sandbox import Sandbox

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 4
"""Files for each worker that are done, or under way, before the first of them is taken."""


def in_order(
    todo: Iterable[T],
    work: Callable[[Sandbox, T], R],
    workers: int,
    deadline_s: float,
    memory_bytes: int | None = None,
) -> Iterator[R]:
    """work(sandbox, one) of each, in order, the same for any number of workers. Raises what `work` raises, at its turn.

    A worker is a thread with a sandbox of its own, whose deadline and memory these are. Where the work is broken off,
    by Ctrl-C too, children are ended at once: nobody waits for what they are at.
    """
    mine = threading.local()
    open_ones: list[Sandbox] = []

    def one(item: T) -> R:
        if not hasattr(mine, "sandbox"):
            mine.sandbox = Sandbox(deadline_s, memory_bytes)
            open_ones.append(mine.sandbox)
        return work(mine.sandbox, item)

    with ThreadPoolExecutor(workers, thread_name_prefix="side by side") as pool:
        rest = iter(todo)
        ahead: deque[Future[R]] = deque()
        try:
            ahead.extend(pool.submit(one, item) for item in islice(rest, AHEAD * workers))
            while ahead:
                yield ahead.popleft().result()
                ahead.extend(pool.submit(one, item) for item in islice(rest, 1))
        except BaseException:
            for future in ahead:
                future.cancel()
            for sandbox in open_ones:
                sandbox.end()
            raise
        finally:
            for sandbox in open_ones:
                sandbox.close()
