"""RTSTRUCT as label maps: outlines filled on the scan's own lattice, plane by plane, holes and all."""

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="DICOM is an optional extra: pip install 'mae-ext[dicom]'")

from data.volume.dicom.dicom_files import classic, series  # noqa: E402
from data.volume.dicom.label_objects import structures  # noqa: E402

from mae_ext.data.volume.dicom import contours  # noqa: E402
from mae_ext.data.volume.reader import VolumeReader  # noqa: E402
from mae_ext.errors import BadSample  # noqa: E402

SHAPE = (5, 40, 50)  # slices, rows, columns
ROWS, COLUMNS = np.mgrid[: SHAPE[1], : SHAPE[2]]


@pytest.fixture
def scan(tmp_path):
    planes = np.random.default_rng(0).integers(-500, 500, SHAPE).astype(np.int16)
    series(tmp_path / "ct", planes, FrameOfReferenceUID="1.2.3.5")
    return f"{tmp_path / 'ct'}/"


def at(z, rows, columns):
    """Points in voxels -> mm, where the slices of `series` lie."""
    rows, columns = np.asarray(rows, float), np.asarray(columns, float)
    return np.stack([-100 + 0.8 * columns, -90 + 0.7 * rows, np.full(len(rows), 30 + 2.5 * z)], -1)


def circle(z, row, column, radius, points=400):
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return at(z, row + radius * np.sin(angle), column + radius * np.cos(angle))


def square(z, low, high):
    return at(z, [low, low, high, high], [low, high, high, low])


def disc(row, column, radius):
    return (ROWS - row) ** 2 + (COLUMNS - column) ** 2 < radius**2


def read(path, scan, *classes):
    reader = VolumeReader(SHAPE)
    reader.name_classes(classes)
    return reader.label_map(str(path), scan)


def stored(path, scan, *classes):
    """In the order of the scan's file, whose rows run to the back and columns to the left."""
    return read(path, scan, *classes)[:, ::-1, ::-1]


def refused(path, scan, *classes):
    with pytest.raises(BadSample) as bad:
        read(path, scan, *classes)
    return f"{bad.value.kind}: {bad.value.detail}"


def test_an_outline_is_filled_in_its_own_plane_and_no_other(tmp_path, scan):
    structures(tmp_path / "rt.dcm", {"Tumour": [circle(3, 18.3, 22.6, 11.7)]}, "1.2.3.5")
    labels = stored(tmp_path / "rt.dcm", scan, "tumour")
    np.testing.assert_array_equal(labels[3], disc(18.3, 22.6, 11.7))
    assert not labels[[0, 1, 2, 4]].any()


def test_an_outline_within_another_is_a_hole_and_one_within_that_an_island_whatever_their_order(tmp_path, scan):
    rings = [circle(1, 20, 25, radius) for radius in (5.1, 15.1, 10.1)]
    structures(tmp_path / "rt.dcm", {"a": [rings[0], rings[1], rings[1], rings[2]]})  # one of them written twice
    expected = disc(20, 25, 15.1) ^ disc(20, 25, 10.1) ^ disc(20, 25, 5.1)
    np.testing.assert_array_equal(stored(tmp_path / "rt.dcm", scan, "a")[1], expected)


def test_a_hole_that_a_channel_of_no_width_leads_to_is_a_hole(tmp_path, scan):
    outer, inner = square(2, 4.5, 30.5), square(2, 10.5, 20.5)
    keyhole = np.concatenate([outer, outer[:1], inner[::-1][[3, 0, 1, 2, 3]]])
    structures(tmp_path / "rt.dcm", {"a": [keyhole]})
    expected = np.zeros(SHAPE[1:], int)
    expected[5:31, 5:31] = 1
    expected[11:21, 11:21] = 0
    np.testing.assert_array_equal(stored(tmp_path / "rt.dcm", scan, "a")[2], expected)


def test_voxels_on_an_outline_belong_to_one_of_two_neighbours(tmp_path, scan):
    left, right = at(0, [5, 5, 15, 15], [5, 12, 12, 5]), at(0, [5, 5, 15, 15], [12, 20, 20, 12])
    structures(tmp_path / "rt.dcm", {"a": [left], "b": [right]})
    labels = stored(tmp_path / "rt.dcm", scan, "a", "b")[0]
    assert (labels == 1).sum() == 10 * 7 and (labels == 2).sum() == 10 * 8


