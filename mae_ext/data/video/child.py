"""The program that decodes video: a child process with a life of its own, because decoders hang, crash and leak.

`decoder.py` starts it. It imports no torch, and so starts in a third of a second. Requests and answers are lines of
JSON; frames go through shared memory.
"""

import json
import mmap
import os
import resource
import signal
import sys
import traceback
from math import ceil
from typing import Any

import av

from mae_ext.data.video.by_name import load_torchcodec
from mae_ext.data.video.film import Recount
from mae_ext.data.video.film_table import Bad
from mae_ext.data.video.frames import Log, Video

EOF_RETRIES = "2048"
"""decord polls so often for the last frames of a file (10240 by default) before it gives up; PyAV decides then."""

CUT = ("moov atom not found", "partial file", "File ended prematurely")
"""What FFmpeg says of files whose end is missing."""

DECODER_ERRORS = (OSError, ValueError, EOFError, RuntimeError, ArithmeticError, LookupError, AttributeError, TypeError)
"""Everything that PyAV and decord were seen to raise over damaged files, or may where a header lacks something; besides
those errors of FFmpeg that are none of Python's, of which "not yet implemented" is one that damage looks like."""


def _share(memory: int, array: Any) -> None:
    """Put an array where the parent sees it."""
    os.ftruncate(memory, max(array.nbytes, 1))
    if array.nbytes:
        with mmap.mmap(memory, array.nbytes) as shared:
            shared[:] = array.reshape(-1).view("uint8").data


def _address_space() -> int:
    """Bytes, where the system says; else 0."""
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _at_most(limit: int, hard: int) -> int:
    return limit if hard == resource.RLIM_INFINITY else min(limit, hard)


def serve(memory: int, limit_bytes: int) -> None:
    """Requests on stdin until it ends. memory: the descriptor of the shared memory."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that a library prints may look like an answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # and so does the end of a terminal
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["DECORD_EOF_RETRY_MAX"] = EOF_RETRIES
    av.logging.set_level(av.logging.ERROR)
    log = Log()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if limit_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, hard))
    print(json.dumps({"ready": True}), file=replies, flush=True)
    video: Video | None = None
    deadline_s = 0.0

    def alive(frames: int) -> None:
        signal.alarm(ceil(deadline_s) + 5)
        print(json.dumps({"counting": frames}), file=replies, flush=True)

    for line in sys.stdin:
        request = json.loads(line)
        # The kernel's default action needs no interpreter: a child whose parent died cannot spin on alone.
        deadline_s = request["deadline_s"]
        signal.alarm(ceil(deadline_s) + 5)
        log.clear()
        try:
            if request["op"] == "load":
                before = _address_space()
                os.environ["OMP_NUM_THREADS"] = "1"  # one child is one core
                answer: dict[str, Any] = {"ok": {"why_not": load_torchcodec()}}
                if limit_bytes:  # files may have as much besides
                    resource.setrlimit(
                        resource.RLIMIT_AS, (_at_most(limit_bytes + _address_space() - before, hard), hard)
                    )
            elif request["op"] == "open":
                video = None
                video = Video(request, alive)
                _share(memory, video.table.times)
                answer = {"ok": video.answer()}
            else:
                assert video is not None
                if len(request["frames"]) * video.height * video.width * 3 > request["max_bytes"]:
                    raise Bad("too large", f"{len(request['frames'])} frames of {video.width}x{video.height} pixels")
                _share(memory, video.frames(request["frames"], log))
                if not request["more"]:
                    video = None  # closing can hang as well, and is this file's fault
                answer = {"ok": {}}
        except Recount:
            answer = {"recount": True}
        except Bad as error:
            answer = {"bad": list(error.args)}
        except MemoryError as error:
            answer = {"bad": ["out of memory", str(error)]}
        except (av.FFmpegError, *DECODER_ERRORS) as error:
            logged = getattr(error, "log", None)  # PyAV's errors carry FFmpeg's last words: (level, who, what)
            complaint = logged[2] if logged else log.complaint() or str(error)
            kind = "truncated" if any(sign in complaint for sign in CUT) else "damaged"
            answer = {"bad": [kind, f"{type(error).__name__}: {' '.join(complaint.split())}"[:300]]}
        except Exception:  # noqa: BLE001 unforeseen; the parent makes a verdict of it
            answer = {"broken": traceback.format_exc()}
        signal.alarm(0)
        print(json.dumps(answer), file=replies, flush=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
