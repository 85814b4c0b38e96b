"""Learning at equal time beside other libraries: how long until a frozen encoder reaches what the peer ends with?

    python scripts/studies/prepare_sets.py ../shared/data --out sets
    python scripts/studies/peers.py sets --out peers --only cifar10 fashion hippocampus motion --minutes 30
    python scripts/studies/peers.py sets --out peers --minutes 30 --resume         # goes on where it was stopped
    python scripts/studies/peers.py sets --out peers --minutes 30 --table          # of what is there, nothing is run

Each side is a process of its own, with the same number of threads, and one trains at a time: turns of a minute, to the
side that has had the least, so that other load hits all alike. Time is processor time of the process and its workers.
Ours is the whole engine as a user runs it: files, workers, checkpoints, the record; listing and measuring the data
counts too; clips and scans lie prepared (`mae-ext prepare`) before any clock starts. A peer (peers_models.py: its own
defaults, our sizes, our sizes and rates) is a bare loop with everything decoded in memory before its clock starts.
Every side's rate falls to zero at the end of its own schedule: a peer's is --minutes long; ours is what the recipe and
--set say, cut where it is longer, so let it end in time. --probes times in --minutes (--peer-probes for peers, two for
one of its own default size, which takes long to judge) each frozen encoder is judged by the same probe of the same
decoded samples, with the clock stopped: images by kNN and a linear layer, volumes by R2, clips by the attentive probe.

OUT/SET.jsonl has a line for each: side, seconds, steps, scores. Printed: the last scores, and for each peer and score
the seconds until it and ours first had what the peer has at its end, and their ratio, to within a probe.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

SIDES = {
    "cifar10": ("ours", "vitmae", "vitmae-sizes", "vitmae-rates"),
    "fashion": ("ours", "vitmae", "vitmae-sizes", "vitmae-rates"),
    "hippocampus": ("ours", "monai", "monai-sizes", "monai-rates"),
    "motion": ("ours", "videomae", "videomae-sizes", "videomae-rates"),
}


def scores_of(out: Path, name: str, sides: list[str]) -> list[dict[str, Any]]:
    """{"side", "seconds", "steps", "scores"} of all sides until now, in the order of time for each."""
    rows = []
    for side in sides:
        file = out / name / side / "scores.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        for row in map(json.loads, lines):
            rows += [{"side": side, "seconds": row["seconds"], "steps": row["step"], "scores": row["scores"]}]
    return rows


def first_at(rows: list[dict[str, Any]], score: str, wanted: float) -> float | None:
    """Seconds of the first row that has the score."""
    return next((row["seconds"] for row in rows if row["scores"][score] >= wanted), None)


def comparison(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each peer and score: what it ends with, the seconds until it and ours first had that, and their ratio."""
    by_side: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_side.setdefault(row["side"], []).append(row)
    ours = by_side.pop("ours", [])
    found = []
    for side, theirs in by_side.items():
        for score, wanted in theirs[-1]["scores"].items():
            peer, own = first_at(theirs, score, wanted), first_at(ours, score, wanted)
            ratio = None if own is None or not peer else round(own / peer, 3)
            found.append({"peer": side, "score": score, "X": wanted, "peer_s": peer, "ours_s": own, "ratio": ratio})
    return found


def table(name: str, rows: list[dict[str, Any]]) -> str:
    lines = [f"## {name}", "", "| side | seconds | steps | scores at its end |", "|---|---|---|---|"]
    for side in dict.fromkeys(row["side"] for row in rows):
        row = [r for r in rows if r["side"] == side][-1]
        scores = ", ".join(f"{kind} {value:.4f}" for kind, value in row["scores"].items())
        lines.append(f"| {side} | {row['seconds']:.0f} | {row['steps']} | {scores} |")
    lines += ["", "| peer | X | the peer, s | ours, s | ratio |", "|---|---|---|---|---|"]
    for c in comparison(rows):
        own, ratio = ("not reached", "") if c["ours_s"] is None else (f"{c['ours_s']:.0f}", f"{c['ratio']:.2f}")
        lines.append(f"| {c['peer']} | {c['score']} {c['X']:.4f} | {c['peer_s']:.0f} | {own} | {ratio} |")
    return "\n".join(lines) + "\n"


