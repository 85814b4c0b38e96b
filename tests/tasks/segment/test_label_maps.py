"""Label maps that are missing, doubled, of another size or of no use are named, and stop what they have to."""

import numpy as np
import pytest
import torch
from faults.kills import rows
from PIL import Image
from tasks.segment.small_runs import IMAGE, Bright, complaint, nuclei

from mae_ext.config import parse_config
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.task import task_of
from mae_ext.errors import RunError


def test_a_sample_without_a_label_map_is_named(fine_tune, blobs, capfd):
    (blobs / "train" / "masks" / "3.png").unlink()
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images") == 2
    said = complaint(capfd)
    assert "1 of 8 samples have no label map there" in said and "3.png" in said


def test_a_map_that_is_named_otherwise_is_said_to_be(fine_tune, blobs, capfd):
    masks = blobs / "train" / "masks"
    (masks / "3.png").rename(masks / "3_mask.png")
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images") == 2
    assert "3_mask.png is named otherwise: rename such files, or give a .csv" in complaint(capfd)


def test_two_maps_for_one_sample_and_a_sample_that_would_be_its_own_map_are_refused(fine_tune, blobs, capfd):
    masks = blobs / "train" / "masks"
    for suffix in (".bmp", ".tif"):
        Image.fromarray(np.ones((28, 36), np.uint8)).save(masks / f"3{suffix}")
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images") == 0  # 3.png has the very name
    (masks / "3.png").unlink()
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images", out="b") == 2
    said = complaint(capfd)
    assert "1 of 8 samples have several label maps" in said and "masks/3.bmp, " in said and "masks/3.tif" in said
    images = blobs / "test" / "images"
    assert fine_tune({"image": IMAGE}, nuclei(blobs, masks=str(images)), images, out="c") == 2
    assert "would be the sample itself" in complaint(capfd)


def test_label_maps_as_jpeg_train_as_what_was_drawn_and_are_said(fine_tune, blobs, tmp_path, capfd):
    masks = tmp_path / "jpg"
    masks.mkdir()
    for path in (blobs / "train" / "masks").iterdir():
        drawn = (np.asarray(Image.open(path)) > 0).astype(np.uint8) * 255
        Image.fromarray(drawn).save(masks / f"{path.stem}.jpg")
    task = nuclei(blobs) | {"masks": str(masks), "foreground": True}
    assert fine_tune({"image": IMAGE}, task, blobs / "train" / "images") == 0
    assert "8 label maps are stored with loss" in capfd.readouterr().err


def test_label_maps_without_a_label_are_an_error_before_anything_is_trained(fine_tune, blobs, tmp_path, capfd):
    for path in (blobs / "train" / "masks").iterdir():
        Image.fromarray(np.zeros((28, 36), np.uint16)).save(path)
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images") == 2
    assert "no label map that was looked at holds a label above 0" in complaint(capfd)
    assert not (tmp_path / "ft" / "checkpoints").exists()


def test_a_label_map_of_another_size_is_a_bad_file_named_in_the_ledger(fine_tune, blobs, tmp_path):
    Image.fromarray(np.zeros((20, 36), np.uint16)).save(blobs / "train" / "masks" / "2.png")
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images") == 0
    (row,) = rows(tmp_path / "ft" / "bad_samples.jsonl")
    assert row["kind"] == "label map" and row["path"].endswith("masks/2.png") and "20 x 36" in row["detail"]


def test_an_image_smaller_than_a_crop_is_a_bad_file_named_in_the_ledger(fine_tune, blobs, tmp_path):
    for part, mode in (("images", "RGB"), ("masks", "L")):
        Image.new(mode, (36, 15)).save(blobs / "train" / part / "5.png")
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images") == 0
    (row,) = rows(tmp_path / "ft" / "bad_samples.jsonl")
    assert row["kind"] == "too small" and row["detail"] == "36x15 pixels, and a crop has 16 where it has 15"


def test_labels_that_no_class_names_are_a_bad_file(fine_tune, blobs, tmp_path, capfd):
    task = nuclei(blobs) | {"foreground": False}
    assert fine_tune({"image": IMAGE}, task, blobs / "train" / "images", overrides={"train.steps": 4}) == 2
    said = complaint(capfd)
    assert (
        "8 label map (such as" in said and "labels 300, 301, and task.classes names 1; where any number means" in said
    )
    assert "task.foreground=true" in said and "task.ignore" not in said
    assert len(rows(tmp_path / "ft" / "bad_samples.jsonl")) == 8


