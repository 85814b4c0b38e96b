"""Child processes that decode video, each under a deadline; what happens to one costs one file.

Loader workers are daemonic and may have no multiprocessing children, so these are plain subprocesses. Frames come
back through shared memory: they are written once, there, and cropped from it.
"""

import contextlib
import json
import mmap
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.sources.address import locate
from mae_ext.errors import BadSample, UserError, death_of

CHILD = Path(__file__).with_name("child.py")
PACKAGES = str(Path(__file__).parents[2])
"""Where the child finds this package, be it installed or not."""

START_S = 120.0
"""Imports in a fresh child do not count against the deadline; they have this long."""

FILES_PER_CHILD = 500
"""decord leaks (dmlc/decord#208, #218, #279); a child that has read so many files is replaced."""

FRAMES_IN_TIME = 200
FRAME_S = 0.1
"""A deadline is for so many frames; each more, as where a whole film is kept, has so much more time."""


class Recounted(Exception):
    """A film's frames are others than its packets say. To be opened again, counted."""


@dataclass(frozen=True)
class Clip:
    """What a file holds. times: (n,) seconds, ascending, one per frame. height, width: of frames as they are given."""

    times: NDArray[np.float64]
    height: int
    width: int
    source: tuple[int, int]
    description: str
    decoder: str


@dataclass(frozen=True)
class Kept:
    """Where the table of a film's packets is kept, and whether one may be put there."""

    path: Path
    grows: bool


