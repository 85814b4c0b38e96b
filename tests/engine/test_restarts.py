"""torchrun's elastic restarts: a rank that dies or hangs costs no step, and a stop stays one (FAULTS R3, R8, R9).

Ten killed ranks of runs that are started again, and a rank that hangs, with a table at the end:

    scripts/test -m slow -k restart -s
"""

import signal
import socket
import time

import pytest
from engine.test_distributed import free_port, start_ranks, wait_for
from faults.kills import rows, trajectory, wait_until
from faults.torchrun import end, hit, start

from mae_ext.engine import checkpoint


def steps(run):
    return [row["step"] for row in rows(run / "metrics.jsonl")]


def undisturbed(config, photos, out):
    assert wait_for(start_ranks(config, photos, out)) == [0, 0]
    return trajectory(out)


def killed(config, photos, out, victim, after, total):
    """-> seconds from the kill to the first step that is logged by the ranks that were started again."""
    process, log = start(config, photos, out)
    try:
        sent = hit(process, log, out, victim, signal.SIGKILL, after)
        assert wait_until(lambda: log.read_text().count("going on from step") == 1, process), log.read_text()[-2000:]
        seconds = time.monotonic() - sent
    finally:
        code = end(process)
    said = log.read_text()
    assert code == 0 and f"done: {total} steps" in said, said[-3000:]
    assert said.count("lost touch with another") <= 1 and "Traceback" not in said
    assert steps(out) == list(range(1, total + 1))
    return seconds


def test_a_run_with_a_killed_rank_is_started_again_and_ends_as_if_it_had_lived(tiny, photos, tmp_path):
    config = tiny({"train.steps": 60, "train.save_every": 10})
    whole = undisturbed(config, photos, tmp_path / "whole")
    assert killed(config, photos, tmp_path / "run", 1, 25, 60) < 60
    assert trajectory(tmp_path / "run") == whole


def test_a_stop_by_signal_of_one_rank_is_not_undone_by_a_restart(tiny, photos, tmp_path):
    config, out = tiny({"train.steps": 5000, "train.save_every": 5000}), tmp_path / "run"
    process, log = start(config, photos, out, restarts=1)
    hit(process, log, out, 1, signal.SIGTERM, 5)
    assert end(process) == 1  # as torchrun says of all that is not 0
    said, done = log.read_text(), len(steps(out))
    words = f"stopped by a signal after step {done}, saved at step {done}; the same command goes on"
    assert checkpoint.latest(out).name == f"step-{done:08d}"
    assert said.count(f": {words}\n") >= 2 and "starting" in said and "going on" not in said, said
    assert f"not started again, as it would end the same way: {words}" in said


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_killed_ranks_are_started_again_ten_times(tiny, photos, tmp_path):
    config = tiny({"train.steps": 150, "train.save_every": 20})
    whole = undisturbed(config, photos, tmp_path / "whole")
    waits = []
    for i in range(10):
        waits.append(killed(config, photos, tmp_path / f"{i}", i % 2, 5 + 14 * i, 150))
        assert trajectory(tmp_path / f"{i}") == whole
        print(f"kill {i}: rank {i % 2} after step {5 + 14 * i}, going on {waits[-1]:.1f} s later")
    print(f"\n10 killed ranks: all runs whole and equal to the bit; the slowest went on after {max(waits):.1f} s")
    assert max(waits) < 60


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_rank_that_hangs_is_noticed_after_rank_timeout_and_started_again(tiny, photos, tmp_path):
    config = tiny({"train.steps": 60, "train.save_every": 10, "train.rank_timeout": 5})
    out = tmp_path / "run"
    process, log = start(config, photos, out)
    sent = hit(process, log, out, 1, signal.SIGSTOP, 25)
    assert wait_until(lambda: "lost touch with another" in log.read_text(), process)
    noticed = time.monotonic() - sent
    assert end(process) == 0 and steps(out) == list(range(1, 61)), log.read_text()[-3000:]
    print(f"\na rank that hung was noticed after {noticed:.1f} s, rank_timeout being 5 s")
    assert noticed < 20


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_whose_loss_is_not_finite_on_one_rank_is_not_started_again(tiny, photos, tmp_path, faulty):
    reader = {"name": "faulty", "fault": "nan", "match": "11."}
    config = tiny({"modalities.image.data.statistics": "none", "modalities.image.data.reader": reader})
    process, log = start(config, photos, tmp_path / "run", restarts=2)
    assert end(process) == 1
    said = log.read_text()
    assert said.count("starting: ") == 1 and said.count("Nothing was updated") >= 2, said
    assert len(list((tmp_path / "run").glob("failure-*"))) == 1


def test_joining_is_tried_again_while_the_port_is_in_use(tiny, photos, tmp_path, monkeypatch):
    port = free_port()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()
        monkeypatch.setattr("engine.test_distributed.free_port", lambda: port)
        started = start_ranks(tiny({"train.steps": 3, "train.warmup_steps": 1}), photos, tmp_path / "run")
        try:
            assert wait_until(lambda: "it is tried again" in started[0][1].read_text(), started[0][0])
        finally:
            holder.close()
    assert wait_for(started) == [0, 0], [log.read_text()[-2000:] for _, log in started]
    assert steps(tmp_path / "run") == [1, 2, 3]
