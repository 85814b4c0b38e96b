"""Segmentation in two and in three dimensions, from the command line to label maps in the source's geometry."""

import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from counted_reads import bytes_read
from faults.kills import rows, trajectory
from PIL import Image

import mae_ext
from mae_ext.cli import run
from mae_ext.config import parse_config
from mae_ext.data.labelmap import IGNORED
from mae_ext.engine import checkpoint
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.task import task_of
from mae_ext.errors import BadSample, RunError
from mae_ext.tasks.segment import windows
from mae_ext.tasks.segment.heads import Segmenter
from mae_ext.tasks.segment.overlap import dice, found_wrongly, mean_scores, surface_scores
from mae_ext.tasks.segment.task import _within_memory

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
    from mae_ext.tasks.segment.heads import LinearHead

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


def test_what_is_to_be_ignored_is_neither_learned_nor_judged_and_is_never_predicted(fine_tune, blobs, tmp_path):
    """A truth in which only the right half is known scores an answer there alone, whatever stands in the left half."""
    task = nuclei(blobs) | {"foreground": False, "ignore": 255}
    for split in ("train", "test"):
        for path in (blobs / split / "masks").iterdir():
            mask = (np.asarray(Image.open(path)) > 0).astype(np.uint8)
            mask[:, :18] = 255
            Image.fromarray(mask).save(path)
    held_out = ("--test", blobs / "test" / "images")
    assert fine_tune({"image": IMAGE}, task, blobs / "train" / "images", *held_out) == 0
    assert run(["predict", str(tmp_path / "ft"), str(blobs / "test" / "images"), "--out", str(tmp_path / "p")]) == 0
    found = []
    for number in range(3):
        answer, truth = (
            np.asarray(Image.open(folder / f"{number}.png")) for folder in (tmp_path / "p", blobs / "test" / "masks")
        )
        assert set(np.unique(answer)) <= {0, 1}
        a, b = answer[:, 18:] == 1, truth[:, 18:] == 1
        found += [2 * (a & b).sum() / (a.sum() + b.sum())] if a.any() or b.any() else []
    (row,) = rows(tmp_path / "ft" / "evaluations.jsonl")
    assert row["dice"] == pytest.approx(np.mean(found))


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


def test_samples_of_one_name_keep_their_folders_when_they_are_answered(fine_tune, blobs, tmp_path):
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images") == 0
    for name in ("s1", "s2"):
        (tmp_path / "new" / name).mkdir(parents=True)
        (tmp_path / "new" / name / "slice.png").write_bytes((blobs / "test" / "images" / "0.png").read_bytes())
    assert run(["predict", str(tmp_path / "ft"), str(tmp_path / "new"), "--out", str(tmp_path / "out")]) == 0
    written = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png"))
    assert written == ["s1/slice.png", "s2/slice.png"]


def answered(out, names):
    """The label maps of a folder of predictions, as arrays."""
    return [np.asarray(nib.load(out / name).dataobj).astype(np.int32) for name in names]


def test_the_scores_are_those_of_the_files_that_are_written_also_at_a_spacing_of_the_config(
    fine_tune, organs, tmp_path
):
    """Thick slices, a spacing between the two: on the model's lattice the scores would be others."""
    affine = np.diag([1.0, -1.0, 2.5, 1.0])
    names = [f"{n}.nii.gz" for n in range(4)]
    for part in ("scans", "labels"):
        for name in names:
            values = np.asarray(nib.load(organs / part / name).dataobj)
            nib.Nifti1Image(values, affine).to_filename(organs / part / name)
    (tmp_path / "train.txt").write_text("".join(f"scans/{name}\n" for name in names[:2]))
    (tmp_path / "test.txt").write_text("".join(f"scans/{name}\n" for name in names[2:]))
    data = {"reader": {"name": "volume", "intensity": "zscore", "spacing": [1.6, 1.6, 1.6]}}
    volume = VOLUME | {"data": VOLUME["data"] | data}
    task = {"classes": ["one", "two"], "masks": str(organs / "labels"), "surface": True}
    longer = {"train.steps": 80, "train.lr": 1.0}
    test = ("--test", tmp_path / "test.txt")
    assert fine_tune({"volume": volume}, task, tmp_path / "train.txt", *test, overrides=longer) == 0
    assert run(["predict", str(tmp_path / "ft"), str(tmp_path / "test.txt"), "--out", str(tmp_path / "out")]) == 0
    found, wanted = answered(tmp_path / "out", names[2:]), answered(organs / "labels", names[2:])
    again = [
        dice(a, b, ["one", "two"]) | surface_scores(a, b, ["one", "two"], (1.0, 1.0, 2.5))
        for a, b in zip(found, wanted, strict=True)
    ]
    row = rows(tmp_path / "ft" / "evaluations.jsonl")[0]
    scores = mean_scores(again)
    assert scores.keys() >= {"dice", "dice/one", "dice/two", "hd95", "surface_dice"} and scores["dice"] > 0.3
    assert {key: row[key] for key in scores if "hd95" not in key} == {
        k: v for k, v in scores.items() if "hd95" not in k
    }
    # Distances are summed in another order where axes are.
    assert {key: row[key] for key in scores} == pytest.approx(scores)


