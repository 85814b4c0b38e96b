"""Named places where a test ends the process or breaks the disk, to see what is lost; they cost nothing otherwise.

    MAE_EXT_FAILPOINT="file.write:3"            SIGKILL at the third time that `file.write` is reached
    MAE_EXT_FAILPOINT="file.fsync:2:enospc"     OSError(ENOSPC) there; also erofs, eio
    MAE_EXT_FAILPOINT="file.write:1+:sleep=0.5" half a second there, the first time and each time after it

Several are separated by commas. The variable is read once, when a process starts.
"""

import errno
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass

VARIABLE = "MAE_EXT_FAILPOINT"

POINTS = (
    "stage.copy", "stage.copied",
    "journal.write", "journal.written", "journal.fsync", "journal.fsynced",
    "folder.make", "file.write", "file.written", "file.fsynced",
    "manifest.write", "manifest.written", "manifest.fsynced",
    "folder.fsynced", "folder.rename", "folder.renamed", "parent.fsynced", "folder.verified",
    "older.rename", "older.renamed", "older.deleted",
    "text.write", "text.written", "text.fsynced", "text.replaced",
)  # fmt: skip
"""All there are, in the order of a save: copies of the tensors, rows of journals, the files of a checkpoint (a
`file.write` for each tensor), its manifest, its name, the older ones; last, small files that are replaced at once."""


@dataclass(frozen=True)
class Failure:
    """What happens the `nth` time that a point is reached (from 1), or, with `on`, at that time and all after it."""

    nth: int
    on: bool
    action: str
    seconds: float = 0.0

    def __call__(self, point: str) -> None:
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.action == "sleep":
            time.sleep(self.seconds)
        else:
            code = getattr(errno, self.action.upper())
            raise OSError(code, f"{os.strerror(code)}, says {VARIABLE}", point)


def read(text: str) -> dict[str, list[Failure]]:
    """What the variable asks for, by point. Raises ValueError."""
    plan: dict[str, list[Failure]] = {}
    for entry in filter(None, text.split(",")):
        name, _, rest = entry.partition(":")
        times, _, action = rest.partition(":")
        action, _, seconds = (action or "kill").partition("=")
        count = times.removesuffix("+")
        known = name in POINTS and count.isdecimal() and int(count) > 0
        if not known or action not in ("kill", "sleep", "enospc", "erofs", "eio"):
            raise ValueError(
                f"{VARIABLE}={entry}: expected NAME:NTH, NAME:NTH+ or NAME:NTH:ACTION with an action of kill, enospc, "
                f"erofs, eio or sleep=SECONDS, and a name of {', '.join(POINTS)}"
            )
        plan.setdefault(name, []).append(Failure(int(count), times.endswith("+"), action, float(seconds or 0)))
    return plan


_PLAN, _REACHED = read(os.environ.get(VARIABLE, "")), Counter[str]()


def reach(point: str) -> None:
    """Called just before or just after an operation on the disk; what is asked for there happens, if anything is."""
    if not _PLAN:
        return
    _REACHED[point] += 1
    for failure in _PLAN.get(point, ()):
        if _REACHED[point] == failure.nth or (failure.on and _REACHED[point] > failure.nth):
            failure(point)
