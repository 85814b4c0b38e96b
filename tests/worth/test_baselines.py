"""The cheap arms, on pictures and scans whose right answers are known."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from mae_ext.config import parse_config
from mae_ext.engine.task import task_of
from mae_ext.probing import classifiers
from mae_ext.worth.baselines import baseline, shrunk
from mae_ext.worth.voxels import smaller


def config_of(task, name, size, data, channels=3):
    image = {"size": size, "patch": [4] * len(size), "channels": channels, "batch": 4}
    values = {
        "task": task,
        "modalities": {name: {**image, "data": {"statistics": "none", **data}}},
        "model": {"width": 32, "depth": 1, "heads": 2},
        "train": {"steps": 1, "workers": 0, "precision": "fp32", "device": "cpu"},
    }
    return parse_config(values)


def judged(arm, config, bad=None):
    """-> scores, answers."""
    task, bad = task_of(config), [] if bad is None else bad
    (data,) = task.data(config).values()
    answers = list(baseline(arm, config.task.name)(data.examples, data.held_out.examples, 0, bad))
    return task.scores(data.held_out.examples, answers, bad), answers


@pytest.fixture
def shades(tmp_path):
    """train/ and test/: dark pictures, bright ones, and twice as many in between; 12x10 pixels."""
    chance = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for name, level, several in (("bright", 200, 1), ("dark", 40, 1), ("middle", 120, 2)):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count * several):
                pixels = chance.integers(level - 20, level + 20, (12, 10, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    return {"path": str(tmp_path / "train"), "test": str(tmp_path / "test")}


def test_pictures_that_differ_in_shade_need_no_encoder(shades, monkeypatch):
    monkeypatch.setattr(classifiers, "L2", (1e-2,))  # all seven take six times as long, and choose alike here
    config = config_of({"name": "classify"}, "image", [8, 8], shades)
    assert judged("raw", config)[0]["accuracy"] == judged("mean_image", config)[0]["accuracy"] == 1.0
    scores, answers = judged("majority", config)
    assert scores["accuracy"] == 0.5 and answers[0] == (0, [0.25, 0.25, 0.5])


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_answered(shades, tmp_path):
    (tmp_path / "test" / "dark" / "1.png").write_bytes(b"no picture")
    bad = []
    scores, answers = judged("mean_image", config_of({"name": "classify"}, "image", [8, 8], shades), bad)
    assert [error.path for error in bad] == [str(tmp_path / "test" / "dark" / "1.png")]
    assert len(answers) == 11 and scores["accuracy"] == 1.0


@pytest.mark.parametrize("shape", [(3, 224, 224), (1, 16, 96, 96), (4, 1, 4000), (3, 5, 5)])
def test_a_sample_becomes_few_numbers_whatever_its_shape(shape):
    small = shrunk(torch.ones(shape), 432)
    assert small.shape[0] == shape[0] and small.numel() <= 432 and bool((small == 1).all())
    assert small.numel() > 200 or small.shape == shape
    assert smaller((5, 5), 25) == (5, 5)


@pytest.fixture
def organ(tmp_path):
    """Scans and labels: a bright box at one place, of 12x10x8 voxels, the last scan of half the width."""
    for part in ("train", "test", "labels"):
        (tmp_path / part).mkdir()
    for number in range(5):
        labels = np.zeros((12, 10, 8 if number < 4 else 4), np.uint8)
        labels[3:7, 2:6, labels.shape[2] // 4 : labels.shape[2] // 2] = 1
        values = labels * 90 + np.random.default_rng(number).normal(0, 3, labels.shape)
        for part, array in (("train" if number < 3 else "test", values), ("labels", labels)):
            nib.Nifti1Image(array.astype(np.float32), np.eye(4)).to_filename(tmp_path / part / f"{number}.nii.gz")
    data = {"path": str(tmp_path / "train"), "test": str(tmp_path / "test")}
    task = {"name": "segment", "classes": ["organ"], "masks": str(tmp_path / "labels")}
    return config_of(task, "volume", [8, 8, 8], {**data, "reader": {"name": "volume"}}, channels=1)


def test_an_organ_that_is_always_in_one_place_needs_no_encoder(organ):
    scores, answers = judged("mean_image", organ)
    assert [one["dice"] if "dice" in one else one["dice/organ"] for _, one in answers] == [1.0, 1.0]
    assert judged("majority", organ)[0]["dice"] == 0.0 and scores["samples"] == 2


def test_an_organ_that_is_bright_is_told_by_a_linear_head(organ):
    assert judged("raw", organ)[0]["dice"] > 0.97


def test_boxes_that_never_move_are_the_mean_boxes(tmp_path):
    images, annotations = [], []
    for split, count in (("train", 4), ("test", 2)):
        (tmp_path / split).mkdir()
        for i in range(count):
            width, number = 40 * (1 + i % 2), len(images)
            Image.fromarray(np.zeros((40, width, 3), np.uint8)).save(tmp_path / split / f"{split}{i}.png")
            images.append({"id": number, "file_name": f"{split}{i}.png", "width": width, "height": 40})
            for left in (0.1, 0.6):
                box = [left * width, 8, 0.3 * width, 20]
                annotations.append({"image_id": number, "category_id": 1, "bbox": box})
    labels = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    task = {"name": "detect", "labels": str(tmp_path / "labels.json"), "channels": 8, "depth": 0, "strides": [8]}
    data = {"path": str(tmp_path / "train"), "test": str(tmp_path / "test"), "augment": {"scale": [0.5, 1.0]}}
    scores, answers = judged("majority", config_of(task, "image", [32, 32], data))
    assert scores["mAP"] == 1.0 and sorted(answers[1][1].boxes[:, 2].tolist()) == pytest.approx([32, 72])


@pytest.mark.parametrize("arm", ["raw", "mean_image"])
def test_what_is_not_defined_for_boxes_is_said_and_no_number_made_up(arm):
    assert "not defined" in baseline(arm, "detect")
