"""Does pretraining pay? One fine-tuning config from a pretrained run and from scratch, over seeds, side by side.

    python scripts/studies/compare_init.py finetune_cifar10_vitt --init runs/cifar10 --data DIR/train --test DIR/test \\
        --out runs/pays --score accuracy --seeds 3 --set task.labels=0.1 --scratch-set train.layer_decay=1

A seed draws the head's first weights, the order, the augmentations and, where task.labels is less than all, which
samples have labels: the two sides of a seed share all of that. {seed} in --data, --init or a --set stands for the
seed's number (few-{seed}.txt, runs/hippocampus-{seed}). --scratch-set: for the scratch side alone; layer-wise decay,
which spares what is already learned, only slows a beginner. Runs that are there go on, so the same command after an
interruption costs nothing again.

Prints a line for each run, then the mean, the standard deviation over seeds and the difference seed by seed.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path


def command(args: argparse.Namespace, init: str, seed: int, more: list[str], out: Path) -> list[str]:
    options = [f"--set={value}" for value in [*args.set, *more, f"seed={seed}"]]
    files = ["--data", args.data, "--test", args.test, "--out", str(out)]
    words = [sys.executable, "-m", "mae_ext", "finetune", args.config, "--init", init, *files, *options]
    return [word.replace("{seed}", str(seed)) for word in words]


def last_scores(run: Path) -> dict[str, float]:
    """What the end of a run was judged: the last line, and not the best, which the test data would have chosen."""
    lines = (run / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()
    found: dict[str, float] = json.loads(lines[-1])
    return found


def summary(score: str, found: dict[str, list[float]]) -> str:
    """found: {"pretrained": one score for each seed, "scratch": the same}."""
    gains = [a - b for a, b in zip(found["pretrained"], found["scratch"], strict=True)]
    rows = []
    for name, values in (*found.items(), ("gain", gains)):
        spread = f" +- {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        rows.append(f"{name:11} {score} {statistics.mean(values):.4f}{spread}")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--init", required=True, help="a pretrained run, or with {seed} in its name one for each seed")
    parser.add_argument("--data", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--score", required=True, help="a column of evaluations.jsonl: accuracy, dice, mAP50, ...")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--scratch-set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    found: dict[str, list[float]] = {"pretrained": [], "scratch": []}
    for seed in range(args.seeds):
        for side, more in (("pretrained", []), ("scratch", args.scratch_set)):
            init = args.init if side == "pretrained" else "none"
            run = args.out / f"{side}-{seed}"
            if subprocess.run(command(args, init, seed, more, run), check=False).returncode:
                raise SystemExit(f"{run}: fine-tuning stopped; the same command goes on")
            scores = last_scores(run)
            if args.score not in scores:
                raise SystemExit(f"{run}: no score '{args.score}'; there are {', '.join(scores)}")
            found[side].append(scores[args.score])
            print(f"seed {seed}  {side:11} {args.score} {scores[args.score]:.4f}", flush=True)
    print(summary(args.score, found))


if __name__ == "__main__":
    main()