def test_pairs_may_be_listed_in_a_csv(fine_tune, blobs, tmp_path):
    listed = tmp_path / "pairs.csv"
    lines = [f"test/../train/images/{n}.png,train/masks/{n}.png" for n in range(8)]
    listed.write_text("\n".join(["path,mask", *lines]) + "\n")
    task = nuclei(blobs) | {"masks": str(listed)}
    assert fine_tune({"image": IMAGE}, task, blobs / "train" / "images") == 0


def test_a_label_map_without_a_label_among_others_is_named_and_trained_on(fine_tune, blobs, capfd):
    Image.fromarray(np.zeros((28, 36), np.uint16)).save(blobs / "train" / "masks" / "5.png")
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images") == 0
    said = capfd.readouterr().err
    assert "1 of 8 label maps that were looked at hold no label" in said and "5.png" in said


def test_the_same_sample_or_patient_on_both_sides_is_refused_by_name(fine_tune, blobs, tmp_path, capfd):
    images = blobs / "train" / "images"
    assert fine_tune({"image": IMAGE}, nuclei(blobs, test_masks=None), images, "--test", images) == 2
    assert "8 files on both sides of the split" in complaint(capfd)
    listed = tmp_path / "list.csv"
    lines = [f"train/images/{n}.png,{'P1' if n in (2, 5) else n},{'test' if n > 4 else 'train'}" for n in range(8)]
    listed.write_text("\n".join(["path,patient,split", *lines]) + "\n")
    task = nuclei(blobs, test_masks=None)
    assert fine_tune({"image": IMAGE}, task, f"{listed}::train", "--test", f"{listed}::test") == 2
    assert "1 patient on both sides" in (said := complaint(capfd)) and "'P1'" in said
    assert not (tmp_path / "ft" / "checkpoints").exists()


def test_a_test_sample_without_a_label_map_is_named_before_anything_is_trained(fine_tune, blobs, tmp_path, capfd):
    (blobs / "test" / "masks" / "1.png").unlink()
    held_out = ("--test", blobs / "test" / "images")
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images", *held_out) == 2
    assert "1 of 3 samples have no label map there" in complaint(capfd)
    assert not (tmp_path / "ft" / "checkpoints").exists()


def test_a_label_map_larger_than_its_image_is_a_bad_file_too(fine_tune, blobs, tmp_path):
    Image.fromarray(np.ones((80, 90), np.uint16)).save(blobs / "train" / "masks" / "2.png")
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images") == 0
    (row,) = rows(tmp_path / "ft" / "bad_samples.jsonl")
    assert row["kind"] == "label map" and "80 x 90" in row["detail"]


def test_test_maps_that_cannot_be_used_end_the_run_by_name_and_are_in_the_ledger(fine_tune, blobs, tmp_path, capfd):
    for path in (blobs / "test" / "masks").iterdir():
        Image.fromarray(np.ones((20, 36), np.uint16)).save(path)
    held_out = ("--test", blobs / "test" / "images")
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images", *held_out) == 1
    assert "3 of 3 samples cannot be used" in (said := complaint(capfd)) and "20 x 36, and" in said
    kept = rows(tmp_path / "ft" / "bad_samples.jsonl")
    assert len(kept) == 3 and all(row["kind"] == "label map" and "20 x 36" in row["detail"] for row in kept)


def test_one_label_map_for_two_samples_is_refused_by_name(fine_tune, blobs, capfd):
    again = blobs / "train" / "images" / "more"
    again.mkdir()
    (again / "3.png").write_bytes((blobs / "train" / "images" / "3.png").read_bytes())
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images") == 2
    said = complaint(capfd)
    assert "more/3.png share the label map" in said and "give a .csv with the columns path and mask" in said


@torch.no_grad()
def test_a_test_sample_whose_map_is_of_another_size_is_named_and_left_out(blobs):
    Image.fromarray(np.zeros((28, 20), np.uint16)).save(blobs / "test" / "masks" / "1.png")
    for allowed in (0.5, 0.1):
        paths = {"path": str(blobs / "train" / "images"), "test": str(blobs / "test" / "images")}
        modality = IMAGE | {"data": IMAGE["data"] | paths | {"max_bad_fraction": allowed}}
        config = parse_config(
            {"modalities": {"image": modality}, "model": {"width": 16, "depth": 1, "heads": 2}, "train": {"steps": 1}}
            | {"task": {"name": "segment", **nuclei(blobs)}}
        )
        task, alone = task_of(config), Ranks(0, 1, torch.device("cpu"))
        if allowed == 0.5:
            assert task.evaluate(Bright(), config, task.data(config), alone)["samples"] == 2
        else:
            with pytest.raises(RunError, match=r"1 of 3 samples cannot be used.*masks/1\.png.*28 x 20, and .* 28 x 36"):
                task.evaluate(Bright(), config, task.data(config), alone)