class Child:
    """One child and its shared memory. After any BadSample of kind "hung", "crashed" or "out of memory" it is gone."""

    def __init__(self, memory_bytes: int, child: Path = CHILD) -> None:
        self.memory = os.memfd_create("frames") if hasattr(os, "memfd_create") else _temporary()
        self.files = 0
        self.has_torchcodec = False
        # -P: the folder of the program holds modules called as some of the standard library's are.
        self.process = subprocess.Popen(  # noqa: S603 our own program
            [sys.executable, "-P", str(child), str(self.memory), str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(self.memory,),
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(PACKAGES), os.environ.get("PYTHONPATH", "")]).rstrip(":"),
            },
        )
        assert self.process.stdout is not None
        self._answers = self.process.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        self._rest = b""
        self._finish = weakref.finalize(self, _stop, self.process, self.memory)
        self._receive("decoder", time.monotonic() + START_S, START_S)

    def ask(self, address: str, request: dict[str, Any], until: float, deadline_s: float) -> dict[str, Any]:
        """The answer to a request. Raises BadSample about `address`. until: time.monotonic() at which it has hung."""
        line = json.dumps({**request, "deadline_s": max(0.0, until - time.monotonic())}) + "\n"
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(line.encode())
            self.process.stdin.flush()
        except OSError:
            raise BadSample(address, *self._death(deadline_s)) from None
        answer = self._receive(address, until, deadline_s)
        while "counting" in answer:
            answer = self._receive(address, until + answer["counting"] * FRAME_S, deadline_s)
        if "recount" in answer:
            raise Recounted(address)
        if "bad" in answer:
            kind, detail = (*answer["bad"], "")[:2]
            if kind == "out of memory":
                self.close()
            raise BadSample(address, kind, detail)
        if "broken" in answer:
            self.close()
            last_line = " ".join(answer["broken"].strip().splitlines()[-1].split())
            raise BadSample(address, "unreadable", f"the video decoder's program broke: {last_line}"[:300])
        return answer

    def load(self, decoder: str) -> None:
        """Have it import what a decoder needs, which counts against no file's deadline. Raises UserError."""
        if decoder != "torchcodec" or self.has_torchcodec:
            return
        answer = self.ask("decoder", {"op": "load"}, time.monotonic() + START_S, START_S)
        if why := answer["ok"]["why_not"]:
            raise UserError(f"decoder='torchcodec' {why}")
        self.has_torchcodec = True

    def view(self, shape: Sequence[int], dtype: type[np.generic]) -> NDArray[Any]:
        """What the last answer put into shared memory. Valid until the next request."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if size == 0:
            return np.empty(shape, dtype)
        return np.frombuffer(mmap.mmap(self.memory, size, access=mmap.ACCESS_READ), dtype).reshape(shape)

    @property
    def alive(self) -> bool:
        return self._finish.alive and self.process.poll() is None

    def close(self) -> None:
        self._finish()

    def _receive(self, address: str, until: float, deadline_s: float) -> dict[str, Any]:
        while b"\n" not in self._rest:
            wait = until - time.monotonic()
            if wait <= 0 or not self._poll.poll(wait * 1000):
                self.close()
                raise BadSample(address, "hung", f"no answer within {deadline_s:g} s")
            part = os.read(self._answers, 1 << 16)
            if not part:
                raise BadSample(address, *self._death(deadline_s))
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _death(self, deadline_s: float) -> tuple[str, str]:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5.0)
        code = self.process.returncode
        self.close()
        return death_of("the decoder", code, deadline_s)


class Children:
    """As many children as threads read at the same time, kept for the next file. Picklable: children stay behind."""

    def __init__(self, deadline_s: float, memory_bytes: int, max_pixels: int, child: Path = CHILD) -> None:
        self.deadline_s, self.memory_bytes, self.max_pixels, self.child = deadline_s, memory_bytes, max_pixels, child
        self._idle: list[Child] = []
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k in ("deadline_s", "memory_bytes", "max_pixels", "child")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @contextlib.contextmanager
    def open(
        self, address: str, short_side: int | None, decoder: str, kept: Kept | None = None, counted: bool = False
    ) -> Iterator["Opened"]:
        """A file's clip, and its frames. Raises BadSample, also from what `Opened.frames` is asked.

        counted: have every frame decoded to know their number and order; where `Opened.frames` raised Recounted.
        """
        path, offset, size = locate(address)
        child = self._take()  # a new one imports first, and that is not the file's fault
        try:
            child.load(decoder)
            until = time.monotonic() + self.deadline_s
            request = {
                "op": "open", "path": str(Path(path).absolute()), "offset": offset, "size": size, "decoder": decoder,
                "short_side": short_side, "max_pixels": self.max_pixels, "counted": counted,
                "kept": None if kept is None else str(kept.path), "keeps": kept is not None and kept.grows,
            }  # fmt: skip
            film = child.ask(address, request, until, self.deadline_s)["ok"]
            times = child.view([film["count"]], np.float64).copy()
            clip = Clip(
                times, film["height"], film["width"], tuple(film["source"]), film["description"], film["decoder"]
            )
            yield Opened(address, clip, child, until, self)
        finally:
            child.files += 1
            self._give(child)

    def close(self) -> None:
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def _take(self) -> Child:
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.alive:
                    return child
        return Child(self.memory_bytes, self.child)

    def _give(self, child: Child) -> None:
        if child.files >= FILES_PER_CHILD or not child.alive:
            child.close()
            return
        with self._lock:
            self._idle.append(child)


@dataclass(frozen=True)
class Opened:
    address: str
    clip: Clip
    child: Child
    until: float
    limits: Children
    frames_asked: list[int] = field(default_factory=lambda: [0])

    def frames(self, numbers: Sequence[int], more: bool = False) -> NDArray[np.uint8]:
        """(n, H, W, 3) of ascending, different frame numbers. Valid until more are asked for, or the file is closed.

        more: whether more will be; without it, this is the last time. Raises BadSample, and Recounted.
        """
        self.frames_asked[0] += len(numbers)
        request = {"op": "frames", "frames": list(numbers), "max_bytes": self.limits.memory_bytes // 4, "more": more}
        extra = max(0, self.frames_asked[0] - FRAMES_IN_TIME) * FRAME_S
        self.child.ask(self.address, request, self.until + extra, self.limits.deadline_s + extra)
        return self.child.view([len(numbers), self.clip.height, self.clip.width, 3], np.uint8)


def _stop(process: subprocess.Popen[bytes], memory: int) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()
    os.close(memory)


def _temporary() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