def test_regions_are_the_classes_of_their_names_the_later_over_the_earlier_and_the_rest_is_background(tmp_path, scan):
    regions = {"GTV": [circle(2, 20, 25, 5.1)], "Body": [circle(2, 20, 25, 15.1)], "ISO": [at(2, [1], [1])], "none": []}
    structures(tmp_path / "rt.dcm", regions)
    labels = stored(tmp_path / "rt.dcm", scan, "body", "gtv")[2]
    np.testing.assert_array_equal(labels, np.where(disc(20, 25, 5.1), 2, disc(20, 25, 15.1)))
    assert stored(tmp_path / "rt.dcm", scan, "gtv")[2].sum() == disc(20, 25, 5.1).sum()


def test_outlines_in_the_planes_of_an_oblique_scan_are_filled_there(tmp_path):
    along, down = np.array([0.8, 0.6, 0]), np.array([0, 0, -1.0])
    normal, origin = np.cross(along, down), np.array([12.0, -7, 30])
    for z in range(SHAPE[0]):
        plane = np.random.default_rng(z).integers(0, 99, SHAPE[1:]).astype(np.int16)
        classic(tmp_path / "ct" / f"{z}.dcm", plane, list(origin + 2.5 * z * normal), (*along, *down))
    angle = np.linspace(0, 2 * np.pi, 300, endpoint=False)
    rows, columns = 18.3 + 9.4 * np.sin(angle), 22.6 + 9.4 * np.cos(angle)
    points = origin + 2.5 * 3 * normal + np.outer(columns * 0.8, along) + np.outer(rows * 0.7, down)
    structures(tmp_path / "rt.dcm", {"a": [points]})
    labels = read(tmp_path / "rt.dcm", f"{tmp_path / 'ct'}/", "a")
    # Coronal planes, from front to back: the normal's own direction; rows from the head, columns to the left.
    np.testing.assert_array_equal(
        labels[::-1, :, ::-1].swapaxes(0, 1)[::-1][3 if normal[1] > 0 else 1], disc(18.3, 22.6, 9.4)
    )
    assert labels.sum() == disc(18.3, 22.6, 9.4).sum()


def test_what_reaches_beyond_the_plane_is_cut_off_at_its_edge(tmp_path, scan):
    structures(tmp_path / "rt.dcm", {"a": [circle(2, 5, 45, 20.3)]})
    np.testing.assert_array_equal(stored(tmp_path / "rt.dcm", scan, "a")[2], disc(5, 45, 20.3))


WRONG = {
    "between two slices": ([circle(1.5, 20, 25, 5)], "", "label map: an outline lies 0.5 voxels beside"),
    "beyond the last slice": ([circle(5, 20, 25, 5)], "", "label map: 1 of 1 outlines of a region lie outside"),
    "in no plane": ([np.add(at(0, [3, 30, 9], [3, 9, 30]), [[0] * 3, [0, 0, 5], [0, 0, 9]])], "", "an outline lies"),
    "of another examination": ([circle(2, 20, 25, 5)], "1.2.3.6", "another examination"),
    "two points": ([at(0, [3, 30], [3, 9])], "", "label map: an outline of 6 numbers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_outlines_that_are_not_of_the_scan_are_refused_by_name(tmp_path, scan, name):
    outlines, frame, expected = WRONG[name]
    structures(tmp_path / "rt.dcm", {"a": outlines}, frame)
    told = refused(tmp_path / "rt.dcm", scan, "a")
    assert expected in told and "1.2.3" not in told


def test_outlines_without_a_scan_have_no_lattice_and_too_many_crossings_are_named(tmp_path, scan, monkeypatch):
    structures(tmp_path / "rt.dcm", {"a": [circle(2, 20, 25, 15)]})
    with pytest.raises(BadSample, match="no lattice of their own"):
        VolumeReader(SHAPE).label_map(str(tmp_path / "rt.dcm"))
    monkeypatch.setattr(contours, "MOST_CROSSINGS", 20)
    assert refused(tmp_path / "rt.dcm", scan, "a").startswith("too large")
