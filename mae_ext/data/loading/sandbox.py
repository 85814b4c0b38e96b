"""Call a function in a child that may spin in C, crash or swallow memory, without sharing its fate."""

import contextlib
import copyreg
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from io import BytesIO
from math import ceil
from multiprocessing import forkserver as server
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

from mae_ext.data.sources.shared import Shared, sent
from mae_ext.errors import BadSample, RunError, death_of

START_S = 120.0
"""Imports in a fresh child do not count against the deadline; they have this long."""

PATIENCE = 5
"""So many times its deadline a call may take by the clock, on a machine that lets it wait for a processor."""

PRELOADED = "mae_ext.data."
"""What the parent has imported of this, its readers among it, the server that children are forked from imports once: a
child after a kill costs milliseconds, not the seconds of importing torch."""

_starting = threading.Lock()


def forkserver() -> ForkServerContext:
    """Where sandboxes and loader workers come from: a server that has imported what they need, and opened nothing.

    Not fork: it copies locks that the parent's threads hold, and decoders opened before a fork deadlock.
    """
    context = get_context("forkserver")
    imported = list(sys.modules)  # at once: other threads import meanwhile
    context.set_forkserver_preload(sorted(name for name in imported if name.startswith(PRELOADED)))
    return context


def start(process: BaseProcess) -> None:
    """Start a child of `forkserver` that knows nothing of the program it is started from.

    multiprocessing would run that program again in every child, as far as it is not below `if __name__ == "__main__"`:
    a script that just calls train() would train in each of its workers. All that is called here is in modules.
    """
    with _starting:  # one thread would put back what another has put there
        _undisturbed_server()
        program = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            process.start()
        except EOFError:
            raise RunError(
                "the server that children are forked from ended at once; it opens a file for each of them: raise the "
                "limit of open files (ulimit -n 4096), or lower train.workers"
            ) from None
        finally:
            sys.modules["__main__"] = program


