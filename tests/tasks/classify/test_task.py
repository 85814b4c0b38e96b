"""Fine-tuning for classes, from the command line to the predictions, on the smallest encoders there are."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from faults.kills import rows, trajectory
from tasks.classify.striped_config import striped_config

import mae_ext
from mae_ext.cli import run
from mae_ext.engine import checkpoint
from mae_ext.engine.task import build_model, load_task
from mae_ext.strict_json import dumps

CLASSIFY = {
    "task": {"name": "classify", "smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0, "distort": 2, "erase": 0.25},
    "train.steps": 8, "train.warmup_steps": 2, "train.save_every": 4, "train.layer_decay": 0.75, "train.lr": 0.3,
    "modalities.image.data.max_bad_fraction": 0.1,
}  # fmt: skip


@pytest.fixture
def pretrained(tiny, photos, tmp_path):
    config = tiny({"train.steps": 2, "train.warmup_steps": 0}, "pretraining")
    assert run(["pretrain", str(config), "--data", str(photos), "--out", str(tmp_path / "mae")]) == 0
    return tmp_path / "mae"


@pytest.fixture
def fine_tune(tiny, striped, tmp_path):
    def go(init, *more, out="ft", overrides=None, train="train", test="test"):
        config = tiny(CLASSIFY | (overrides or {}), "finetuning")
        command = ["finetune", str(config), "--init", str(init), "--data", str(striped / train)]
        command += ["--test", str(striped / test)] if test else []
        return run([*command, "--out", str(tmp_path / out), *more])

    return go


def complaint(capfd):
    said = capfd.readouterr().err
    assert "Traceback" not in said
    return said.splitlines()[-1]


def test_a_fine_tuned_run_is_a_run_whose_encoder_loads_and_which_predicts(pretrained, fine_tune, striped, tmp_path):
    assert fine_tune(pretrained, "--set", "train.evaluate_every=4") == 0
    out = tmp_path / "ft"
    assert [step for step, _, _ in trajectory(out)] == list(range(1, 9))
    scores = rows(out / "evaluations.jsonl")
    assert [row["step"] for row in scores] == [4, 8]
    assert set(scores[0]) == {"step", "samples", "loss", "accuracy", "balanced_accuracy", "auroc"}
    assert scores[0]["samples"] == 12
    config = checkpoint.read_config(checkpoint.latest(out))
    assert config.task.arguments["classes"] == ["across", "down", "slanted"]
    before = checkpoint.read_config(checkpoint.latest(pretrained))
    assert config.modalities["image"].data.statistics == before.modalities["image"].data.statistics
    assert config.init == str(checkpoint.latest(pretrained))
    encoder = mae_ext.load_encoder(out, device="cpu")
    assert encoder.model.decoder is None
    assert encoder.encode(torch.zeros(2, 3, 16, 16)).shape == (2, 16, 32)
    assert encoder.randomised().model.state_dict().keys() == encoder.model.state_dict().keys()
    # Self-contained: the pretrained run is not needed any more.
    pretrained.rename(tmp_path / "gone")
    where = tmp_path / "said"
    assert run(["predict", str(out), str(striped / "test"), "--out", str(where)]) == 0
    said = rows(where / "predictions.jsonl")
    assert len(said) == 12
    for row in said:
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert row["class"] == max(row["probabilities"], key=row["probabilities"].get)
    right = np.mean([Path(row["path"]).parent.name == row["class"] for row in said])
    assert right == pytest.approx(scores[-1]["accuracy"])


def test_the_encoder_starts_as_it_was_and_the_head_from_the_seed(pretrained, fine_tune, tmp_path):
    assert fine_tune(pretrained, "--set", "train.lr=1e-30", test=None) == 0
    tuned = checkpoint.read_tensors(checkpoint.latest(tmp_path / "ft") / "model.safetensors")
    before = checkpoint.read_tensors(checkpoint.latest(pretrained) / "model.safetensors")
    encoder = {name: value for name, value in tuned.items() if name.startswith("backbone.")}
    assert encoder and all(torch.allclose(before[n.removeprefix("backbone.")], v) for n, v in encoder.items())
    assert not [name for name in encoder if "decoder" in name or "predict" in name]
    assert not (tmp_path / "ft" / "evaluations.jsonl").exists()


def test_the_scratch_baseline_is_the_same_command_with_none(fine_tune, tmp_path):
    assert fine_tune("none") == 0
    config = checkpoint.read_config(checkpoint.latest(tmp_path / "ft"))
    assert config.init is None
    built = build_model(config).state_dict()
    assert {name.partition(".")[0] for name in built} == {"backbone", "norm", "head"}


@pytest.mark.parametrize("frozen", ["encoder", 1])
def test_what_is_frozen_stays_to_the_bit_and_resumes(pretrained, fine_tune, tmp_path, frozen):
    assert fine_tune(pretrained, overrides={"train.freeze": frozen}, test=None) == 0
    tuned = checkpoint.read_tensors(checkpoint.latest(tmp_path / "ft") / "model.safetensors")
    before = checkpoint.read_tensors(checkpoint.latest(pretrained) / "model.safetensors")
    same = {n for n, v in before.items() if f"backbone.{n}" in tuned and torch.equal(v, tuned[f"backbone.{n}"])}
    assert "encoder.trunk.blocks.0.mlp.up.weight" in same
    assert ("encoder.trunk.blocks.1.mlp.up.weight" in same) == (frozen == "encoder")
    whole = trajectory(tmp_path / "ft")
    for path in checkpoint.steps_of(tmp_path / "ft" / "checkpoints")[1:]:
        (path / "state.json").write_text("damaged")
    assert fine_tune(pretrained, overrides={"train.freeze": frozen}, test=None) == 0
    assert trajectory(tmp_path / "ft") == whole


def test_an_evaluation_that_a_stop_left_out_is_made_when_the_run_goes_on(pretrained, fine_tune, tmp_path):
    assert fine_tune(pretrained, "--set", "train.evaluate_every=4") == 0
    journal = tmp_path / "ft" / "evaluations.jsonl"
    whole = journal.read_text()
    journal.write_text(whole.splitlines()[0] + "\n")
    assert fine_tune(pretrained, "--set", "train.evaluate_every=4") == 0
    assert journal.read_text() == whole


def test_it_learns_to_tell_stripes_apart(pretrained, fine_tune, tmp_path):
    plain = {"task": "classify", "train.steps": 60, "train.lr": 0.3, "train.layer_decay": 1.0}
    assert fine_tune(pretrained, overrides=plain) == 0
    assert rows(tmp_path / "ft" / "evaluations.jsonl")[-1]["accuracy"] >= 0.75


def test_other_labels_of_the_same_files_are_another_run(pretrained, tiny, striped, tmp_path, capfd):
    names = sorted(p for p in striped.joinpath("train").rglob("*.png"))
    config = tiny(CLASSIFY, "finetuning")

    def go(turned):
        listed = tmp_path / "list.csv"
        lines = [f"{p},{p.parent.name}" for p in names]
        lines[0] = lines[0].replace(",across", ",down" if turned else ",across")
        listed.write_text("path,label\n" + "\n".join(lines) + "\n")
        return run(["finetune", str(config), "--init", str(pretrained), "--data", str(listed), "--out",
                    str(tmp_path / "ft")])  # fmt: skip

    assert go(turned=False) == 0
    capfd.readouterr()
    assert go(turned=True) == 2
    assert "files of image" in complaint(capfd)


def test_a_class_of_another_name_is_another_head_whatever_is_allowed(pretrained, fine_tune, striped, tmp_path, capfd):
    """Numbered anew, labels would mean other classes than the head has learned, and predictions have wrong names."""
    own = shutil.copytree(striped / "train", tmp_path / "own")
    assert fine_tune(pretrained, train=own, test=None) == 0
    (own / "across").rename(own / "wide")
    capfd.readouterr()
    assert fine_tune(pretrained, "--allow-change", "--set", "train.steps=12", train=own, test=None) == 2
    said = complaint(capfd)
    assert "classes are 'across', " in said and "and the data has 'd" in said and "'wide'" in said


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"task": {"name": "classify", "pool": "max"}}, "pool='max': expected 'mean'"),
        ({"task": {"name": "classify", "labels": 0.0}}, "labels=0.0: expected a share"),
        ({"task": {"name": "classify", "labels": 1}}, "labels=1: all of them, or one of each class? Write 1.0 for all"),
        ({"task": {"name": "classify", "smoothing": 1.5}}, "smoothing=1.5: expected 0 to 0.999"),
        ({"task": {"name": "classify", "mixpu": 1.0}}, "takes no 'mixpu', did you mean 'mixup'?"),
        ({"task": {"name": "classify", "labels": 13}}, "has 12 samples of class 'across'"),
        ({"modalities.image.batch": 3}, "mixup and cutmix pair samples"),
        ({"task": {"name": "classify", "classes": ["a", "b"]}}, "task.classes: the config has a, b"),
        ({"train.freeze": 5}, "the encoder has 2 blocks"),
        ({"train.layer_decay": 0}, "train.layer_decay"),
        ({"task": "pretrain"}, "no task to fine-tune for; expected task: {name: ...} with one of classify"),
    ],
)
def test_what_a_task_cannot_do_is_refused_in_one_line(fine_tune, capfd, overrides, told):
    assert fine_tune("none", overrides=overrides) == 2
    assert told in complaint(capfd)


def test_pretrain_and_reconstruct_refuse_a_fine_tuned_run(fine_tune, tiny, photos, tmp_path, capfd):
    assert fine_tune("none", test=None) == 0
    assert run(["pretrain", str(tiny(CLASSIFY, "finetuning")), "--data", str(photos)]) == 2
    assert "run it with `mae-ext finetune`" in complaint(capfd)
    assert run(["reconstruct", str(tmp_path / "ft"), str(photos), "--out", str(tmp_path / "p")]) == 2
    assert "has no decoder" in complaint(capfd)


def test_a_pretraining_run_predicts_nothing_and_says_what_does(pretrained, photos, tmp_path, capfd):
    assert run(["predict", str(pretrained), str(photos), "--out", str(tmp_path / "p")]) == 2
    assert "mae-ext reconstruct" in complaint(capfd)


def test_unreadable_inputs_are_listed_and_none_readable_is_an_error(fine_tune, tmp_path, striped, capfd):
    assert fine_tune("none", test=None) == 0
    bad = tmp_path / "inputs"
    bad.mkdir()
    (bad / "broken.png").write_bytes(b"\x89PNG nothing")
    assert run(["predict", str(tmp_path / "ft"), str(bad), "--out", str(tmp_path / "p")]) == 2
    assert "none of the 1 samples can be read" in complaint(capfd)
    one = next(striped.joinpath("test", "down").iterdir())
    (bad / "good.png").write_bytes(one.read_bytes())
    assert run(["predict", str(tmp_path / "ft"), str(bad), "--out", str(tmp_path / "p")]) == 0
    assert [Path(r["path"]).name for r in rows(tmp_path / "p" / "predictions.bad.jsonl")] == ["broken.png"]
    assert [Path(r["path"]).name for r in rows(tmp_path / "p" / "predictions.jsonl")] == ["good.png"]


def test_the_class_token_pools_where_there_is_one(fine_tune, tmp_path, capfd):
    pooled = {"task": {"name": "classify", "pool": "class"}}
    assert fine_tune("none", overrides=pooled, test=None) == 0
    assert load_task(tmp_path / "ft")[1].pool == "class"
    assert fine_tune("none", overrides=pooled | {"model.class_token": False}, out="other", test=None) == 2
    assert "model.class_token is false" in complaint(capfd)


def test_a_learned_pool_is_fine_tuned_kept_and_used_to_predict(fine_tune, striped, tmp_path):
    pooled = {"task": {"name": "classify", "pool": "attentive"}}
    assert fine_tune("none", "--set", "train.steps=60", "--set", "train.lr=0.05", overrides=pooled) == 0
    task, model, config, _ = load_task(tmp_path / "ft")
    fresh = task.model(config)
    assert not torch.equal(model.gather.query, fresh.gather.query), "the queries did not learn"
    assert run(["predict", str(tmp_path / "ft"), str(striped / "test"), "--out", str(tmp_path / "p")]) == 0
    found = rows(tmp_path / "p" / "predictions.jsonl")
    assert sum(row["class"] == Path(row["path"]).parent.name for row in found) / len(found) > 0.9


def test_a_non_finite_loss_stops_a_task_and_is_replayed_as_in_pretraining(fine_tune, tmp_path, capfd):
    from mae_ext.engine.failure import replay

    wild = {"train.lr": 1e30, "train.lr_per": None, "train.warmup_steps": 0, "train.clip": None, "train.steps": 40}
    assert fine_tune("none", overrides=wild, test=None) == 1
    assert "Nothing was updated" in complaint(capfd)
    (failure,) = (tmp_path / "ft").glob("failure-*")
    record = json.loads((failure / "record.json").read_text())
    again = json.loads(dumps(replay(failure)))
    assert again == {k: v for k, v in record.items() if k != "files"}


@torch.no_grad()
def test_the_pools_are_of_patches_and_of_the_class_token(tiny, striped):
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for pool in ("mean", "class"):
        _, config = striped_config(tiny, striped, striped / "test", pool=pool, classes=["a", "b"])
        model = build_model(config).eval()
        assert model.head.weight.std().item() == pytest.approx(2e-5, rel=0.3)
        torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
        tokens = model.backbone.encode_all(x, "image")
        assert tokens.shape[1] == 17
        pooled = tokens[:, 1:].mean(1) if pool == "mean" else tokens[:, 0]
        torch.testing.assert_close(model(x, "image"), model.head(model.norm(pooled)))


def test_the_head_begins_from_the_seed(tiny, striped):
    _, config = striped_config(tiny, striped, striped / "test", classes=["a", "b"])
    one, same, other = (build_model(config.model_copy(update={"seed": s})).head.weight for s in (3, 3, 4))
    assert torch.equal(one, same) and not torch.equal(one, other)
