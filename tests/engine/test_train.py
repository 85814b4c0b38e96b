"""A run stops when it has to, says why in one line, and leaves what it has learned untouched (FAULTS R8, D7)."""

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from faults.kills import environment, rows, trajectory
from PIL import Image

from mae_ext.cli import run
from mae_ext.engine import checkpoint
from mae_ext.engine import step as step_module
from mae_ext.engine.failure import replay
from mae_ext.strict_json import dumps


@pytest.fixture
def train(photos, tmp_path):
    def go(config, *more, data=photos, out="run"):
        return run(["pretrain", str(config), "--data", str(data), "--out", str(tmp_path / out), *more])

    return go


def complaint(capfd):
    """What the command said last, which has to be one line with nothing of Python in it."""
    said = capfd.readouterr().err
    assert "Traceback" not in said
    return said.splitlines()[-1]


def weights_of(path):
    return checkpoint.read_tensors(path / "model.safetensors")


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
    keys = {"step", "epoch", "loss", "lr", "grad_norm", "samples_per_s", "data_wait", "seconds"}
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


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize("fault", ["nan", "inf"])
def test_a_non_finite_input_stops_the_run_leaves_the_weights_and_can_be_replayed(tiny, train, tmp_path, capfd, fault):
    reader = {"name": "faulty", "fault": fault, "match": "11."}
    config = tiny(
        {
            "train.steps": 60,
            "train.save_every": 1,
            "train.keep": 100,
            "modalities.image.data.statistics": "none",
            "modalities.image.data.reader": reader,
        }
    )
    assert train(config) == 1
    said = complaint(capfd)
    out = tmp_path / "run"
    failures = list(out.glob("failure-*"))
    assert len(failures) == 1
    failed = int(failures[0].name.removeprefix("failure-"))
    assert said.startswith(f"mae-ext: step {failed}: losses") and "Nothing was updated" in said
    assert [step for step, _, _ in trajectory(out)] == list(range(1, failed))
    record = json.loads((failures[0] / "record.json").read_text())
    assert record["step"] == failed - 1
    assert any("11." in path for path in record["files"]["image"])
    # null is what JSON has for a number that is none; which of the two it was, `told` says.
    assert record["losses"]["image"] is None and record["nonfinite_gradients"]
    assert record["told"].startswith("losses {'image': nan}")
    # The state that the failing step began with is that of the last checkpoint.
    before = checkpoint.find(failures[0])
    if failed > 1:
        good = checkpoint.latest(out)
        assert good.name == f"step-{failed - 1:08d}"
        one, other = weights_of(good), weights_of(before)
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert all(tensor.isfinite().all() for tensor in weights_of(before).values())
    again = replay(failures[0])
    assert json.loads(dumps(again)) == {k: v for k, v in record.items() if k != "files"}
    capfd.readouterr()
    assert run(["replay", str(failures[0])]) == 0
    assert json.loads(capfd.readouterr().out)["step"] == record["step"]
    # Started again, the run comes to the same step and stops in the same way.
    assert train(config) == 1
    assert complaint(capfd) == said
    assert list(out.glob("failure-*")) == failures
    # With other settings it is another failure, with a folder and a state of its own.
    assert train(config, "--allow-change", "--set", "train.lr=0.02") == 1
    assert f"{failures[0].name}-2/record.json names the files" in complaint(capfd)
    assert checkpoint.read_config(checkpoint.find(failures[0])).train.lr != 0.02
    assert checkpoint.read_config(checkpoint.find(out / f"{failures[0].name}-2")).train.lr == 0.02


def test_a_learning_rate_that_blows_up_stops_the_run(tiny, train, tmp_path, capfd):
    config = tiny({"train.lr": 1e30, "train.lr_per": None, "train.warmup_steps": 0, "train.clip": None})
    assert train(config) == 1
    assert "Nothing was updated" in complaint(capfd)
    (failure,) = (tmp_path / "run").glob("failure-*")
    record = json.loads((failure / "record.json").read_text())
    assert json.loads(dumps(replay(failure))) == {k: v for k, v in record.items() if k != "files"}


def test_one_gradient_that_is_not_finite_stops_the_run_though_the_loss_is(tiny, train, tmp_path, capfd, monkeypatch):
    from mae_ext.model.mae import MAE

    real, steps = MAE.from_config, []

    def poisoned(config):
        model = real(config)

        def poison(gradient):
            steps.append(0)
            return gradient * (float("nan") if len(steps) == 5 else 1.0)

        model.encoder.class_token.register_hook(poison)
        return model

    monkeypatch.setattr(MAE, "from_config", poisoned)
    assert train(tiny({"train.steps": 10})) == 1
    assert complaint(capfd).startswith("mae-ext: step 5: ")
    record = json.loads((tmp_path / "run" / "failure-00000005" / "record.json").read_text())
    assert np.isfinite(record["losses"]["image"]) and record["nonfinite_gradients"] == ["encoder.class_token"]


@pytest.fixture
def late(monkeypatch):
    """The host reads how a step went one step later, as on a GPU."""
    monkeypatch.setitem(step_module.LAG, "cpu", 1)


