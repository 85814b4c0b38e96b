"""What saving a checkpoint costs the training: seconds lost a GB, here and in another version of the package.

    git worktree add ../before COMMIT
    python scripts/benchmarks/bench_saves.py --before ../before            # five minutes of two cores
    python scripts/benchmarks/bench_saves.py --device cuda --depth 24 --width 1024 --steps 40

Real runs by `mae_ext.train`, each a process of its own, of the two sides in turn. A run goes through pairs of cycles of
so many steps: in the first of a pair a checkpoint is saved at its beginning, in the second none. What is lost is the
difference of their seconds, so it counts also what the thread that writes takes from the steps; a save that is still
being written when its cycle ends is waited for, at its expense. `held_s_per_GB` is what the call that saves took.
Peak memory: resident, before the first save and at the end, in bytes a parameter.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def side(out: str, width: int, depth: int, cycles: int, steps: int, device: str) -> None:
    import numpy as np

    import mae_ext
    from mae_ext.engine import saves

    stamps: list[tuple[int, float, float]] = []
    call, memory = saves.Saves.__call__, {}

    def resident() -> int:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) << 10

    def due(_: saves.Saves, step: int) -> bool:
        return step % steps == 0

    def counted(self: saves.Saves, step: int, skipped: int) -> None:
        memory.setdefault("before", resident())
        settle = getattr(self, "settle", None)
        if settle:
            settle()
        began = time.perf_counter()
        if step // steps % 2 or step == steps * cycles:
            call(self, step, skipped)
        stamps.append((step // steps, began, time.perf_counter() - began))

    saves.Saves.due, saves.Saves.__call__ = due, counted  # type: ignore[method-assign]
    folder = Path(out)
    pixels = np.random.default_rng(0).integers(256, size=(8, 16, 16), dtype="uint8")
    np.savez(folder / "grey.npz", train_images=pixels, train_labels=np.arange(8) % 2)
    image = {"size": [16, 16], "patch": [4, 4], "channels": 1, "batch": 8, "data": {"path": str(folder / "grey.npz")}}
    decoder = {"width": 64, "depth": 1, "heads": 2}
    config = mae_ext.parse_config(
        {
            "modalities": {"image": image},
            "model": {"width": width, "depth": depth, "heads": width // 64, "decoder": decoder},
            "train": {
                "steps": steps * cycles, "workers": 0, "precision": "fp32", "device": device, "tensorboard": False,
                "save_every": steps, "warmup_steps": 1,
            },
        }
    )  # fmt: skip
    run = mae_ext.train(config, folder / "run")
    newest = max((run / "checkpoints").iterdir())
    size = sum(file.stat().st_size for file in newest.glob("*.safetensors"))
    lengths = [(cycle, later - began) for (cycle, began, _), (_, later, _) in pairwise(stamps)]
    pairs = zip(lengths[::2], lengths[1::2], strict=False)
    answer = {
        "lost": [saved[1] - quiet[1] for saved, quiet in pairs],
        "held": [held for cycle, _, held in stamps if cycle % 2],
        "step": statistics.median(seconds for cycle, seconds in lengths if cycle % 2 == 0) / steps,
        "bytes": size,
        "memory": [memory["before"], resident()],
    }
    print(json.dumps(answer))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of the version to compare with")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--depth", type=int, default=6, help="of 7.1 M parameters each, at the default width")
    parser.add_argument("--pairs", type=int, default=4, help="of cycles in a run; the first is not counted")
    parser.add_argument("--steps", type=int, default=10, help="of a cycle")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    given = parser.parse_args()
    cycles = 2 * given.pairs + 1
    if given.side:
        side(given.side, given.width, given.depth, cycles, given.steps, given.device)
        return
    sides = ({"before": given.before.resolve()} if given.before else {}) | {"now": ROOT}
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(given.rounds):
        for name, checkout in sides.items():
            with tempfile.TemporaryDirectory() as folder:
                words = [sys.executable, __file__, "--side", folder, *sys.argv[1:]]
                done = subprocess.run(
                    words, env=os.environ | {"PYTHONPATH": str(checkout)}, stdout=subprocess.PIPE, text=True, check=True
                )
                answers[name].append(json.loads(done.stdout.splitlines()[-1]))
    for name, runs in answers.items():
        gigabytes = runs[0]["bytes"] / 1e9
        lost = [seconds / gigabytes for run in runs for seconds in run["lost"][1:]]
        held = [seconds / gigabytes for run in runs for seconds in run["held"][1:-1]]
        row = {
            "lost_s_per_GB": round(statistics.median(lost), 2),
            "from_to": [round(min(lost), 2), round(max(lost), 2)],
            "held_s_per_GB": round(statistics.median(held), 3),
            "GB": round(gigabytes, 2),
            "step_s": round(statistics.median(run["step"] for run in runs), 3),
            "bytes_per_parameter": [round(run / runs[0]["bytes"] * 12, 1) for run in runs[0]["memory"]],
        }
        print(name, json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
