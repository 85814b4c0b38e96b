"""Does it pay to go on pretraining from weights? One config of pretraining from them and from nothing, over seeds.

    python scripts/studies/compare_init.py med.yaml --init runs/cifar --data DIR/train --test DIR/test --out runs/med \\
        --score loss --score probe/new/linear --seeds 3 --scratch-set train.lr=3e-4

What weights are worth for a task with labels, `mae-ext worth` says.

A seed draws the order, the crops, the masks and what is new of the weights: the two sides of a seed share all of that.
{seed} in --data, --init or a --set stands for the seed's number. --start-set and --scratch-set are for one side alone.
Runs that are there go on, so the same command after an interruption costs nothing again.

Scores are `loss`, on --test, and those of probes that train.probe asks for during the run, by the names of their
curves: probe/linear, and with several named sets probe/old/linear, probe/new/knn, ... --score may be repeated.

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
    words = [sys.executable, "-m", "mae_ext", "pretrain", args.config, "--init", init, *files, *options]
    return [word.replace("{seed}", str(seed)) for word in words]


def last_scores(run: Path) -> dict[str, float]:
    """What the end of a run was judged: the last line, and not the best, which the test data would have chosen."""
    lines = (run / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()
    found: dict[str, float] = json.loads(lines[-1])
    return found | last_probes(run)


def last_probes(run: Path) -> dict[str, float]:
    """Accuracies of the last probe during the run, of each of its sets: {"probe/old/linear": 0.4}."""
    file = run / "probes.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    return {
        "/".join(filter(None, ("probe", row.get("set"), kind))): row[kind]["accuracy"]
        for row in rows  # in the order of steps: the last counts
        if row.get("in_training")
        for kind in ("linear", "knn")
    }


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
    parser.add_argument(
        "--score", required=True, action="append", help="of evaluations.jsonl or probes.jsonl: loss, probe/linear, ..."
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--start-set", action="append", default=[], metavar="KEY=VALUE", help="for the other side alone"
    )
    parser.add_argument("--scratch-set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {score: {"pretrained": [], "scratch": []} for score in args.score}
    for seed in range(args.seeds):
        for side, more in (("pretrained", args.start_set), ("scratch", args.scratch_set)):
            init = args.init if side == "pretrained" else "none"
            run = args.out / f"{side}-{seed}"
            if subprocess.run(command(args, init, seed, more, run), check=False).returncode:
                raise SystemExit(f"{run}: training stopped; the same command goes on")
            scores = last_scores(run)
            for score in args.score:
                if score not in scores:
                    raise SystemExit(f"{run}: no score '{score}'; there are {', '.join(scores)}")
                found[score][side].append(scores[score])
                print(f"seed {seed}  {side:11} {score} {scores[score]:.4f}", flush=True)
    for score in args.score:
        print(summary(score, found[score]))


if __name__ == "__main__":
    main()
