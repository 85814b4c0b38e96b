"""What of a scan is body and what is air is decided by its values, in a byte for each voxel."""

import tracemalloc

import nibabel as nib
import numpy as np
import pytest
from data.volume.placed_scans import nifti

from mae_ext.data.crops import center_sampler
from mae_ext.data.sample import whole
from mae_ext.data.volume.foreground import (
    _is_zero,
    body_mask,
    measured,
    otsu,
    silhouette,
    spread_over,
    survey,
    without_padding,
)
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import BadSample

SHAPE = (12, 11, 10)
BODY = np.zeros(SHAPE, bool)
BODY[3:9, 2:9, 1:9] = True
VALUES = np.where(BODY, np.random.default_rng(0).normal(400, 60, SHAPE), 0)


def valid(address, **options):
    reader = VolumeReader(SHAPE[::-1], intensity="none", body="nonzero", **options)
    return reader.read(str(address), [whole])[0].valid[0].numpy()


def scaled(kind):
    def write(path):
        image = nib.Nifti1Image(VALUES, np.eye(4))
        image.set_data_dtype(kind)
        image.to_filename(path)

    return write


def by_hand(kind, slope, inter):
    def write(path):
        data = ((VALUES - inter) / slope).round() if np.dtype(kind).kind in "iu" else (VALUES - inter) / slope
        nifti(path, data=data.astype(kind), fix=lambda h: h.set_slope_inter(slope, inter))

    return write


@pytest.mark.parametrize(
    "write",
    [
        *(scaled(kind) for kind in (np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float32)),
        by_hand(np.int16, 1, 1024), by_hand(np.int16, 1, -1024), by_hand(np.int16, -0.25, 100), by_hand(np.uint8, 3, 0),
        by_hand(np.float32, 1, 1024), by_hand(np.float64, 0.1, -102.4), by_hand(np.int16, 0.1, -102.4),
    ],
)  # fmt: skip
def test_nonzero_is_of_the_values_whatever_stands_for_them_in_the_file(tmp_path, write):
    write(tmp_path / "a.nii")
    np.testing.assert_array_equal(valid(tmp_path / "a.nii"), BODY.T)
    np.testing.assert_array_equal(valid(tmp_path / "a.nii", cache=str(tmp_path / "cache")), BODY.T)
    np.testing.assert_array_equal(valid(tmp_path / "a.nii", cache=str(tmp_path / "cache")), BODY.T)


def test_what_nobody_measured_is_not_valid_though_the_body_encloses_it(tmp_path):
    values, there = VALUES.astype(np.float32), BODY.copy()
    for hole in ((5, 4, 4), (6, 5, 5)):
        values[hole], there[hole] = np.nan, False
    nib.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / "a.nii")
    np.testing.assert_array_equal(valid(tmp_path / "a.nii", min_finite=0.9), there.T)


def test_nonzero_of_mgh_nrrd_and_rows_of_arrays(tmp_path):
    stored = VALUES.round().astype(np.int16)
    nib.MGHImage(stored, np.eye(4)).to_filename(tmp_path / "a.mgz")
    np.savez(tmp_path / "a.npz", train_images=stored.T[None])
    text = "NRRD0004\ntype: short\ndimension: 3\nspace: RAS\nsizes: 12 11 10\nendian: little\n"
    text += "space directions: (1,0,0) (0,1,0) (0,0,1)\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(text.encode() + stored.tobytes("F"))
    for name in ("a.mgz", "a.nrrd", "a.npz::train_images::0"):
        np.testing.assert_array_equal(valid(tmp_path / name), BODY.T)


def test_nonzero_of_several_channels_is_where_any_of_them_is_not_0(tmp_path):
    first, second = VALUES.copy(), VALUES.copy()
    first[:6], second[6:] = 0, 0
    image = nib.Nifti1Image(np.stack([first, second], -1), np.eye(4))
    image.set_data_dtype(np.int16)
    image.to_filename(tmp_path / "a.nii")
    reader = VolumeReader(SHAPE[::-1], 2, intensity="none", body="nonzero", channel_axis=3)
    np.testing.assert_array_equal(reader.read(str(tmp_path / "a.nii"), [whole])[0].valid[0].numpy(), BODY.T)


