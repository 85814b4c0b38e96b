"""The checkpoint that is best on held-out data is kept, named and found again, wherever a run ends."""

import json
import shutil

import pytest
import torch
from faults.kills import rows

from mae_ext.cli import run
from mae_ext.config import parse_config
from mae_ext.engine import checkpoint, commit
from mae_ext.engine.best import Best
from mae_ext.engine.log import Journal
from mae_ext.errors import CheckpointError


@pytest.fixture
def config(make_config):
    values = make_config().model_dump(mode="json")
    return parse_config(values | {"train": values["train"] | {"keep_best": True}})


@pytest.fixture
def walk(config, tmp_path):
    """Steps that are saved, pruned and judged as in a run, with these losses; of those in `unsaved` saving fails."""

    def go(losses, start=0, unsaved=(), config=config):
        journal = Journal(tmp_path / "evaluations.jsonl", start)
        best = Best(config, tmp_path, journal.rows)
        for step, loss in enumerate(losses, start + 1):
            if step not in unsaved:
                commit.save(tmp_path / "checkpoints", step, config, {"model": {"w": torch.ones(2)}}, {})
                commit.prune(tmp_path / "checkpoints", config.train.keep)
            journal.write({"step": step, best.chief.score: loss})
            best.judge(step, {best.chief.score: loss}, journal, None)
        journal.close()
        return best

    return go


def kept(out):
    return [int(path.name.removeprefix("step-")) for path in checkpoint.steps_of(out / "checkpoints")]


def noted(out):
    return json.loads((out / "best.json").read_text())


def test_the_best_stays_beside_the_newest_and_the_one_before_it_goes(walk, tmp_path):
    best = walk([3.0, 1.0, 2.0, 4.0, 5.0])
    assert kept(tmp_path) == [2, 4, 5]
    assert noted(tmp_path) == {"step": 2, "checkpoint": "step-00000002", "loss": 1.0}
    assert checkpoint.best(tmp_path) == tmp_path / "checkpoints" / "step-00000002"
    assert str(best) == f"; best on held-out data: step 2 (loss 1.0000), kept as {tmp_path}/checkpoints/step-00000002"
    walk([6.0, 0.5], start=5)
    assert kept(tmp_path) == [6, 7] and noted(tmp_path)["step"] == 7


def test_of_a_score_of_which_most_is_best_the_highest_is_and_of_equals_the_first(walk, config, tmp_path):
    task = {"task": {"name": "classify", "classes": ["a", "b"]}}
    walk([0.5, 0.8, 0.8, 0.7], config=parse_config(config.model_dump(mode="json") | task))
    assert noted(tmp_path) == {"step": 2, "checkpoint": "step-00000002", "accuracy": 0.8} and kept(tmp_path) == [
        2,
        3,
        4,
    ]


@pytest.mark.parametrize("value", [float("nan"), None])
def test_what_has_no_score_is_never_the_best_and_is_said(walk, tmp_path, capsys, value):
    best = walk([value, 2.0, value, 3.0, 4.0])
    assert (best.step, kept(tmp_path)) == (2, [2, 4, 5])
    assert "step 3 is not judged: its loss is" in capsys.readouterr().err


def test_a_better_one_that_could_not_be_saved_is_said_and_the_one_before_it_stays(walk, tmp_path, capsys):
    walk([2.0, 3.0, 1.0, 4.0, 5.0], unsaved=(3,))
    assert noted(tmp_path)["step"] == 1 and kept(tmp_path) == [1, 4, 5]
    assert "step 3 is the best so far, and cannot be kept as such" in capsys.readouterr().err


def test_a_run_that_goes_on_finds_the_best_in_its_rows_whatever_the_kill_left_undone(walk, config, tmp_path):
    walk([3.0, 1.0, 2.0, 4.0])
    (tmp_path / "best.json").unlink()  # killed before it was written
    assert walk([], start=4).step == 2 and noted(tmp_path)["step"] == 2
    (tmp_path / "best.json").write_text("")
    walk([5.0], start=4)
    assert noted(tmp_path)["step"] == 2 and kept(tmp_path) == [2, 4, 5]


