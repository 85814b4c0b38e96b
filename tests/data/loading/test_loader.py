"""A batch of one process: which masks and views it has, and what meets in it. Workers are in engine/test_loader.py."""

import nibabel as nib
import numpy as np
import pytest
import torch

from mae_ext.config import parse_config
from mae_ext.data.loading.batches import ModalityData, valid_share
from mae_ext.data.sample import Sample, stack
from mae_ext.errors import RunError

MODEL = {"model": {"width": 24, "depth": 1, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}}


def of(modality, train=None):
    config = parse_config({"modalities": {"m": modality}, "train": {"steps": 1} | (train or {}), **MODEL})
    return ModalityData(config.seed, "m", config.modalities["m"])


def test_maskers_are_told_where_the_loss_counts(tmp_path):
    """Of a scan whose right half is air, a mask that hides the body alone hides the left half, in every sample."""
    x = np.zeros((16, 16, 16), np.float32)
    x[8:] = 1 + np.random.default_rng(0).random((8, 16, 16))
    nib.Nifti1Image(x, np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    batch = of({
        "size": [16, 16, 16], "patch": [8, 8, 8], "channels": 1, "batch": 2,
        "mask": {"name": "foreground", "ratio": 0.5, "body_ratio": 1.0},
        "data": {"path": str(tmp_path), "repeats": 2, "statistics": "none", "augment": {"scale": None, "flip": []},
                 "reader": {"name": "volume", "intensity": "none", "body": 0.5}},
    }).batch(0)  # fmt: skip
    shown = torch.ones(2, 8)
    shown.scatter_(1, batch.mask.pred, 0)
    share = batch.valid[:, 0].float().view(2, 2, 8, 2, 8, 2, 8).mean((2, 4, 6)).flatten(1)
    assert torch.equal(shown, (share == 0).float()) and int(shown.sum()) == 8


def test_views_of_a_file_differ_and_so_do_epochs_and_each_comes_again(photos):
    modality = {
        "size": [16, 16], "patch": [8, 8], "batch": 80,
        "data": {"path": str(photos), "repeats": 2, "augment": {"scale": [0.2, 1.0]}},
    }  # fmt: skip
    data = of(modality)

    def views(step):
        batch = data.batch(step)
        found = {}
        for source, x in zip(batch.sources, batch.x, strict=True):
            found.setdefault(source, []).append(x)
        assert len(found) == 40 and all(len(v) == 2 for v in found.values())
        return {source: torch.stack(pair) for source, pair in sorted(found.items())}

    one, next_epoch, again = views(0), views(1), views(0)
    for source, pair in one.items():
        assert not torch.equal(pair[0], pair[1]) and torch.equal(pair, again[source])
        assert not torch.equal(pair, next_epoch[source])


def test_where_bytes_and_floats_meet_255_is_1():
    levels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    floats = Sample(torch.tensor([0.0, 0.2, 1.0]), "b")
    assert stack([Sample(levels, "a"), floats])[0].tolist() == torch.tensor([[0, 0.2, 1]] * 2).tolist()
    assert stack([Sample(levels, "a")] * 2)[0].dtype == torch.uint8


def test_a_spacing_that_some_samples_of_a_batch_have_is_a_mistake_of_the_reader():
    x = torch.zeros(1, 2, 2)
    assert stack([Sample(x, "a", spacing=(1.0, 2.0))] * 2)[1].tolist() == [[1.0, 2.0]] * 2
    with pytest.raises(RunError, match="'spacing' for 1 of 2 samples"):
        stack([Sample(x, "a", spacing=(1.0, 2.0)), Sample(x, "b")])


def test_the_share_of_a_patch_that_counts_is_of_its_own_pixels():
    valid = torch.zeros(1, 4, 6, dtype=torch.bool)
    valid[0, 0, 0] = valid[0, 1, 3] = valid[0, 1, 4] = True
    valid[0, 2:, 3:] = True
    share = valid_share(Sample(torch.zeros(2, 4, 6), "a", valid), (2, 3))
    torch.testing.assert_close(share, torch.tensor([[1 / 6, 2 / 6], [0.0, 1.0]]))
    assert valid_share(Sample(torch.zeros(2, 4, 6), "a"), (2, 3)) is None
