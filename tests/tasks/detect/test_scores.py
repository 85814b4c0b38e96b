"""Images that were held out: each is judged once, by its own labels and the classes of training."""

import json
import shutil

import pytest
import torch
from counted_reads import bytes_read
from tasks.detect.squares import ALONE, seeing

from mae_ext.engine.task import build_model, task_of
from mae_ext.errors import RunError, UserError

pytest.importorskip("pycocotools", reason="pip install 'mae-ext[detect]'")


def test_evaluation_gives_scores_for_each_class_and_changes_nothing(settled):
    config, _ = settled()
    model = build_model(config).eval()
    with torch.no_grad():
        torch.nn.init.constant_(model.head.classify.bias, 1.0)
        one, other = (task_of(config).evaluate(model, config, task_of(config).data(config), ALONE) for _ in range(2))
    assert set(one) == {"mAP", "mAP50", "AP/bright", "AP50/bright", "AP/dark", "AP50/dark"} and one == other
    assert all(0 <= value <= 1 for value in one.values())


def test_without_test_data_there_is_nothing_to_evaluate(settled, squares):
    labels = json.loads((squares / "labels.json").read_text())
    labels["images"] = [row for row in labels["images"] if row["id"] < 50]
    labels["annotations"] = [row for row in labels["annotations"] if row["image_id"] < 50]
    (squares / "train.json").write_text(json.dumps(labels))
    data = {"path": str(squares / "train"), "statistics": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    config, _ = settled(task={"labels": str(squares / "train.json")}, data=data)
    assert task_of(config).evaluate(build_model(config), config, task_of(config).data(config), ALONE) == {}


def test_labels_of_the_test_data_go_by_the_classes_of_training_whatever_their_own_file_has(settled, squares, tmp_path):
    """The other file numbers its categories the other way round, and knows one more."""
    labels = json.loads((squares / "labels.json").read_text())
    labels["categories"] = [{"id": 1, "name": "blue"}, {"id": 2, "name": "dark"}, {"id": 3, "name": "bright"}]
    for row in labels["annotations"]:
        row["category_id"] = {1: 3, 2: 2}[row["category_id"]]
    own = tmp_path / "own.json"
    own.write_text(json.dumps(labels | {
        key: [row for row in labels[key] if row.get("image_id", row["id"] if key == "images" else 0) >= 50]
        for key in ("images", "annotations")
    }))  # fmt: skip
    first = json.loads((squares / "labels.json").read_text())
    (tmp_path / "first.json").write_text(json.dumps(first | {
        key: [row for row in first[key] if row.get("image_id", row["id"] if key == "images" else 0) < 50]
        for key in ("images", "annotations")
    }))  # fmt: skip
    task = {"labels": str(tmp_path / "first.json"), "test_labels": str(own)}
    config, _ = settled(task=task)
    assert config.task.arguments["classes"] == ["bright", "dark"]
    with torch.no_grad():
        scores = task_of(config).evaluate(seeing(config), config, task_of(config).data(config), ALONE)
    assert scores["AP50/bright"] == pytest.approx(1) and scores["AP50/dark"] == pytest.approx(1)
    labels = json.loads(own.read_text())
    labels["annotations"][-1]["category_id"] = 1
    own.write_text(json.dumps(labels))
    with pytest.raises(UserError, match="test has the classes blue, which what is trained on has not"):
        settled(task=task)


def moved(squares, tmp_path, name):
    """labels.json, in which the object of one image is somewhere else."""
    labels = json.loads((squares / "labels.json").read_text())
    for row in labels["annotations"]:
        if f"{row['image_id']}.png" == name:
            row["bbox"] = [0, 0, 5, 5]
    (tmp_path / "moved.json").write_text(json.dumps(labels))
    return str(tmp_path / "moved.json")


@torch.no_grad()
@pytest.mark.parametrize(("size", "least"), [([48, 64], 0.999), ([24, 64], 0.7)])
def test_who_sees_every_object_scores_one_also_where_images_are_stretched(settled, size, least):
    config, _ = settled(size=size)
    scores = task_of(config).evaluate(seeing(config), config, task_of(config).data(config), ALONE)
    assert scores["mAP50"] == pytest.approx(1) and scores["mAP"] >= least
    assert scores["AP50/bright"] == pytest.approx(1) and scores["AP50/dark"] == pytest.approx(1)


@torch.no_grad()
def test_every_image_is_judged_against_its_own_labels_the_last_one_too(settled, squares, tmp_path):
    config, _ = settled(task={"labels": moved(squares, tmp_path, "53.png")})
    scores = task_of(config).evaluate(seeing(config), config, task_of(config).data(config), ALONE)
    assert scores["AP50/bright"] == pytest.approx(1) and scores["AP50/dark"] < 0.6


@torch.no_grad()
def test_an_image_that_cannot_be_judged_moves_no_other_and_too_many_stop_the_run(settled, squares, tmp_path):
    shutil.copytree(squares / "test", tmp_path / "test")
    (tmp_path / "test" / "50.png").write_text("no picture")
    data = {
        "path": str(squares / "train"), "test": str(tmp_path / "test"), "statistics": "none", "max_bad_fraction": 0.5,
    }  # fmt: skip
    config, _ = settled(data=data)
    assert task_of(config).evaluate(seeing(config), config, task_of(config).data(config), ALONE)[
        "mAP50"
    ] == pytest.approx(1)
    config, _ = settled(data=data | {"max_bad_fraction": 0.1})
    with pytest.raises(RunError, match=r"1 of 4 samples cannot be used, more than max_bad_fraction=0\.1: .*50\.png"):
        task_of(config).evaluate(seeing(config), config, task_of(config).data(config), ALONE)


def test_an_image_is_read_once_to_be_judged_and_twice_to_be_answered_and_drawn(settled, squares, tmp_path, monkeypatch):
    config, _ = settled()
    model, path = build_model(config).eval(), squares / "test" / "50.png"
    with torch.no_grad(), bytes_read(monkeypatch) as of:
        task_of(config).evaluate(model, config, task_of(config).data(config), ALONE)
    assert of(path) == path.stat().st_size
    with torch.no_grad(), bytes_read(monkeypatch) as of:
        task_of(config).predict(model, config, [str(path)], tmp_path / "out")
    assert of(path) == 2 * path.stat().st_size  # the picture is drawn at the image's own size
