"""A run stops when it has to, says why in one line, and leaves what it has learned untouched (FAULTS R8, D7)."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from engine.ended_runs import complaint, weights_of
from faults.kills import environment, rows, trajectory
from PIL import Image

from mae_ext.cli import run
from mae_ext.engine import checkpoint


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_runs_of_one_config_log_the_same_bits_and_end_in_the_same_weights(tiny, train, tmp_path, precision):
    config = tiny({"train.steps": 20, "train.precision": precision})
    assert train(config, out="a") == train(config, out="b") == 0
    assert trajectory(tmp_path / "a") == trajectory(tmp_path / "b")
    assert [step for step, _, _ in trajectory(tmp_path / "a")] == list(range(1, 21))
    one, other = (weights_of(checkpoint.latest(tmp_path / name)) for name in "ab")
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_every_row_of_the_metrics_says_what_the_design_promises(tiny, train, tmp_path):
    assert train(tiny({"train.steps": 12})) == 0
    keys = {"step", "epoch", "loss", "lr", "grad_norm", "samples_per_s", "data_wait", "seconds", "memory", "tflops"}
    keys |= {"loader/read", "loader/decode", "loader/transform", "loader/share"}
    found = rows(tmp_path / "run" / "metrics.jsonl")
    assert all(set(row) == keys for row in found)
    assert [row["epoch"] for row in found] == [step * 8 / 40 for step in range(1, 13)]
    peak = 1e-2 * 8 / 256
    assert [row["lr"] for row in found[:11]] == pytest.approx([peak * step / 10 for step in range(11)])


def test_checkpoints_are_of_every_so_many_steps_and_of_the_last(tiny, train, tmp_path):
    assert train(tiny({"train.steps": 8, "train.warmup_steps": 2, "train.save_every": 3, "train.keep": 9})) == 0
    assert [int(path.name.removeprefix("step-")) for path in checkpoint.steps_of(tmp_path / "run" / "checkpoints")] == [
        3, 6, 8,
    ]  # fmt: skip


def test_the_loss_falls(tiny, train, tmp_path):
    assert train(tiny({"train.steps": 150, "train.lr": 0.1, "model.drop_path": 0.0})) == 0
    losses = [loss for _, loss, _ in trajectory(tmp_path / "run")]
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:10])


def test_accumulating_gradients_changes_the_losses_by_rounding_only(tiny, train, tmp_path):
    for parts in (1, 4):
        assert train(tiny({"train.steps": 10, "train.accumulate": parts}), out=f"{parts}") == 0
    one, four = (np.array(trajectory(tmp_path / name)) for name in "14")
    np.testing.assert_allclose(four, one, atol=1e-5)
    assert not np.array_equal(four, one)


def test_a_config_that_accumulates_more_than_it_has_is_refused(tiny, train, capfd):
    assert train(tiny({"train.accumulate": 3})) == 2
    assert "batch=8" in complaint(capfd)


@pytest.fixture
def many(tmp_path):
    """Write 200 pictures of which so many are cut off; -> (folder, names of the bad)."""

    def write(bad):
        folder = tmp_path / f"bad{bad}"
        folder.mkdir()
        for number in range(200):
            pixels = np.random.default_rng(number).integers(0, 256, (18, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        names = [f"{number:03d}.png" for number in range(7, 200, 199 // bad)][:bad]
        for name in names:
            (folder / name).write_bytes((folder / name).read_bytes()[:200])
        return folder, names

    return write


def test_half_a_percent_of_bad_files_is_listed_counted_and_replaced_the_same_way_twice(tiny, train, tmp_path, many):
    folder, names = many(1)
    config = tiny({"train.steps": 60, "modalities.image.data.statistics": "none"})
    for out, workers in (("a", 0), ("b", 2)):
        assert train(config, "--set", f"train.workers={workers}", data=folder, out=out) == 0
    assert trajectory(tmp_path / "a") == trajectory(tmp_path / "b")
    ledgers = [rows(tmp_path / out / "bad_samples.jsonl") for out in "ab"]
    assert ledgers[0] == ledgers[1]
    assert [(Path(row["path"]).name, row["kind"]) for row in ledgers[0]] == [(names[0], "truncated")]
    assert 1 <= ledgers[0][0]["step"] <= 25  # the first epoch


def test_two_percent_of_bad_files_stop_the_run_with_their_names(tiny, train, tmp_path, many, capfd):
    folder, names = many(4)
    assert train(tiny({"modalities.image.data.statistics": "none"}), data=folder) == 1
    said = capfd.readouterr().err
    assert "Traceback" not in said
    verdict = said[said.index("mae-ext: ") :]
    assert "3 of 200 files are bad" in verdict and "0.01" in verdict
    listed = rows(tmp_path / "run" / "bad_samples.jsonl")
    # It stops at the third: that is already more than 1 %.
    assert len(listed) == 3
    assert {Path(row["path"]).name for row in listed} < set(names)
    assert all(row["path"] in verdict for row in listed)


def test_the_ledger_of_a_resumed_run_counts_on_where_it_was(tiny, train, tmp_path, many):
    folder, _ = many(4)
    values = {"train.steps": 30, "train.save_every": 5, "modalities.image.data.statistics": "none"}
    config = tiny(values | {"modalities.image.data.max_bad_fraction": 0.02})
    assert train(config, data=folder, out="whole") == 0
    assert train(config, data=folder) == 0
    for path in checkpoint.steps_of(tmp_path / "run" / "checkpoints")[1:]:
        (path / "state.json").write_text("damaged")
    assert train(config, data=folder) == 0
    assert rows(tmp_path / "run" / "bad_samples.jsonl") == rows(tmp_path / "whole" / "bad_samples.jsonl")
    assert trajectory(tmp_path / "run") == trajectory(tmp_path / "whole")


def test_only_one_process_trains_into_a_folder(tiny, photos, tmp_path, train, capfd):
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True)"
        "; time.sleep(600)"
    )
    out = tmp_path / "run"
    out.mkdir()
    holder = subprocess.Popen([sys.executable, "-c", code, str(out / ".lock")], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        assert train(tiny({"train.steps": 4})) == 2
        assert "another process is training there" in complaint(capfd)
        assert not (out / "metrics.jsonl").exists()
    finally:
        holder.kill()
        holder.wait()
    assert train(tiny({"train.steps": 4})) == 0  # the lock died with its holder


def test_the_second_of_two_runs_into_one_folder_is_refused_and_the_first_goes_on(tiny, photos, tmp_path, train, capfd):
    from faults.kills import command, launch, wait_until

    config = tiny({"train.steps": 400})
    first = launch(command(config, photos, tmp_path / "run"), tmp_path / "log", environment())
    assert wait_until(lambda: bool(rows(tmp_path / "run" / "metrics.jsonl")), first)
    assert train(config) == 2
    assert "another process is training there" in complaint(capfd)
    assert first.wait(120) == 0
    assert len(trajectory(tmp_path / "run")) == 400


def test_a_start_that_is_refused_leaves_no_folder_and_takes_none_that_was_there(tiny, train, tmp_path, capfd):
    empty = tmp_path / "nothing"
    empty.mkdir()
    assert train(tiny({"train.steps": 2}), data=empty, out="deep/er/run") == 2
    assert not (tmp_path / "deep").exists() and str(empty) in complaint(capfd)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert train(tiny({"train.steps": 2}), data=empty) == 2
    assert "notes.txt" in {p.name for p in (tmp_path / "run").iterdir()}
    assert train(tiny({"train.steps": 2}), out="deep/er/run") == 0


def test_a_finished_run_started_again_does_nothing(tiny, train, tmp_path):
    config = tiny({"train.steps": 20})
    assert train(config) == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "checkpoints").rglob("*")}
    logged = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert train(config) == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "checkpoints").rglob("*")} == before
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == logged


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_run_leaves_no_process_no_thread_and_no_open_file_behind(tiny, train):
    config = tiny({"train.steps": 6, "train.workers": 2})
    assert train(config, out="first") == 0  # starts the server that workers are forked from, which stays
    threads, files = threading.active_count(), open_files()
    for number in range(3):
        assert train(config, out=f"{number}") == 0
    assert threading.active_count() == threads
    assert open_files() <= files + 2


def test_a_folder_of_nothing_but_bad_files_is_a_ledger_of_reasons_and_one_line(tiny, train, tmp_path, capfd):
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_bytes(b"no picture" if number < 4 else b"")
    for out, statistics, code in (("a", "measured", 2), ("b", "none", 1)):
        assert train(tiny({"modalities.image.data.statistics": statistics}), data=folder, out=out) == code
        said = complaint(capfd)
        assert "4 not an image (" in said and "1 empty (" in said, said
        kinds = sorted((Path(row["path"]).name, row["kind"]) for row in rows(tmp_path / out / "bad_samples.jsonl"))
        assert kinds == [(f"{n}.png", "not an image") for n in range(4)] + [("4.png", "empty")]


def test_the_terminal_tells_the_losses_of_a_joint_run_apart(tiny, tmp_path, photos, capfd):
    values = {"train.steps": 2, "train.warmup_steps": 1}
    image = {"size": [16, 16], "patch": [4, 4], "batch": 8, "weight": 0.5, "data": {"path": str(photos)}}
    config = tiny(values | {"modalities.type": image, "modalities.image.data.path": str(photos)})
    assert run(["pretrain", str(config), "--out", str(tmp_path / "run")]) == 0
    last = rows(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["loss"] == pytest.approx(last["loss/image"] + 0.5 * last["loss/type"])
    told = f"loss {last['loss']:.4f} (image {last['loss/image']:.4f}, type {last['loss/type']:.4f})"
    assert told in capfd.readouterr().err


@pytest.mark.parametrize(
    ("number", "name", "told"),
    [
        (errno.EMFILE, "photo.png", "may open no more files: raise the limit"),
        (errno.ENOSPC, "out/metrics.jsonl", "out/metrics.jsonl: No space left on device (the disk is full"),
        (errno.EROFS, "out/x", "out/x: Read-only file system (it is mounted read-only"),
        (errno.EACCES, "out/x", "out/x: Permission denied (permission is denied"),
        (errno.EIO, None, "Input/output error (the disk reports an error"),
    ],
)
def test_an_error_of_the_system_is_told_with_its_file_its_cause_and_its_remedy(
    tiny, train, monkeypatch, capfd, number, name, told
):
    from mae_ext.engine import ledger

    def refuse(*_):
        raise OSError(number, os.strerror(number), *([name] if name else []))

    monkeypatch.setattr(ledger, "Journal", refuse)
    assert train(tiny({"train.steps": 2, "train.warmup_steps": 1})) == 1
    said = complaint(capfd)
    assert told in said and "same command" in said
    assert ("photo.png" in said) == ("photo" in told)  # a limit of the process is not the file's affair


def test_a_process_that_may_open_no_more_files_says_so_and_no_file_is_called_bad(tiny, photos, tmp_path):
    config = tiny({"train.steps": 40, "train.workers": 2, "modalities.image.data.statistics": "none"})
    code = (
        "import resource, sys; from mae_ext.engine import train as t\n"
        "from mae_ext.data.image.reader import ImageReader as r\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))\n"
        "from mae_ext.cli import run; sys.exit(run(sys.argv[1:]))"
    )
    arguments = ["pretrain", str(config), "--data", str(photos), "--out", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment())
    said = done.stderr.splitlines()[-1]
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done.stderr
    assert "raise the limit (ulimit -n 4096)" in said and "make room" not in said
    assert rows(tmp_path / "run" / "bad_samples.jsonl") == []
