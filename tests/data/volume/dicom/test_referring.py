"""Label objects of a folder find their scans by what they refer to, whatever they are called and wherever they lie."""

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="DICOM is an optional extra: pip install 'mae-ext[dicom]'")

from data.volume.dicom.dicom_files import _item, series  # noqa: E402
from data.volume.dicom.label_objects import segmentation, structures  # noqa: E402

from mae_ext.data.sources.dicom.export import is_series  # noqa: E402
from mae_ext.data.sources.table import list_items  # noqa: E402
from mae_ext.data.volume.reader import VolumeReader  # noqa: E402
from mae_ext.errors import BadSample, UserError  # noqa: E402
from mae_ext.tasks.segment.pairs import maps_of  # noqa: E402

SHAPE = (6, 8, 10)
SERIES = pydicom.Sequence


def reader():
    made = VolumeReader(SHAPE, intensity="none")
    made.name_classes(["liver"])
    return made


def values(number):
    return np.full(SHAPE, 100 * number, np.int16)


def scans(root, count=2, **tags):
    """A flat folder of series 1.2.1, 1.2.2, ...; scan n is full of 100 n."""
    for n in range(1, count + 1):
        for z, plane in enumerate(values(n)):
            name = root / f"{n}{z:03d}"
            series(root.parent / "one", [plane], SeriesInstanceUID=f"1.2.{n}", PatientID=f"P{n}",
                   FrameOfReferenceUID=f"1.9.{n}", SOPInstanceUID=f"1.2.{n}.{z}",
                   ImagePositionPatient=[-100, -90, 30 + 2.5 * z], **tags)  # fmt: skip
            root.mkdir(exist_ok=True)
            (root.parent / "one" / "000.dcm").rename(name)
    return root


def drawn(path, z, **tags):
    """A SEG in slice z alone, by which it is known."""
    segmentation(path, [(z, 1, np.ones(SHAPE[1:], int))], ["liver"], **tags)


def of_series(number, *images):
    items = [_item(ReferencedSOPInstanceUID=uid)[0] for uid in images]
    instances = {"ReferencedInstanceSequence": SERIES(items)} if images else {}
    return {"ReferencedSeriesSequence": _item(SeriesInstanceUID=f"1.2.{number}", **instances)}