class Bright(Segmenter):
    """A model that has nothing to learn: class 1 where a voxel is bright. `backbone` is what its device is told by."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.backbone, self.seen = torch.nn.Linear(1, 1), []

    def probabilities(self, x, name, spacing=None):
        self.seen.append((x, spacing))
        return torch.stack([0 * x[:, 0], 20 * (x[:, 0] - 0.5)], -1).softmax(-1)


@pytest.mark.parametrize(
    ("augment", "scale"),
    [({}, (0.6 * 40 * 60) ** 0.5 / 16), ({"scale": None}, 40 / 16), ({"scale": [0.2, 0.2]}, 480**0.5 / 16),
     ({"fixed": [0, 1]}, 1.0)],
)  # fmt: skip
@torch.no_grad()
def test_whole_samples_are_answered_at_the_scale_of_training_and_on_their_own_voxels(tmp_path, augment, scale):
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[8:20, 33:51] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    modality = {"size": [16, 16], "patch": [4, 4], "batch": 4, "data": {"augment": augment}}
    config = parse_config(
        {"modalities": {"image": modality}, "model": {"width": 16, "depth": 1, "heads": 2}, "train": {"steps": 1}}
        | {"task": {"name": "segment", "classes": ["x"], "overlap": 0.0}}
    )
    model, task = Bright(), task_of(config)
    found, spacing = task._segmented(model, config, str(tmp_path / "a.png"), torch.device("cpu"))
    assert found.shape == (40, 60) and spacing is None
    truth = pixels[..., 0] > 0
    assert dice(found, truth.astype(np.int32), ["x"])["dice/x"] > (0.99 if scale == 1 else 0.9)
    # Without overlap the windows cover the sample once, but for the last ones: as much area as it has at that scale.
    windows = sum(len(x) for x, _ in model.seen)
    assert windows == np.prod([int(np.ceil(round(n / scale) / 16)) for n in (40, 60)])


@pytest.mark.parametrize(("overlap", "windows"), [(0.0, 3 * 4), (0.5, 4 * 7), (0.75, 7 * 12)])
@torch.no_grad()
def test_windows_overlap_by_what_the_task_says(tmp_path, overlap, windows):
    """Of 16 pixels, over 40 x 60."""
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.png")
    config = parse_config(
        {"modalities": {"image": IMAGE}, "model": {"width": 16, "depth": 1, "heads": 2}, "train": {"steps": 1}}
        | {"task": {"name": "segment", "classes": ["x"], "overlap": overlap}}
    )
    model = Bright()
    task_of(config)._segmented(model, config, str(tmp_path / "a.png"), torch.device("cpu"))
    assert sum(len(x) for x, _ in model.seen) == windows


def test_what_is_not_found_at_all_counts_in_every_score():
    wanted = np.zeros((6, 8), np.int32)
    wanted[1:5, 2:6] = 1
    nothing = np.zeros_like(wanted)
    diagonal = (6**2 + (3 * 8) ** 2) ** 0.5
    one = {"hd95/a": pytest.approx(diagonal), "surface_dice/a": 0.0}
    assert surface_scores(nothing, wanted, ["a", "b"], (1.0, 3.0)) == one
    assert surface_scores(wanted, nothing, ["a", "b"], (1.0, 3.0)) == one
    assert surface_scores(wanted, nothing, ["a"], None)["hd95/a"] == 10.0
    assert dice(wanted, nothing, ["a", "b"]) == {"dice/a": 0.0}
    missed = found_wrongly(nothing, wanted, ["a", "b"])
    spurious = found_wrongly(wanted, nothing, ["a", "b"])
    assert missed == {"background_only": 0, "missed/a": 1, "spurious/a": 0, "missed/b": 0, "spurious/b": 0}
    assert spurious == {"background_only": 1, "missed/a": 0, "spurious/a": 1, "missed/b": 0, "spurious/b": 0}
    found = found_wrongly(wanted, wanted, ["a", "b"])
    assert mean_scores([missed, missed, spurious, found]) == {
        "samples": 4, "background_only": 1, "missed": 2, "spurious": 1, "missed/a": 2, "spurious/a": 1,
    }  # fmt: skip


def test_what_is_ignored_counts_in_no_score():
    wanted = np.zeros((4, 6), np.int32)
    wanted[:, 2], wanted[:, 3:] = 1, IGNORED
    found = np.zeros((4, 6), np.int32)
    found[:, 2:5] = 1
    assert dice(found, wanted, ["a"]) == {"dice/a": 1.0}
    assert found_wrongly(found, wanted, ["a"]) == {"background_only": 0.0, "missed/a": 0.0, "spurious/a": 0.0}
    assert surface_scores(found, wanted, ["a"], None) == {"hd95/a": 0.0, "surface_dice/a": 1.0}
    nothing = np.where(wanted == 1, 0, wanted).astype(np.int32)
    assert found_wrongly(np.where(nothing == IGNORED, 1, 0), nothing, ["a"])["background_only"] == 1.0


def test_a_surface_within_a_millimetre_is_right_and_beyond_it_is_not():
    wanted = np.zeros((12, 12), np.int32)
    wanted[3:9, 3:9] = 1
    found = np.roll(wanted, 1, 0)
    assert surface_scores(found, wanted, ["a"], (0.9, 0.9))["surface_dice/a"] == 1.0
    # Of 20 surface voxels of each, those on the two sides that moved are 1.1 mm off, but for the corners' neighbours.
    assert 0.3 < surface_scores(found, wanted, ["a"], (1.1, 1.1))["surface_dice/a"] < 0.8
    assert surface_scores(np.roll(wanted, 3, 0), wanted, ["a"], (2.0, 2.0))["hd95/a"] == pytest.approx(6.0)


def cut_short(out, name):
    """As a kill leaves it: the file is not there, a line of the manifest is half written, and so is a file beside."""
    (out / name).unlink()
    manifest = out / "predict.manifest.jsonl"
    whole = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join(line for line in whole if name.encode() not in line) + b'{"source": "x')
    (out / ".unfinished").mkdir()
    (out / ".unfinished" / name).write_text("half")


def test_a_prediction_that_was_cut_short_goes_on_and_leaves_what_is_whole(fine_tune, blobs, tmp_path, capfd):
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images") == 0
    command = ["predict", str(tmp_path / "ft"), str(blobs / "test" / "images"), "--out", str(tmp_path / "out")]
    assert run(command) == 0
    first = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "out").glob("*.png")}
    cut_short(tmp_path / "out", "1.png")
    capfd.readouterr()
    assert run(command) == 0
    said = capfd.readouterr()
    assert "2 of 3 samples are done, by this model" in said.err
    assert said.out.splitlines() == [str(tmp_path / "out" / f"{n}.png") for n in range(3)]
    again = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "out").glob("*.png")}
    assert {name: content for name, (content, _) in again.items()} == {n: content for n, (content, _) in first.items()}
    assert [again[n] == first[n] for n in ("0.png", "1.png", "2.png")] == [True, False, True]
    assert not (tmp_path / "out" / ".unfinished").exists()


def test_a_sample_that_changed_is_answered_anew_and_another_model_is_refused(fine_tune, blobs, tmp_path, capfd):
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images") == 0
    images, out = blobs / "test" / "images", tmp_path / "out"
    assert run(["predict", str(tmp_path / "ft"), str(images), "--out", str(out)]) == 0
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    Image.fromarray(np.full((30, 40, 3), 99, np.uint8)).save(images / "2.png")
    assert run(["predict", str(tmp_path / "ft"), str(images), "--out", str(out)]) == 0
    assert Image.open(out / "2.png").size == (40, 30)
    changed = [name for name, at in before.items() if (out / name).stat().st_mtime_ns != at]
    assert changed == ["2.png"]
    earlier = sorted((tmp_path / "ft" / "checkpoints").iterdir())[0]
    assert run(["predict", str(earlier), str(images), "--out", str(out)]) == 2
    assert "holds predictions of another model or checkpoint; name another folder" in complaint(capfd)


def test_predict_goes_past_what_cannot_be_read_and_says_at_the_end_what_is_missing(fine_tune, blobs, tmp_path, capfd):
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images") == 0
    (blobs / "test" / "images" / "1.png").write_bytes(b"\x89PNG and no more")
    command = ["predict", str(tmp_path / "ft"), str(blobs / "test" / "images"), "--out", str(tmp_path / "out")]
    assert run(command) == 0
    last = complaint(capfd)
    assert "1 of 3 samples are missing in" in last and last.endswith("images/1.png")
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == ["0.png", "2.png"]
    Image.new("RGB", (36, 28)).save(blobs / "test" / "images" / "1.png")
    assert run(command) == 0
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == ["0.png", "1.png", "2.png"]
    alone = ["predict", str(tmp_path / "ft"), str(blobs / "x.png"), "--out", str(tmp_path / "none")]
    (blobs / "x.png").write_text("no picture")
    assert run(alone) == 2
    assert "none of the 1 samples can be read" in complaint(capfd)


def test_what_does_not_fit_costs_its_own_sample_alone(fine_tune, blobs, tmp_path, capfd, monkeypatch):
    """A limit on the size of files stands in for a disk without room."""
    import resource

    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images") == 0
    Image.new("RGB", (2000, 20)).save(blobs / "test" / "images" / "1.png")
    monkeypatch.setattr(windows, "HELD", 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        out = str(tmp_path / "out")
        assert run(["predict", str(tmp_path / "ft"), str(blobs / "test" / "images"), "--out", out]) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capfd.readouterr().err
    assert "1.png: out of memory (and no room on disk: File too large)" in said and "1 of 3 samples are missing" in said
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == ["0.png", "2.png"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 19.2 GiB"),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_whatever_memory_says_is_about_one_sample(error):
    with pytest.raises(BadSample, match=r"a\.png: out of memory"), _within_memory("a.png"):
        raise error
    with pytest.raises(RuntimeError, match="shapes"), _within_memory("a.png"):
        raise RuntimeError("shapes do not match")


@torch.no_grad()
def test_a_scan_that_is_read_in_slabs_is_answered_as_in_one_piece(organs, monkeypatch):
    spaced = {"reader": {"name": "volume", "intensity": "zscore", "spacing": [0.7, 1.3, 1.0]}}
    for data in ({}, spaced):
        config = parse_config(
            {"modalities": {"volume": VOLUME | {"data": VOLUME["data"] | data}}, "train": {"steps": 1}}
            | {"model": {"width": 16, "depth": 1, "heads": 2}, "task": {"name": "segment", "classes": ["x"]}}
        )
        address, task = str(organs / "scans" / "1.nii.gz"), task_of(config)
        whole, one = Bright(), Bright()
        wanted, spacing = task._segmented(whole, config, address, torch.device("cpu"))
        monkeypatch.setattr("mae_ext.tasks.segment.task.SLAB", 500)
        found, _ = task._segmented(one, config, address, torch.device("cpu"))
        monkeypatch.undo()
        assert spacing == (1.0, 1.0, 1.0) and np.array_equal(found, wanted) and len(np.unique(found)) == 2
        for (a, steps), (b, again) in zip(whole.seen, one.seen, strict=True):
            assert torch.equal(a, b) and torch.equal(steps, again)
        expected = (1.0, 1.0, 1.0) if not data else (0.7, 1.3, 1.0)
        torch.testing.assert_close(whole.seen[0][1][0], torch.tensor(expected))


def test_one_voxel_in_a_hundred_that_is_far_off_does_not_decide_the_distance():
    wanted = np.zeros((60, 60), np.int32)
    wanted[10:50, 10:50] = 1
    found = wanted.copy()
    found[0, 0] = 1
    assert surface_scores(found, wanted, ["a"], None)["hd95/a"] == 0.0


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


class Sure(Segmenter):
    """The first window is very sure of class 0, the others are less so of class 1; both are as good as certain."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.backbone, self.seen = torch.nn.Linear(1, 1), 0

    def probabilities(self, x, name, spacing=None):
        logits = torch.zeros(len(x), 2, *x.shape[2:])
        for i, one in enumerate(logits):
            one[int(self.seen + i > 0)] = 10 if self.seen + i > 0 else 1000
        self.seen += len(x)
        return logits.softmax(1).movedim(1, -1)


