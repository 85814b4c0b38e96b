"""Saves that are killed at named failpoints, meet a failing disk, or are damaged later: python -m faults.saving.

Every trial is a fork of a process that has imported everything and started nothing; a run that was killed goes on in
another. What has to come out is what an undisturbed run leaves: losses, scores, the best checkpoint.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

from faults.kills import rows, trajectory

NEVER = "file.write:1000000000"
"""Breaks nothing, and counts."""


class Trials:
    """Runs of one config. reference: what is left by one that nobody disturbed; reached: how often each point was."""

    def __init__(self, config: str, photos: str, out: Path) -> None:
        from mae_ext.config import load_config

        self.config, self.photos, self.out = config, photos, out
        self.interval = load_config(config).train.save_every
        out.mkdir(parents=True)
        code, self.reached, said = self.train("reference", NEVER)
        assert code == 0, said
        self.reference = self.outcome("reference")

    def train(self, name: str, plan: str) -> tuple[int, Counter[str], str]:
        """-> (exit code, how often each point was reached, what was said) of a run in a fork."""
        said, counts = self.out / f"{name}.log", self.out / f"{name}.reached"
        counts.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            from mae_ext.cli import run
            from mae_ext.engine import failpoint

            sys.stderr.flush()
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            failpoint._PLAN, failpoint._REACHED = failpoint.read(plan), Counter()
            code = run(["pretrain", self.config, "--data", self.photos, "--out", str(self.out / name)])
            counts.write_text(json.dumps(failpoint._REACHED))
            sys.stderr.flush()
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return code, Counter(json.loads(counts.read_text()) if counts.exists() else {}), said.read_text()

    def outcome(self, name: str) -> tuple:
        run = self.out / name
        best = json.loads((run / "best.json").read_text())
        steps = sorted(path.name for path in (run / "checkpoints").iterdir() if path.suffix != ".damaged")
        return trajectory(run), rows(run / "evaluations.jsonl"), best, steps

    def spread(self, points: list[str], count: int, share: float = 1.0) -> list[tuple[str, int]]:
        """So many (point, nth), in turns over the points, each spread over the times that it is reached."""
        turns, few = -(-count // len(points)), min(count, len(points))
        points = [points[(2 * place + 1) * len(points) // (2 * few)] for place in range(few)]
        chosen = [
            (point, 1 + int((turn + 0.5) / turns * share * self.reached[point]))
            for turn in range(turns)
            for point in points
        ]
        return chosen[:count]

    def killed(self, count: int) -> str:
        """Kill at `count` of all points, and go on."""
        from mae_ext.engine.checkpoint import latest
        from mae_ext.engine.failpoint import POINTS

        assert set(POINTS) == set(self.reached), set(POINTS) ^ set(self.reached)
        lost = []
        for trial, (point, nth) in enumerate(self.spread(list(POINTS), count)):
            name, what = f"killed-{trial:03d}", f"{point} for the {nth}. time"
            code, _, said = self.train(name, f"{point}:{nth}:kill")
            assert code == -signal.SIGKILL, f"{what}: exit code {code}\n{said}"
            logged = trajectory(self.out / name)
            assert logged == self.reference[0][: len(logged)], what
            newest = latest(self.out / name)
            reached = int(newest.name[-8:]) if newest else 0
            lost.append(max(0, len(logged) - reached))
            assert lost[-1] <= 2 * self.interval, f"{what}: {len(logged)} steps logged, {reached} saved"
            code, _, said = self.train(name, NEVER)
            assert code == 0, f"{what}: going on ended with {code}\n{said}"
            assert self.outcome(name) == self.reference, what
            left = [path.name for path in (self.out / name).rglob("*.tmp-*")]
            assert not left, f"{what}: {left}"
            shutil.rmtree(self.out / name)
        points = len({point for point, _ in self.spread(list(POINTS), count)})
        within = sum(steps <= self.interval for steps in lost)
        return (
            f"killed: {len(lost)} times at {points} points, {len(lost)} went on to the same losses, scores and best; "
            f"lost {max(lost)} steps at most, and not more than save_every ({self.interval}) in {within} of {len(lost)}"
        )

    def errors(self, count: int) -> str:
        """Let the disk fail `count` times in each of three ways, in the first half of a run, which goes on."""
        from mae_ext.engine.failpoint import POINTS

        points = [p for p in POINTS if not p.startswith("text.")] + ["text.fsynced"]
        for action in ("enospc", "erofs", "eio"):
            chance = random.Random(action)
            for trial, (point, nth) in enumerate(self.spread(chance.sample(points, count), count, share=0.5)):
                name, what = (
                    f"{action}-{trial:02d}",
                    f"{action} at {point} for the {nth + (point == 'text.fsynced')}. time",
                )
                code, _, said = self.train(name, f"{point}:{nth + (point == 'text.fsynced')}:{action}")
                assert code == 0, f"{what}: exit code {code}\n{said}"
                assert said.count("warning: ") >= 1, f"{what}: nothing was said"
                assert trajectory(self.out / name) == self.reference[0], what
                shutil.rmtree(self.out / name)
        return f"disk errors: {count} each of ENOSPC, EROFS, EIO: all warned of, all runs ended with the same losses"

    def damaged(self, count: int, resumed: int) -> str:
        """Cut or flip a byte of the newest checkpoint; `resumed` of them are gone on from."""
        from mae_ext.engine.checkpoint import latest, steps_of

        chance, run = random.Random(4), self.out / "reference"
        before, newest = steps_of(run / "checkpoints")[-2:]
        files = sorted(newest.iterdir())
        for trial in range(count):
            cut = trial % 2 == 0
            file = chance.choice([f for f in files if cut or f.name != "manifest.json"])
            whole = file.read_bytes()
            at = chance.randrange(len(whole))
            file.write_bytes(whole[:at] if cut else whole[:at] + bytes([whole[at] ^ 1 << trial % 8]) + whole[at + 1 :])
            what = f"{file.name} {'cut' if cut else 'flipped'} at {at}"
            said: list[str] = []
            assert latest(run, said.append) == before, what
            assert len(said) == 1 and newest.name in said[0] and "falling back" in said[0], what
            if trial < resumed:
                name = f"damaged-{trial}"
                shutil.copytree(run, self.out / name)
                code, _, words = self.train(name, NEVER)
                assert code == 0 and "falling back" in words, words
                assert self.outcome(name)[:3] == self.reference[:3], what
                shutil.rmtree(self.out / name)
            file.write_bytes(whole)
        assert latest(run) == newest
        return f"damaged: {count} of {count} were found, and {resumed} of {resumed} runs went on from the one before"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    parser.add_argument("photos")
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--errors", type=int, default=0)
    parser.add_argument("--damages", type=int, default=0)
    parser.add_argument("--resumed", type=int, default=0)
    given = parser.parse_args()
    # All that a run imports, so that the forks do not.
    import mae_ext.data.image.reader
    import mae_ext.engine.train  # noqa: F401

    trials = Trials(given.config, given.photos, given.out)
    if given.damages:
        print(trials.damaged(given.damages, given.resumed), flush=True)
    if given.errors:
        print(trials.errors(given.errors), flush=True)
    if given.kills:
        print(trials.killed(given.kills), flush=True)


if __name__ == "__main__":
    main()