def slices(root, masks):
    """{what the scan holds: the slices in which its label map has a label}"""
    of = reader()
    items = list_items(str(root), of.suffixes)
    maps = maps_of(items, str(masks), of.suffixes, of)
    found = {}
    for address, path in zip(items.addresses, maps, strict=True):
        labels = of.label_map(path, address)
        level = int(of.formats.declared(address).load().max())
        found[level // 100] = np.flatnonzero(labels.any((1, 2))).tolist()
    return found


@pytest.mark.parametrize("name", ["{}.dcm", "1.2.840.{}", "deep/er/{}.seg"])
@pytest.mark.parametrize("beside", [True, False])
def test_a_seg_is_the_map_of_the_series_that_it_refers_to(tmp_path, name, beside):
    root = scans(tmp_path / "export")
    masks = root if beside else tmp_path / "masks"
    drawn(masks / name.format(1), 4, **of_series(2))
    drawn(masks / name.format(2), 1, **of_series(1))
    assert slices(root, masks) == {1: [1], 2: [4]}


def test_where_a_scan_is_a_folder_of_its_own_its_seg_is_known_as_well(tmp_path):
    series(tmp_path / "export" / "a" / "ct", values(1), SeriesInstanceUID="1.2.1")
    series(tmp_path / "export" / "b" / "ct", values(2), SeriesInstanceUID="1.2.2")
    drawn(tmp_path / "export" / "b" / "seg" / "1.dcm", 3, **of_series(2))
    drawn(tmp_path / "export" / "a" / "seg" / "1.dcm", 2, **of_series(1))
    assert not any(map(is_series, list_items(str(tmp_path / "export"), reader().suffixes).addresses))
    assert slices(tmp_path / "export", tmp_path / "export") == {1: [2], 2: [3]}


def test_volumes_of_one_series_are_told_apart_by_their_images(tmp_path):
    root = scans(tmp_path / "export", 1, EchoTime=5)
    for z, plane in enumerate(values(2)):
        name = tmp_path / "export" / f"other{z}"
        series(tmp_path / "one", [plane], SeriesInstanceUID="1.2.1", PatientID="P1", FrameOfReferenceUID="1.9.1",
               SOPInstanceUID=f"1.2.2.{z}", ImagePositionPatient=[-100, -90, 30 + 2.5 * z], EchoTime=9)  # fmt: skip
        (tmp_path / "one" / "000.dcm").rename(name)
    drawn(root / "s1", 5, **of_series(1, "1.2.2.0", "1.2.2.5"))
    drawn(root / "s2", 0, **of_series(1, "1.2.1.0"))
    assert slices(root, root) == {1: [0], 2: [5]}


def test_without_a_series_source_images_say_it_and_then_the_frame_of_reference_with_the_lattice(tmp_path):
    root = scans(tmp_path / "export")
    images = _item(SourceImageSequence=_item(ReferencedSOPInstanceUID="1.2.2.3"))
    groups = _item(DerivationImageSequence=images)
    drawn(root / "seg1", 3, SharedFunctionalGroupsSequence=groups)
    drawn(root / "seg2", 1, FrameOfReferenceUID="1.9.1")
    assert slices(root, root) == {1: [1], 2: [3]}


def test_of_scans_of_one_frame_of_reference_a_seg_is_of_the_one_on_whose_voxels_it_lies(tmp_path):
    root = scans(tmp_path / "export", 1)
    for z, plane in enumerate(values(2)):
        series(tmp_path / "one", [plane], SeriesInstanceUID="1.2.2", PatientID="P1", FrameOfReferenceUID="1.9.1",
               PixelSpacing=[1.4, 1.6], ImagePositionPatient=[-100, -90, 30 + 2.5 * z])  # fmt: skip
        (tmp_path / "one" / "000.dcm").rename(root / f"wide{z}")
    drawn(root / "seg1", 1, FrameOfReferenceUID="1.9.1")
    drawn(root / "seg2", 4, FrameOfReferenceUID="1.9.1", spacing=(1.4, 1.6))
    assert slices(root, root) == {1: [1], 2: [4]}


def test_a_structure_set_is_the_map_of_the_series_that_it_refers_to(tmp_path):
    root = scans(tmp_path / "export")
    for n, z in ((1, 2), (2, 4)):
        corners = [(x, y, 30 + 2.5 * z) for x, y in ((-100, -90), (-94, -90), (-94, -86), (-100, -86))]
        study = _item(RTReferencedSeriesSequence=_item(SeriesInstanceUID=f"1.2.{n}"))
        frames = _item(FrameOfReferenceUID=f"1.9.{n}", RTReferencedStudySequence=study)
        structures(root / f"rt{n}", {"Liver": [corners]}, f"1.9.{n}", ReferencedFrameOfReferenceSequence=frames)
    assert slices(root, root) == {1: [2], 2: [4]}


def test_none_and_several_are_refused_by_name_with_what_to_do(tmp_path):
    root = scans(tmp_path / "export")
    drawn(root / "seg1", 1, **of_series(1))
    drawn(root / "seg9", 1, **of_series(9))
    with pytest.raises(UserError, match=r"1 of 2 samples have no label map there: .*::series=") as none:
        slices(root, root)
    assert "1 others are referred to: name those in a .csv for --data" in str(none.value)
    drawn(root / "seg2", 1, **of_series(2))
    drawn(root / "seg3", 2, **of_series(2))
    with pytest.raises(UserError, match=r"1 of 2 samples have several label maps .*seg2, .*seg3") as several:
        slices(root, root)
    assert "give a .csv with the columns path and mask" in str(several.value)


def test_a_seg_on_another_lattice_than_the_series_it_refers_to_is_a_bad_map_of_that_name(tmp_path):
    root = scans(tmp_path / "export", 1)
    drawn(root / "seg", 1, spacing=(1.0, 1.0), **of_series(1))
    with pytest.raises(BadSample, match=r"seg: label map \(its frames are not on the voxels of the scan"):
        slices(root, root)


def test_a_list_may_pair_series_with_their_maps(tmp_path):
    root, of = scans(tmp_path / "export"), reader()
    drawn(tmp_path / "m" / "a.dcm", 1)
    drawn(tmp_path / "m" / "b.dcm", 2)
    items = list_items(str(root), of.suffixes)
    rows = [f"{a},m/{m}.dcm" for a, m in zip(items.addresses, "ab", strict=True)]
    (tmp_path / "maps.csv").write_text("\n".join(["path,mask", *rows]))
    found = maps_of(items, str(tmp_path / "maps.csv"), of.suffixes, of)
    assert found == [str(tmp_path / "m" / "a.dcm"), str(tmp_path / "m" / "b.dcm")]


def test_folders_without_label_objects_and_scans_that_are_none_of_dicom_are_as_they_were(tmp_path):
    root = scans(tmp_path / "export")
    with pytest.raises(UserError, match="2 of 2 samples have no label map there"):
        slices(root, root)
    of = reader()
    assert of.maps_referring(str(tmp_path / "nowhere"), ["a.nii.gz", "x.h5::a::3"]) == {}
