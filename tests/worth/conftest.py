"""A pretrained run of a model that takes milliseconds, labelled pictures beside it, and studies of a few steps."""

import numpy as np
import pytest
import yaml
from PIL import Image

from mae_ext.worth.study import Wish, study_of


@pytest.fixture
def recipe(tmp_path):
    """task, and arguments of the modality -> the path of a config that fine-tunes in two steps."""

    def write(task, **image):
        train = {"steps": 2, "warmup_steps": 0, "lr": 0.01, "workers": 0, "precision": "fp32", "device": "cpu"}
        path = tmp_path / f"{task['name']}.yaml"
        values = {"task": task, "modalities": {"image": {"batch": 4, **image}}, "train": train}
        path.write_text(yaml.safe_dump({**values, "model": {"drop_path": 0.1}}))
        return str(path)

    return write


@pytest.fixture
def wish(make_run, striped, recipe, tmp_path):
    """A study of the stripes' three classes, as far as it is not said otherwise."""

    def make(**more):
        sources = {"data": str(striped / "train"), "test": str(striped / "test"), "out": tmp_path / "out"}
        if "run" not in more:
            more["run"] = str(make_run())
        if not {"task", "config"} & more.keys():
            more["config"] = recipe({"name": "classify"})
        return Wish(**{"labels": "1, all", "seeds": 1, "rates": "off", **sources, **more})

    return make


@pytest.fixture
def study(wish):
    def make(**more):
        return study_of(wish(**more))

    return make


@pytest.fixture
def maps(tmp_path):
    """train/ and test/ of pictures with a bright square, and masks/ with it: 6 and 3 of 24x16 pixels."""
    for split, numbers in (("train", range(6)), ("test", range(20, 23))):
        for part in (split, "masks"):
            (tmp_path / part).mkdir(exist_ok=True)
        for number in numbers:
            chance = np.random.default_rng(number)
            grey, mask = chance.integers(40, 80, (24, 16, 3), dtype=np.uint8), np.zeros((24, 16), np.uint8)
            y, x = int(chance.integers(0, 16)), int(chance.integers(0, 9))
            mask[y : y + 8, x : x + 7], grey[y : y + 8, x : x + 7] = 1, 220
            Image.fromarray(grey).save(tmp_path / split / f"{number}.png")
            Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    return tmp_path
