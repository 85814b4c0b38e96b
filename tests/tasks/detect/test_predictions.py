"""What a detector writes: COCO's file and pictures, with boxes where the objects are."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tasks.detect.squares import COLOUR, seeing, square

from mae_ext.engine.task import build_model, task_of
from mae_ext.errors import UserError

pytest.importorskip("pycocotools", reason="pip install 'mae-ext[detect]'")


def test_predictions_are_coco_with_scores_and_a_picture_of_each_image(settled, squares, tmp_path):
    config, _ = settled(task={"shown": 0.0})
    model = build_model(config).eval()
    with torch.no_grad():
        torch.nn.init.constant_(model.head.classify.bias, 1.0)
        written = task_of(config).predict(model, config, [str(squares / "test")], tmp_path / "out")
    assert [path.name for path in written] == ["detections.json", "50.png", "51.png", "52.png", "53.png"]
    found = json.loads(written[0].read_text())
    assert [row["name"] for row in found["categories"]] == ["bright", "dark"]
    assert {(row["width"], row["height"]) for row in found["images"]} == {(64, 48)}
    for row in found["annotations"]:
        left, top, width, height = row["bbox"]
        assert min(left, top) >= -0.01 and left + width <= 64.02 and top + height <= 48.02
        assert 0 < row["score"] <= 1 and row["category_id"] in (1, 2)
    assert Image.open(written[1]).size == (64, 48)


def test_predicting_what_cannot_be_read_names_it(settled, tmp_path):
    config, _ = settled()
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(UserError, match=r"none of its 1 images can be read: 1 not an image .*a\.png: begins with"):
        task_of(config).predict(build_model(config), config, [str(tmp_path / "a.png")], tmp_path / "out")


def test_a_prediction_that_was_cut_short_goes_on_to_the_same_file(settled, squares, tmp_path, capfd):
    config, _ = settled(task={"shown": 0.0})
    model = build_model(config).eval()
    torch.nn.init.constant_(model.head.classify.bias, 1.0)
    images = tmp_path / "images"
    shutil.copytree(squares / "test", images)
    (images / "52.png").write_text("no picture")

    def predict():
        with torch.no_grad():
            return task_of(config).predict(model, config, [str(images)], tmp_path / "out")

    assert [path.name for path in predict()] == ["detections.json", "50.png", "51.png", "53.png"]
    assert "1 of 4 samples are missing in" in capfd.readouterr().err
    shutil.copyfile(squares / "test" / "52.png", images / "52.png")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    (tmp_path / "out" / "detections.json").unlink()
    assert [path.name for path in predict()] == ["detections.json", "50.png", "51.png", "52.png", "53.png"]
    assert "3 of 4 samples are done" in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with torch.no_grad():
        whole = task_of(config).predict(model, config, [str(images)], tmp_path / "whole")
    assert whole[0].read_bytes() == (tmp_path / "out" / "detections.json").read_bytes()


@torch.no_grad()
def test_what_is_written_is_where_the_objects_are(settled, squares, tmp_path):
    for shown in (0.5, 1.0):
        config, _ = settled(task={"shown": shown})
        out = tmp_path / str(shown)
        task_of(config).predict(seeing(config), config, [str(squares / "test")], out)
        found = json.loads((out / "detections.json").read_text())
        for image, row in zip(found["images"], found["annotations"], strict=True):
            number = int(image["file_name"].rpartition("/")[2].removesuffix(".png"))
            left, top, side, name = square(number)
            assert (image["height"], image["width"], row["image_id"]) == (48, 64, image["id"])
            assert row["bbox"] == pytest.approx([left, top, side, side], abs=0.02)
            assert row["area"] == pytest.approx(side**2, abs=1)
            assert found["categories"][row["category_id"] - 1] == {"id": row["category_id"], "name": name}
            drawn = np.asarray(Image.open(out / f"{number}.png").convert("RGB")).astype(int)
            source = np.asarray(Image.open(squares / "test" / f"{number}.png")).astype(int)
            assert (np.abs(drawn - source).max() > 40) == (shown < 1.0)


@torch.no_grad()
def test_a_large_image_is_drawn_smaller_with_its_boxes_where_its_objects_are(settled, tmp_path, monkeypatch):
    monkeypatch.setattr("mae_ext.tasks.detect.detections.LONGER_SIDE", 320)
    pixels = np.full((480, 640, 3), 125, np.uint8)
    pixels[160:400, 120:520] = COLOUR["bright"]
    Image.fromarray(pixels).save(tmp_path / "large.png")
    config, _ = settled()
    task_of(config).predict(seeing(config), config, [str(tmp_path / "large.png")], tmp_path / "out")
    drawn = np.asarray(Image.open(tmp_path / "out" / "large.png").convert("RGB"))
    assert drawn.shape == (240, 320, 3)
    rows, columns = (drawn == [0xE6, 0x9F, 0x00]).all(-1).nonzero()
    # Of the outline; its name stands above it.
    assert abs(columns.min() - 60) <= 2 and abs(columns.max() - 260) <= 2 and abs(rows.max() - 200) <= 2
    row = json.loads((tmp_path / "out" / "detections.json").read_text())["annotations"][0]
    assert row["bbox"] == pytest.approx([120, 160, 400, 240], abs=11)
