"""Crops of samples with their label maps: how many are moved onto a label, and what the two keep of each other."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.losses.dice import DiceCELoss

from mae_ext.config import Statistics, parse_config
from mae_ext.data.batch import Batch
from mae_ext.data.crops import crop_sampler
from mae_ext.data.labelmap import IGNORED
from mae_ext.data.plan import Key
from mae_ext.data.sample import Crop
from mae_ext.data.sources.table import Items, PathTable
from mae_ext.engine.task import build_model, task_of
from mae_ext.errors import BadSample, UserError
from mae_ext.rng import rng
from mae_ext.tasks.segment.overlap import loss_of_known
from mae_ext.tasks.segment.pairs import TARGET, check_extent, maps_of
from mae_ext.tasks.segment.task import Segmentation


@pytest.fixture
def rare(tmp_path):
    """scans/ and labels/: one labelled voxel in 32768, and every voxel's label times 7 its value."""
    for part in ("scans", "labels"):
        (tmp_path / part).mkdir()
    labels = np.zeros((32, 32, 32), np.uint8)
    labels[3, 25, 17] = 2
    for part, values in (("scans", labels.astype(np.float32) * 7), ("labels", labels)):
        nib.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / part / "a.nii.gz")
    return tmp_path


def examples(rare, **task):
    config = parse_config({
        "task": {"name": "segment", "classes": ["x", "y"], "masks": str(rare / "labels"), **task},
        "modalities": {"volume": {
            "size": [8, 8, 8], "patch": [4, 4, 4], "channels": 1, "batch": 2,
            "data": {"path": str(rare / "scans"), "reader": {"name": "volume", "intensity": "none"},
                     "statistics": "none", "augment": {"fixed": [0, 1, 2], "flip": [0, 1, 2]}},
        }},
        "model": {"width": 16, "depth": 1, "heads": 2}, "train": {"steps": 1},
    })  # fmt: skip
    return task_of(config).data(config)["volume"].examples, config.modalities["volume"]


def drawn(found, modality, count=60):
    keys = [Key(epoch, 0, 0, 0, 0) for epoch in range(count)]
    crops = [crop_sampler(modality.data.augment, modality.size, rng(0, epoch)) for epoch in range(count)]
    return found.read(0, keys, crops)


@pytest.mark.parametrize(("balance", "least", "most"), [(0.0, 0, 3), (0.5, 20, 42), (1.0, 60, 60)])
def test_the_share_of_crops_that_hold_a_label_is_what_balance_says(rare, balance, least, most):
    """Of boxes of 8 in 32, one in 64 or so holds the voxel by itself."""
    samples = drawn(*examples(rare, balance=balance))
    assert least <= sum(bool(s.targets[TARGET].any()) for s in samples) <= most


def test_every_label_is_where_its_voxel_is_and_the_same_crops_come_again(rare):
    one, other = (drawn(*examples(rare, balance=1.0)) for _ in range(2))
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.x, b.x) and torch.equal(a.targets[TARGET], b.targets[TARGET])
        assert a.targets[TARGET].dtype == torch.int64 and torch.equal(a.x[0], 7.0 * a.targets[TARGET])
    assert len({tuple(a.targets[TARGET].nonzero()[0].tolist()) for a in one}) > 30  # anywhere in the crop


@pytest.mark.parametrize("keys", [
    [Key(epoch, 0, 0, 0, 0) for epoch in range(16)],
    [Key(3, 0, 0, repeat, 0) for repeat in range(16)],
])  # fmt: skip
def test_every_view_of_a_file_is_moved_and_distorted_by_itself_whatever_box_it_was_drawn(rare, keys):
    one_box = [lambda extent: Crop((0, 0, 0), (8, 8, 8), (False, False, False))] * len(keys)
    found, _ = examples(rare, balance=1.0, distort=1, strength=1.0)
    samples = found.read(0, keys, one_box)
    assert len({tuple(s.targets[TARGET].nonzero()[0].tolist()) for s in samples}) > 12
    # Of one voxel among zeros: what the operations make of it is told by the values, wherever it is.
    assert len({round(float(s.x.double().square().sum()), 4) for s in samples}) > 3
    found, _ = examples(rare, balance=0.5)
    moved = [bool(s.targets[TARGET].any()) for s in found.read(0, keys, one_box)]
    assert 2 < sum(moved) < 14


