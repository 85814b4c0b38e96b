"""Several runs, one after the other, by the ranks of one launch: `python -m engine.several_runs RUNS.json`.

A process takes seconds to load what distributed training needs, and a run on tiny tensors far less. An entry is a list
of a run's arguments ("argv"), the ranks that it has ("world"), and what is done to it: "copy" [from, to, step], a run's
folder as it was at that step; "failpoint" [rank, text], what breaks on that rank alone; "full" [rank, nth], whose disk
is full at which write; "short", no memory is free for copies; "reductions", a file in which each all-reduce of rank 0
leaves a line.
"""

import errno
import json
import os
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from mae_ext.cli import run
from mae_ext.engine import failpoint, saves

PLENTY, WRITE = saves.free_memory, HuggingFaceStorageWriter.write_data


def full(rank: int, nth: int, own: int) -> None:
    """The disk of `rank` is full at its nth write of shards."""
    writes = []

    def write(*args):
        writes.append(1)
        if own == rank and len(writes) == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a shard")
        return WRITE(*args)

    HuggingFaceStorageWriter.write_data = write


def until(source: Path, out: Path, step: int) -> None:
    if source != out:
        shutil.copytree(source, out)
    for path in (out / "checkpoints").glob("step-*"):
        if int(path.name[5:]) > step:
            shutil.rmtree(path)


def counted(argv: list[str], file: Path) -> int:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        code = run(argv)
    names = [event.name for event in profile.events() if "all_reduce" in event.name and event.name.startswith("gloo")]
    file.write_text("\n".join(names))
    return code


def main() -> None:
    rank, codes = int(os.environ["RANK"]), []
    for number, entry in enumerate(json.loads(Path(sys.argv[1]).read_text())):
        begins = Path(f"{sys.argv[1]}.{number}")
        if rank >= entry["world"]:
            continue
        os.environ.update(WORLD_SIZE=str(entry["world"]), MASTER_PORT=str(entry["port"]))
        breaks, text = entry.get("failpoint", (None, ""))
        failpoint._PLAN, failpoint._REACHED = failpoint.read(text if rank == breaks else ""), Counter()
        full(*entry.get("full", (None, 0)), rank)
        saves.free_memory = (lambda: 0) if entry.get("short") else PLENTY
        if "copy" in entry and rank == 0:
            source, out, step = entry["copy"]
            until(Path(source), Path(out), step)
        if rank == 0:
            begins.touch()
        while not begins.exists():  # a copy is made, or rank 0 is at a run of its own
            time.sleep(0.02)
        count = rank == 0 and entry.get("reductions")
        codes.append(counted(entry["argv"], Path(count)) if count else run(entry["argv"]))
    print(json.dumps(codes))


if __name__ == "__main__":
    main()
