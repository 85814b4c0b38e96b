"""Detection as a task: what is said of it, the model that is built, its loss, and its training."""

import json
import shutil

import pytest
import torch
from tasks.detect.squares import ALONE

from mae_ext.engine.task import build_model, task_of
from mae_ext.engine.train import train
from mae_ext.errors import ConfigError, UserError
from mae_ext.model.mae import MAE
from mae_ext.tasks.detect.task import Detection, Detector

pytest.importorskip("pycocotools", reason="pip install 'mae-ext[detect]'")


def test_answers_cover_every_place_and_every_parameter_is_trained(settled):
    config, data = settled()
    model = build_model(config)
    assert isinstance(model, Detector) and isinstance(model.backbone, MAE)
    answers = model(data["image"].batch(0).x, "image")
    assert answers.logits.shape == (4, 12 * 16 + 6 * 8, 2)
    task_of(config).loss(model, "image", data["image"].batch(0)).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None and "class_token" not in name]


def test_the_loss_of_a_batch_is_the_mean_of_its_parts(settled):
    config, data = settled()
    model, task, batch = build_model(config), task_of(config), data["image"].batch(1)
    with torch.no_grad():
        whole = task.loss(model, "image", batch)
        parts = [task.loss(model, "image", batch.rows(i, i + 1)) for i in range(4)]
    torch.testing.assert_close(whole, torch.stack(parts).mean())


def test_the_model_is_a_function_of_the_config(settled):
    config, _ = settled()
    one, other = build_model(config).state_dict(), build_model(config).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_model_is_built_without_the_data_at_hand(make):
    """A checkpoint holds the classes; the label file may be gone."""
    config = make(task={"labels": "gone.json", "classes": ["a", "b", "c"]})
    assert build_model(config).head.classify.out_channels == 3


@pytest.mark.parametrize(
    ("task", "fault"),
    [
        ({"faulty_boxes": "keep"}, "expected 'refuse' or 'drop'"),
        ({"labels": 0.1}, "labels=0.1: expected a path"),
        ({"channels": 0}, "channels=0"),
        ({"depth": 1.5}, "depth=1.5"),
        ({"threshold": 2}, "threshold=2"),
        ({"chanels": 8}, "did you mean 'channels'"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_by_name(make, task, fault):
    with pytest.raises(ConfigError, match=fault):
        make(task=task)


def test_data_that_is_not_images_of_two_axes_is_refused(make):
    config = make(size=[2, 48, 64], patch=[2, 8, 8])
    with pytest.raises(ConfigError, match="detect is for images"):
        task_of(config).data(config)


def test_labels_that_are_not_given_are_asked_for(make):
    config = make(task={"labels": None})
    with pytest.raises(UserError, match=r"task\.labels is not set: give --set task\.labels=PATH"):
        task_of(config).data(config)


def test_levels_that_cannot_be_told_apart_are_refused_as_a_setting(settled):
    config, _ = settled(task={"strides": [8, 9]})
    with pytest.raises(ConfigError, match="task: strides="):
        build_model(config)


def test_a_run_that_goes_on_after_a_crash_logs_and_scores_the_bits_of_one_that_did_not_crash(make, tmp_path):
    config = make(train={"steps": 4, "save_every": 2, "evaluate_every": 1, "tensorboard": False})
    train(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "crashed")
    shutil.rmtree(tmp_path / "crashed" / "checkpoints" / "step-00000004")
    train(config, tmp_path / "crashed")

    def told(run):
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [(row["step"], row["loss"], row["grad_norm"]) for row in rows], (run / "evaluations.jsonl").read_text()

    assert told(tmp_path / "crashed") == told(tmp_path / "whole")
    assert [step for step, _, _ in told(tmp_path / "whole")[0]] == [1, 2, 3, 4]
    assert len(told(tmp_path / "whole")[1].splitlines()) == 4


@pytest.mark.slow
def test_squares_are_found_after_a_minute_of_training(settled):
    config, data = settled(train={"steps": 300})
    model, task = build_model(config), task_of(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(300):
        optimizer.zero_grad()
        task.loss(model, "image", data["image"].batch(step)).backward()
        optimizer.step()
    with torch.no_grad():
        assert task.evaluate(model.eval(), config, task.data(config), ALONE)["mAP50"] > 0.5


def test_what_answers_are_decoded_with_is_what_the_task_says():
    decoding = Detection(threshold=0.3, overlap=0.7).decoding
    assert (decoding.threshold, decoding.overlap) == (0.3, 0.7)
