"""The volume reader: crops, intensities and bodies, on scans made here and on real ones where they are."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from data.volume.saved_scans import FIXED, middle, save

from mae_ext.data.crops import crop_sampler
from mae_ext.data.sample import Crop
from mae_ext.data.sources.table import list_items
from mae_ext.data.volume.foreground import otsu, silhouette
from mae_ext.data.volume.intensity import build_intensity
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import BadSample
from mae_ext.rng import rng

SHARED = Path(__file__).parents[4] / "shared" / "data" / "volume"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data")


def test_many_crops_come_from_one_reading_and_each_is_a_box_of_the_scan(head, monkeypatch):
    path, _ = head
    opened = []
    monkeypatch.setattr(
        "mae_ext.data.volume.formats.known.fetch", lambda a, n: opened.append(a) or Path(a).read_bytes()
    )
    reader = VolumeReader((8, 12, 10), intensity="none")
    crops = [crop_sampler(FIXED, reader.size, rng(0, i)) for i in range(6)]
    samples = reader.read(path, crops)
    assert opened == [path]
    whole = nib.load(path).get_fdata(dtype=np.float32).T
    for crop, sample in zip(crops, samples, strict=True):
        near = tuple(slice(a, b) for a, b in zip(crop(whole.shape).start, crop(whole.shape).stop, strict=True))
        np.testing.assert_array_equal(sample.x[0].numpy(), whole[near])
        assert sample.spacing == (2.0, 1.0, 1.0)
    assert len({crop(whole.shape).start for crop in crops}) > 3


def test_flips_turn_voxels_and_valid_alike(head):
    path, _ = head
    reader = VolumeReader((24, 40, 36), body="otsu")
    box = Crop((0, 0, 0), (24, 40, 36), (False, True, True))
    plain, turned = reader.read(path, [middle(reader.size), lambda extent: box])
    assert turned.x.flip(2, 3).equal(plain.x)
    assert turned.valid.flip(2, 3).equal(plain.valid)


def test_a_scan_smaller_than_the_crop_is_padded_evenly_with_its_darkest_value(tmp_path):
    voxels = np.random.default_rng(0).integers(5, 90, (4, 6, 8)).astype(np.int16)
    (sample,) = VolumeReader((8, 6, 4), intensity="none").read(save(tmp_path / "a.nii", voxels), [middle((8, 6, 4))])
    np.testing.assert_array_equal(sample.x[0, 2:6].numpy(), voxels[:, :, 2:6])
    assert sample.valid[0, 2:6].all() and not sample.valid[0, :2].any() and not sample.valid[0, 6:].any()
    assert (sample.x[0, :2] == voxels.min()).all()


def test_the_spacing_of_the_config_is_that_of_the_samples(head):
    path, _ = head
    (sample,) = VolumeReader((16, 16, 16), spacing=[1.0, 1.0, 1.0]).read(path, [middle((16, 16, 16))])
    assert sample.spacing == (1.0, 1.0, 1.0)
    (native,) = VolumeReader((16, 16, 16)).read(path, [middle((16, 16, 16))])
    assert native.spacing == (2.0, 1.0, 1.0)


def test_voxels_of_a_resized_crop_are_as_large_as_what_they_stand_for(head):
    """A box of 12 x 40 x 9 voxels becomes 16 x 16 x 16."""
    path, _ = head
    box = Crop((4, 0, 5), (16, 40, 14), (False, False, False))
    for spacing, wanted in ((None, (1.5, 2.5, 9 / 16)), ([4.0, 0.5, 1.0], (3.0, 1.25, 9 / 16))):
        (sample,) = VolumeReader((16, 16, 16), spacing=spacing).read(path, [lambda extent: box])
        assert sample.spacing == pytest.approx(wanted)


def test_windows_of_one_scan_become_channels(tmp_path):
    hu = np.array([-1000, -175, -50, 37.5, 250, 900] * 4, dtype=np.float32).reshape(2, 3, 4)
    path = save(tmp_path / "ct.nii", hu)
    spec = {"name": "window", "windows": [[-175, 250], [-1000, 1000]]}
    (sample,) = VolumeReader((2, 3, 4), channels=2, intensity=spec).read(path, [middle((2, 3, 4))])
    # By hand: (v + 175) / 425 and (v + 1000) / 2000, clipped.
    expected = {-1000: (0, 0), -175: (0, 0.4125), -50: (125 / 425, 0.475), 37.5: (0.5, 0.51875), 250: (1, 0.625)}
    for value, (soft, wide) in expected.items():
        at = torch.from_numpy(hu == value)
        torch.testing.assert_close(sample.x[0][at], torch.full((4,), soft, dtype=torch.float32))
        torch.testing.assert_close(sample.x[1][at], torch.full((4,), wide, dtype=torch.float32))


def test_zscore_and_percentile_are_of_the_body_alone(head):
    path, _ = head
    whole = middle((24, 40, 36))
    (sample,) = VolumeReader((24, 40, 36), body="otsu").read(path, [whole])
    inside = sample.x[0][sample.valid[0]]
    assert abs(inside.mean()) < 1e-3 and abs(inside.std() - 1) < 1e-3
    (sample,) = VolumeReader((24, 40, 36), body="otsu", intensity="percentile").read(path, [whole])
    inside = sample.x[0][sample.valid[0]]
    assert sample.x.min() == 0 and sample.x.max() == 1
    assert (inside < 1e-6).float().mean() == pytest.approx(0.005, abs=0.002)


def test_channels_are_scaled_each_by_itself(tmp_path):
    chance = np.random.default_rng(0)
    voxels = np.stack([chance.normal(50, 5, (6, 7, 8)), chance.normal(-3000, 700, (6, 7, 8))], -1).astype(np.float32)
    path = save(tmp_path / "a.nii", voxels)
    with pytest.raises(BadSample, match="channel_axis"):
        VolumeReader((6, 7, 8)).read(path, [middle((6, 7, 8))])
    (sample,) = VolumeReader((6, 7, 8), channels=2, channel_axis=-1).read(path, [middle((6, 7, 8))])
    assert sample.x.mean((1, 2, 3)).abs().max() < 1e-3
    assert (sample.x.std((1, 2, 3)) - 1).abs().max() < 0.01
    with pytest.raises(BadSample) as found:
        VolumeReader((6, 7, 8), channels=4, channel_axis=-1).read(path, [middle((6, 7, 8))])
    assert found.value.kind == "channels"


def test_air_seen_from_outside_is_not_body_and_air_inside_is(head):
    path, distance = head
    (sample,) = VolumeReader((24, 40, 36), body=500).read(path, [middle((24, 40, 36))])
    valid = sample.valid[0].numpy()
    assert valid[distance < 13].all()
    assert not valid[distance > 16].any()


def test_specks_of_noise_hide_nothing_and_a_face_cut_away_is_outside():
    above = np.zeros((1, 20, 20), bool)
    above[0, 5:15, 5:15] = True
    above[0, 10:15, 8:12] = False  # open to the front
    above[0, 2, 3] = above[0, 17, 16] = True
    inside = silhouette(above)[0]
    assert not inside[2, 3] and not inside[17].any()
    assert not inside[10:15, 8:12].any() and inside[5:10, 5:15].all()


def test_otsu_separates_two_humps():
    chance = np.random.default_rng(0)
    values = np.concatenate([chance.normal(10, 3, 9000), chance.normal(100, 20, 4000)]).astype(np.float32)
    assert 20 < otsu(values) < 60


def test_crops_hold_the_share_of_body_that_is_asked_for(tmp_path):
    voxels = np.random.default_rng(0).normal(0, 1, (16, 64, 64)).astype(np.float32)
    voxels[:, 40:60, 40:60] += 1000
    path = save(tmp_path / "corner.nii", voxels)
    size = (8, 16, 16)
    crops = [crop_sampler(FIXED, size, rng(0, i)) for i in range(40)]
    anywhere = VolumeReader(size, body=500).read(path, crops)
    chosen = VolumeReader(size, body=500, min_body=0.3).read(path, crops)
    shares = [np.mean([float(s.valid.float().mean()) for s in samples]) for samples in (anywhere, chosen)]
    assert shares[1] > 2 * shares[0]
    assert np.mean([s.valid.float().mean() >= 0.29 for s in chosen]) > 0.6  # of ten tries, one mostly has it
    again = VolumeReader(size, body=500, min_body=0.3).read(path, crops)
    assert all(a.x.equal(b.x) for a, b in zip(chosen, again, strict=True))


def test_where_no_box_holds_enough_body_the_fullest_is_taken_and_where_some_do_the_first(tmp_path):
    voxels = np.random.default_rng(0).normal(0, 1, (8, 40, 40)).astype(np.float32)
    voxels[:, 20:36, 20:36] += 1000
    path, size = save(tmp_path / "corner.nii", voxels), (8, 12, 12)

    def shares(boxes, **options):
        reader = VolumeReader(size, intensity="none", body=500, **options)
        return [float(sample.valid.float().mean()) for sample in reader.read(path, boxes)]

    differ = 0
    for seed in range(6):
        sampler = crop_sampler(FIXED, size, rng(seed))
        each = shares([lambda extent, box=box: box for box in sampler.alternatives((8, 40, 40))])
        assert shares([sampler], min_body=1.0) == [next((s for s in each if s == 1), max(each))]
        some = sorted(each)[-3]
        assert shares([sampler], min_body=some) == [next(s for s in each if s >= some)]
        differ += max(each) not in (each[0], each[-1])
    assert differ > 2


def test_a_scan_of_nothing_but_air_is_named(head):
    with pytest.raises(BadSample) as found:
        VolumeReader((8, 8, 8), body=5000).read(head[0], [middle((8, 8, 8))])
    assert found.value.kind == "no body"


@pytest.mark.parametrize("moments", [2, 3, 4, 7])
@pytest.mark.parametrize("kind", ["nifti", "array"])
def test_of_time_the_first_the_middle_or_the_mean_is_taken(tmp_path, kind, moments):
    """Of an even number of moments the later one in the middle. Time comes last in a NIfTI, and first in an array."""
    voxels = np.random.default_rng(0).integers(0, 99, (4, 5, 6, moments)).astype(np.int16)
    path = save(tmp_path / "a.nii", voxels)
    if kind == "array":
        np.savez(tmp_path / "a.npz", train_images=np.moveaxis(voxels, -1, 0)[None])
        path = f"{tmp_path}/a.npz::train_images::0"
    middle_one = {2: 1, 3: 1, 4: 2, 7: 3}[moments]
    for time, expected in (("first", voxels[..., 0]), ("middle", voxels[..., middle_one]), ("mean", voxels.mean(-1))):
        reader = VolumeReader((4, 5, 6), intensity="none", time_axis=3 if kind == "nifti" else 0, time=time)
        (sample,) = reader.read(path, [middle((4, 5, 6))])
        np.testing.assert_allclose(sample.x[0].numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("axes", [{}, {"channel_axis": 0, "channels": 2}, {"channel_axis": -1, "channels": 2}])
def test_the_spacing_of_arrays_is_along_d_h_and_w_whatever_other_axes_they_have(tmp_path, axes):
    rows = np.random.default_rng(0).integers(0, 255, (1, 4, 6, 8)).astype(np.uint8)
    stored = rows if not axes else np.stack([rows, 255 - rows], 1 if axes["channel_axis"] == 0 else -1)
    np.savez(tmp_path / "a.npz", train_images=stored)
    address, mm = f"{tmp_path}/a.npz::train_images::0", [3.0, 0.5, 2.0]
    (plain,) = VolumeReader((4, 6, 8), array_spacing=mm, intensity="none", **axes).read(address, [middle((4, 6, 8))])
    assert plain.spacing == tuple(mm)
    seen = []
    reader = VolumeReader((2, 2, 2), array_spacing=mm, spacing=[1.5, 1.0, 1.0], intensity="none", **axes)
    reader.read(address, [lambda extent: seen.append(extent) or Crop((0, 0, 0), extent, (False,) * 3)])
    assert seen == [(7, 4, 15)]  # (4 - 1) * 2 + 1, (6 - 1) / 2 + 1 and (8 - 1) * 2 + 1


@pytest.mark.parametrize("channel_axis", [None, 0, -1])
def test_rows_of_an_npz_are_volumes_in_our_own_order(tmp_path, channel_axis):
    rows = np.random.default_rng(0).integers(0, 255, (3, 4, 5, 6)).astype(np.uint8)
    stored = rows if channel_axis is None else np.stack([rows, 255 - rows], 1 if channel_axis == 0 else -1)
    np.savez(tmp_path / "a.npz", train_images=stored, train_labels=np.array([[0], [1], [0]]))
    reader = VolumeReader((4, 5, 6), 1 + (channel_axis is not None), intensity="none", channel_axis=channel_axis)
    items = list_items(str(tmp_path / "a.npz"), reader.suffixes)
    assert items.labels.tolist() == [0, 1, 0]
    (sample,) = reader.read(items.addresses[1], [middle((4, 5, 6))])
    np.testing.assert_array_equal(sample.x[0].numpy(), rows[1])
    assert sample.spacing == (1.0, 1.0, 1.0)
    if channel_axis is not None:
        np.testing.assert_array_equal(sample.x[1].numpy(), 255 - rows[1])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"size": (8, 8)}, "three axes"),
        ({"spacing": [1, 1]}, "spacing"),
        ({"spacing": [1, 1, -1]}, "spacing"),
        ({"intensity": "hounsfield"}, "hounsfield"),
        ({"intensity": {"name": "window"}}, "windows"),
        ({"intensity": {"name": "window", "windows": [[250, -175]]}}, "low < high"),
        ({"intensity": {"name": "window", "windows": [[0, 1], [0, 2]]}}, "2 windows"),
        ({"intensity": {"name": "percentile", "low": 99, "high": 1}}, "percentile"),
        ({"intensity": {"name": "zscore", "clip": -1}}, "clip"),
        ({"body": "skin"}, "skin"),
        ({"min_body": 0.5}, "min_body"),
        ({"min_body": 2, "body": 0}, "min_body"),
        ({"channel_axis": 3, "time_axis": 3}, "not both"),
        ({"time": "last"}, "last"),
    ],
    ids=str,
)
def test_arguments_that_cannot_be_are_refused_by_name(arguments, named):
    with pytest.raises(ValueError, match=named):
        VolumeReader(**{"size": (8, 8, 8)} | arguments)


def test_several_windows_need_one_stored_channel_and_one_window_serves_many():
    assert build_intensity({"name": "window", "windows": [[0, 1], [0, 2], [0, 3]]}).sources(3) == 1
    assert build_intensity({"name": "window", "windows": [[0, 1]]}).sources(4) == 4


@real
def test_all_48_orders_of_a_real_brain_give_one_tensor():
    size = (64, 64, 48)
    for options in ({}, {"spacing": [3.0, 2.0, 2.7], "body": "otsu"}):
        reader = VolumeReader(size, **options)
        found = [reader.read(str(f), [middle(size)])[0] for f in sorted((SHARED / "orientations48").glob("*.nii.gz"))]
        assert len(found) == 48
        assert all(s.x.equal(found[0].x) and s.valid.equal(found[0].valid) for s in found)
        assert all(s.spacing == pytest.approx(found[0].spacing) for s in found)


@real
def test_hounsfield_units_of_a_real_ct_are_those_of_nibabel_by_hand():
    path, size = SHARED / "ct_hounsfield" / "example_ct.nii.gz", (112, 101, 122)
    spec = {"name": "window", "windows": [[-160, 240], [-1350, 150], [-500, 1300]]}
    (sample,) = VolumeReader(size, channels=3, intensity=spec).read(str(path), [middle(size)])
    stored = np.asarray(nib.load(path).dataobj)
    for i, j, k in ((61, 50, 56), (30, 40, 20), (80, 60, 90), (0, 0, 0), (100, 50, 5)):
        hu = float(stored[i, j, k])
        for channel, (low, high) in enumerate(spec["windows"]):
            wanted = min(max((hu - low) / (high - low), 0), 1)
            assert sample.x[channel, k, j, i] == pytest.approx(wanted, abs=1e-6)


@real
def test_no_voxel_that_is_not_finite_reaches_the_model_from_files_that_hold_them():
    size, read, refused = (8, 24, 24), [], []
    reader = VolumeReader(size, body="otsu", time_axis=3, time="first", min_finite=0.5, spacing=[5.0, 1.0, 1.0])
    for path in sorted((SHARED / "spinal_cord").rglob("*.nii.gz")):
        try:
            (sample,) = reader.read(str(path), [middle(size)])
        except BadSample as error:
            refused.append(error.kind)
            continue
        read.append(path.name)
        assert sample.x.isfinite().all(), path
        assert sample.x.abs().max() < 1e3, path
    assert {"mtr.nii.gz", "fmri_tsnr.nii.gz"} <= set(read)
    assert len(read) > 50


def test_a_scan_inside_a_tar_shard_is_read_through_its_address(head, tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(head[0], "a/first.nii.gz")
    reader = VolumeReader((8, 8, 8))
    items = list_items(str(tmp_path / "shard.tar"), reader.suffixes)
    (sample,) = reader.read(items.addresses[0], [middle((8, 8, 8))])
    (same,) = reader.read(head[0], [middle((8, 8, 8))])
    assert sample.x.equal(same.x)


def test_the_doctor_describes_good_scans_and_names_what_is_wrong_with_bad_ones(head, tmp_path):
    from mae_ext.data.loading.doctor import inspect

    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(gzip.compress(gzip.decompress(Path(head[0]).read_bytes())[:5000]))
    (bad, good) = inspect([str(tmp_path)], "volume")
    assert (good.ok, good.description) == (True, "NIfTI-1 float32 36x40x24, 1 x 1 x 2 mm, RAS")
    assert (bad.ok, bad.kind) == (False, "truncated")
    assert Path(bad.path).name == "broken.nii.gz"


@pytest.mark.parametrize("body", ["otsu", "nonzero", None])
@pytest.mark.parametrize("share", [0.3, 0.001])
def test_a_binary_shape_is_0_and_1_by_percentiles_though_its_inside_is_one_value(tmp_path, body, share):
    side = round((share * 20**3) ** (1 / 3))
    shape = np.zeros((20, 20, 20), np.uint8)
    shape[2 : 2 + side, 3 : 3 + side, 4 : 4 + side] = 255
    path, size = save(tmp_path / "a.nii", shape.transpose(2, 1, 0)), (20, 20, 20)
    (sample,) = VolumeReader(size, intensity="percentile", body=body).read(path, [middle(size)])
    assert sorted(sample.x.unique().tolist()) == [0, 1] and sample.x.sum() == (shape > 0).sum()
