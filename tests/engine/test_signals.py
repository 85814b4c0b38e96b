"""The first signal saves and ends with 75; the second ends at once (FAULTS R3).

20 of each, at random moments: scripts/test -m slow -k signal -s
"""

import os
import pty
import random
import signal
import subprocess
import threading
import time
from contextlib import suppress

import pytest
from faults.kills import command, environment, launch, rows, trajectory, wait_until

from mae_ext.cli import run
from mae_ext.engine import checkpoint
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.stop import HeedfulRanks, Interrupted, StopFlag

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP]


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


def slow(tmp_path, photos, **settings):
    """Settings of a config whose files are slow to read; visits.XX.png appears when the first is begun."""
    reader = {"name": "faulty", "fault": "bad", "match": "^00.", "once": str(tmp_path / "visits"), "slow": 0.5}
    return {"modalities.image.data.reader": reader, "modalities.image.data.path": str(photos), **settings}


def interrupted(number, marker, arguments):
    """The exit code of a command that is sent a signal once `marker` is there, and how long it took to obey."""
    sent = []

    def wait():
        while not marker.exists():
            time.sleep(0.01)
        sent.append(time.monotonic())
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    code = run(arguments)
    thread.join()
    return code, time.monotonic() - sent[0]


@pytest.mark.usefixtures("faulty", "handlers")
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 0), (signal.SIGHUP, 2)])
def test_a_signal_while_statistics_are_measured_is_obeyed_at_once(tiny, photos, tmp_path, capfd, number, workers):
    config, out = tiny(slow(tmp_path, photos, **{"train.workers": workers})), tmp_path / "run"
    code, seconds = interrupted(number, tmp_path / "visits.00.png", ["pretrain", str(config), "--out", str(out)])
    # Reading all 40 takes 20 s and, by two workers, 10.
    assert code == 75 and seconds < 5
    began, ended = capfd.readouterr().err.splitlines()[-2:]
    assert began == "modality 'image': measuring mean and standard deviation on 40 files"
    assert ended == "mae-ext: stopped by a signal before the first step; the same command starts again"
    assert not list(out.glob("checkpoints/*"))


@pytest.mark.usefixtures("faulty", "handlers")
def test_a_signal_while_a_batch_is_awaited_saves_what_there_is(tiny, photos, tmp_path, capfd):
    plain = {"modalities.image.data.statistics": "imagenet", "train.workers": 1}
    # A step of 8 files takes 4 s, and nothing says that the next will ever come.
    config, out = tiny(slow(tmp_path, photos, **plain)), tmp_path / "run"
    start = ["pretrain", str(config), "--out", str(out)]
    thread = send_after(signal.SIGTERM, out / "metrics.jsonl", 1, 0.3)
    began = time.monotonic()
    assert run(start) == 75
    thread.join()
    assert trajectory(out)[-1][0] == int(checkpoint.latest(out).name.removeprefix("step-")) <= 2
    assert "stopped by a signal after step 1, saved at step 1" in capfd.readouterr().err
    assert time.monotonic() - began < 40


def test_a_run_whose_terminal_is_closed_saves(tiny, photos, tmp_path):
    config, out = tiny({"train.steps": 50_000, "train.save_every": 50_000}), tmp_path / "run"
    process, terminal = pty.fork()
    if process == 0:
        arguments = command(config, photos, out)
        os.execve(arguments[0], arguments, environment())

    def read():
        with suppress(OSError):
            while rows(out / "metrics.jsonl")[5:] == []:
                os.read(terminal, 4096)

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    reading.join(120)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 75
    assert checkpoint.latest(out).name == f"step-{len(trajectory(out)):08d}"


def test_what_was_started_to_outlive_its_terminal_outlives_it(tiny, photos, tmp_path):
    config, out = tiny({"train.steps": 40}), tmp_path / "run"
    process = subprocess.Popen(["nohup", *command(config, photos, out)], env=environment(), stderr=subprocess.DEVNULL)
    assert wait_until(lambda: len(rows(out / "metrics.jsonl")) > 5, process)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0 and len(trajectory(out)) == 40


def test_a_terminal_says_several_times_that_it_is_gone_and_hurries_nobody():
    child = os.fork()  # which a flag that is in a hurry would end
    if child == 0:
        flag = StopFlag()
        for _ in range(3):
            flag(signal.SIGHUP, None)
        os._exit(0 if flag.received == signal.SIGHUP else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_signal_leaves_the_work_of_rank_0_and_what_each_does_alone_and_is_remembered():
    flag = StopFlag()
    ranks = HeedfulRanks(0, 1, Ranks(0, 1, None).device, None, flag)
    assert (ranks.alone(lambda: 1), ranks.on_main(lambda: 2), ranks.from_main(3)) == (1, 2, 3)
    for way in (ranks.alone, ranks.on_main):
        flag.received = 0
        with pytest.raises(Interrupted):
            way(lambda: flag(signal.SIGTERM, None))
        assert flag.received == signal.SIGTERM and not flag.leaving
        with pytest.raises(Interrupted):
            way(lambda: pytest.fail("it was told to stop before"))
    with pytest.raises(Interrupted):
        ranks.from_main(3)


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