@torch.no_grad()
def test_where_windows_meet_their_probabilities_are_averaged_and_not_their_logits(tmp_path):
    """Two windows, at the columns 0 and 8 of 24, have equal say between the columns 11 and 12 (in the middle: towards
    the edge, where weights are those at the least, everywhere)."""
    Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(tmp_path / "a.png")
    config = parse_config(
        {"modalities": {"image": IMAGE}, "model": {"width": 16, "depth": 1, "heads": 2}, "train": {"steps": 1}}
        | {"task": {"name": "segment", "classes": ["x"], "overlap": 0.5}}
    )
    found, _ = task_of(config)._segmented(Sure(), config, str(tmp_path / "a.png"), torch.device("cpu"))
    assert found[7].tolist() == found[8].tolist() == [0] * 12 + [1] * 12


@torch.no_grad()
def test_each_rank_judges_samples_of_its_own(blobs):
    paths = {"path": str(blobs / "train" / "images"), "test": str(blobs / "test" / "images")}
    config = parse_config(
        {"modalities": {"image": IMAGE | {"data": IMAGE["data"] | paths}}, "train": {"steps": 1}}
        | {"model": {"width": 16, "depth": 1, "heads": 2}, "task": {"name": "segment", **nuclei(blobs)}}
    )
    task, said = task_of(config), []

    class Meeting(Ranks):
        """Ranks that come one after the other and hear those before them."""

        def gather(self, value):
            said.append(value)
            return said

    scores = [
        task.evaluate(Bright(), config, task.data(config), Meeting(rank, 2, torch.device("cpu"))) for rank in range(2)
    ]
    assert [s["samples"] for s in scores] == [2, 3]
    assert scores[-1] == task.evaluate(Bright(), config, task.data(config), Ranks(0, 1, torch.device("cpu")))


