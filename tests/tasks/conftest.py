"""Pictures of squares with labels of each kind, and a config of each task that learns from them."""

import json

import numpy as np
import pytest
from PIL import Image

from mae_ext.config import parse_config


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """train/ and test/, each with two classes of pictures of 16x16; masks/ and boxes.json hold the labels of both."""
    root, images, annotations = tmp_path_factory.mktemp("labelled"), [], []
    (root / "masks").mkdir()
    for number, (side, kind) in enumerate(
        [("train", "bright"), ("train", "dark")] * 2 + [("test", "bright"), ("test", "dark")]
    ):
        (root / side / kind).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(110, 140, (16, 16, 3), dtype=np.uint8)
        pixels[4:12, 2:10] = 230 if kind == "bright" else 20
        Image.fromarray(pixels).save(root / side / kind / f"{number}.png")
        label_map = np.zeros((16, 16), np.uint8)
        label_map[4:12, 2:10] = 1
        Image.fromarray(label_map).save(root / "masks" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 16, "height": 16})
        annotations.append({"image_id": number, "category_id": 1, "bbox": [2, 4, 8, 8]})
    described = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    (root / "boxes.json").write_text(json.dumps(described))
    return root


@pytest.fixture
def make(labelled):
    def config(task, test=True, also=None, **more):
        if task == "detect":
            pytest.importorskip("pycocotools", reason="pip install 'mae-ext[detect]'")
        arguments = {
            "classify": {},
            "detect": {"labels": str(labelled / "boxes.json"), "channels": 8, "depth": 0, "strides": [4, 8]},
            "segment": {"classes": ["square"], "masks": str(labelled / "masks")},
        }[task]
        data = {
            "path": str(labelled / "train"), "test": str(labelled / "test") if test else None,
            "augment": {"scale": [0.6, 1.0]}, "statistics": {"mean": [0.5] * 3, "std": [0.25] * 3},
        }  # fmt: skip
        image = {"size": [16, 16], "patch": [8, 8], "batch": 2, "data": data}
        return parse_config({
            "task": {"name": task, **arguments, **(also or {})},
            "modalities": {"image": image},
            "model": {"width": 24, "depth": 1, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}},
            "train": {
                "steps": 3, "warmup_steps": 1, "evaluate_every": 1, "workers": 0, "precision": "fp32", "device": "cpu",
                **more,
            },
        })  # fmt: skip

    return config
