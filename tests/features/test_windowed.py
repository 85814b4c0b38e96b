"""Features of all of a sample: the same for any order of its axes and any number at a time, with their places."""

from itertools import permutations, product

import av
import nibabel as nib
import numpy as np
import pytest
import torch
from features.untrained import untrained
from PIL import Image
from safetensors.numpy import load_file

from mae_ext.errors import UserError
from mae_ext.features.embed import embed
from mae_ext.features.sharing import Opened
from mae_ext.features.windowed import Windows, pooled
from mae_ext.probing.spec import ProbeSpec


def scan(path, shape=(20, 26, 23), affine=None, seed=0):
    values = np.random.default_rng(seed).integers(0, 900, shape, dtype=np.int16)
    nib.save(nib.Nifti1Image(values, np.diag([1.5, 1, 2, 1]) if affine is None else affine), path)
    return path


def film(path, frames=25, side=16, still=()):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width = stream.height = side
        stream.pix_fmt = "bgr0"
        for n in range(frames):
            shown = np.random.default_rng(0 if n in still else n).integers(0, 255, (side, side, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, "rgb24")))
        container.mux(stream.encode())
    return path


def test_pooled_features_are_the_same_for_all_48_orders_of_the_axes_of_a_scan(tmp_path):
    image = nib.load(scan(tmp_path / "a.nii"))
    folder = tmp_path / "orders"
    folder.mkdir()
    for order, flips in product(permutations(range(3)), product((1, -1), repeat=3)):
        turned = image.as_reoriented(np.array(list(zip(order, flips, strict=True))))
        nib.save(turned, folder / f"{''.join(nib.aff2axcodes(turned.affine))}.nii")
    rows = untrained("volume").features(str(folder), Windows(0.5, "weighted")).features
    assert len(rows) == 48
    assert np.ptp(rows, axis=0).max() < 1e-5 and np.abs(rows).max() > 0.1


def test_any_number_of_windows_at_a_time_gives_the_same_features_but_for_rounding(tmp_path):
    scan(tmp_path / "a.nii")
    encoder = untrained("volume")
    one, several = (encoder.features(str(tmp_path), Windows(0.5, None, batch=n)).features for n in (1, 5))
    assert len(one) == 12
    np.testing.assert_allclose(one["features"], several["features"], atol=2e-6)
    again = encoder.features(str(tmp_path), Windows(0.5, None, batch=5)).features
    np.testing.assert_array_equal(several["features"], again["features"])


def test_a_window_s_place_is_in_mm_of_the_patient_and_its_edges_are_in_stored_voxels(tmp_path):
    affine = np.array([[0, -1.5, 0, 40], [1, 0, 0, -3], [0, 0, 2.5, 7], [0, 0, 0, 1.0]])
    scan(tmp_path / "a.nii", (20, 26, 23), affine)
    out = embed(Opened("none", untrained("volume")), str(tmp_path), tmp_path / "w.safetensors", Windows(0.0, None))
    table = load_file(out)
    assert table["features"].shape == (8, 24) and len(out.with_suffix(".jsonl").read_text().splitlines()) == 8
    d, h, w = table["stop"][-1]  # up, forward (the file's first axis), right (its second, backwards)
    assert (d, h, w) == (23, 20, 26)
    corner = table["start"][-1] + 7.5  # the middle, in voxels whose first has its middle at 0
    expected = affine @ [corner[1], 25 - corner[2], corner[0], 1]
    np.testing.assert_allclose(table["place"][-1], expected[:3])
    np.testing.assert_allclose(table["weight"], 1)


def test_windows_of_a_film_cover_its_frames_and_say_their_seconds_and_how_much_moves(tmp_path):
    film(tmp_path / "a.mkv", still=range(12))
    encoder = untrained("video")
    rows = encoder.features(str(tmp_path), Windows(0.0, None)).features
    np.testing.assert_allclose(rows["place"], [[0, 0.6], [0.8, 1.4], [1.6, 2.2], [1.8, 2.4]], atol=1e-6)
    assert rows["weight"][0] == 0 and rows["weight"][2:].min() > 0.2
    weighted = encoder.features(str(tmp_path), Windows(0.0, "weighted")).features[0]
    np.testing.assert_allclose(weighted, rows["weight"] @ rows["features"] / rows["weight"].sum(), atol=1e-6)


def test_windows_become_one_by_mean_max_or_weight_and_by_the_mean_where_nothing_counts():
    rows, weight = np.array([[1.0, 5], [3, 1]], np.float32), np.array([1.0, 3])
    assert pooled(rows, weight, "mean").tolist() == [2, 3]
    assert pooled(rows, weight, "max").tolist() == [3, 5]
    assert pooled(rows, weight, "weighted").tolist() == [2.5, 2]
    assert pooled(rows, 0 * weight, "weighted").tolist() == [2, 3]


def test_a_sample_that_cannot_be_read_is_left_out_and_windows_know_their_sample(tmp_path):
    for name, seed in (("a", 1), ("c", 2)):
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(
            tmp_path / f"{name}.png"
        )
    (tmp_path / "b.png").write_bytes(b"no picture")
    seen = untrained("image").features(str(tmp_path), Windows(0.0, None))
    assert [b["path"][-5:] for b in seen.bad] == ["b.png"]
    assert seen.features["sample"].tolist() == [0] * 4 + [1] * 4
    np.testing.assert_allclose(seen.features["place"][:4], [[8, 8], [8, 22], [12, 8], [12, 22]])


def test_windows_that_do_not_fit_into_the_device_s_memory_are_tried_again_with_half_of_them(tmp_path, capsys):
    scan(tmp_path / "a.nii")
    encoder = untrained("volume")

    def crowded(samples):
        if len(samples) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encoder.pooled(samples)

    seeing = encoder.seeing(Windows(0.5, batch=8), crowded)
    rows = seeing.records(str(tmp_path / "a.nii"))["features"]
    np.testing.assert_allclose(
        rows, encoder.seeing(Windows(0.5)).records(str(tmp_path / "a.nii"))["features"], atol=2e-6
    )
    assert seeing.at_once == 2 and "2 windows at a time from here on" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [{"overlap": 1.0}, {"overlap": float("nan")}, {"pool": "median"}, {"batch": 0}])
def test_what_windows_cannot_be_is_said(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Windows(**wrong)


def test_a_probe_needs_windows_that_become_one_feature():
    with pytest.raises(UserError, match="one feature a sample"):
        ProbeSpec("a", "b", pool=Windows(pool=None))
