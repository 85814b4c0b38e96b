"""The first signal saves and ends with 75; the second ends at once (FAULTS R3).

20 of each, at random moments: scripts/test -m slow -k signal -s
"""

import os
import random
import signal
import threading
import time

import pytest
from faults.kills import command, launch, rows, trajectory, wait_until

from mae_ext.cli import run
from mae_ext.engine import checkpoint

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]


def send_after(number, metrics, step, delay=0.0):
    """From a thread: one signal to this process once `step` steps are logged."""

    def wait():
        limit = time.monotonic() + 60
        while len(rows(metrics)) < step and time.monotonic() < limit:
            time.sleep(0.002)
        time.sleep(delay)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def check(number, config, photos, out, step, delay, whole, capfd):
    start = ["pretrain", str(config), "--data", str(photos), "--out", str(out)]
    thread = send_after(number, out / "metrics.jsonl", step, delay)
    code = run(start)
    thread.join()
    said = capfd.readouterr().err.splitlines()[-1]
    done = len(trajectory(out))
    assert code == 75
    assert said == f"mae-ext: stopped by a signal after step {done}, saved at step {done}; the same command goes on"
    assert checkpoint.latest(out).name == f"step-{done:08d}"
    assert trajectory(out) == whole[:done]
    return start, done


@pytest.fixture(scope="module")
def handlers():
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_saves_ends_with_75_and_loses_no_step(tiny, photos, tmp_path, capfd, number):
    config = tiny({"train.steps": 120, "train.save_every": 100})
    assert run(["pretrain", str(config), "--data", str(photos), "--out", str(tmp_path / "whole")]) == 0
    whole = trajectory(tmp_path / "whole")
    start, done = check(number, config, photos, tmp_path / "run", 10, 0.0, whole, capfd)
    assert 10 <= done < 120
    assert run(start) == 0
    assert trajectory(tmp_path / "run") == whole


def test_a_signal_to_the_whole_process_group_is_the_same_though_it_reaches_the_workers(tiny, photos, tmp_path):
    config = tiny({"train.steps": 5000, "train.save_every": 5000})
    out, log = tmp_path / "run", tmp_path / "log"
    process = launch(command(config, photos, out, "--set", "train.workers=2"), log)
    assert wait_until(lambda: len(rows(out / "metrics.jsonl")) > 5, process)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == 75, log.read_text()
    assert "Traceback" not in log.read_text()
    done = len(trajectory(out))
    assert checkpoint.latest(out).name == f"step-{done:08d}"


def test_the_second_signal_ends_at_once_and_leaves_a_run_that_goes_on(tiny, photos, tmp_path):
    config = tiny({"train.steps": 5000, "train.save_every": 20})
    out, log = tmp_path / "run", tmp_path / "log"
    process = launch(command(config, photos, out), log)
    assert wait_until(lambda: len(rows(out / "metrics.jsonl")) > 25, process)
    # Stopped, it cannot take the first before the second is there.
    process.send_signal(signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    process.send_signal(signal.SIGCONT)
    assert process.wait(30) in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert time.monotonic() - began < 2
    assert checkpoint.latest(out) is not None


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_twenty_signals_at_random_moments_lose_no_step(tiny, photos, tmp_path, capfd, number):
    config = tiny({"train.steps": 120, "train.save_every": 100})
    assert run(["pretrain", str(config), "--data", str(photos), "--out", str(tmp_path / "whole")]) == 0
    whole, chance, ends = trajectory(tmp_path / "whole"), random.Random(number), []
    for trial in range(20):
        step, delay = chance.randrange(0, 100), chance.uniform(0, 0.02)
        ends.append(check(number, config, photos, tmp_path / f"{trial}", step, delay, whole, capfd)[1])
    print(f"\n20 x {number.name}, after steps {ends}: exit 75, saved at that very step, no step lost")