def test_a_run_that_falls_back_to_an_earlier_checkpoint_forgets_a_best_beyond_it(walk, tmp_path):
    walk([3.0, 2.0, 1.0])
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000003")
    assert walk([], start=2).step == 2 and noted(tmp_path) == {"step": 2, "checkpoint": "step-00000002", "loss": 2.0}


def test_where_the_best_is_gone_the_best_that_is_left_is_named_and_where_none_is_there_is_no_file(
    walk, tmp_path, capsys
):
    walk([3.0, 1.0, 2.0, 4.0])
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000002")
    assert walk([], start=4).step == 3
    assert "step 2 (loss 1.0000) was the best, and its checkpoint was not kept" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "checkpoints")
    assert str(walk([], start=4)) == "" and not (tmp_path / "best.json").exists()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (shutil.rmtree, "no such directory"),
        (
            lambda out: (out / "best.json").unlink(),
            "there is no best.json, which a run writes with train.keep_best=true",
        ),
        (lambda out: (out / "best.json").write_text("{}"), "best.json cannot be read"),
        (lambda out: (out / "best.json").write_text('{"checkpoint": "../../etc"}'), "is no name of a checkpoint"),
        (lambda out: shutil.rmtree(out / "checkpoints" / "step-00000002"), "names step-00000002, and there is no"),
        (lambda out: (out / "checkpoints/step-00000002/state.json").write_text("{"), "state.json is damaged"),
    ],
)
def test_a_best_that_cannot_be_opened_says_what_is_missing(walk, tmp_path, spoil, told):
    walk([3.0, 1.0, 2.0, 4.0])
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=told):
        checkpoint.best(tmp_path)


def test_while_nobody_can_read_which_is_the_best_none_is_deleted(walk, config, tmp_path):
    walk([1.0, 2.0, 3.0])
    (tmp_path / "best.json").write_text("{")
    commit.prune(tmp_path / "checkpoints", 2)
    assert kept(tmp_path) == [1, 2, 3]


@pytest.fixture
def pretrain(tiny, striped, tmp_path):
    def go(*more, test=striped / "test", steps=6):
        # A rate that rises until what was learned is lost again.
        values = {"steps": steps, "lr": 3.0, "warmup_steps": 7, "save_every": 3, "evaluate_every": 1, "keep_best": True}
        config = tiny({f"train.{key}": value for key, value in values.items()})
        ends = ["--data", str(striped / "train"), "--test", str(test), "--out", str(tmp_path / "run")]
        return run(["pretrain", str(config), *ends, *more])

    return go


def test_a_run_keeps_its_best_and_its_last_line_says_which(pretrain, tmp_path, capfd):
    assert pretrain() == 0
    out = tmp_path / "run"
    losses = {row["step"]: row["loss"] for row in rows(out / "evaluations.jsonl")}
    best = min(losses, key=losses.get)
    assert len(losses) == 6 and best < 5  # or this would hold nothing
    assert noted(out) == {"step": best, "checkpoint": f"step-{best:08d}", "loss": losses[best]}
    assert kept(out) == [best, 5, 6]
    ends = f"best on held-out data: step {best} (loss {losses[best]:.4f}), kept as {out}/checkpoints/step-{best:08d}"
    assert capfd.readouterr().err.splitlines()[-1] == f"done: 6 steps, run in {out}; {ends}"
    whole = checkpoint.read_tensors(checkpoint.best(out) / "model.safetensors")
    for step in (5, 6):
        shutil.rmtree(out / "checkpoints" / f"step-{step:08d}")
    assert pretrain() == 0  # goes on from the best, and comes to the same
    assert kept(out) == [best, 5, 6] and noted(out)["step"] == best
    again = checkpoint.read_tensors(checkpoint.best(out) / "model.safetensors")
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_a_run_that_is_judged_on_other_files_is_another_run_unless_it_is_said(pretrain, striped, tmp_path, capfd):
    assert pretrain(steps=2) == 0
    moved = tmp_path / "moved"
    shutil.copytree(striped / "test", moved)
    assert pretrain(test=moved, steps=2) == 0
    (moved / "down" / "100.png").unlink()
    assert pretrain(test=moved, steps=2) == 2
    assert "held-out files of image: 12 files, " in (said := capfd.readouterr().err) and "-> 11 files, " in said
    assert pretrain("--allow-change", test=moved, steps=2) == 0
