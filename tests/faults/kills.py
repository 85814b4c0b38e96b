"""Kill a run again and again at random moments, and compare what it logs with a run that nobody disturbed.

Knows no modality: a config, its data and a folder for the run are all it takes.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE_S = 240.0
"""No launch of a test run takes this long, on the slowest machine that it is meant for."""


@dataclass(frozen=True)
class Report:
    """metrics: the rows of the finished run. kills: after which step each kill came. seconds: everything together."""

    metrics: list[dict]
    kills: list[int]
    workers: list[int]
    seconds: float


def environment(**variables: str) -> dict[str, str]:
    """Of a process that finds this checkout, after what PYTHONPATH says. One thread: the tensors are tiny."""
    found = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))
    # Without launchers' variables of whoever runs the tests.
    clean = {k: v for k, v in os.environ.items() if k not in {"RANK", "WORLD_SIZE", "LOCAL_RANK"}}
    return {**clean, "PYTHONPATH": found, "OMP_NUM_THREADS": "1", **variables}


def command(config: Path, data: Path | str, out: Path, *more: str, verb: str = "pretrain") -> list[str]:
    return [sys.executable, "-m", "mae_ext", verb, *map(str, (config, "--data", data, "--out", out)), *more]


def launch(arguments: Sequence[str], log: Path, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start in a process group of its own, with everything it says appended to `log`."""
    with log.open("ab") as file:
        return subprocess.Popen(
            arguments, env=env or environment(), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )


def finish(arguments: Sequence[str], env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, env=env or environment(), capture_output=True, text=True, timeout=PATIENCE_S)


def rows(path: Path) -> list[dict]:
    """The rows of a JSONL file as a reader finds them; the last line may still be being written."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]


def trajectory(run: Path) -> list[tuple[int, float, float]]:
    """(step, loss, gradient norm), to the last bit: JSON keeps floats whole."""
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows(run / "metrics.jsonl")]


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], pause: float = 0.002) -> bool:
    """Whether the condition came true before the process ended."""
    limit = time.monotonic() + PATIENCE_S
    while time.monotonic() < limit:
        if condition():
            return True
        if process.poll() is not None:
            return condition()
        time.sleep(pause)
    raise AssertionError(f"nothing happened in {PATIENCE_S:g} s")


def kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_with_kills(
    config: Path,
    data: Path | str,
    out: Path,
    kills: int,
    seed: int,
    max_workers: int = 4,
    env: dict[str, str] | None = None,
    more: Sequence[str] = (),
    verb: str = "pretrain",
) -> Report:
    """Train `config` into `out`, SIGKILLing the process group `kills` times, each start with another number of workers.

    One kill in five comes at any moment after the start, so also before the first step; the others come some
    milliseconds after a random step that the run has not yet reached, so that it gets somewhere.
    """
    chance, began = random.Random(seed), time.monotonic()
    total = int(_steps(config, more))
    metrics, log = out / "metrics.jsonl", out.with_name(f"{out.name}.log")
    killed, used = [], []
    # Spread over the run, so that the last kill does not come before the middle of it.
    targets = sorted(chance.randrange(1, total) for _ in range(kills))
    blind = set(chance.sample(range(kills), kills // 5))
    while True:
        workers = chance.choice([n for n in range(max_workers + 1) if not used or n != used[-1]])
        used.append(workers)
        process = launch(command(config, data, out, "--set", f"train.workers={workers}", *more, verb=verb), log, env)
        try:
            if len(killed) == kills:
                code = process.wait(PATIENCE_S)
                assert code == 0, f"exit code {code}:\n{log.read_text()[-2000:]}"
                return Report(rows(metrics), killed, used, time.monotonic() - began)
            if len(killed) in blind:
                time.sleep(chance.uniform(0.0, 6.0))
            else:
                goal = targets[len(killed)]
                assert wait_until(lambda goal=goal: _last(metrics) >= goal, process), log.read_text()[-2000:]
                time.sleep(chance.uniform(0.0, 0.03))
        finally:
            kill_group(process)
        killed.append(_last(metrics))


def _last(metrics: Path) -> int:
    """The last step in the log, without reading the whole of it."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, metrics.stat().st_size - 4096))
            lines = file.read().split(b"\n")[:-1]
        return int(json.loads(lines[-1])["step"])
    except (OSError, IndexError, ValueError):
        return 0


def _steps(config: Path, more: Sequence[str]) -> int:
    from mae_ext.config import load_config

    sets = [value for flag, value in pairwise(more) if flag == "--set"]
    steps = load_config(config, sets).train.steps
    assert steps is not None, "give train.steps"
    return steps
