"""What is cached of a scan gives the bits of the scan, and is not used for another."""

import nibabel as nib
import numpy as np
import pytest
from data.volume.saved_scans import FIXED, middle, save

from mae_ext.data.crops import crop_sampler
from mae_ext.data.sample import Crop
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.rng import rng

OPTIONS = {"spacing": [1.5, 1.2, 1.0], "intensity": {"name": "zscore", "clip": 4}, "body": "otsu", "min_body": 0.2}


def test_the_cache_gives_the_same_bits_and_does_not_read_the_scan_again(head, tmp_path, monkeypatch):
    path, _ = head
    size = (10, 14, 44)  # wider than the scan: padding too
    crops = [crop_sampler(FIXED, size, rng(0, i)) for i in range(5)]
    plain = VolumeReader(size, **OPTIONS).read(path, crops)
    cached = VolumeReader(size, **OPTIONS, cache=str(tmp_path / "cache"))
    first = cached.read(path, crops)
    again = "mae_ext.data.volume.formats.known.fetch"
    monkeypatch.setattr(again, lambda *_: pytest.fail("the scan was read again"))
    second = cached.read(path, crops)
    for a, b, c in zip(plain, first, second, strict=True):
        assert a.x.equal(b.x) and a.x.equal(c.x)
        assert a.valid.equal(b.valid) and a.valid.equal(c.valid)
        assert a.spacing == pytest.approx(b.spacing) and b.spacing == c.spacing


def test_padding_of_several_channels_is_each_ones_darkest_from_the_scan_and_from_the_cache(tmp_path):
    chance = np.random.default_rng(0)
    voxels = np.stack([chance.integers(5, 90, (4, 6, 8)), chance.integers(300, 900, (4, 6, 8))], -1).astype(np.int16)
    path, options = save(tmp_path / "a.nii", voxels), {"channels": 2, "channel_axis": 3, "intensity": "zscore"}
    darkest = [(float(v.min()) - v.mean()) / v.std() for v in (voxels[..., 0], voxels[..., 1])]
    for more in ({}, {"cache": str(tmp_path / "cache")}, {"cache": str(tmp_path / "cache")}):
        (sample,) = VolumeReader((8, 6, 8), **options, **more).read(path, [middle((8, 6, 8))])
        assert sample.x[:, 0, 0, 0].tolist() == pytest.approx(darkest, abs=1e-5)
        assert all((sample.x[c, 6:] == sample.x[c, 0, 0, 0]).all() for c in (0, 1)) and not sample.valid[0, 6:].any()


def test_a_whole_scan_made_in_many_blocks_is_the_same_to_the_bit(tmp_path, monkeypatch):
    voxels = np.random.default_rng(0).normal(0, 500, (19, 23, 17)).astype(np.float32)
    path, size = save(tmp_path / "a.nii", voxels), (21, 30, 25)
    reader = VolumeReader(size, spacing=[0.8, 0.75, 0.7], body=-400)
    box = Crop((-2, 0, 3), (21, 29, 24), (False, True, False))
    (once,) = reader.read(path, [lambda extent: box])
    for block in (1, 700, 3000, 10_000):
        monkeypatch.setattr("mae_ext.data.volume.crops.BLOCK", block)
        (again,) = reader.read(path, [lambda extent: box])
        assert again.x.equal(once.x) and again.valid.equal(once.valid)


def test_the_cache_is_not_stale_when_the_scan_or_the_rule_changes(head, tmp_path):
    path, _ = head
    size, folder = (8, 8, 8), str(tmp_path / "cache")

    def mean(**options):
        return float(VolumeReader(size, cache=folder, **options).read(path, [middle(size)])[0].x.mean())

    raw = mean(intensity="none")
    assert mean(intensity={"name": "window", "windows": [[-1000, 3000]]}) == pytest.approx((raw + 1000) / 4000)
    image = nib.load(path)
    nib.Nifti1Image(image.get_fdata(dtype=np.float32) + 500, image.affine).to_filename(path)
    assert mean(intensity="none") == pytest.approx(raw + 500, rel=1e-4)
