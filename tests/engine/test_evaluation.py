"""What is judged comes after a save, ends at a signal, and cannot end a run that has nothing saved."""

import os
import shutil
import signal
import time

import pytest
from faults.kills import rows, trajectory

from mae_ext.cli import run
from mae_ext.config import load_config
from mae_ext.engine import checkpoint
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.stop import HeedfulRanks, Interrupted, StopFlag
from mae_ext.probing import during
from mae_ext.tasks.classify.task import Classification


@pytest.fixture
def finetune(tiny, striped, tmp_path):
    def go(*more, out="run", test=None, **values):
        train = {"train.steps": 6, "train.warmup_steps": 1, "train.save_every": 500, "train.evaluate_every": 3}
        config = tiny({"task": "classify"} | train | values)
        held_out = test or striped / "test"
        arguments = [
            "finetune",
            str(config),
            "--init",
            "none",
            "--data",
            str(striped / "train"),
            "--test",
            str(held_out),
        ]
        return run([*arguments, "--out", str(tmp_path / out), *more])

    return go


def told_to_stop(real, at):
    """The call number `at` gets a signal when it begins, and would then take half a minute."""
    calls = []

    def slowly(*arguments, **options):
        calls.append(0)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        return real(*arguments, **options)

    return slowly


@pytest.mark.parametrize(("at", "step"), [(1, 3), (2, 6)])
def test_a_signal_ends_an_evaluation_at_once_and_the_run_that_goes_on_makes_it(
    finetune, tmp_path, monkeypatch, capfd, at, step
):
    assert finetune(out="whole") == 0
    with monkeypatch.context() as patched:
        patched.setattr(Classification, "evaluate", told_to_stop(Classification.evaluate, at))
        began = time.monotonic()
        assert finetune() == 75
        assert time.monotonic() - began < 25
    assert f"stopped by a signal after step {step}, saved at step {step}" in capfd.readouterr().err
    assert checkpoint.latest(tmp_path / "run").name == f"step-{step:08d}"
    assert finetune() == 0
    assert rows(tmp_path / "run" / "evaluations.jsonl") == rows(tmp_path / "whole" / "evaluations.jsonl")
    assert trajectory(tmp_path / "run") == trajectory(tmp_path / "whole")


def test_a_signal_ends_a_probe_at_once_and_the_run_that_goes_on_makes_it(tiny, striped, tmp_path, monkeypatch, capfd):
    probe = {"every": 99, "train": str(striped / "train"), "test": str(striped / "test"), "k": 3}
    values = {"train.steps": 2, "train.warmup_steps": 1, "train.save_every": 500, "train.probe": probe}
    start = ["pretrain", str(tiny(values)), "--data", str(striped / "train"), "--out", str(tmp_path / "run")]
    for at, told in ((1, "stopped by a signal before the first step"), (2, "after step 2, saved at step 2;")):
        with monkeypatch.context() as patched:
            patched.setattr(during, "probe_encoder", told_to_stop(during.probe_encoder, at))
            assert run(start) == 75
        assert told in capfd.readouterr().err
    assert run(start) == 0
    assert [row["step"] for row in rows(tmp_path / "run" / "probes.jsonl")] == [0, 2]


def test_a_test_file_that_goes_bad_ends_no_run_without_a_checkpoint(finetune, striped, tmp_path, monkeypatch, capfd):
    held_out = tmp_path / "test"
    shutil.copytree(striped / "test", held_out)
    real = Classification.evaluate

    def spoilt(*arguments):
        (held_out / "down" / "100.png").write_bytes(b"no picture")
        return real(*arguments)

    monkeypatch.setattr(Classification, "evaluate", spoilt)
    assert finetune(test=held_out) == 1
    assert "1 of 12 samples cannot be used" in (said := capfd.readouterr().err) and "1 not an image (" in said
    assert checkpoint.latest(tmp_path / "run").name == "step-00000003"