def test_an_offset_with_no_level_of_its_own_for_0_leaves_nothing_out():
    stored = np.arange(10, 10 + 5 * 6 * 7, dtype=np.int16).reshape(1, 5, 6, 7)
    everywhere = np.ones((5, 6, 7), bool)
    assert body_mask(stored, 1.0, 3.0, everywhere, "nonzero").all()
    values = np.full((1, 1, 6, 6), 0.3, np.float32)  # a float beside an intercept is near 0 only by rounding
    assert body_mask(values, 1.0, -0.2, np.ones((1, 6, 6), bool), "nonzero").all()


@pytest.mark.parametrize("slope", [2.0, -2.0, 0.1, 0.0625])
@pytest.mark.parametrize("offset", [-0.49, -0.3, 0.0, 0.2, 0.49])
@pytest.mark.parametrize("level", [-5, 0, 7])
def test_of_whole_numbers_the_level_nearest_to_zero_stands_for_it_and_its_neighbours_do_not(slope, offset, level):
    """value = (stored - level + offset) * slope, whose intercept is kept in float32 as files do."""
    stored = np.arange(-20, 21, dtype=np.int16)
    inter = float(np.float32((offset - level) * slope))
    assert stored[_is_zero(stored, float(np.float32(slope)), inter)].tolist() == [level]


def test_a_threshold_is_in_the_scans_units_and_strict_and_what_is_not_finite_is_air():
    stored = np.zeros((1, 2, 6, 6), np.int16)
    stored[0, :, 1:5, 1:5], stored[0, 1, 1:5, 4] = 301, 300
    everywhere = np.ones((2, 6, 6), bool)
    found = body_mask(stored, 2.0, -500.0, everywhere, 100.0)  # 301 is 102, and 300 is 100
    assert found[0].sum() == 16 and found[1].sum() == 12 and not found[1, :, 4].any()
    everywhere[0, 1, 1:5] = False
    assert body_mask(stored, 2.0, -500.0, everywhere, 100.0)[0].sum() == 12


def test_otsu_has_a_threshold_for_each_channel_and_leaves_out_what_is_not_usable():
    chance = np.random.default_rng(0)
    x = np.stack([chance.normal(0, 1, (8, 20, 20)), chance.normal(5000, 1, (8, 20, 20))]).astype(np.float32)
    x[0, :, 5:15, 5:15] += 100
    x[1, :, 8:18, 8:18] += 100
    x[1, 0, 0, 0] = np.inf
    found = body_mask(x, 1.0, 0.0, np.isfinite(x).all(0), "otsu")
    wanted = np.zeros((8, 20, 20), bool)
    wanted[:, 5:15, 5:15] = wanted[:, 8:18, 8:18] = True
    assert found[:, 5:15, 5:15].all() and found[:, 8:18, 8:18].all() and found.mean() < 0.6


def test_otsu_of_two_values_lies_between_them_and_a_bright_vessel_moves_nothing():
    values = np.array([10] * 500 + [110] * 500, np.float32)
    assert 10 < otsu(values) < 110
    with_vessel = np.concatenate([values, np.full(4, 1e6, np.float32)])
    assert otsu(with_vessel) == otsu(values)


