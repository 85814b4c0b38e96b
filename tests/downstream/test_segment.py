"""Segmentation in two and in three dimensions, from the command line to label maps in the source's geometry."""

import nibabel as nib
import numpy as np
import pytest
import torch
from faults.kills import rows, trajectory
from PIL import Image

import mae_ext
from mae_ext.cli import run
from mae_ext.config import parse_config
from mae_ext.downstream.heads import Segmenter
from mae_ext.downstream.overlap import dice, mean_scores, surface_scores
from mae_ext.engine import checkpoint

IMAGE = {
    "size": [16, 16], "patch": [4, 4], "batch": 4,
    "data": {"augment": {"fixed": [0, 1], "flip": [0, 1]}, "max_bad_fraction": 0.3},
}  # fmt: skip
VOLUME = {
    "size": [8, 8, 8], "patch": [4, 4, 4], "channels": 1, "batch": 2,
    "data": {"reader": {"name": "volume", "intensity": "zscore"}, "augment": {"fixed": [0, 1, 2], "flip": []}},
}  # fmt: skip
SHORT = {"train.steps": 6, "train.warmup_steps": 1, "train.save_every": 3, "train.lr": 0.1}


@pytest.fixture
def blobs(tmp_path):
    """images/ and masks/, train/ and test/: bright discs on noise, each disc with its own number, of 16 bits."""
    for split, count in (("train", 8), ("test", 3)):
        for part in ("images", "masks"):
            (tmp_path / split / part).mkdir(parents=True)
        for number in range(count):
            chance = np.random.default_rng((number, count))
            y, x = np.mgrid[:28, :36]
            mask = np.zeros((28, 36), np.uint16)
            for which in (300, 301):
                cy, cx = chance.integers(5, 23), chance.integers(5, 31)
                mask[(y - cy) ** 2 + (x - cx) ** 2 < 20] = which
            grey = np.clip(60 + 120 * (mask > 0) + chance.normal(0, 8, mask.shape), 0, 255).astype(np.uint8)
            Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / split / "images" / f"{number}.png")
            Image.fromarray(mask).save(tmp_path / split / "masks" / f"{number}.png")
    return tmp_path


@pytest.fixture
def organs(tmp_path):
    """scans/ and labels/: two boxes of different brightness, some scans stored in other axis orders."""
    for part in ("scans", "labels"):
        (tmp_path / part).mkdir()
    for number in range(4):
        chance = np.random.default_rng(number)
        labels = np.zeros((12, 11, 10), np.uint8)
        labels[2:6, 3:8, 2:7], labels[7:10, 3:8, 3:8] = 1, 2
        values = (labels * 50 + chance.normal(0, 4, labels.shape)).astype(np.float32)
        affine = np.diag([1.0, -1.0, 1.0, 1.0]) if number % 2 else np.diag([1.0, 1.0, 1.0, 1.0])
        for part, array in (("scans", values), ("labels", labels)):
            nib.Nifti1Image(array, affine).to_filename(tmp_path / part / f"{number}.nii.gz")
    return tmp_path


@pytest.fixture
def fine_tune(tiny, tmp_path):
    def go(modalities, task, data, *more, out="ft", overrides=None):
        config = tiny(SHORT | {"modalities": modalities, "task": {"name": "segment", **task}} | (overrides or {}))
        return run(["finetune", str(config), "--init", "none", "--data", str(data), "--out", str(tmp_path / out),
                    *map(str, more)])  # fmt: skip

    return go


def nuclei(blobs, **more):
    masks = {"masks": str(blobs / "train" / "masks"), "test_masks": str(blobs / "test" / "masks")}
    return {"classes": ["nucleus"], "foreground": True, **masks, **more}


def complaint(capfd):
    said = capfd.readouterr().err
    assert "Traceback" not in said
    return said.splitlines()[-1]


