"""How many processors this process may use, and how its threads wait for each other. Imports nothing that is slow."""

import os
from math import ceil
from pathlib import Path

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""What a user may have said of waiting threads: of OpenMP, of GNU's library and of Intel's."""

SYSTEM = Path("/")


def settle_threads() -> None:
    """Tell OpenMP, before torch loads it, to let waiting threads sleep; here and, by inheritance, in every child.

    Its threads spin by default, which on a machine that does anything else makes a step several times as long (7 times
    on two cores with a load of 6) and on a quiet one gains nothing. Under a CPU quota it would also start a thread for
    each of the host's processors. What the user has set stays: any of WAITING, and OMP_NUM_THREADS.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    if "OMP_NUM_THREADS" not in os.environ and (allowed := cores()) < _here():
        os.environ["OMP_NUM_THREADS"] = str(allowed)


def cores(system: Path = SYSTEM) -> int:
    """Processors that this process may use, 1 at least: those it is bound to, or fewer where a CPU quota allows less.

    A quota of 1.5 processors counts as 2. system: the root below which /proc and /sys are looked for.
    """
    return min([_here(), *(max(1, ceil(share)) for share in _quotas(system))])


def _here() -> int:
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def groups(system: Path, controller: str, mounted: tuple[str, ...]) -> list[Path]:
    """The folders of each control group, of version 2 or 1, that this process is in, of those that may be there.

    A container may see its own group as the root, or under the host's name for it that does not exist inside. mounted:
    below which names version 1 may have the controller.
    """
    folders = []
    for line in read(system / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if number == "0" and not controllers:
            mounts = [system / "sys/fs/cgroup", system / "sys/fs/cgroup/unified"]
        elif controller in controllers.split(","):
            mounts = [system / "sys/fs/cgroup" / mount for mount in mounted]
        else:
            continue
        group = Path(name.lstrip("/"))
        folders += [mount / at for mount in mounts for at in (group, *group.parents)]
    return folders


def _quotas(system: Path) -> list[float]:
    """Processors' worth of time of each control group that is limited."""
    quotas = [_quota(group) for group in groups(system, "cpu", ("cpu", "cpu,cpuacct", "cpuacct,cpu"))]
    return [share for share in quotas if share is not None]


def _quota(group: Path) -> float | None:
    words = read(group / "cpu.max").split() or [
        word for name in ("quota", "period") for word in read(group / f"cpu.cfs_{name}_us").split()
    ]
    try:
        quota, period = map(int, words)
    except ValueError:  # no such file, or "max": no limit
        return None
    return quota / period if quota > 0 and period > 0 else None


def read(path: Path) -> str:
    """A file's text, "" where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