@pytest.mark.parametrize("seed", range(5))
def test_otsu_is_the_upper_edge_of_the_bin_with_the_most_variance_between_the_parts(seed):
    chance = np.random.default_rng(seed)
    values = np.concatenate([chance.normal(10, 3, 900), chance.normal(60, 20, 400)]).astype(np.float32)
    kept = values[values <= np.percentile(values, 99.5)]
    counts, edges = np.histogram(kept, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    best = []
    for i in range(1, 256):
        low, high = counts[:i].sum(), counts[i:].sum()
        means = [(counts[a:b] * centres[a:b]).sum() / n for a, b, n in ((0, i, low), (i, 256, high)) if n]
        best.append(low * high * (means[0] - means[-1]) ** 2)
    assert otsu(values) == pytest.approx(edges[1 + int(np.argmax(best))])


def test_what_is_open_to_a_side_is_outside_though_solid_lies_above_and_below_it():
    above = np.zeros((1, 9, 9), bool)
    above[0, :3] = above[0, 6:] = True
    assert silhouette(above)[0].sum(1).tolist() == [9, 9, 9, 0, 0, 0, 9, 9, 9]
    assert silhouette(above.transpose(0, 2, 1))[0].sum(0).tolist() == [9, 9, 9, 0, 0, 0, 9, 9, 9]


@pytest.mark.parametrize("seed", range(20))
def test_a_silhouette_is_what_lies_between_solid_parts_in_both_directions(seed):
    """By its definition, voxel by voxel; solid is what belongs to some 2 x 2 square that is above."""
    chance = np.random.default_rng(seed)
    above = chance.random((2, int(chance.integers(2, 12)), int(chance.integers(2, 12)))) < chance.uniform(0.3, 0.9)
    solid = np.zeros_like(above)
    for z, y, x in np.ndindex(above.shape[0], above.shape[1] - 1, above.shape[2] - 1):
        if above[z, y : y + 2, x : x + 2].all():
            solid[z, y : y + 2, x : x + 2] = True
    wanted = np.zeros_like(above)
    for z, y, x in np.ndindex(above.shape):
        row, column = solid[z, y], solid[z, :, x]
        wanted[z, y, x] = row[: x + 1].any() and row[x:].any() and column[: y + 1].any() and column[y:].any()
    np.testing.assert_array_equal(silhouette(above), wanted)


def test_a_survey_gives_the_least_and_the_most_finite_value_of_each_channel_and_where_all_are_finite():
    x = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    x[0, 0, 0, 0], x[1, 2, 3, 4], x[1, 0, 0, 1] = -np.inf, np.nan, 2e12
    ends, good = survey("a", x, 2.0, 1.0, 0.9)
    assert ends.tolist() == [[3.0, 119.0], [121.0, 237.0]]
    assert survey("a", x, -2.0, 1.0, 0.9)[0].tolist() == [[-117.0, -1.0], [-235.0, -119.0]]
    assert np.argwhere(~good).tolist() == [[0, 0, 0], [0, 0, 1], [2, 3, 4]]
    assert survey("a", x, 2.0, 1.0, 57 / 60)[1].sum() == 57  # a share at the limit is enough
    with pytest.raises(BadSample, match=r"3 of 60 voxels are NaN, infinite or above 1e\+12"):
        survey("a", x, 2.0, 1.0, 57.5 / 60)
    x[1] = 7
    x[1, 0, 0, 0] = np.nan
    with pytest.raises(BadSample, match=r"constant \(channel 1 is 15\)"):
        survey("a", x, 2.0, 1.0, 0.5)


ENDS = np.array([[-1024, 5000], [0, 1]], np.float32)
"""Of whole scans, more than is valid."""


def test_what_is_measured_is_of_the_valid_voxels_in_the_scans_units():
    chance = np.random.default_rng(0)
    x = chance.integers(0, 4000, (2, 6, 20, 20)).astype(np.int16)
    ok = chance.random((6, 20, 20)) < 0.6
    ok[2], ok[3] = False, True
    found = measured(x, 0.5, -1024.0, ok, ENDS)
    assert found.ends == ((-1024, 5000), (0, 1))
    for channel, mean, std, values in zip(x, found.mean, found.std, found.values, strict=True):
        wanted = channel[ok] * 0.5 - 1024.0
        assert (mean, std) == pytest.approx((wanted.mean(), wanted.std()), rel=1e-6)
        np.testing.assert_array_equal(np.sort(values), np.sort(wanted.astype(np.float32)))


def test_a_large_offset_loses_no_digits_of_the_standard_deviation():
    x = np.random.default_rng(0).normal(0, 1, (1, 9, 30, 30)) + 1e6
    x = x.astype(np.float32)
    (std,) = measured(x, 1.0, 0.0, np.ones((9, 30, 30), bool), ENDS[:1]).std
    assert std == pytest.approx(float(x.astype(np.float64).std()), rel=1e-6)


@pytest.mark.parametrize(
    ("count", "most", "step"), [(10, 10, 1), (11, 10, 2), (20, 10, 2), (21, 10, 3), (1, 10, 1), (0, 10, 1)]
)
def test_of_many_values_every_nth_is_taken_so_that_no_more_than_asked_for_are_left(count, most, step):
    assert spread_over(count, most) == slice(None, None, step)
    assert len(range(count)[spread_over(count, most)]) <= most


def peak_of(work):
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize(("kind", "slope"), [(np.int16, 1), (np.float32, 1), (np.int16, 0.5)])
@pytest.mark.parametrize("body", [None, 200.0, "nonzero"])
def test_a_scan_takes_its_own_size_and_two_bytes_a_voxel_however_much_of_it_a_crop_spans(tmp_path, kind, slope, body):
    """As the doctor crops: all there is, made small. So a CT of 1000 slices with 512 x 512 int16 takes 1 GiB."""
    data = np.random.default_rng(0).integers(0, 999, (128, 120, 100)).astype(kind)
    nifti(tmp_path / "a.nii", data=data, fix=lambda h: h.set_slope_inter(slope, 0))
    reader, crop = VolumeReader((16, 16, 16), intensity="none", body=body), center_sampler((16, 16, 16))
    reader.read(str(tmp_path / "a.nii"), [crop])  # what is imported for it is not counted
    peak = peak_of(lambda: reader.read(str(tmp_path / "a.nii"), [crop]))
    assert peak < data.nbytes + 2 * data.size + (3 << 20)


def test_a_label_map_takes_its_own_size_and_its_answer(tmp_path):
    data = np.random.default_rng(0).integers(0, 9, (128, 120, 100)).astype(np.float32)
    address, reader = nifti(tmp_path / "a.nii", data=data), VolumeReader((16, 16, 16))
    labels = reader.label_map(address)
    assert peak_of(lambda: reader.label_map(address)) < data.nbytes + 4 * data.size + (2 << 20)
    peak = peak_of(lambda: reader.write_labels(labels, address, tmp_path / "w.nii.gz"))
    assert peak < data.nbytes + (2 << 20)  # the scan's own file, and a plane


@pytest.mark.parametrize(("slope", "stood_for"), [(2.0, (-3, 40)), (-0.5, (9, 90))])
def test_padding_becomes_the_least_value_that_was_measured_in_its_channel_whatever_the_slopes_sign(slope, stood_for):
    stored = np.ma.MaskedArray(
        np.array([[[[-3, 9, -99]]], [[[40, 77, 90]]]], np.int16),
        np.array([[[[False, False, True]]], [[[False, True, False]]]]),
    )
    plain, there = without_padding("a", stored, slope)
    assert plain[:, 0, 0].tolist() == [[-3, 9, stood_for[0]], [40, stood_for[1], 90]]
    assert there[0, 0].tolist() == [True, False, False]
    assert stored.data[0, 0, 0, 2] == -99  # of the file: not changed
    bare = np.zeros((1, 2, 2, 2), np.int16)
    assert without_padding("a", bare, slope)[0] is bare and without_padding("a", bare, slope)[1] is None
    with pytest.raises(BadSample, match="every voxel is padding"):
        without_padding("a", np.ma.MaskedArray(bare, np.ones_like(bare, bool)), slope)