def test_a_run_that_reads_late_and_seldom_leaves_the_same_rows_and_checkpoints(tiny, train, tmp_path, late):
    values = {"train.steps": 13, "train.save_every": 5, "train.keep": 9}
    assert train(tiny(values), out="late") == 0
    assert train(tiny(values | {"train.log_every": 4}), out="seldom") == 0
    step_module.LAG["cpu"] = 0
    assert train(tiny(values), out="plain") == 0
    plain = trajectory(tmp_path / "plain")
    for name in ("late", "seldom"):
        assert trajectory(tmp_path / name) == plain and [step for step, _, _ in plain] == list(range(1, 14))
        assert all(0 <= row["data_wait"] <= row["seconds"] for row in rows(tmp_path / name / "metrics.jsonl"))
        for saved in ("step-00000005", "step-00000010", "step-00000013"):
            one, other = (weights_of(tmp_path / run / "checkpoints" / saved) for run in (name, "plain"))
            assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_that_is_not_finite_is_the_one_of_the_record_however_late_it_is_read(
    tiny, train, tmp_path, capfd, monkeypatch, precision
):
    reader = {"name": "faulty", "fault": "nan", "match": "21."}
    image = {"modalities.image.data.statistics": "none", "modalities.image.data.reader": reader}
    config = tiny({"train.save_every": 3, "train.precision": precision, "train.log_every": 2} | image)
    ends = []
    for lag in (0, 1):
        monkeypatch.setitem(step_module.LAG, "cpu", lag)
        assert train(config, out=f"{lag}") == 1
        (failure,) = (tmp_path / f"{lag}").glob("failure-*")
        record = json.loads((failure / "record.json").read_text())
        ends.append((failure.name, record, trajectory(tmp_path / f"{lag}"), weights_of(checkpoint.find(failure))))
        assert complaint(capfd).startswith(f"mae-ext: step {record['step'] + 1}: losses")
        assert json.loads(dumps(replay(failure))) == {key: value for key, value in record.items() if key != "files"}
        assert any("21." in path for path in record["files"]["image"])
    (*one, weights), (*other, same) = ends
    assert one == other and len(one[2]) == one[1]["step"] and all(torch.equal(weights[k], same[k]) for k in weights)


def test_fp16_that_gives_up_is_replayed_to_the_same_record(tiny, train, tmp_path, monkeypatch, late):
    from mae_ext.model.mae import MAE

    real = MAE.from_config

    def poisoned(config):
        model = real(config)
        model.encoder.class_token.register_hook(lambda gradient: gradient * float("nan"))
        return model

    monkeypatch.setattr(MAE, "from_config", poisoned)
    assert train(tiny({"train.precision": "fp16"})) == 1
    failure = tmp_path / "run" / "failure-00000017"
    record = json.loads((failure / "record.json").read_text())
    assert record["skipped_in_a_row"] == 17 and record["loss_scale"] == 1.0
    assert json.loads(dumps(replay(failure))) == {key: value for key, value in record.items() if key != "files"}


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


def test_a_run_in_fp16_whose_gradients_are_never_finite_stops_with_a_record(tiny, train, tmp_path, capfd, monkeypatch):
    from mae_ext.model.mae import MAE

    real = MAE.from_config

    def poisoned(config):
        model, steps = real(config), []

        def poison(gradient):
            steps.append(0)
            return gradient * (float("nan") if len(steps) > 3 else 1.0)

        model.encoder.class_token.register_hook(poison)
        return model

    monkeypatch.setattr(MAE, "from_config", poisoned)
    config = tiny({"train.precision": "fp16"})
    assert train(config) == 1
    said = complaint(capfd)
    assert said.startswith("mae-ext: step 20: ") and "skipped 17 updates in a row and is down to a scale of 1" in said
    logged = rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["skipped"] for row in logged] == [0] * 3 + [1] * 16 and logged[3]["grad_norm"] is None
    assert [row["loss_scale"] for row in logged] == [65536.0] * 4 + [2.0 ** (16 - n) for n in range(1, 16)]
    record = json.loads((tmp_path / "run" / "failure-00000020" / "record.json").read_text())
    assert record["skipped_in_a_row"] == 17 and record["nonfinite_gradients"] == ["encoder.class_token"]


def test_updates_that_fp16_skipped_are_counted_in_the_closing_line(tiny, train, capfd, monkeypatch):
    from mae_ext.model.mae import MAE

    real = MAE.from_config

    def poisoned(config):
        model, steps = real(config), []

        def poison(gradient):
            steps.append(0)
            return gradient * (float("nan") if len(steps) in (2, 5) else 1.0)

        model.encoder.class_token.register_hook(poison)
        return model

    monkeypatch.setattr(MAE, "from_config", poisoned)
    assert train(tiny({"train.precision": "fp16", "train.steps": 8, "train.warmup_steps": 2})) == 0
    assert "done: 8 steps; 2 updates were skipped by fp16's loss scaler" in capfd.readouterr().err


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


def test_a_run_that_goes_on_remembers_how_many_updates_fp16_skipped_and_its_scale(
    tiny, train, tmp_path, capfd, monkeypatch
):
    """Gradients that are never finite end it at the same step, whether or not it was begun again on the way."""
    from mae_ext.model.mae import MAE

    real = MAE.from_config

    def poisoned(config):
        model = real(config)
        model.encoder.class_token.register_hook(lambda gradient: gradient * float("nan"))
        return model

    monkeypatch.setattr(MAE, "from_config", poisoned)
    config = tiny({"train.precision": "fp16", "train.save_every": 10})
    ends = []
    for _ in range(2):
        assert train(config) == 1
        ends.append(complaint(capfd))
    assert (tmp_path / "run" / "checkpoints" / "step-00000010").is_dir()
    assert ends[0] == ends[1] and "step 17: " in ends[0] and "skipped 17 updates in a row and is down to" in ends[0]
    assert [row["loss_scale"] for row in rows(tmp_path / "run" / "metrics.jsonl")] == [
        2.0 ** (16 - n) for n in range(16)
    ]