@pytest.mark.parametrize("head", ["linear", "unetr"])
def test_images_are_segmented_judged_resumed_and_written_as_png(fine_tune, blobs, tmp_path, head):
    task, test = nuclei(blobs, head=head, features=4, distort=1), ("--test", blobs / "test" / "images")
    assert fine_tune({"image": IMAGE}, task, blobs / "train" / "images", *test) == 0
    whole, scores = trajectory(tmp_path / "ft"), (tmp_path / "ft" / "evaluations.jsonl").read_bytes()
    assert len(whole) == 6
    row = rows(tmp_path / "ft" / "evaluations.jsonl")[0]
    assert row["samples"] == 3 and 0 <= row["dice"] <= 1 and row["dice"] == row["dice/nucleus"]
    for path in checkpoint.steps_of(tmp_path / "ft" / "checkpoints")[1:]:
        (path / "state.json").write_text("damaged")
    assert fine_tune({"image": IMAGE}, task, blobs / "train" / "images", *test) == 0
    assert trajectory(tmp_path / "ft") == whole
    assert (tmp_path / "ft" / "evaluations.jsonl").read_bytes() == scores
    assert mae_ext.load_encoder(tmp_path / "ft", device="cpu").encode(torch.zeros(1, 3, 16, 16)).shape == (1, 16, 32)
    out = tmp_path / "out"
    assert run(["predict", str(tmp_path / "ft"), str(blobs / "test" / "images"), "--out", str(out)]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["0.png", "1.png", "2.png", "predict.manifest.jsonl"]
    for path in out.glob("*.png"):
        with Image.open(path) as image:
            assert image.size == (36, 28) and set(np.unique(np.asarray(image))) <= {0, 1}
    found = [np.asarray(Image.open(out / f"{n}.png")) for n in range(3)]
    wanted = [np.asarray(Image.open(blobs / "test" / "masks" / f"{n}.png")) > 0 for n in range(3)]
    again = mean_scores([dice(a.astype(int), b.astype(int), ["nucleus"]) for a, b in zip(found, wanted, strict=True)])
    assert again["dice"] == row["dice"]


def test_volumes_are_segmented_and_written_in_their_own_axis_order(fine_tune, organs, tmp_path):
    task = {"classes": ["one", "two"], "masks": str(organs / "labels"), "surface": True}
    held_out = tmp_path / "test.txt"
    held_out.write_text("scans/3.nii.gz\n")
    train = tmp_path / "train.txt"
    train.write_text("scans/0.nii.gz\nscans/1.nii.gz\nscans/2.nii.gz\n")
    longer = {"train.steps": 60, "train.lr": 1.0}
    assert fine_tune({"volume": VOLUME}, task, train, "--test", held_out, overrides=longer) == 0
    row = rows(tmp_path / "ft" / "evaluations.jsonl")[0]
    assert row["dice"] == pytest.approx((row["dice/one"] + row["dice/two"]) / 2) and row["dice"] > 0.5
    assert {"hd95/one", "surface_dice/two"} <= set(row)
    assert run(["predict", str(tmp_path / "ft"), str(held_out), "--out", str(tmp_path / "out")]) == 0
    written, source = nib.load(tmp_path / "out" / "3.nii.gz"), nib.load(organs / "labels" / "3.nii.gz")
    np.testing.assert_allclose(written.affine, source.affine)
    found, wanted = (np.asarray(image.dataobj).astype(int) for image in (written, source))
    assert mean_scores([dice(found, wanted, ["one", "two"])])["dice"] == row["dice"]


@pytest.mark.parametrize("size", [(16, 32), (8, 16, 24)])
@pytest.mark.parametrize("edge", [2, 4, 8])
@pytest.mark.parametrize("head", ["linear", "unetr"])
def test_both_heads_answer_every_voxel_for_any_number_of_axes(size, edge, head):
    modality = {"size": size, "patch": [edge] * len(size), "channels": 1, "batch": 2}
    reader = {"data": {"reader": "image" if size == (16, 32) else "volume"}}
    config = parse_config(
        {"modalities": {"a": modality | reader}, "model": {"width": 16, "depth": 3, "heads": 2}, "train": {"steps": 1}}
        | {"task": {"name": "segment", "classes": ["x"]}}
    )
    model = Segmenter(config, "a", head, 3, features=4)
    x = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))
    out = model(x, "a")
    assert out.shape == (2, 3, *size) and out.dtype == torch.float32
    out.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_linear_head_answers_for_its_own_patch_and_in_the_order_of_the_grid():
    """Of a head whose weights are one token's place, the answer of each voxel names the patch it lies in."""
    from mae_ext.downstream.heads import LinearHead

    head = LinearHead(6, (2, 5), 1)
    tokens = torch.arange(6.0)[None, :, None].expand(1, 6, 6)
    head.norm, head.predict.weight.data = torch.nn.Identity(), torch.full((10, 6), 1 / 6)
    out = head([tokens], (3, 2), torch.zeros(0))[0, 0]
    assert torch.allclose(out, torch.arange(6.0).view(3, 2).repeat_interleave(2, 0).repeat_interleave(5, 1))


