"""scripts/studies/volume_study.py: the baselines are what they say, and labels go the way of their scans."""

import nibabel as nib
import numpy as np
import pytest
import torch
import volume_study as study

from mae_ext.config import parse_config
from mae_ext.features.encoder import FrozenEncoder
from mae_ext.model.mae import MAE
from mae_ext.rng import rng


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Smooth scans of odd sizes and axis orders; a voxel is labelled (1 or 2) where the scan is bright."""
    root = tmp_path_factory.mktemp("scans")
    draws = np.random.default_rng(0)
    for part in ("images", "labels"):
        (root / part).mkdir()
    for i in range(12):
        x = torch.from_numpy(draws.normal(size=(1, 1, 5, 6, 5))).float()
        x = torch.nn.functional.interpolate(x, size=(17, 21 + i % 3, 15), mode="trilinear")[0, 0].numpy()
        y = (x > 0.5).astype(np.int16) + (x > 0.9)
        code = [("R", "A", "S"), ("L", "P", "S"), ("S", "R", "P")][i % 3]
        turn = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(code)
        )
        for part, values in (("images", x), ("labels", y.astype(np.int16))):
            nib.save(nib.Nifti1Image(values, np.eye(4)).as_reoriented(turn), root / part / f"{i:02}.nii.gz")
    return root


@pytest.fixture(scope="module")
def encoder(folder):
    config = parse_config(
        {
            "modalities": {
                "volume": {
                    "size": [16, 16, 16], "patch": [4, 4, 4], "channels": 1, "batch": 2,
                    "target": {"name": "pixel", "normalize": "none"},
                    "data": {
                        "statistics": "none", "augment": {"fixed": [0, 1, 2], "flip": []},
                        "reader": {"name": "volume", "intensity": "none"},
                    },
                }
            },
            "model": {"width": 24, "depth": 1, "heads": 2, "decoder": {"width": 24, "depth": 1, "heads": 2}},
            "train": {"steps": 1},
        }
    )  # fmt: skip
    return FrozenEncoder(MAE.from_config(config).eval(), config, "volume", 0, folder)


@pytest.fixture(scope="module")
def scans(encoder, folder):
    study.make_split(str(folder / "images"), folder / "train.txt", folder / "test.txt")
    return [study.read(encoder, str(folder / f"{part}.txt"), str(folder / "labels")) for part in ("train", "test")]


def test_the_split_is_a_partition_and_the_same_every_time(folder, scans):
    lists = [(folder / f"{part}.txt").read_text().split() for part in ("train", "test")]
    assert [len(names) for names in lists] == [10, 2] and len(set(lists[0] + lists[1])) == 12
    before = (folder / "test.txt").read_bytes()
    study.make_split(str(folder / "images"), folder / "train.txt", folder / "test.txt")
    assert (folder / "test.txt").read_bytes() == before


def test_labels_lie_where_their_scan_says_in_every_axis_order(scans):
    """Scan and label map went through different readers; the label is a function of the scan's own voxels."""
    for part in scans:
        bright = study.patchify(((part.x > 0.5) & part.valid).float(), (4, 4, 4)).mean(-1)
        assert torch.allclose(part.share, bright) and 0 < part.share.mean() < 1


def test_labels_of_another_extent_are_refused(encoder, folder, tmp_path):
    name = (folder / "test.txt").read_text().split()[0].rpartition("/")[2]
    values = np.asarray(nib.load(folder / "labels" / name).dataobj)
    nib.save(nib.Nifti1Image(values[:9, :9, :9], nib.load(folder / "labels" / name).affine), tmp_path / name)
    (tmp_path / "one.txt").write_text(str(folder / "images" / name))
    with pytest.raises(SystemExit, match="another voxel size or extent"):
        study.read(encoder, str(tmp_path / "one.txt"), str(tmp_path))


def test_interpolations_leave_known_voxels_alone_and_reproduce_what_they_are_exact_for():
    known = torch.rand(2, 1, 4, 4, 4, generator=rng(0, "known")) < 0.4
    known = known.repeat_interleave(3, 2).repeat_interleave(3, 3).repeat_interleave(3, 4)
    x = torch.randn(2, 1, 12, 12, 12, generator=rng(0, "x"))
    for fill in (study.harmonic, study.linear):
        filled = fill(x, known)
        assert torch.equal(filled[known], x[known])
        assert all(row.min() >= seen.min() and row.max() <= seen.max() for row, seen in zip(filled, x, strict=True))
    flat = torch.full_like(x, 3.0)
    assert torch.allclose(study.harmonic(flat, known), flat)
    ramp = torch.arange(12.0).view(1, 1, 12, 1, 1).expand_as(x)
    between = torch.ones_like(known)
    between[:, :, 3:9] = False
    for fill in (study.harmonic, study.linear):
        assert torch.allclose(fill(ramp.where(between, torch.tensor(99.0)), between), ramp, atol=2e-2)


def test_hidden_voxels_reach_no_baseline(encoder, scans):
    train, test = scans
    found = study.hidden_error(encoder, train, test)
    assert set(found) == {
        "model", "linear", "harmonic", "visible mean", "mean training scan", "model to interpolation"
    }  # fmt: skip
    assert min(found["linear"], found["harmonic"]) < found["visible mean"]
    assert all(np.isfinite(value) for value in found.values())


def test_a_ridge_finds_what_is_linear_and_nothing_in_noise():
    x, x_test = (torch.randn(n, 30, 8, generator=rng(0, "ridge", n)) for n in (40, 20))
    weight = torch.randn(8, generator=rng(0, "weight"))
    assert study.ridge(x, x @ weight + 1, x_test, x_test @ weight + 1) > 0.999
    noise, noise_test = (torch.randn(n, 30, generator=rng(0, "noise", n)) for n in (40, 20))
    assert study.ridge(x, noise, x_test, noise_test) < 0.05


def test_shifted_labels_are_harder_to_read_from_a_token(encoder, scans):
    found = study.label_share(encoder, *scans)
    assert found["pretrained"] > 0.5 and max(found["shifted"].values()) < found["pretrained"]
    assert set(found) == {"pretrained", "random", "voxels", "voxels and place", "shifted"}


def test_runs_are_summarised_number_by_number():
    rows = [{"a": {"b": 1.0}, "c": 2}, {"a": {"b": 3.0}, "c": 2}]
    assert study.over(study.statistics.mean, rows) == {"a": {"b": 2.0}, "c": 2}
