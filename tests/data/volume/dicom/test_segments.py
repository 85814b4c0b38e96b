"""SEG as label maps: each frame on the scan's own voxels, each segment the class that its name says."""

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="DICOM is an optional extra: pip install 'mae-ext[dicom]'")

from data.volume.dicom.dicom_files import classic, enhanced, frame, series  # noqa: E402
from data.volume.dicom.label_objects import segmentation  # noqa: E402

from mae_ext.data.volume.reader import VolumeReader  # noqa: E402
from mae_ext.errors import BadSample  # noqa: E402

SHAPE = (6, 8, 10)  # slices, rows, columns
NAMES = ("Liver", "Left_Kidney")


@pytest.fixture
def scan(tmp_path):
    planes = np.random.default_rng(0).integers(-500, 500, SHAPE).astype(np.int16)
    series(tmp_path / "ct", planes)
    return f"{tmp_path / 'ct'}/"


def masks(count, seed=1):
    return np.random.default_rng(seed).integers(0, 2, (count, *SHAPE[1:]))


def read(path, scan, classes=("left kidney", "liver"), **options):
    reader = VolumeReader(SHAPE, **options)
    if classes is not None:
        reader.name_classes(classes)
    return reader.label_map(str(path), scan)


def refused(path, scan, **options):
    with pytest.raises(BadSample) as bad:
        read(path, scan, **options)
    return f"{bad.value.kind}: {bad.value.detail}"


def turned(volume):
    """From rows that run to the back and columns that run to the left: to the front and the right."""
    return volume[:, ::-1, ::-1]


def test_frames_lie_on_their_slices_in_any_order_and_segments_are_the_classes_of_their_names(tmp_path, scan):
    a, b, c = masks(3)
    b &= ~a & 1
    segmentation(tmp_path / "seg.dcm", [(4, 2, b), (1, 1, c), (4, 1, a)], NAMES)
    expected = np.zeros(SHAPE, np.int32)
    expected[1], expected[4] = 2 * c, 2 * a + b
    np.testing.assert_array_equal(read(tmp_path / "seg.dcm", scan), turned(expected))


def test_frames_whose_pixels_do_not_fill_whole_bytes_follow_one_another_within_them(tmp_path):
    planes = np.zeros((4, 7, 5), np.int16)
    series(tmp_path / "odd", planes)
    drawn = np.random.default_rng(2).integers(0, 2, planes.shape)
    order = [2, 0, 3, 1]
    segmentation(tmp_path / "seg.dcm", [(z, 1, drawn[z]) for z in order], ["liver"])
    np.testing.assert_array_equal(read(tmp_path / "seg.dcm", f"{tmp_path / 'odd'}/", ["liver"]), turned(drawn))
    data = pydicom.dcmread(tmp_path / "seg.dcm")
    data.PixelData = data.PixelData[:16]  # of 140 bits
    data.save_as(tmp_path / "seg.dcm")
    assert refused(tmp_path / "seg.dcm", f"{tmp_path / 'odd'}/").startswith(
        "truncated: 16 bytes of pixels, and frame 4"
    )


def test_a_deflated_one_is_read_however_long_it_is(tmp_path, scan):
    a, b = masks(2)
    b &= ~a & 1
    segmentation(tmp_path / "seg.dcm", [(4, 2, b), (4, 1, a)], NAMES)
    data = pydicom.dcmread(tmp_path / "seg.dcm")
    data.add_new(0xFFFCFFFC, "OB", np.random.default_rng(0).bytes(1 << 18))
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    data.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    assert (tmp_path / "seg.dcm").stat().st_size > 1 << 18
    np.testing.assert_array_equal(read(tmp_path / "seg.dcm", scan)[4], turned((2 * a + b)[None])[0])


def test_where_segments_overlap_the_later_class_is_seen(tmp_path, scan):
    a, b = masks(2)
    segmentation(tmp_path / "seg.dcm", [(2, 1, a), (2, 2, b)], NAMES)
    np.testing.assert_array_equal(read(tmp_path / "seg.dcm", scan)[2], np.where(a, 2, b)[::-1, ::-1])
    kidney_last = read(tmp_path / "seg.dcm", scan, classes=("liver", "LEFT-KIDNEY"))
    np.testing.assert_array_equal(kidney_last[2], np.where(b, 2, a)[::-1, ::-1])


def test_segments_that_no_class_names_are_background_and_none_at_all_is_refused_without_naming_them(tmp_path, scan):
    a, b = masks(2)
    segmentation(tmp_path / "seg.dcm", [(2, 1, a), (3, 2, b)], ("Liver", "DOE^JANE"))
    labels = read(tmp_path / "seg.dcm", scan, classes=("liver",))
    assert labels[2].sum() == a.sum() and not labels[3].any()
    told = refused(tmp_path / "seg.dcm", scan, classes=("spleen",))
    assert told.startswith("label map: none of its 2 segments has the name of a class (spleen)") and "DOE" not in told


def test_numbers_are_labels_where_that_is_asked_for_and_where_no_class_is_known(tmp_path, scan):
    a, b = masks(2)
    segmentation(tmp_path / "seg.dcm", [(2, 1, a), (3, 2, b)], ("x", "y"))
    for labels in (
        read(tmp_path / "seg.dcm", scan, classes=("spleen", "liver"), segments="number"),
        read(tmp_path / "seg.dcm", scan, classes=None),
    ):
        np.testing.assert_array_equal(labels[2:4], turned(np.stack([a, 2 * b])))


