"""A trial: one process that injects a fault, looks what became of it, and may hang, crash or use up memory itself."""

import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """Of a trial. injected: faults. lost: a line for each that was not survived. note: figures worth a place."""

    injected: int
    lost: tuple[str, ...] = ()
    note: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A row of the fault list.

    what: is injected, and how it is survived. trials: by amount, each a process. run: the trial of a number, in an
    empty folder of its own, with what `prepare` left in the folder of the row. needs: why it cannot be run here, or "".
    """

    name: str
    what: str
    trials: Mapping[str, int]
    run: Callable[[int, Path, Path], Outcome]
    deadline_s: float
    prepare: Callable[[Path], None] | None = None
    needs: Callable[[], str] = lambda: ""


@dataclass
class Running:
    """A trial that was started: -1 is what the row prepares."""

    row: Row
    number: int
    pid: int
    folder: Path
    began: float

    def ended(self) -> dict[str, object] | None:
        """What to write down of it; None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        seconds = time.monotonic() - self.began
        late = pid == 0 and seconds > self.row.deadline_s
        if pid == 0 and not late:
            return None
        if late:
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        kept: dict[str, object] = {"row": self.row.name, "trial": self.number, "seconds": round(seconds, 2)}
        file = self.folder.with_suffix(".json")
        if file.exists() and not late:
            result: dict[str, object] = json.loads(file.read_text())
            return kept | result
        code = os.waitstatus_to_exitcode(status)
        why = f"no end within {self.row.deadline_s:g} s" if late else f"the trial itself ended with {code}"
        return kept | asdict(Outcome(1, (why,)))


def start(row: Row, number: int, work: Path) -> Running:
    """A fork, in a process group of its own, which says all that it says into a log beside its folder."""
    folder, shared = work / row.name / f"{number:04d}", work / row.name / "shared"
    for place in (folder, shared):
        place.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child:
        return Running(row, number, child, folder, time.monotonic())
    os.setsid()
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    code = 1
    try:
        outcome = Outcome(0)
        if number >= 0:
            outcome = row.run(number, folder, shared)
        elif row.prepare:
            row.prepare(shared)
        beside = folder.with_suffix(".json.tmp")
        beside.write_text(json.dumps(asdict(outcome)))
        beside.rename(folder.with_suffix(".json"))
        code = 0
    except BaseException as error:  # noqa: BLE001 the process ends here, whatever it was
        traceback.print_exc()
        outcome = Outcome(1, (f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",))
        folder.with_suffix(".json").write_text(json.dumps(asdict(outcome)))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def status_bytes(key: str) -> int:
    """Of this process, from /proc/self/status: VmSize, VmHWM, ..."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) << 10


def limit_memory(more: int) -> None:
    """No more address space than what there is and `more` bytes."""
    size = status_bytes("VmSize") + more
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def peak_anew() -> int:
    """Resident bytes now, from which on VmHWM counts."""
    Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmHWM")


def processor_s() -> float:
    """Of this process and of children that ended: what a busy machine does not stretch, as it does the clock."""
    return sum(os.times()[:4])


def say(text: str) -> None:
    print(text, flush=True)
