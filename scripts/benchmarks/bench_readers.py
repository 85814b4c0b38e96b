"""Batches of a reader beside the commit before, both in one process, batch by batch in turns: is anything slower?

    git worktree add ../before COMMIT
    python scripts/benchmarks/bench_readers.py --before ../before photos=DIR scans=DIR volumes=DIR clips=DIR

Kinds and their configs are those of `bench_loader.py`: photos; scans and films from their files; volumes and clips from
a cache, which is filled first, one for each side. Starts of one commit have been seen to differ by a third, so here
both packages are imported into one process, and every batch is made by both, the first of them in turns. What a package
does to a process as a whole (its imports, the state of its memory) is the same for both then, and is not seen. Prints a
row for each kind: processor time a sample of both (medians over the rounds), the median of their ratio with its
quartiles, and the rounds.
"""

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

HERE = Path(__file__).resolve()
BATCH = 4


def processor() -> float:
    """Seconds of this process, and of the children that decode films, whose clock ticks every 10 ms."""
    children = psutil.Process().children(recursive=True)
    return time.process_time() + sum(sum(child.cpu_times()[:2]) for child in children)


def side(root: Path, kinds: dict[str, str], scratch: str) -> dict[str, Callable[[int], Any]]:
    """Of each kind what makes a batch, by the package of a checkout, which is then forgotten by `import`."""
    for name in [n for n in sys.modules if n.split(".")[0] in ("mae_ext", "loader_sides")]:
        del sys.modules[name]
    sys.path[:0] = [str(root), str(HERE.parent)]
    sides: Any = importlib.import_module("loader_sides")
    made = {}
    for kind, data in kinds.items():
        cache = f"{scratch}/{kind}" if kind in ("clips", "volumes") else ""
        config = sides.config_of(kind, data, cache, BATCH, 0)
        if cache:
            sides.prepared(config)
        made[kind] = sides.ModalityData(0, "m", config.modalities["m"]).batch
        made[kind](0)  # what is imported late, while it is this package that is found
    package = Path(sys.modules["mae_ext"].__file__ or "").parents[1]
    assert package == root, f"{package} was imported, not {root}"
    del sys.path[:2]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="+", help="KIND=DIR, or a list file")
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the commit before")
    parser.add_argument("--batches", type=int, default=8, help="of a round, by each side")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    kinds = {kind: str(Path(data).resolve()) for kind, data in (word.split("=", 1) for word in args.kinds)}
    with tempfile.TemporaryDirectory() as scratch:
        before = side(args.before.resolve(), kinds, f"{scratch}/before")
        now = side(HERE.parents[2], kinds, f"{scratch}/now")
        print(
            "| kind | before, ms a sample | now | ratio, median (quartiles) | rounds |\n|---|---|---|---|---|",
            flush=True,
        )
        for kind in kinds:
            costs = []
            for turn in range(args.rounds + 1):
                cost = [0.0, 0.0]
                for number in range(args.batches):
                    for which in (0, 1) if (turn + number) % 2 else (1, 0):
                        began = processor()
                        (before, now)[which][kind](number)
                        cost[which] += processor() - began
                costs += [cost] if turn else []
            table = np.array(costs) / args.batches / BATCH * 1000
            middle = np.median(table, axis=0)
            first, ratio, third = np.percentile(table[:, 1] / table[:, 0], [25, 50, 75])
            cells = f"{middle[0]:.2f} | {middle[1]:.2f} | {ratio:.3f} ({first:.3f} to {third:.3f})"
            print(f"| {kind} | {cells} | {args.rounds} |", flush=True)


if __name__ == "__main__":
    main()