def cache_of(args: argparse.Namespace, name: str) -> Path:
    return args.out / f"{name}-cache"  # type: ignore[no-any-return]


def started(args: argparse.Namespace, name: str, side: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, str(args.sets), "--out", str(args.out), "--only", name, "--side", side]
    command += ["--minutes", str(args.minutes), "--probes", str(args.probes), "--peer-probes", str(args.peer_probes)]
    command += ["--precision", args.precision, *(f"--set={value}" for value in args.set)]
    command += [] if args.recipe is None else ["--recipe", args.recipe]
    threads = {key: str(args.threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads},
        start_new_session=True,  # Ctrl-C is this process's, which has the sides save
    )  # fmt: skip


def heard(side: str, process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{side}: ended with exit code {process.wait()}, its words are above; --resume goes on")
    return json.loads(line)  # type: ignore[no-any-return]


def give(process: subprocess.Popen[str], word: dict[str, float]) -> None:
    assert process.stdin
    process.stdin.write(json.dumps(word) + "\n")
    process.stdin.flush()


def compare(args: argparse.Namespace, name: str, sides: list[str]) -> None:
    """One set, to its end. Raises SystemExit where a side fails."""
    from peers_sets import config_of, prepare_for

    prepare_for(name, config_of(name, args.sets, args.recipe, args.set), cache_of(args, name))
    processes = {side: started(args, name, side) for side in sides}
    training = None
    try:
        at = {side: heard(side, process) for side, process in processes.items()}
        while running := [side for side in sides if not at[side]["ended"]]:
            side = min(running, key=lambda side: at[side]["seconds"])
            training = processes[side]
            give(training, {"seconds": args.turn})
            at[side], training = heard(side, training), None
            rows = scores_of(args.out, name, sides)
            (args.out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            last = [row for row in rows if row["side"] == side][-1:]
            words = f", last judged {last[0]['scores']} at {last[0]['seconds']:.0f} s" if last else ""
            print(f"{name} {side}: {at[side]['seconds']:.0f} s, step {at[side]['steps']}{words}", flush=True)
    finally:
        for process in processes.values():
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()  # type: ignore[union-attr]  # a side that waits saves and ends
        if training:
            training.send_signal(signal.SIGTERM)  # so does the one that trains, after its step
        for process in processes.values():
            process.wait()


def serve_side(args: argparse.Namespace) -> None:
    from peers_sides import OURS, serve

    sets = [f"train.precision={args.precision}", *args.set]
    budget = 60 * args.minutes
    probes = args.probes if args.side == OURS else args.peer_probes if "-" in args.side else min(2, args.peer_probes)
    (name,) = args.only
    given = {
        "recipe": args.recipe,
        "sets": sets,
        "cache": cache_of(args, name),
        "every": budget / probes,
        "budget": budget,
    }
    serve(args.side, name, args.sets, args.out / name / args.side, given)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path, metavar="SETS", help="the folder that prepare_sets.py made")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--sides", nargs="+", metavar="SIDE", help="default: ours and the peer in three variants")
    parser.add_argument("--minutes", type=float, default=30.0, help="processor minutes of each side")
    parser.add_argument("--turn", type=float, default=60.0, help="processor seconds")
    parser.add_argument("--probes", type=int, default=20, help="of ours, in --minutes")
    parser.add_argument("--peer-probes", type=int, default=5)
    parser.add_argument("--recipe", help="of our side, in place of the set's: a name or a file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of our side's recipe")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of all; MONAI has fp32 alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on with what --out has")
    parser.add_argument("--table", action="store_true", help="only print what --out has")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        serve_side(args)
        return
    known = {side for name in args.only for side in SIDES[name]}
    if unknown := set(args.sides or ()) - known:
        parser.error(f"--sides: no {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the sides save and end
    for name in args.only:
        sides = [side for side in SIDES[name] if args.sides is None or side in args.sides]
        if not args.table:
            if (args.out / name).exists() and not args.resume:
                parser.error(f"{args.out / name} is there: --resume goes on with it")
            try:
                compare(args, name, sides)
            except KeyboardInterrupt:
                raise SystemExit(f"stopped in {name}; the same command with --resume goes on") from None
        print(table(name, scores_of(args.out, name, sides)), flush=True)


if __name__ == "__main__":
    main()
