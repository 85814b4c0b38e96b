"""Windows of one sample answer together: in training, where a run is judged, and in predictions."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from mae_ext.config import parse_config
from mae_ext.engine.task import build_model, in_windows, load_task
from mae_ext.engine.train import train
from mae_ext.errors import UserError
from mae_ext.tasks.classify.bags import Bags, bag_loss, joined


def spotted(folder, count, chance):
    """Pictures of 16x48: noise, and in one of class "spot" a white square in one of three parts."""
    for kind in ("none", "spot"):
        (folder / kind).mkdir(parents=True)
        for n in range(count):
            pixels = chance.integers(60, 120, (16, 48, 3), dtype=np.uint8)
            if kind == "spot":
                left = 2 + 16 * (n % 3)
                pixels[4:12, left : left + 12] = 255
            Image.fromarray(pixels).save(folder / kind / f"{n}.png")


def config_of(root, **task):
    data = {
        "path": str(root / "train"), "test": str(root / "test"), "augment": {"fixed": [0, 1], "flip": []},
        "statistics": {"mean": [0.4] * 3, "std": [0.2] * 3}, "repeats": 4,
    }  # fmt: skip
    return parse_config({
        "task": {"name": "classify", **task},
        "modalities": {"image": {"size": [16, 16], "patch": [8, 8], "batch": 16, "data": data}},
        "model": {"width": 24, "depth": 1, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}},
        "train": {"steps": 12, "lr": 0.05, "warmup_steps": 2, "workers": 0, "precision": "fp32", "device": "cpu"},
    })  # fmt: skip


def test_windows_are_joined_as_probabilities():
    answers, weight = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 0.0]]), torch.tensor([0.0, 3.0, 1.0])
    each = answers.softmax(1)
    torch.testing.assert_close(joined(answers, None, None, "mean").exp(), each.mean(0))
    torch.testing.assert_close(joined(answers, None, weight, "weighted").exp(), (3 * each[1] + each[2]) / 4)
    torch.testing.assert_close(joined(answers, None, 0 * weight, "weighted").exp(), each.mean(0))
    torch.testing.assert_close(joined(answers, None, None, "max").exp(), each.amax(0) / each.amax(0).sum())
    gates = torch.tensor([-50.0, 0.0, -50.0])
    torch.testing.assert_close(joined(answers, gates, None, "attentive").exp(), each[1])


def test_the_loss_of_a_bag_is_that_of_its_one_answer_and_rows_of_one_file_are_a_bag():
    answers = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    loss = bag_loss(answers, targets, torch.tensor([5, 5, 2]), None, Bags("mean", 0.0))
    each = answers.softmax(1)
    torch.testing.assert_close(loss, -(each[:2, 0].mean().log() + each[2, 1].log()) / 2)
    alone = bag_loss(answers, targets, torch.tensor([5, 4, 2]), None, Bags("max", 0.0))
    torch.testing.assert_close(alone, torch.nn.functional.cross_entropy(answers, targets))


def test_what_is_seen_in_a_part_only_is_learned_of_bags_and_predicted_window_by_window(tmp_path):
    chance = np.random.default_rng(0)
    spotted(tmp_path / "train", 6, chance)
    spotted(tmp_path / "test", 3, chance)
    run = train(config_of(tmp_path, windows="max", overlap=0.0, pool="mean"), tmp_path / "run")
    (row,) = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()][-1:]
    assert row["accuracy"] == 1
    task, model, config, _ = load_task(run, "cpu")
    with torch.no_grad():
        task.predict(model, config, [str(tmp_path / "test")], tmp_path / "p")
        other, changed = in_windows(config, "mean", 0.5)
        other.predict(model, changed, [str(tmp_path / "test")], tmp_path / "q")
        with pytest.raises(UserError, match="another folder"):
            other.predict(model, changed, [str(tmp_path / "test")], tmp_path / "p")
    lines = [json.loads(line) for line in (tmp_path / "p" / "predictions.jsonl").read_text().splitlines()]
    assert [line["class"] for line in lines] == ["none"] * 3 + ["spot"] * 3
    one = lines[3]
    wide = torch.from_numpy(np.array(Image.open(one["path"]))).permute(2, 0, 1)
    with torch.no_grad():
        each = model(torch.stack([wide[:, :, a : a + 16] for a in (0, 16, 32)]), "image").softmax(1).amax(0)
    assert one["probabilities"]["spot"] == pytest.approx(float(each[1] / each.sum()), abs=1e-5)


def test_a_gate_begins_by_letting_all_windows_count_the_same_and_is_learned(tmp_path):
    spotted(tmp_path / "train", 2, np.random.default_rng(0))
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    config = config_of(tmp_path, windows="attentive", classes=["none", "spot"])
    model = build_model(config)
    x, targets = torch.rand(8, 3, 16, 16), torch.eye(2).repeat_interleave(4, 0)
    says = model(x, "image", None, True)
    assert says.shape == (8, 3) and says[:, 2].abs().max() == 0
    assert model(x, "image").shape == (8, 2)
    files = torch.tensor([0] * 4 + [1] * 4)
    bag_loss(says, targets, files, None, Bags("attentive", 0.25)).backward()
    assert model.gate.outer.weight.grad.abs().max() > 0


def test_bags_have_to_be_whole_in_what_is_computed_at_a_time(tmp_path):
    spotted(tmp_path / "train", 2, np.random.default_rng(0))
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    config = config_of(tmp_path, windows="mean")
    split = config.model_copy(update={"train": config.train.model_copy(update={"accumulate": 8})})
    with pytest.raises(UserError, match=r"task\.windows: the 4 crops"):
        train(split, tmp_path / "run")


def test_a_task_that_sees_whole_samples_anyway_has_no_windows_to_ask_for(make):
    with pytest.raises(UserError, match="segmentation always sees whole samples"):
        in_windows(make("segment"), None, None)