def test_held_out_data_of_which_nothing_can_be_read_are_found_before_the_first_step(finetune, striped, tmp_path, capfd):
    held_out = tmp_path / "test"
    shutil.copytree(striped / "test", held_out)
    for path in held_out.rglob("*.png"):
        path.write_bytes(b"no picture")
    assert finetune(test=held_out) == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert "none of its 12 samples can be read, and nothing can be judged: 12 not an image (" in said
    assert finetune(test=tmp_path / "nowhere") == 2
    shutil.copytree(striped / "test", tmp_path / "other")
    (tmp_path / "other" / "down").rename(tmp_path / "other" / "sideways")
    assert finetune(test=tmp_path / "other") == 2
    assert "class 'sideways' is not in the training data" in capfd.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: [p.write_bytes(b"none") for p in folder.rglob("*.png")], "none of its 12 samples can be read"),
        (lambda folder: (folder / "down").rename(folder / "sideways"), "class 'sideways' is not in the training data"),
    ],
)
def test_a_probe_that_cannot_judge_is_refused_before_the_first_step(tiny, striped, tmp_path, capfd, spoil, told):
    held_out = tmp_path / "test"
    shutil.copytree(striped / "test", held_out)
    spoil(held_out)
    probe = {"every": 4, "train": str(striped / "train"), "test": str(held_out)}
    config = tiny({"train.steps": 6, "train.warmup_steps": 1, "train.probe": probe})
    assert run(["pretrain", str(config), "--data", str(striped / "train"), "--out", str(tmp_path / "run")]) == 2
    assert told in (said := capfd.readouterr().err) and "train.probe.test" in said
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_every_evaluation_and_probe_has_a_checkpoint_of_its_step_at_hand(finetune, tmp_path, monkeypatch):
    real, found = Classification.evaluate, []

    def look(*arguments):
        found.append(checkpoint.latest(tmp_path / "run").name)
        return real(*arguments)

    monkeypatch.setattr(Classification, "evaluate", look)
    assert finetune() == 0
    assert found == ["step-00000003", "step-00000006"]


def test_what_is_held_out_is_looked_at_in_eval_mode_and_training_goes_on_in_its_own(finetune, monkeypatch):
    modes = []
    real_loss, real = Classification.loss, Classification.evaluate

    def loss(self, model, *arguments):
        modes.append(model.training)
        return real_loss(self, model, *arguments)

    def look(self, model, *arguments):
        modes.append(("judged", model.training))
        return real(self, model, *arguments)

    monkeypatch.setattr(Classification, "loss", loss)
    monkeypatch.setattr(Classification, "evaluate", look)
    assert finetune() == 0
    assert modes == [*[True] * 3, ("judged", False)] * 2


def test_a_signal_raises_only_where_it_may_and_an_earlier_one_as_soon_as_it_may():
    flag = StopFlag()
    with flag.interrupts():
        with flag.held():
            flag(signal.SIGTERM, None)
        assert flag.received == signal.SIGTERM
    with pytest.raises(Interrupted), flag.interrupts():
        raise AssertionError("never here")
    other = StopFlag()
    with pytest.raises(Interrupted), other.interrupts():
        other(signal.SIGINT, None)
    assert not other.leaving


def test_a_rank_that_left_is_heard_in_the_meeting_and_nobody_meets_again():
    ranks = HeedfulRanks(0, 1, Ranks(0, 1, None).device, None, StopFlag())
    assert ranks.gather(3) == [3]
    with pytest.raises(Interrupted):
        ranks.part(left=True)
    ranks.part(left=True)  # they have parted


def test_evaluations_are_due_at_their_steps_and_at_the_end_once(tiny, tmp_path):
    from mae_ext.engine.evaluation import Evaluations

    found = Evaluations(tmp_path, 0, 4, 10, Ranks(0, 1, None))
    assert [step for step in range(11) if found.due(step)] == [4, 8, 10]
    found.write(4, {"loss": float("nan")})
    found.close()
    assert rows(tmp_path / "evaluations.jsonl") == [{"step": 4, "loss": None}]
    assert not Evaluations(tmp_path, 8, 4, 10, Ranks(0, 1, None)).due(4)
    assert [s for s in range(11) if Evaluations(tmp_path, 0, None, 10, Ranks(0, 1, None)).due(s)] == [10]
    assert load_config(tiny()).train.evaluate_every is None
