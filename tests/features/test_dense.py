"""Maps of features lie where the sample lies."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from features.test_windowed import film
from features.untrained import untrained
from PIL import Image

from mae_ext.errors import UserError
from mae_ext.features.dense import embed_dense
from mae_ext.features.windowed import Windows


def oblique(path, lean=0.0):
    """A dark scan, axes turned, mirrored and in another order, with a bright cube of 12 voxels in it."""
    chance = np.random.default_rng(0)
    turned = np.linalg.qr(np.eye(3) + 0.2 * chance.normal(size=(3, 3)))[0]
    turned *= np.sign(np.diag(turned))
    affine = np.eye(4)
    affine[:3, :3] = (turned @ np.array([[1, 0, lean], [0, 1, 0], [0, 0, 1]]))[:, [2, 0, 1]] * [1.5, -1.0, 2.0]
    affine[:3, 3] = [-30, 12, 7]
    values = chance.integers(0, 20, (45, 37, 41), dtype=np.int16)
    values[28:40, 4:16, 9:21] = 1000
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def brightest(path):
    """(3,) mm: the middle of the token that differs most from the rest of a map of one component."""
    image = nib.load(path)
    values = image.get_fdata()
    at = np.unravel_index(np.abs(values - np.median(values)).argmax(), values.shape)
    return (image.affine @ [*at, 1])[:3]


@pytest.mark.parametrize("reader", [{}, {"spacing": [1.2, 1.5, 1.0]}])
@pytest.mark.parametrize("lean", [0.0, 0.2])
def test_a_bright_cube_lands_on_its_own_voxels_in_the_map_of_an_oblique_scan(tmp_path, reader, lean):
    source = oblique(tmp_path / "a.nii", lean)
    (path,) = embed_dense(untrained("volume", **reader), [str(source)], tmp_path / "maps", Windows(0.5), components=1)
    voxels = np.linalg.inv(nib.load(source).affine)
    place = (voxels @ [*brightest(path), 1])[:3]
    half = np.abs(voxels @ nib.load(path).affine)[:3, :3].sum(1) / 2  # a token, which is all that is known of a place
    assert (place > np.array([28, 4, 9]) - 0.5 - half).all() and (place < np.array([40, 16, 21]) - 0.5 + half).all()
    assert nib.aff2axcodes(nib.load(path).affine) == nib.aff2axcodes(nib.load(source).affine)
    assert nib.load(path).shape == nib.load(path).shape[:3]


def test_a_map_has_a_volume_for_each_number_and_covers_the_scan_edge_to_edge(tmp_path):
    source = oblique(tmp_path / "a.nii")
    (path,) = embed_dense(untrained("volume"), [str(source)], tmp_path / "maps", Windows(0.25))
    image, scan = nib.load(path), nib.load(source)
    assert image.shape == (6, 5, 6, 24)
    first = np.linalg.inv(scan.affine) @ image.affine @ [-0.5, -0.5, -0.5, 1]
    last = np.linalg.inv(scan.affine) @ image.affine @ [*(n - 0.5 for n in image.shape[:3]), 1]
    low, high = np.minimum(first, last)[:3], np.maximum(first, last)[:3]
    assert (low <= -0.5 + 1e-4).all() and (high >= np.array(scan.shape) - 0.5 - 1e-4).all()
    (line,) = map(json.loads, (tmp_path / "maps" / "maps.jsonl").read_text().splitlines())
    assert line["file"] == "a.nii.gz" and line["windows"] == 100 and line["halo"] == [4, 4, 4]


def test_the_same_command_again_leaves_maps_as_they_are_and_other_settings_need_another_folder(tmp_path):
    source, encoder = oblique(tmp_path / "a.nii"), untrained("volume")
    (path,) = embed_dense(encoder, [str(source)], tmp_path / "maps", Windows(0.0), 2)
    before = path.stat().st_mtime_ns
    assert embed_dense(encoder, [str(source)], tmp_path / "maps", Windows(0.0), 2) == [path]
    assert path.stat().st_mtime_ns == before
    with pytest.raises(UserError, match="asked otherwise; name another folder"):
        embed_dense(encoder, [str(source)], tmp_path / "maps", Windows(0.5), 2)


def test_components_of_another_model_that_was_stopped_before_its_first_map_are_not_used(tmp_path, monkeypatch):
    source, kept = str(oblique(tmp_path / "a.nii")), tmp_path / "maps" / "components.npz"
    with monkeypatch.context() as stopped:
        stopped.setattr("mae_ext.features.dense._map", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            embed_dense(untrained("volume"), [source], tmp_path / "maps", Windows(0.0), 2)
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
    other = untrained("volume")
    with torch.no_grad():
        next(other.model.parameters()).add_(1)
    with pytest.raises(UserError, match=r"components\.npz: holds components of another model"):
        embed_dense(other, [source], tmp_path / "maps", Windows(0.0), 2)
    assert len(embed_dense(untrained("volume"), [source], tmp_path / "maps", Windows(0.0), 2)) == 1


def test_a_sample_that_has_the_name_of_the_components_is_refused_before_anything_is_written(tmp_path):
    Image.fromarray(np.zeros((40, 64, 3), np.uint8)).save(tmp_path / "components.png")
    with pytest.raises(UserError, match="rename it"):
        embed_dense(untrained("image"), [str(tmp_path / "components.png")], tmp_path / "maps", Windows(), 2)
    assert not (tmp_path / "maps").exists()


def test_a_film_s_map_has_the_seconds_of_its_tokens(tmp_path):
    film(tmp_path / "a.mkv", still=range(12))
    (path,) = embed_dense(untrained("video"), [str(tmp_path / "a.mkv")], tmp_path / "maps", Windows(0.5))
    with np.load(path) as kept:
        np.testing.assert_allclose(kept["seconds"], [0.1, 0.5, 0.9, 1.3, 1.7, 2.1, 2.4], atol=1e-6)
        assert kept["features"].shape == (7, 2, 2, 24)
        change = np.abs(np.diff(kept["features"], axis=0)).mean((1, 2, 3))
    assert change[2:].min() > 5 * change[:2].max()  # still until 1.2 s: the first three tokens see the same


def test_a_picture_s_map_says_where_in_its_pixels_the_tokens_lie(tmp_path):
    pixels, maps = np.zeros((40, 64, 3), np.uint8), []
    for name in ("dark", "spot"):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        (path,) = embed_dense(untrained("image"), [str(tmp_path / f"{name}.png")], tmp_path / name, Windows(0.5))
        maps.append(dict(np.load(path)))
        pixels[8:16, 48:56] = 255
    away = np.abs(maps[1]["features"] - maps[0]["features"]).sum(-1)
    at = np.unravel_index(away.argmax(), away.shape)
    assert (maps[1]["first"] + maps[1]["step"] * at).tolist() == [11.5, 51.5]
    assert maps[1]["features"].shape == (5, 8, 24)


@pytest.mark.slow
def test_simpleitk_finds_the_bright_cube_where_the_map_says(tmp_path):
    sitk = pytest.importorskip("SimpleITK", reason="pip install 'mae-ext[dev]'")
    source = oblique(tmp_path / "a.nii")
    (path,) = embed_dense(untrained("volume"), [str(source)], tmp_path / "maps", Windows(0.5), components=1)
    scan, tokens = (sitk.ReadImage(str(file)) for file in (source, path))
    over = sitk.GetArrayFromImage(sitk.Resample(tokens, scan, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0))
    away = abs(over - np.median(over))
    hot, cube = away > 0.6 * away.max(), sitk.GetArrayFromImage(scan) > 500
    off, covered = np.argwhere(hot).mean(0) - np.argwhere(cube).mean(0), (hot & cube).sum() / cube.sum()
    assert max(map(abs, off)) < 4 and covered > 0.5
