"""Crops of samples with their label maps: how many are moved onto a label, and what the two keep of each other."""

import nibabel as nib
import numpy as np
import pytest
import torch

from mae_ext.config import parse_config
from mae_ext.data.augment import crop_sampler
from mae_ext.data.plan import Key
from mae_ext.downstream.pairs import TARGET
from mae_ext.engine.task import task_of
from mae_ext.rng import rng


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


def test_values_are_distorted_and_labels_are_not(rare):
    plain, changed = (drawn(*examples(rare, balance=1.0, distort=n), count=8) for n in (0, 2))
    assert all(torch.equal(a.targets[TARGET], b.targets[TARGET]) for a, b in zip(plain, changed, strict=True))
    assert not all(torch.equal(a.x, b.x) for a, b in zip(plain, changed, strict=True))


def test_foreground_makes_one_class_of_all_numbers_and_is_what_is_asked_for(rare):
    assert set(np.unique(examples(rare)[0].label_map(0))) == {0, 2}
    assert set(np.unique(examples(rare, classes=["x"], foreground=True)[0].label_map(0))) == {0, 1}