def test_answers_add_nothing_to_the_cache_of_the_training(fine_tune, organs, tmp_path):
    reader = {"name": "volume", "intensity": "zscore", "cache": str(tmp_path / "kept")}
    (tmp_path / "train.txt").write_text("scans/0.nii.gz\nscans/1.nii.gz\n")
    task = {"classes": ["one", "two"], "masks": str(organs / "labels")}
    assert (
        fine_tune({"volume": VOLUME | {"data": VOLUME["data"] | {"reader": reader}}}, task, tmp_path / "train.txt") == 0
    )
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*.array")}
    assert len(kept) == 4  # voxels, and what of them counts, of two scans
    assert run(["predict", str(tmp_path / "ft"), str(organs / "scans"), "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 4
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*.array")} == kept


@torch.no_grad()
def test_a_scan_is_read_once_to_be_judged_and_once_to_be_answered_besides_its_headers(organs, monkeypatch):
    """Two headers are asked each time: for the size, and for where the labels lie or the answer has to."""
    for part in ("scans", "labels"):
        for path in sorted((organs / part).iterdir()):
            nib.load(path).to_filename(organs / part / path.name.removesuffix(".gz"))
            path.unlink()
    monkeypatch.setattr("mae_ext.data.volume.reader.HEADER_BYTES", 1000)
    paths = {"path": str(shutil.copytree(organs / "scans", organs / "train")), "test": str(organs / "scans")}
    config = parse_config({
        "modalities": {"volume": VOLUME | {"data": VOLUME["data"] | paths}}, "train": {"steps": 1},
        "model": {"width": 16, "depth": 1, "heads": 2},
        "task": {"name": "segment", "classes": ["one", "two"], "masks": str(organs / "labels")},
    })  # fmt: skip
    task, scan = task_of(config), organs / "scans" / "1.nii"
    data = task.data(config)
    with bytes_read(monkeypatch) as of:
        task.evaluate(Bright(), config, data, Ranks(0, 1, torch.device("cpu")))
    assert of(scan) == scan.stat().st_size + 2 * 1000
    with bytes_read(monkeypatch) as of:
        task.predict(Bright(), config, [str(scan)], organs / "out")
    assert of(scan) == scan.stat().st_size + 2 * 1000
