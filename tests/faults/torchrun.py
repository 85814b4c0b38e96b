"""Runs that torchrun starts, again where need be, and their ranks, which can be hit one by one."""

import os
import subprocess
import sys
import time
from pathlib import Path

from faults.kills import PATIENCE_S, command, environment, kill_group, launch, rows, wait_until


def start(config: Path, data: Path, out: Path, *more: str, restarts: int = 3, verb: str = "pretrain"):
    """-> (torchrun's process, its log), with two ranks."""
    log = out.with_name(f"{out.name}.log")
    launcher = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "--max-restarts", str(restarts),
    ]  # fmt: skip
    return launch([*launcher, *command(config, data, out, *more, verb=verb)[1:]], log, environment()), log


def ranks_of(process: subprocess.Popen[bytes]) -> dict[int, int]:
    """Rank -> process, of those that are running."""
    ranks = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (folder / "environ").read_bytes().split(b"\0") if parent == process.pid else []
        except (OSError, ValueError):
            continue
        ranks |= {int(value[5:]): int(folder.name) for value in variables if value.startswith(b"RANK=")}
    return ranks


def hit(process: subprocess.Popen[bytes], log: Path, out: Path, victim: int, number: int, after: int) -> float:
    """A signal to one rank after so many steps -> when it was sent (time.monotonic)."""
    assert wait_until(lambda: len(rows(out / "metrics.jsonl")) >= after, process), log.read_text()[-2000:]
    sent = time.monotonic()
    os.kill(ranks_of(process)[victim], number)
    return sent


def end(process: subprocess.Popen[bytes]) -> int:
    """The exit code of torchrun."""
    try:
        return process.wait(PATIENCE_S)
    finally:
        kill_group(process)
