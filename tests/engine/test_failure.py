"""A step that is not finite updates nothing, ends the run with a record, and can be repeated from it."""

import json
from itertools import count

import numpy as np
import pytest
import torch
from engine.ended_runs import complaint, weights_of
from faults.kills import rows, trajectory

from mae_ext.cli import run
from mae_ext.engine import checkpoint
from mae_ext.engine import step as step_module
from mae_ext.engine.failure import replay
from mae_ext.model.mae import MAE
from mae_ext.strict_json import dumps


@pytest.fixture
def poison(monkeypatch):
    """poison(when): a gradient of models that are made then is NaN in their steps, from 1 on, for which `when` is."""
    real = MAE.from_config

    def go(when):
        def poisoned(config):
            model, steps = real(config), count(1)
            model.encoder.class_token.register_hook(lambda g: g * (float("nan") if when(next(steps)) else 1.0))
            return model

        monkeypatch.setattr(MAE, "from_config", poisoned)

    return go


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


def test_one_gradient_that_is_not_finite_stops_the_run_though_the_loss_is(tiny, train, tmp_path, capfd, poison):
    poison(lambda step: step == 5)
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


def test_fp16_that_gives_up_is_replayed_to_the_same_record(tiny, train, tmp_path, poison, late):
    poison(lambda step: True)
    assert train(tiny({"train.precision": "fp16"})) == 1
    failure = tmp_path / "run" / "failure-00000017"
    record = json.loads((failure / "record.json").read_text())
    assert record["skipped_in_a_row"] == 17 and record["loss_scale"] == 1.0
    assert json.loads(dumps(replay(failure))) == {key: value for key, value in record.items() if key != "files"}


def test_a_run_in_fp16_whose_gradients_are_never_finite_stops_with_a_record(tiny, train, tmp_path, capfd, poison):
    poison(lambda step: step > 3)
    config = tiny({"train.precision": "fp16"})
    assert train(config) == 1
    said = complaint(capfd)
    assert said.startswith("mae-ext: step 20: ") and "skipped 17 updates in a row and is down to a scale of 1" in said
    logged = rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["skipped"] for row in logged] == [0] * 3 + [1] * 16 and logged[3]["grad_norm"] is None
    assert [row["loss_scale"] for row in logged] == [65536.0] * 4 + [2.0 ** (16 - n) for n in range(1, 16)]
    record = json.loads((tmp_path / "run" / "failure-00000020" / "record.json").read_text())
    assert record["skipped_in_a_row"] == 17 and record["nonfinite_gradients"] == ["encoder.class_token"]


def test_updates_that_fp16_skipped_are_counted_in_the_closing_line(tiny, train, capfd, poison):
    poison(lambda step: step in (2, 5))
    assert train(tiny({"train.precision": "fp16", "train.steps": 8, "train.warmup_steps": 2})) == 0
    assert "done: 8 steps; 2 updates were skipped by fp16's loss scaler" in capfd.readouterr().err


def test_a_run_that_goes_on_remembers_how_many_updates_fp16_skipped_and_its_scale(tiny, train, tmp_path, capfd, poison):
    """Gradients that are never finite end it at the same step, whether or not it was begun again on the way."""
    poison(lambda step: True)
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