def test_values_are_distorted_and_labels_are_not(rare):
    plain, changed = (drawn(*examples(rare, balance=1.0, distort=n), count=8) for n in (0, 2))
    assert all(torch.equal(a.targets[TARGET], b.targets[TARGET]) for a, b in zip(plain, changed, strict=True))
    assert not all(torch.equal(a.x, b.x) for a, b in zip(plain, changed, strict=True))


def test_values_are_distorted_the_further_the_more_strength_is_asked_for(rare):
    plain, weak, strong = (
        drawn(*examples(rare, balance=1.0, distort=2, strength=s), count=20) for s in (0.0, 0.05, 1.0)
    )
    far = [sum(float((a.x - b.x).abs().sum()) for a, b in zip(plain, some, strict=True)) for some in (weak, strong)]
    assert 0 < far[0] < far[1] / 5


def test_foreground_makes_one_class_of_all_numbers_and_is_what_is_asked_for(rare):
    assert set(np.unique(examples(rare)[0].label_map(0))) == {0, 2}
    assert set(np.unique(examples(rare, classes=["x"], foreground=True)[0].label_map(0))) == {0, 1}


def test_a_number_beyond_the_classes_is_a_bad_sample(rare):
    with pytest.raises(BadSample, match=r"label 2, and task\.classes names 1; name them in .*, 2 in all") as info:
        examples(rare, classes=["x"])[0].label_map(0)
    assert "task.ignore=2" in info.value.detail and "task.foreground=true makes one of all" in info.value.detail


def test_every_way_out_that_a_number_beyond_the_classes_is_given_is_one(rare):
    for task in ({"classes": ["x", "y"]}, {"classes": ["x"], "ignore": 2}, {"classes": ["x"], "foreground": True}):
        assert examples(rare, **task)[0].label_map(0).max() <= len(task["classes"])


def test_a_number_to_ignore_is_nothing_to_balance_and_nothing_to_find(rare):
    found, modality = examples(rare, classes=["x"], ignore=2, balance=1.0)
    assert set(np.unique(found.label_map(0))) == {IGNORED, 0}
    kept = drawn(found, modality)
    assert sum(bool((s.targets[TARGET] == IGNORED).any()) for s in kept) < 4  # as without balance
    both, _ = examples(rare, classes=["x"], foreground=True, ignore=2)
    assert set(np.unique(both.label_map(0))) == {IGNORED, 0}


def test_a_map_that_is_off_on_any_axis_is_a_bad_sample():
    check_extent("m", np.zeros((4, 5, 6)), "s", (4, 5, 6))
    for extent in ((3, 5, 6), (4, 6, 6), (4, 5, 7)):
        with pytest.raises(BadSample, match="4 x 5 x 6, and s is"):
            check_extent("m", np.zeros((4, 5, 6)), "s", extent)


def test_a_map_of_the_very_name_is_taken_before_one_of_another_suffix(tmp_path):
    for name in ("a.png", "a.bmp", "b.tif"):
        (tmp_path / name).touch()
    items = Items(PathTable(["x/a.png", "x/b.png"]))
    found = maps_of(items, str(tmp_path), (".png", ".bmp", ".tif"))
    assert found == [str(tmp_path / "a.png"), str(tmp_path / "b.tif")]


