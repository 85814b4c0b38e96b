"""Segmentation in two and in three dimensions, from the command line to label maps in the source's geometry."""

import nibabel as nib
import numpy as np
import pytest
import torch
from faults.kills import rows, trajectory
from PIL import Image
from tasks.segment.small_runs import IMAGE, VOLUME, complaint, nuclei

import mae_ext
from mae_ext.cli import run
from mae_ext.engine import checkpoint
from mae_ext.tasks.segment.overlap import dice, mean_scores, surface_scores


@pytest.mark.parametrize("head", ["linear", "unetr", "upsample"])
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


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ({"masks": None}, "task.masks is not set"),
        ({"masks": "nowhere"}, "expected a folder of label maps, a path with {case} in it, or a .csv"),
        ({"classes": "nucleus"}, "expected a list of different names"),
        ({"classes": []}, "expected a list of different names"),
        ({"classes": ["a", "b"]}, "foreground: makes one class of all labels"),
        ({"head": "unet"}, "head='unet': expected 'linear', 'unetr' or 'upsample'"),
        ({"layers": 2}, "layers=2: expected a whole number of the encoder's layers, above 1 for head upsample"),
        ({"head": "upsample", "layers": 3}, "task.layers=3: the encoder has 2 blocks; expected at most so many"),
        ({"balance": 2}, "balance=2: expected 0 to 1"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(fine_tune, blobs, capfd, task, told):
    assert fine_tune({"image": IMAGE}, nuclei(blobs) | task, blobs / "train" / "images") == 2
    assert told in complaint(capfd)


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
