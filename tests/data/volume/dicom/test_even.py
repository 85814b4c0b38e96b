"""Uneven distances and a tilted gantry: refused with what to set, or resampled so that a ramp in space stays one."""

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="DICOM is an optional extra: pip install 'mae-ext[dicom]'")

from data.volume.dicom.dicom_files import classic, enhanced, frame  # noqa: E402

from mae_ext.config import AugmentConfig  # noqa: E402
from mae_ext.data.crops import evaluation_sampler  # noqa: E402
from mae_ext.data.volume.reader import VolumeReader  # noqa: E402
from mae_ext.errors import BadSample  # noqa: E402

ROWS, COLUMNS = 16, 20
STEP = 0.01  # of the stored numbers
EVEN, UNEVEN = (0, 2.5, 5, 7.5, 10, 12.5), (0, 1, 2, 4.5, 7, 9.5, 12)


def ramp(points):
    """mm LPS -> a value that trilinear interpolation reproduces wherever it is asked for."""
    return 3 * points[..., 0] + 2 * points[..., 1] - 5 * points[..., 2] + 1000


def tilted(degrees):
    return (1.0, 0.0, 0.0, 0.0, np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees)))


def planes(heights, direction, aside=0.0):
    """Of each plane the corner, stacked along the patient and `aside` mm to the left for each mm, and stored values."""
    row, column = np.mgrid[:ROWS, :COLUMNS][..., None] * np.array([0.7, 0.8])[:, None, None, None]
    for height in heights:
        corner = np.array([-10 + aside * height, -9, 30 + height])
        points = corner + column * np.array(direction[:3]) + row * np.array(direction[3:])
        yield [float(f"{v:.6f}") for v in corner], np.rint(ramp(points) / STEP).astype(np.int32)


def write(folder, heights, degrees=0.0, aside=0.0, **tags):
    direction = tilted(degrees)
    scale = {"RescaleSlope": STEP, "RescaleIntercept": 0}
    for k, (corner, stored) in enumerate(planes(heights, direction, aside)):
        classic(folder / f"{k}.dcm", stored, corner, direction, InstanceNumber=k + 1, **scale | tags)
    return f"{folder}/"


def declared(address, uneven="resample"):
    return VolumeReader((4, 4, 4), uneven=uneven).formats.declared(address)


def errors(scan):
    """Of each voxel that was measured, how far its value is from the ramp's at its own place. -> and their share"""
    index = np.stack(np.meshgrid(*map(np.arange, scan.shape), indexing="ij"), -1)
    points = (index @ scan.affine[:3, :3].T + scan.affine[:3, 3]) * [-1, -1, 1]
    voxels = scan.load()
    off = np.abs(np.ma.getdata(voxels) * scan.slope + scan.inter - ramp(points).T)
    inside = ~np.ma.getmaskarray(voxels)
    return off[inside].max(), inside.mean()


CASES = {
    "uneven": (UNEVEN, 0.0, 0.0, (20, 16, 6), 1.0),
    "a slice missing": ((0, 2.5, 5, 10, 12.5), 0.0, 0.0, (20, 16, 6), 1.0),
    "distances that grow": (np.cumsum([0, *[2.5] * 3, *[2.7] * 5]), 0.0, 0.0, (20, 16, 9), 1.0),
    "tilted": (EVEN, 20.0, 0.0, (20, 23, 6), 0.65),
    "tilted the other way": (EVEN, -12.0, 0.0, (20, 20, 6), 0.75),
    "leaning to the side": (EVEN, 0.0, 0.3, (25, 16, 6), 0.75),
    "all of it": (UNEVEN, 15.0, 0.3, (25, 21, 6), 0.5),
}


@pytest.mark.parametrize("name", CASES)
def test_a_ramp_in_space_comes_back_wherever_something_was_measured(tmp_path, name):
    heights, degrees, aside, shape, least = CASES[name]
    scan = declared(write(tmp_path / "s", heights, degrees, aside))
    worst, share = errors(scan)
    assert worst < STEP and share >= least and scan.shape == shape
    axes = scan.affine[:3, :3] / np.linalg.norm(scan.affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)


def test_an_enhanced_object_is_resampled_as_its_slices_would_be(tmp_path):
    frames = [frame(s.astype(np.int32), 0, position=c, orientation=tilted(20), scale=(STEP, 0))
              for c, s in planes(EVEN, tilted(20))]  # fmt: skip
    enhanced(tmp_path / "a.dcm", frames)
    scan = declared(str(tmp_path / "a.dcm"))
    assert errors(scan)[0] < STEP and scan.shape == (23, 20, 6)


@pytest.mark.parametrize(("name", "kind"), [("uneven", "missing slices"), ("tilted", "tilted gantry")])
def test_by_default_both_are_refused_with_the_key_that_reads_them(tmp_path, name, kind):
    address = write(tmp_path / "s", *CASES[name][:3])
    with pytest.raises(BadSample, match="uneven=resample") as bad:
        declared(address, "refuse")
    assert bad.value.kind == kind
    assert "uneven=keep" in bad.value.detail or name == "uneven"


def test_what_was_resampled_the_doctor_says(tmp_path):
    reader = VolumeReader((4, 4, 4), uneven="resample")
    assert "resampled: a tilt of 20.0 degrees is taken out" in reader.describe(write(tmp_path / "a", EVEN, 20.0))
    told = "resampled: slices 1 to 2.5 mm apart, usually 2.5, are put at even distances"
    assert told in reader.describe(write(tmp_path / "b", UNEVEN))
    assert "resampled" not in reader.describe(write(tmp_path / "c", EVEN))


@pytest.mark.parametrize("uneven", ["keep", "resample"])
def test_an_even_series_is_the_same_to_the_bit_whatever_is_asked_for(tmp_path, uneven):
    address = write(tmp_path / "s", EVEN)
    one, other = declared(address, "refuse"), declared(address, uneven)
    assert one.load().dtype == other.load().dtype and np.array_equal(one.load(), other.load())
    assert np.array_equal(one.affine, other.affine)


def test_what_lies_beside_the_tilted_planes_is_not_valid_nor_is_what_padding_touches(tmp_path):
    address = write(tmp_path / "s", EVEN, 20.0, PixelPaddingValue=0)
    size = declared(address).shape[::-1]
    crop = evaluation_sampler(AugmentConfig(fixed=(0, 1, 2)), size)
    (sample,) = VolumeReader(size, uneven="resample", intensity="none").read(address, [crop])
    valid = sample.valid[0].numpy()
    assert 0.6 < valid.mean() < 0.7
    # Of each slice, a run of rows from one end to the other: the shift of its plane, and not a voxel besides.
    for plane in valid:
        rows = np.flatnonzero(plane.any(1))
        assert plane[rows].all() and (np.diff(rows) == 1).all() and 15 <= len(rows) <= ROWS


def test_slices_too_far_apart_are_refused_even_so(tmp_path):
    with pytest.raises(BadSample, match=r"95\.00 mm between two slices of 4: too far"):
        declared(write(tmp_path / "s", (0, 2.5, 5, 100)))


def test_an_option_that_means_nothing_is_named():
    with pytest.raises(ValueError, match="uneven='stretch': expected"):
        VolumeReader((4, 4, 4), uneven="stretch")
    with pytest.raises(ValueError, match="segments='colour': expected"):
        VolumeReader((4, 4, 4), segments="colour")