def test_of_fractions_a_half_or_more_is_inside(tmp_path, scan):
    share = np.random.default_rng(2).integers(0, 201, SHAPE[1:])
    share[0, :3] = 99, 100, 101
    segmentation(tmp_path / "seg.dcm", [(0, 1, share)], ("liver",), kind="FRACTIONAL")
    labels = read(tmp_path / "seg.dcm", scan, classes=("liver",))
    np.testing.assert_array_equal(labels[0], (share >= 100)[::-1, ::-1])


def test_a_label_map_object_holds_the_numbers_of_its_segments(tmp_path, scan):
    numbers = np.random.default_rng(2).integers(0, 3, SHAPE[1:])
    segmentation(tmp_path / "seg.dcm", [(5, None, numbers)], NAMES, kind="LABELMAP")
    labels = read(tmp_path / "seg.dcm", scan)
    np.testing.assert_array_equal(labels[5], np.array([0, 2, 1])[numbers][::-1, ::-1])


def test_a_segmentation_of_sagittal_planes_or_of_a_part_lies_on_the_voxels_that_it_means(tmp_path, scan):
    part = masks(1)[0][:4, :5]
    corner = (-100 + 0.8 * 3, -90 + 0.7 * 2, 30)
    segmentation(tmp_path / "part.dcm", [(1, 1, part)], ("liver",), corner=corner)
    expected = np.zeros(SHAPE, int)
    expected[1, 2:6, 3:8] = part
    np.testing.assert_array_equal(read(tmp_path / "part.dcm", scan, classes=("liver",)), turned(expected))
    side = np.random.default_rng(3).integers(0, 2, (6, 8))  # rows to the head, columns to the back: one sagittal plane
    sagittal = (0, 1, 0, 0, 0, 1)
    segmentation(tmp_path / "side.dcm", [(0, 1, side)], ("liver",), corner=(-100 + 0.8 * 4, -90, 30),
                 orientation=sagittal, spacing=(2.5, 0.7))  # fmt: skip
    expected[:] = 0
    expected[:, :, 4] = side
    np.testing.assert_array_equal(read(tmp_path / "side.dcm", scan, classes=("liver",)), turned(expected))


def test_a_segmentation_of_an_enhanced_or_oblique_scan_lies_on_it(tmp_path):
    planes = np.random.default_rng(0).integers(-500, 500, SHAPE).astype(np.int16)
    enhanced(tmp_path / "mr.dcm", [frame(p, z) for z, p in enumerate(planes)])
    (a,) = masks(1)
    segmentation(tmp_path / "seg.dcm", [(3, 1, a)], ("liver",))
    labels = read(tmp_path / "seg.dcm", str(tmp_path / "mr.dcm"), classes=("liver",))
    np.testing.assert_array_equal(labels[3], a[::-1, ::-1])
    oblique = (0.8, 0.6, 0, -0.6, 0.8, 0)
    for z, plane in enumerate(planes):
        classic(tmp_path / "s" / f"{z}.dcm", plane, (-100, -90, 30 + 2.5 * z), oblique)
    assert refused(tmp_path / "seg.dcm", f"{tmp_path / 's'}/", classes=("liver",)).startswith(
        "label map: its frames are"
    )
    segmentation(tmp_path / "seg.dcm", [(3, 1, a)], ("liver",), orientation=oblique)
    labels = read(tmp_path / "seg.dcm", f"{tmp_path / 's'}/", classes=("liver",))
    np.testing.assert_array_equal(labels[3], a[::-1, ::-1])


WRONG = {
    "half a slice away": ({"corner": (-100, -90, 31.25)}, "not on the voxels"),
    "another spacing": ({"spacing": (0.7, 0.7)}, "not on the voxels"),
    "turned": ({"orientation": (0.8, 0.6, 0, -0.6, 0.8, 0)}, "not on the voxels"),
    "beyond the scan": ({"corner": (-100, -90, 30 + 2.5 * 4)}, "outside of the scan"),
    "of another examination": ({"FrameOfReferenceUID": "1.2.3.4"}, "another examination"),
    "of no known kind": ({"SegmentationType": "WAVY"}, "SegmentationType 'WAVY'"),
    "a segment that is not listed": ({"SegmentSequence": None}, "none of its 0 segments"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_segmentation_that_is_not_of_the_scan_is_refused_by_name(tmp_path, name):
    planes = np.random.default_rng(0).integers(-500, 500, SHAPE).astype(np.int16)
    series(tmp_path / "ct", planes, FrameOfReferenceUID="1.2.3.5")
    tags, expected = WRONG[name]
    segmentation(tmp_path / "seg.dcm", [(0, 1, masks(1)[0]), (3, 1, masks(1)[0])], ("liver",), **tags)
    told = refused(tmp_path / "seg.dcm", f"{tmp_path / 'ct'}/", classes=("liver",))
    assert told.startswith("label map: ") and expected in told and "1.2.3.4" not in told


def test_alone_a_segmentation_has_the_least_lattice_that_holds_its_frames(tmp_path):
    a, b = masks(2)
    segmentation(tmp_path / "seg.dcm", [(1, 1, a), (2, 1, b), (5, 2, a)], NAMES)
    labels = read(tmp_path / "seg.dcm", None, classes=None)
    np.testing.assert_array_equal(labels, turned(np.stack([a, b, 0 * a, 0 * a, 2 * a])))


def test_pixels_that_end_early_are_truncated_and_a_scan_is_still_no_segmentation(tmp_path, scan):
    segmentation(tmp_path / "seg.dcm", [(0, 1, masks(1)[0])] * 4, ("liver",), PixelData=bytes(8))
    assert refused(tmp_path / "seg.dcm", scan, classes=("liver",)).startswith("truncated")
    with pytest.raises(BadSample, match=r"not a scan.*task\.masks"):
        VolumeReader(SHAPE).describe(str(tmp_path / "seg.dcm"))
