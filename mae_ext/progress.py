"""How far a long phase has come, told to whoever watches: nobody, unless a training or a command has said who."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

Progress = Callable[[int, int], None]
"""Called as progress(done, total)."""

Watcher = Callable[[str], AbstractContextManager[Progress]]
"""Begins a phase, by what it does, and is told of its progress until the context ends."""

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Phases below this are told to `watcher`."""
    before = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(before)


@contextmanager
def phase(what: str) -> Iterator[Progress]:
    """A phase that may take long: "measuring ... of 1024 files"."""
    watcher = _watcher.get()
    if watcher is None:
        yield lambda *_: None
    else:
        with watcher(what) as progress:
            yield progress