def test_dice_counts_classes_that_occur_and_surfaces_are_in_millimetres():
    wanted = np.zeros((6, 8), int)
    wanted[1:5, 2:6] = 1
    found = np.roll(wanted, 1, 1)
    assert dice(wanted, wanted, ["a", "b"]) == {"dice/a": 1.0}
    assert dice(found, wanted, ["a"])["dice/a"] == 0.75
    assert dice(np.zeros_like(wanted), wanted, ["a"]) == {"dice/a": 0.0}
    assert surface_scores(found, wanted, ["a"], (1.0, 3.0))["hd95/a"] == pytest.approx(3.0)
    assert surface_scores(wanted, wanted, ["a"], None) == {"hd95/a": 0.0, "surface_dice/a": 1.0}
    assert mean_scores([{"dice/a": 1.0, "dice/b": 0.0}, {"dice/a": 0.5}]) == {
        "samples": 2.0, "dice": 0.375, "dice/a": 0.75, "dice/b": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ({"masks": None}, "task.masks is not set"),
        ({"masks": "nowhere"}, "expected a folder of label maps, or a .csv"),
        ({"classes": "nucleus"}, "expected a list of different names"),
        ({"classes": []}, "expected a list of different names"),
        ({"classes": ["a", "b"]}, "foreground: makes one class of all labels"),
        ({"head": "unet"}, "head='unet': expected 'linear' or 'unetr'"),
        ({"balance": 2}, "balance=2: expected 0 to 1"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(fine_tune, blobs, capfd, task, told):
    assert fine_tune({"image": IMAGE}, nuclei(blobs) | task, blobs / "train" / "images") == 2
    assert told in complaint(capfd)


def test_a_sample_without_a_label_map_is_named(fine_tune, blobs, capfd):
    (blobs / "train" / "masks" / "3.png").unlink()
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images") == 2
    said = complaint(capfd)
    assert "1 of 8 samples have no label map there" in said and "3.png" in said


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
    assert "label 301, and task.classes names 1; task.foreground=true" in complaint(capfd)


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


def test_one_label_map_for_two_samples_is_refused_by_name(fine_tune, blobs, capfd):
    again = blobs / "train" / "images" / "more"
    again.mkdir()
    (again / "3.png").write_bytes((blobs / "train" / "images" / "3.png").read_bytes())
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images") == 2
    said = complaint(capfd)
    assert "more/3.png share the label map" in said and "give a .csv with the columns path and mask" in said


def test_samples_of_one_name_keep_their_folders_when_they_are_answered(fine_tune, blobs, tmp_path):
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images") == 0
    for name in ("s1", "s2"):
        (tmp_path / "new" / name).mkdir(parents=True)
        (tmp_path / "new" / name / "slice.png").write_bytes((blobs / "test" / "images" / "0.png").read_bytes())
    assert run(["predict", str(tmp_path / "ft"), str(tmp_path / "new"), "--out", str(tmp_path / "out")]) == 0
    written = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png"))
    assert written == ["s1/slice.png", "s2/slice.png"]
