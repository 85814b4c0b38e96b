"""Ranks: the same samples, masks and losses as one process, and no rank that waits for a dead one (FAULTS R8, R9).

100 steps, and ten killed ranks, with a table at the end:

    scripts/test -m slow -k rank -s
"""

import os
import signal
import socket
import time

import numpy as np
import pytest
from faults.kills import command, environment, kill_group, launch, rows, trajectory, wait_until
from PIL import Image

from mae_ext.cli import run
from mae_ext.engine import checkpoint


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_ranks(config, photos, out, *more, world=2, verb="pretrain", module="mae_ext", call=None):
    """-> [(process, log)], as torchrun starts them. call: another command."""
    arguments = call or command(config, photos, out, *more, verb=verb)
    arguments[2] = module
    return start_as_ranks(arguments, out, world)


def start_as_ranks(arguments, out, world=2):
    """The same, of any program; what each rank says goes into a file beside `out`."""
    port, started = free_port(), []
    for rank in range(world):
        variables = {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        log = out.with_name(f"{out.name}.rank{rank}.log")
        started.append((launch(arguments, log, environment(**variables)), log))
    return started


def wait_for(started, seconds=180.0):
    limit = time.monotonic() + seconds
    try:
        return [process.wait(max(1.0, limit - time.monotonic())) for process, _ in started]
    finally:
        for process, _ in started:
            kill_group(process)


def alone(config, photos, out, *more):
    return run(["pretrain", str(config), "--data", str(photos), "--out", str(out), *more])


def agree(config, photos, tmp_path, steps):
    """The largest difference of a loss between one process and two."""
    assert alone(config, photos, tmp_path / "one") == 0
    started = start_ranks(config, photos, tmp_path / "two")
    assert wait_for(started) == [0, 0], [log.read_text()[-2000:] for _, log in started]
    one, two = (np.array(trajectory(tmp_path / name)) for name in ("one", "two"))
    assert one[:, 0].tolist() == two[:, 0].tolist() == list(range(1, steps + 1))
    return np.abs(one[:, 1:] - two[:, 1:]).max(axis=0)


ALL_TERMS = {
    "modalities.image.data.repeats": 2,
    "model.decoder.fuse": [1],
    "train.uniformity": 0.5,
}
"""Everything of pretraining's loss that is of a whole batch or of inner blocks."""


@pytest.mark.parametrize("values", [{}, ALL_TERMS], ids=["plain", "all terms"])
def test_two_ranks_lose_what_one_process_loses(tiny, photos, tmp_path, values):
    loss, norm = agree(tiny({"train.steps": 20} | values), photos, tmp_path, 20)
    assert loss < 1e-5 and norm < 1e-4


def test_two_ranks_put_up_with_as_many_bad_files_as_one_process_and_stop_at_the_same_step(tiny, tmp_path):
    """Rank by rank neither would have met too many."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(100):
        pixels = np.random.default_rng(number).integers(0, 256, (18, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    for number in range(3, 100, 12):
        (folder / f"{number:02d}.png").write_bytes(b"no picture")
    values = {"modalities.image.data.statistics": "none", "modalities.image.data.max_bad_fraction": 0.03}
    config = tiny({"train.steps": 40} | values)
    assert alone(config, folder, tmp_path / "one") == 1
    started = start_ranks(config, folder, tmp_path / "two")
    assert wait_for(started) == [1, 1]
    ends = [log.read_text() for _, log in started]
    ledgers = [rows(tmp_path / name / "bad_samples.jsonl") for name in ("one", "two")]
    count = len(ledgers[0])
    told = f"{count} of 100 files are bad, and max_bad_fraction is 0.03: {count} not an image ("
    assert 4 <= count <= 9 and all(told in end for end in ends), ends
    assert len(trajectory(tmp_path / "one")) == len(trajectory(tmp_path / "two")) > 0
    assert ledgers[0] == ledgers[1]
    assert not list((tmp_path / "two").glob("bad_samples.*.jsonl"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ranks_lose_what_one_process_loses_over_100_steps(tiny, photos, tmp_path):
    config = tiny({"train.steps": 100, "train.workers": 1, "train.lr": 0.05, "train.accumulate": 2})
    loss, norm = agree(config, photos, tmp_path, 100)
    print(f"\n100 steps: the losses of two ranks and of one differ by at most {loss:.2g}, gradient norms by {norm:.2g}")
    assert loss < 1e-5


def kill_one_rank(config, photos, out, victim, after):
    """-> seconds until the other ended, and what it said last."""
    started = start_ranks(config, photos, out)
    (killed, _), (left, log) = started[victim], started[1 - victim]
    try:
        assert wait_until(lambda: len(rows(out / "metrics.jsonl")) >= after, left), log.read_text()
        os.killpg(killed.pid, signal.SIGKILL)
        began = time.monotonic()
        code = left.wait(60)
        seconds = time.monotonic() - began
    finally:
        for process, _ in started:
            kill_group(process)
    said = log.read_text()
    assert code == 1 and "Traceback" not in said, said
    return seconds, said.splitlines()[-1]


def check_killed_rank(config, photos, tmp_path, name, victim, after, steps):
    out = tmp_path / name
    seconds, said = kill_one_rank(config, photos, out, victim, after)
    assert said.startswith("mae-ext") and "lost touch with another" in said and "last checkpoint" in said
    logged = trajectory(out)
    assert after <= len(logged) < steps
    # Then it goes on with one, and ends as if there had never been two.
    assert alone(config, photos, out) == 0
    whole, found = np.array(trajectory(tmp_path / "one")), np.array(trajectory(out))
    assert found[:, 0].tolist() == list(range(1, steps + 1))
    np.testing.assert_allclose(found[:, 1], whole[:, 1], atol=1e-5)
    return seconds


def test_a_killed_rank_ends_the_other_with_a_message_and_the_run_goes_on_with_one(tiny, photos, tmp_path):
    config = tiny({"train.steps": 300, "train.save_every": 20})
    assert alone(config, photos, tmp_path / "one") == 0
    assert check_killed_rank(config, photos, tmp_path, "killed", 1, 25, 300) < 60


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_killed_ranks_each_end_the_other(tiny, photos, tmp_path):
    config = tiny({"train.steps": 300, "train.save_every": 20})
    assert alone(config, photos, tmp_path / "one") == 0
    waits = [check_killed_rank(config, photos, tmp_path, f"{i}", i % 2, 5 + 20 * i, 300) for i in range(10)]
    print(f"\n10 killed ranks: the other ended within {max(waits):.1f} s, and each run went on with one rank")
    assert max(waits) < 60


@pytest.mark.usefixtures("faulty")
def test_a_sample_that_is_not_finite_on_one_rank_stops_both_at_the_same_step(tiny, photos, tmp_path):
    reader = {"name": "faulty", "fault": "nan", "match": "11."}
    values = {"modalities.image.data.statistics": "none", "modalities.image.data.reader": reader}
    config, out = tiny(values), tmp_path / "run"
    started = start_ranks(config, photos, out)
    assert wait_for(started) == [1, 1]
    ends = [log.read_text().splitlines()[-1] for _, log in started]
    assert ends[0].startswith("mae-ext: step ") and ends[1].startswith("mae-ext (rank 1): step ")
    assert ends[0].split(": ")[1] == ends[1].split(": ")[1]
    (failure,) = out.glob("failure-*")
    assert all(
        t.isfinite().all() for t in checkpoint.read_tensors(checkpoint.find(failure) / "model.safetensors").values()
    )


def test_a_signal_to_one_rank_stops_both_after_the_same_step(tiny, photos, tmp_path):
    config, out = tiny({"train.steps": 5000, "train.save_every": 5000}), tmp_path / "run"
    started = start_ranks(config, photos, out)
    assert wait_until(lambda: len(rows(out / "metrics.jsonl")) >= 5, started[0][0])
    started[1][0].send_signal(signal.SIGTERM)
    assert wait_for(started) == [75, 75]
    done = len(trajectory(out))
    assert checkpoint.latest(out).name == f"step-{done:08d}"
    assert all(f"stopped by a signal after step {done}" in log.read_text() for _, log in started)


@pytest.mark.parametrize(
    ("given", "code", "told"),
    [
        ({"RANK": "one", "WORLD_SIZE": "2"}, 2, "RANK"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, 2, "RANK below WORLD_SIZE"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, 1, "could not join"),  # nobody said where
    ],
)
def test_an_environment_that_is_not_torchruns_is_named(tiny, photos, tmp_path, monkeypatch, capfd, given, code, told):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert alone(tiny(), photos, tmp_path / "run") == code
    said = capfd.readouterr().err
    assert len(said.splitlines()) == 1 and told in said


def test_a_batch_that_the_ranks_cannot_share_is_refused_before_anything_is_written(tiny, photos, tmp_path):
    started = start_ranks(tiny({"train.accumulate": 8}), photos, tmp_path / "run")
    assert wait_for(started) == [2, 2]
    assert "batch=8 does not split over 2 ranks with train.accumulate=8" in started[0][1].read_text()
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.usefixtures("test_path")
def test_ranks_wait_for_rank_0_for_longer_than_for_each_other(tiny, striped, tmp_path):
    """In a step a silent rank is a lost one; while rank 0 measures or probes for all, silence is what it should be."""
    probe = {"every": 9, "train": str(striped / "train"), "test": str(striped / "test"), "k": 3}
    config = tiny({"train.steps": 3, "train.warmup_steps": 1, "train.probe": probe, "train.rank_timeout": 2})
    started = start_ranks(config, striped / "train", tmp_path / "run", module="faults.impatient")
    assert wait_for(started) == [0, 0], [log.read_text()[-2000:] for _, log in started]
    assert [row["step"] for row in rows(tmp_path / "run" / "probes.jsonl")] == [0, 3]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ranks_fine_tune_as_one_process_does_and_score_the_same(tiny, striped, tmp_path):
    """With what draws numbers and pairs samples, and an odd number of test samples over the two."""
    task = {"name": "classify", "mixup": 0.8, "cutmix": 1.0, "distort": 2, "erase": 0.25}
    config = tiny({"task": task, "train.steps": 20, "train.layer_decay": 0.75, "train.evaluate_every": 10})
    names = sorted((striped / "test").rglob("*.png"))[:11]
    held_out = tmp_path / "test.csv"
    held_out.write_text("path,label\n" + "".join(f"{p},{p.parent.name}\n" for p in names))
    more = ("--init", "none", "--test", str(held_out))
    done = [str(config), "--data", str(striped / "train"), "--out", str(tmp_path / "one"), *more]
    assert run(["finetune", *done]) == 0
    started = start_ranks(config, striped / "train", tmp_path / "two", *more, verb="finetune")
    assert wait_for(started) == [0, 0], [log.read_text()[-2000:] for _, log in started]
    one, two = (np.array(trajectory(tmp_path / name)) for name in ("one", "two"))
    np.testing.assert_allclose(one, two, atol=1e-4)
    scores = [rows(tmp_path / name / "evaluations.jsonl") for name in ("one", "two")]
    assert [row["samples"] for row in scores[1]] == [11, 11]
    for ours, theirs in zip(*scores, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