def test_the_loss_is_dice_of_the_labels_plus_cross_entropy_of_all(rare):
    """Against both written out: the background takes part in the second alone."""

    class Says(torch.nn.Module):
        def forward(self, x, name, spacing=None):
            return logits

    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
    task = Segmentation(classes=["x", "y"])
    found = task.loss(Says(), "a", Batch(torch.zeros(2, 1, 4, 5), targets={TARGET: labels}))
    p, one = logits.softmax(1), torch.nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2)
    shared, both = (p * one).sum((2, 3)), p.sum((2, 3)) + one.sum((2, 3))
    dice = 1 - (2 * shared + 1e-5) / (both + 1e-5)
    expected = dice[:, 1:].mean() + torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(found, expected)


def test_the_loss_with_a_number_to_ignore_is_the_same_where_nothing_is_ignored():
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
    whole = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)(logits, labels[:, None])
    torch.testing.assert_close(loss_of_known(logits, labels), whole)


def test_the_loss_of_what_is_known_is_that_of_the_known_part_alone():
    logits = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.randint(0, 3, (2, 4, 6), generator=torch.Generator().manual_seed(1))
    labels[:, :, 3:] = IGNORED
    found = loss_of_known(logits, labels)
    torch.testing.assert_close(found, loss_of_known(logits[..., :3], labels[..., :3]))
    (slope,) = torch.autograd.grad(found, logits)
    assert not slope[..., 3:].any() and slope[..., :3].abs().min() > 0


def test_a_sample_of_which_nothing_is_known_teaches_nothing_and_breaks_nothing():
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
    alone = loss_of_known(logits[:1], labels[:1])
    labels[1] = IGNORED
    torch.testing.assert_close(loss_of_known(logits, labels), alone / 2)


@pytest.mark.parametrize("ignore", [1, -1, 2.5, True, "255"])
def test_a_number_to_ignore_is_a_number_that_no_class_has(ignore):
    with pytest.raises(ValueError, match="ignore="):
        Segmentation(classes=["x", "y"], ignore=ignore)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["scans/a.nii.gz,labels/a.nii.gz", "scans/a.nii.gz,labels/b.nii.gz"], "lines 2 and 3 give scans/a.nii.gz"),
        (["scans/a.nii.gz,scans/a.nii.gz"], "would be the sample itself"),
    ],
)
def test_a_csv_that_contradicts_itself_is_refused_by_line(rare, rows, told):
    listed = rare / "pairs.csv"
    listed.write_text("\n".join(["path,mask", *rows]) + "\n")
    with pytest.raises(UserError, match=told):
        maps_of(Items(PathTable([str(rare / "scans" / "a.nii.gz")])), str(listed), (".nii.gz",))


def test_a_csv_from_windows_is_read(rare):
    listed = rare / "pairs.csv"
    listed.write_text("path,mask\nscans\\a.nii.gz,labels\\a.nii.gz\n")
    items = Items(PathTable([str(rare / "scans" / "a.nii.gz")]))
    assert maps_of(items, str(listed), (".nii.gz",)) == [str(rare / "labels" / "a.nii.gz")]


def test_the_model_has_the_head_and_the_features_that_the_task_asks_for(rare):
    config = parse_config({
        "task": {"name": "segment", "classes": ["x", "y"], "head": "unetr", "features": 6},
        "modalities": {"image": {"size": [16, 16], "patch": [4, 4], "batch": 2}},
        "model": {"width": 16, "depth": 2, "heads": 2}, "train": {"steps": 1},
    })  # fmt: skip
    model = build_model(config)
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert model.head.stem.layer.conv1.conv.out_channels == 6 and model(x, "image").shape == (1, 3, 16, 16)
    # The statistics are applied, for the tokens and for the convolutions that see the image itself.
    data = config.modalities["image"].data.model_copy(update={"statistics": Statistics(mean=(1,) * 3, std=(2,) * 3)})
    modality = config.modalities["image"].model_copy(update={"data": data})
    other = build_model(config.model_copy(update={"modalities": {"image": modality}}))
    plain = {k: v for k, v in model.state_dict().items() if k.rpartition(".")[2] not in ("mean", "std")}
    other.load_state_dict(plain, strict=False)
    with torch.no_grad():
        torch.testing.assert_close(other(2 * x + 1, "image"), model(x, "image"))
