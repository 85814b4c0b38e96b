"""How much memory this process may still have."""

from pathlib import Path

from mae_ext.cores import SYSTEM, groups, read


def free_memory(system: Path = SYSTEM) -> int | None:
    """Bytes: of the machine, or fewer where a control group allows less. None where the system does not say (no Linux).

    What only keeps copies of files counts as free. system: the root below which /proc and /sys are looked for.
    """
    rooms = [_left(group) for group in groups(system, "memory", ("memory",))]
    lines = (line.split() for line in read(system / "proc/meminfo").splitlines())
    rooms += [int(kilobytes) << 10 for name, kilobytes, *_ in lines if name == "MemAvailable:"]
    return min((max(0, room) for room in rooms if room is not None), default=None)


def _left(group: Path) -> int | None:
    """Of one control group, of version 2 or 1; None where it is not limited, or not there."""
    try:
        limit, used = (
            int(read(group / names[0]) or read(group / names[1]))
            for names in (
                ("memory.max", "memory.limit_in_bytes"),
                ("memory.current", "memory.usage_in_bytes"),
            )
        )
    except ValueError:  # no such file, or "max"
        return None
    statistics = dict(line.split() for line in read(group / "memory.stat").splitlines() if line.count(" ") == 1)
    kept = statistics.get("total_inactive_file", statistics.get("inactive_file", "0"))
    return limit - used + int(kept)
