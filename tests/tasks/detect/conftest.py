"""Pictures of squares with their labels, and small configs of detectors for them."""

import json

import numpy as np
import pytest
from PIL import Image
from tasks.detect.squares import COLOUR, square

from mae_ext.config import parse_config
from mae_ext.engine.task import task_of


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """train/ and test/ with a square on grey in each picture, and labels.json, COCO's, for both."""
    root, images, annotations = tmp_path_factory.mktemp("squares"), [], []
    for split, numbers in (("train", range(8)), ("test", range(50, 54))):
        (root / split).mkdir()
        for number in numbers:
            left, top, side, name = square(number)
            pixels = np.random.default_rng(number).integers(110, 140, (48, 64, 3), dtype=np.uint8)
            pixels[top : top + side, left : left + side] = COLOUR[name]
            Image.fromarray(pixels).save(root / split / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 48})
            box = [left, top, side, side]
            annotations.append({"image_id": number, "category_id": 1 + (name == "dark"), "bbox": box})
    categories = [{"id": 1, "name": "bright"}, {"id": 2, "name": "dark"}]
    labels = {"images": images, "annotations": annotations, "categories": categories}
    (root / "labels.json").write_text(json.dumps(labels))
    return root


@pytest.fixture
def make(squares):
    """Arguments of the task and overrides of the modality and the training -> a config."""

    def config(task=None, train=None, **image):
        data = {
            "path": str(squares / "train"), "test": str(squares / "test"), "augment": {"scale": [0.6, 1.0]},
            "statistics": {"mean": [0.5] * 3, "std": [0.25] * 3},
        }  # fmt: skip
        small = {"labels": str(squares / "labels.json"), "channels": 16, "depth": 1, "strides": [4, 8]}
        return parse_config({
            "task": {"name": "detect", **small, **(task or {})},
            "modalities": {"image": {"size": [48, 64], "patch": [8, 8], "batch": 4, "data": data, **image}},
            "model": {"width": 32, "depth": 1, "heads": 2},
            "train": {"steps": 4, "workers": 0, "precision": "fp32", "device": "cpu", **(train or {})},
        })  # fmt: skip

    return config


@pytest.fixture
def settled(make):
    """The same, with the classes of the data; and the data."""

    def settle(**overrides):
        config = make(**overrides)
        data = task_of(config).data(config)
        return task_of(config).settle(config, data, None), data

    return settle