def _undisturbed_server() -> None:
    """Have the server running with SIGINT and SIGHUP blocked, as its children inherit it.

    It ignores the first itself, but only when all is imported: until then Ctrl-C would end it, with a traceback.
    """
    resource_tracker.ensure_running()  # which unblocks SIGINT when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        server.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Sandbox:
    """A child process that outlives its calls and is replaced after one that had to be killed.

    deadline_s: seconds a call may take, less those in which it waits for a processor that others use (Linux; elsewhere
    by the clock): on a busy machine a good file is no hung one. memory_bytes: address space a call may add (Linux;
    elsewhere not enforced).
    Not for daemonic processes, which may have no children: loader workers among them.
    """

    def __init__(self, deadline_s: float, memory_bytes: int | None = None) -> None:
        if not deadline_s > 0:
            raise ValueError(f"deadline_s={deadline_s} must be above 0")
        self.deadline_s, self.memory_bytes = deadline_s, memory_bytes
        self._child: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, function: Callable[..., Any], *args: Any, name: str = "") -> Any:
        """function(*args), both picklable. BadSample travels back whole, and so does any exception that can be pickled.

        Raises BadSample about `name`: "hung" past the deadline, "crashed" when the child died, "out of memory".
        """
        pipe = self._start()
        try:
            pipe.send_bytes(pickled((function, args, self.deadline_s, self.memory_bytes)))
            if self._answer(pipe, START_S, name) != "started":
                raise RunError("the sandbox answered before it was asked")
            outcome, value = self._answer(pipe, self.deadline_s, name)
        except (EOFError, ConnectionError):
            raise BadSample(name, *self._death()) from None
        except BaseException:
            self._kill()  # an interrupted call leaves an answer in the pipe that nobody waits for
            raise
        if outcome == "memory":
            raise BadSample(name, "out of memory", f"{value} (limit: {self.memory_bytes} bytes)")
        if outcome == "raised":
            raise value
        return value

    def end(self) -> None:
        """From any thread: the call that is under way in another fails at once, and there is none after it."""
        self._ended = True
        if (child := self._child) is not None:
            child.kill()

    def close(self) -> None:
        """The child is told to end, and made to."""
        if self._pipe is not None:
            self._pipe.close()
        if self._child is not None:
            self._child.join(1.0)
        self._kill()

    def _start(self) -> Connection:
        if self._child is not None and self._pipe is not None and self._child.is_alive():
            return self._pipe
        self._kill()
        context = forkserver()
        self._pipe, end = context.Pipe()
        child = context.Process(target=_serve, args=(end,), daemon=True, name="mae_ext sandbox")
        start(child)
        self._child = child
        end.close()  # so that the pipe ends when the child does
        if self._ended:  # while the child was started, which may take seconds
            self._kill()
            raise RunError("this sandbox was ended")
        return self._pipe

    def _answer(self, pipe: Connection, seconds: float, name: str) -> Any:
        begun, waited = time.monotonic(), self._waited()
        left = seconds
        while not pipe.poll(max(left, 0.01)):
            now = time.monotonic() - begun
            left = min(seconds + self._waited() - waited, PATIENCE * seconds) - now
            if left <= 0:
                raise BadSample(name, "hung", f"no answer within {seconds:g} s")
        return pickle.loads(pipe.recv_bytes())  # noqa: S301 our own child's

    def _waited(self) -> float:
        """Seconds in which the child was ready to run, and another process had the processor (Linux: schedstat)."""
        try:
            assert self._child is not None
            return int(Path(f"/proc/{self._child.pid}/schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            return 0.0

    def _death(self) -> tuple[str, str]:
        assert self._child is not None
        self._child.join(5.0)
        code = self._child.exitcode
        self._kill()
        kind, detail = death_of("the reading process", code, self.deadline_s)
        return kind, detail + ", as the system does when memory runs out" * (code == -signal.SIGKILL)

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.join(5.0)
        if self._pipe is not None:
            self._pipe.close()
        self._child = self._pipe = None


def pickled(request: Any) -> bytes:
    """As pickle.dumps, but for tables of a source, which are named and not copied."""
    content = BytesIO()
    pickler = pickle.Pickler(content)
    pickler.dispatch_table = {**copyreg.dispatch_table, Shared: sent}
    pickler.dump(request)
    return content.getvalue()


def _serve(pipe: Connection) -> None:
    """The child's life: a request, "started", an answer, again, until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # and so does the end of a terminal
    _limit("CORE", 0)
    while True:
        try:
            function, args, deadline_s, memory_bytes = pickle.loads(pipe.recv_bytes())  # noqa: S301 our own parent's
        except (EOFError, ConnectionError):
            return
        pipe.send_bytes(pickle.dumps("started"))
        # The kernel's default action needs no interpreter: a child whose parent died cannot spin on alone.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(ceil(PATIENCE * deadline_s) + 5)
        if memory_bytes is not None:
            _limit("AS", _address_space() + memory_bytes)
        answer = _outcome(function, args)
        _limit("AS", None)
        signal.alarm(0)
        with contextlib.suppress(ConnectionError):
            pipe.send_bytes(answer)


def _outcome(function: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    try:
        return pickle.dumps(("returned", function(*args)))
    except MemoryError as error:
        return pickle.dumps(("memory", str(error) or "MemoryError"))
    except BadSample as error:
        return pickle.dumps(("raised", error))
    except Exception as error:  # noqa: BLE001 whatever it is, the parent raises it again
        if "allocate memory" in str(error):  # torch's allocator raises RuntimeError
            return pickle.dumps(("memory", str(error)))
        try:
            answer = pickle.dumps(("raised", error))
            pickle.loads(answer)  # noqa: S301 some exceptions only pickle one way
        except Exception:  # noqa: BLE001
            return pickle.dumps(("raised", RunError("".join(traceback.format_exception(error)))))
        return answer


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    return pages * 4096


def _limit(what: str, value: int | None) -> None:
    if sys.platform != "linux":
        return
    import resource

    which = getattr(resource, f"RLIMIT_{what}")
    hard = resource.getrlimit(which)[1]
    soft = hard if value is None else value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (soft, hard))
