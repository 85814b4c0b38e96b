"""Volumes go through the same trunk, engine and pictures as images: nothing in between knows what they are."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from mae_ext.config import parse_config
from mae_ext.engine.train import train
from mae_ext.features.encoder import load_encoder
from mae_ext.report.pictures import reconstruct


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Eight balls in noise, thick slices and thin ones, one of them with an infinite voxel; one is no scan."""
    root = tmp_path_factory.mktemp("scans")
    chance = np.random.default_rng(0)
    for n in range(8):
        thick = 1 + 3 * (n % 2)
        depth = 40 // thick
        z, y, x = np.meshgrid(np.arange(depth) * thick - 20, np.arange(-20, 20), np.arange(-18, 18), indexing="ij")
        distance = np.sqrt(z**2 + y**2 + x**2)
        voxels = np.where(distance < 14, 400 + 10 * x, 10) + chance.normal(0, 5, distance.shape)
        if n == 3:
            voxels[depth // 2, 20, 18] = np.inf
        image = nib.Nifti1Image(voxels.T.astype(np.float32), np.diag([1, 1, thick, 1]))
        image.to_filename(root / f"{n}.nii.gz")
    (root / "8.nii.gz").write_bytes(b"not a scan")
    return root


def config(scans, **volume):
    reader = {"name": "volume", "body": "otsu", "intensity": "percentile", "min_body": 0.3}
    modality = {
        "size": [8, 32, 32],
        "patch": [2, 8, 8],
        "channels": 1,
        "batch": 4,
        "mask": {"name": "foreground", "ratio": 0.75},
        "position": {"name": "sincos", "unit": 8.0},
        "target": {"name": "pixel", "normalize": "layernorm", "floor": 0.05},
        "data": {
            "path": str(scans), "reader": reader, "repeats": 2, "max_bad_fraction": 0.2,
            "augment": {"fixed": [0, 1, 2], "flip": [2]},
        },
    }  # fmt: skip
    model = {"width": 24, "depth": 2, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}
    steps = {"steps": 30, "workers": 0, "lr": 3e-3, "lr_per": None, "precision": "fp32", "tensorboard": False}
    return parse_config({"modalities": {"volume": modality | volume}, "model": model, "train": steps})


@pytest.fixture(scope="module")
def run(scans, tmp_path_factory):
    return train(config(scans), tmp_path_factory.mktemp("run"))


def test_training_on_scans_of_mixed_spacing_lowers_the_loss_and_names_the_bad_file(run):
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 30 and np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3])
    bad = [json.loads(line) for line in (run / "bad_samples.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in bad} <= {"not a scan"}


def test_training_from_prepared_scans_is_the_same_run(scans, run, tmp_path):
    prepared = config(scans).modalities["volume"].data.reader.arguments | {
        "name": "volume",
        "cache": str(tmp_path / "c"),
    }
    data = config(scans).modalities["volume"].data.model_dump(mode="json") | {"reader": prepared}
    again = train(config(scans, data=data), tmp_path / "run")
    losses = [
        [json.loads(line)["loss"] for line in (r / "metrics.jsonl").read_text().splitlines()] for r in (run, again)
    ]
    assert losses[0] == losses[1]


def test_the_encoder_brings_windows_axes_and_spacing_along(scans, run):
    encoder = load_encoder(run)
    features = encoder.features(str(scans), max_bad_fraction=0.2)
    assert features.features.shape == (8, 24) and np.isfinite(features.features).all()
    assert [row["kind"] for row in features.bad] == ["not a scan"]
    # A scan stored with its axes turned is the same scan.
    image = nib.load(scans / "0.nii.gz")
    turned = scans.parent / "turned.nii.gz"
    image.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]])).to_filename(turned)
    same = encoder.features(str(turned)).features
    np.testing.assert_allclose(same[0], features.features[0], atol=1e-5)


def test_positions_in_millimetres_tell_thick_slices_from_thin(run):
    model = load_encoder(run).model
    x = torch.rand(1, 1, 8, 32, 32)
    thin, thick = (model.encode(x, spacing=torch.tensor([[mm, 1.0, 1.0]])) for mm in (1.0, 4.0))
    assert (thin - thick).abs().max() > 1e-3


def test_air_and_padding_carry_no_loss(run):
    """Changing what is not valid, under the mask, changes nothing."""
    model = load_encoder(run).model
    modality = model.modality()
    mask = modality.draw_mask([torch.Generator().manual_seed(0)])
    x, spacing = torch.rand(1, 1, 8, 32, 32), torch.ones(1, 3)
    valid = torch.ones(1, 1, 8, 32, 32, dtype=torch.bool)
    valid[..., 16:] = False
    hidden = torch.zeros(64, dtype=torch.bool)
    hidden[mask.pred[0]] = True
    token = torch.arange(64).view(4, 4, 4)[:, None, :, None, :, None].expand(4, 2, 4, 8, 4, 8).reshape(8, 32, 32)
    other = x.clone()
    # Whole patches only: inside of a patch, normalisation sees all its voxels.
    other[0, 0][hidden[token] & ~valid[0, 0]] = 5.0
    with torch.no_grad():
        losses = [float(model(v, mask, valid=valid, spacing=spacing)) for v in (x, other)]
        everywhere = [float(model(v, mask, spacing=spacing)) for v in (x, other)]
    assert losses[0] == losses[1]
    assert everywhere[0] != everywhere[1]


def test_pictures_show_three_planes(scans, run, tmp_path):
    written = reconstruct(run, [scans / "0.nii.gz", scans / "1.nii.gz"], tmp_path)
    assert [path.suffix for path in written] == [".png"] * 3
    with Image.open(written[0]) as thin, Image.open(written[1]) as thick:
        assert thick.height > thin.height  # slices of 4 mm are drawn four times as thick
