"""DICOM series: sorted by position, scaled, and refused by name when slices are missing or do not belong together."""

from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="DICOM is an optional extra: pip install 'mae-ext[dicom]'")

from data.volume.dicom.dicom_files import classic, enhanced, frame  # noqa: E402

from mae_ext.config import AugmentConfig  # noqa: E402
from mae_ext.data.crops import evaluation_sampler  # noqa: E402
from mae_ext.data.sources.table import list_items  # noqa: E402
from mae_ext.data.volume.reader import VolumeReader  # noqa: E402
from mae_ext.errors import BadSample  # noqa: E402

SHARED = Path(__file__).parents[5] / "shared" / "data" / "volume" / "dicom_series"
SHAPE = (6, 8, 10)  # slices, rows, columns


def crop(size):
    return evaluation_sampler(AugmentConfig(fixed=(0, 1, 2)), size)


def write(folder, name, plane, height, **tags):
    classic(folder / name, plane.astype(np.int16), tags.pop("position", (-100, -90, height)), **tags)


@pytest.fixture
def planes():
    return np.random.default_rng(0).integers(-500, 500, SHAPE)


@pytest.fixture
def series(tmp_path, planes):
    """Six slices, 2.5 mm apart, whose names say nothing of their order."""
    folder = tmp_path / "study" / "series"
    folder.parent.mkdir()
    for z, plane in enumerate(planes):
        write(folder, f"{'dbface'[z]}.dcm", plane, 30 + 2.5 * z)
    return folder


def read(folder, size=SHAPE, **options):
    reader = VolumeReader(size, **{"intensity": "none"} | options)
    items = list_items(str(folder), reader.suffixes)
    return [reader.read(items.addresses[i], [crop(size)])[0] for i in range(len(items))]


def kind(root, **options):
    """Of what is wrong with a folder that is named as a sample."""
    reader = VolumeReader(SHAPE, **{"intensity": "none"} | options)
    (folder,) = {path.parent for path in [root, *root.rglob("*.dcm")] if path.suffix == ".dcm"}
    address = str(root) if root.is_file() else f"{folder}/"
    with pytest.raises(BadSample) as found:
        reader.read(address, [crop(SHAPE)])
    assert found.value.detail
    return found.value.kind


def test_a_series_is_one_sample_in_hounsfield_units_and_canonical_order(series, planes):
    (sample,) = read(series.parent)
    # DICOM rows run to the left and to the back of the patient, ours to the right and to the front.
    np.testing.assert_array_equal(sample.x[0].numpy(), planes[:, ::-1, ::-1] * 2 - 1024)
    assert sample.spacing == pytest.approx((2.5, 0.7, 0.8))
    assert sample.source.endswith("series/")


def test_a_series_of_one_scale_stays_in_its_own_numbers(series, planes):
    found = VolumeReader(SHAPE).formats.declared(f"{series}/")
    assert (found.dtype, found.slope, found.inter) == (np.int16, 2.0, -1024.0)
    np.testing.assert_array_equal(found.load(), planes)
    assert str(found) == "DICOM series int16 10x8x6, 0.8 x 0.7 x 2.5 mm, LPS"


def test_a_folder_lists_its_series_by_class_and_by_name(tmp_path, planes):
    for name in ("ill/a", "ill/b", "well/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        for z in range(3):
            write(tmp_path / name, f"{z}.dcm", planes[z], z)
    items = list_items(str(tmp_path), VolumeReader.suffixes)
    assert [a.removeprefix(str(tmp_path)) for a in items.addresses] == ["/ill/a/", "/ill/b/", "/well/c/"]
    assert (items.labels.tolist(), items.classes) == ([0, 0, 1], ("ill", "well"))
    assert list_items(str(tmp_path / "ill"), VolumeReader.suffixes).labels is None


def test_a_missing_slice_is_noticed_wherever_it_is(series):
    (series / "f.dcm").unlink()
    with pytest.raises(BadSample, match=r"5\.00 mm between slices 1 and 2 of 5, usually 2\.50") as found:
        read(series)
    assert found.value.kind == "missing slices"


def test_the_same_slice_twice_is_noticed(series, planes):
    write(series, "again.dcm", planes[2], 35)
    assert kind(series) == "repeated slices"


def test_two_series_in_one_folder_are_not_mixed(series, planes):
    write(series, "other.dcm", planes[0], 100, SeriesInstanceUID="1.2.4")
    assert kind(series) == "mixed series"


@pytest.mark.parametrize(
    "tags",
    [{"PixelSpacing": [0.5, 0.5]}, {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}],
    ids=["spacing", "localizer"],
)
def test_slices_of_another_geometry_do_not_belong(series, planes, tags):
    write(series, "localizer.dcm", planes[0], 45, **tags)
    assert kind(series) == "mixed series"


PHASE = ["ORIGINAL", "PRIMARY", "P", "ND"]
MAGNITUDE = ["ORIGINAL", "PRIMARY", "M", "ND"]


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        ({"PixelRepresentation": 0}, "PixelRepresentation"),
        ({"BitsStored": 12, "HighBit": 11}, "BitsStored"),
        ({"RescaleSlope": None, "RescaleIntercept": None}, "RescaleSlope is missing in 3 of 6"),
        ({"RescaleIntercept": None}, "RescaleIntercept is missing in 3 of 6"),
        ({"Modality": "PT"}, "Modality"),
        ({"PatientID": "other"}, "PatientID"),
        ({"StudyInstanceUID": "1.2.5"}, "StudyInstanceUID"),
        ({"FrameOfReferenceUID": "1.2.6"}, "FrameOfReferenceUID"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, "SOPClassUID"),
        ({"ImageType": PHASE}, "ImageType"),
        ({"EchoTime": 4.9}, "EchoTime"),
        ({"Units": "BQML"}, "Units"),
        ({"RescaleType": "OD"}, "RescaleType"),
        ({"PixelSpacing": [0.8, 0.7]}, "PixelSpacing"),
        ({"ImageOrientationPatient": [0.999, 0.0447, 0, -0.0447, 0.999, 0]}, "ImageOrientationPatient"),
    ],
    ids=str,
)
def test_slices_of_which_half_differ_are_refused_and_the_difference_is_named(tmp_path, planes, tags, told):
    alike = {
        "PatientID": "one", "StudyInstanceUID": "1.2.4", "FrameOfReferenceUID": "1.2.4", "ImageType": MAGNITUDE,
        "EchoTime": 2.5, "Units": "HU", "RescaleType": "HU",
    }  # fmt: skip
    for z in range(6):
        write(tmp_path / "s", f"{z}.dcm", planes[z], z, **alike | (tags if z % 2 else {}))
    with pytest.raises(BadSample) as found:
        VolumeReader(SHAPE).read(f"{tmp_path}/s/", [crop(SHAPE)])
    assert found.value.kind == "mixed series" and told in found.value.detail


@pytest.mark.parametrize("tags", [{"ImageType": PHASE}, {"EchoTime": 4.9}, {"Modality": "PT"}], ids=str)
def test_a_second_kind_of_image_in_every_place_is_no_time(tmp_path, planes, tags):
    for z in range(6):
        both = {"ImageType": MAGNITUDE, "EchoTime": 2.5}
        write(tmp_path / "s", f"{z}a.dcm", planes[z], z, **both)
        write(tmp_path / "s", f"{z}b.dcm", planes[z] + 1, z, **both | tags, InstanceNumber=2)
    assert kind(tmp_path, time_axis=-1) == ("axes" if "EchoTime" in tags else "mixed series")


def test_echoes_may_be_channels(tmp_path, planes):
    for z in range(6):
        for echo in (2, 1):
            write(tmp_path / "s", f"{z}{echo}.dcm", planes[z] + echo, z, EchoTime=2.5 * echo, InstanceNumber=3 - echo)
    (sample,) = read(tmp_path, channel_axis=3, channels=2)
    np.testing.assert_array_equal(sample.x[1].numpy(), (planes + 2)[:, ::-1, ::-1] * 2 - 1024)


def test_echoes_of_which_there_are_several_time_points_are_two_axes(tmp_path, planes):
    for z in range(6):
        for n in range(4):
            write(tmp_path / "s", f"{z}{n}.dcm", planes[z], z, EchoTime=2 + n % 2, InstanceNumber=n)
    assert kind(tmp_path, channel_axis=3, channels=4) == "mixed series"


@pytest.mark.parametrize("aside", [30, 0.5])
def test_slices_that_jump_in_their_plane_are_refused_and_the_place_is_named(tmp_path, planes, aside):
    for z in range(6):
        write(tmp_path / "s", f"{z}.dcm", planes[z], 0, position=(-100 + aside * (z > 3), -90, 2.5 * z))
    with pytest.raises(BadSample, match=f"slice 4 of 6 lies {aside:.2f} mm aside") as found:
        read(tmp_path)
    assert found.value.kind == "mixed series"


@pytest.mark.parametrize("same", [{"SOPInstanceUID": True}, {}], ids=["one image", "another identity, all else alike"])
def test_a_series_that_is_there_twice_is_not_two_time_points(tmp_path, planes, same):
    for z in range(6):
        tags = {"SOPInstanceUID": f"1.2.9.{z}"} if same else {}
        for n in range(2):
            write(tmp_path / "s", f"{z}{n}.dcm", planes[z], z, InstanceNumber=z + n * bool(same) * 10, **tags)
    assert kind(tmp_path, time_axis=-1) == "repeated slices"


def test_slices_and_a_multi_frame_object_are_not_one_series(tmp_path, planes):
    for z in range(3):
        write(tmp_path / "s", f"{z}.dcm", planes[z], 30 + 2.5 * z)
    enhanced(tmp_path / "s" / "e.dcm", [frame(planes[z].astype(np.int16), z) for z in (3, 4, 5)], Modality="CT")
    assert kind(tmp_path) == "mixed series"


def test_slices_that_come_several_times_in_every_place_are_time_points(tmp_path, planes):
    for t in range(3):
        for z in range(6):
            write(tmp_path / "s", f"{z}_{t}.dcm", planes[z] + t, 2.5 * z, InstanceNumber=10 * t + z)
    assert kind(tmp_path) == "axes"
    (first,) = read(tmp_path, time_axis=3, time="first")
    (mean,) = read(tmp_path, time_axis=3)
    np.testing.assert_array_equal(first.x[0].numpy(), planes[:, ::-1, ::-1] * 2 - 1024)
    np.testing.assert_array_equal(mean.x.numpy(), first.x.numpy() + 2)


def test_a_slope_of_its_own_in_every_slice_is_applied_slice_by_slice(tmp_path, planes):
    for z in range(6):
        write(tmp_path / "s", f"{z}.dcm", planes[z], z, RescaleSlope=z + 1, RescaleIntercept=0)
    (sample,) = read(tmp_path)
    np.testing.assert_allclose(sample.x[0].numpy(), (planes * np.arange(1, 7)[:, None, None])[:, ::-1, ::-1])


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"ImagePositionPatient": None}, "header"),
        ({"PixelSpacing": None}, "header"),
        ({"SamplesPerPixel": 3}, "RGB"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "data type"),
        ({"Rows": 9}, "truncated"),
        ({"Rows": None}, "not a scan"),
        ({"NumberOfFrames": 0}, "header"),
        ({"BitsAllocated": 12}, "data type"),
        ({"RescaleSlope": "1e20"}, "scaling"),
        ({"PixelSpacing": [-0.8, 0.8]}, "header"),
        ({"PixelSpacing": [0.0001, 0.8]}, "voxel size"),
    ],
    ids=str,
)
def test_headers_that_cannot_be_used_are_named(tmp_path, planes, tags, expected):
    for z in range(6):
        write(tmp_path / "s", f"{z}.dcm", planes[z], z, **tags)
    assert kind(tmp_path) == expected


def test_a_single_slice_that_is_scaled_to_nothing_is_refused_and_named(tmp_path, planes):
    for z in range(6):
        write(tmp_path / "s", f"{z}.dcm", planes[z], z, RescaleSlope=0 if z == 4 else 1)
    with pytest.raises(BadSample, match=r"scaling \(4\.dcm: RescaleSlope is 0") as refused:
        read(tmp_path / "s")
    assert refused.value.kind == "scaling"


def test_values_that_are_given_by_a_table_are_refused_and_not_read_as_they_are_stored(tmp_path, planes):
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [2, 0, 16], "HU"
    for z in range(6):
        write(tmp_path / "s", f"{z}.dcm", planes[z], z, ModalityLUTSequence=pydicom.Sequence([table]))
    with pytest.raises(BadSample, match=r"scaling .*ModalityLUTSequence"):
        read(tmp_path / "s")


def test_files_that_are_no_dicom_or_hold_no_pixels_are_named(series):
    target = series / "d.dcm"
    good = target.read_bytes()
    for content, expected in ((b"hello" * 100, "not a scan"), (b"", "empty"), (good[: len(good) - 30], "truncated")):
        target.write_bytes(content)
        assert kind(series) == expected


def test_a_single_slice_is_no_volume(tmp_path, planes):
    write(tmp_path / "s", "a.dcm", planes[0], 0)
    assert kind(tmp_path) == "axes"
    assert kind(tmp_path / "s" / "a.dcm") == "axes"


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data")
def test_real_series_agree_with_pydicom():
    folder = SHARED / "20180918GE" / "mr_0004"
    files = [pydicom.dcmread(f) for f in folder.glob("*.dcm")]
    first = {}
    for data in sorted(files, key=lambda d: -int(d.InstanceNumber)):
        first[round(float(data.ImagePositionPatient[2]), 2)] = data.pixel_array
    expected = np.stack([first[z] for z in sorted(first)])[:, ::-1, ::-1]
    (sample,) = read(folder, size=expected.shape, time_axis=3, time="first")
    np.testing.assert_array_equal(sample.x[0].numpy(), expected)
    assert sample.spacing == pytest.approx((5.0, 3.75, 3.75))


def test_order_in_time_follows_the_time_index_then_the_numbers(tmp_path, planes):
    for z in range(6):
        for t in range(3):
            tags = {"TemporalPositionIdentifier": 3 - t, "InstanceNumber": 10 * t + z}
            write(tmp_path / "s", f"{z}_{t}.dcm", planes[z] + t, 2.5 * z, **tags)
    (first,) = read(tmp_path, time_axis=3, time="first")
    np.testing.assert_array_equal(first.x[0].numpy(), (planes + 2)[:, ::-1, ::-1] * 2 - 1024)


def test_time_points_that_not_every_place_has_are_refused(tmp_path, planes):
    for z in range(6):
        for t in range(2):
            tags = {"TemporalPositionIdentifier": t + (z == 5), "InstanceNumber": t}
            write(tmp_path / "s", f"{z}_{t}.dcm", planes[z], 2.5 * z, **tags)
    assert kind(tmp_path, time_axis=3) == "mixed series"


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data")
def test_mosaics_of_a_series_are_time_points():
    (sample,) = read(SHARED / "20180918Si" / "mr_0003", size=(5, 72, 72), time_axis=3)
    assert sample.spacing == pytest.approx((12.0, 3.0, 3.0))
    assert sample.valid.all() and sample.x.std() > 10


@pytest.mark.parametrize(
    "turned", [(1, 0, 0, 0, 0.9962, 0.0872), (0.9962, 0, 0.0872, 0, 1, 0), (0.9962, 0.0872, 0, -0.0872, 0.9962, 0)]
)
@pytest.mark.parametrize("each", [False, True])
def test_slices_that_are_turned_about_any_axis_are_no_series(tmp_path, planes, turned, each):
    """Five degrees about their rows, their columns or their middle: one slice, or every other."""
    folder = tmp_path / "s"
    for z, plane in enumerate(planes):
        odd = z % 2 if each else z == 3
        place = {"orientation": turned} if odd else {}
        classic(folder / f"{z}.dcm", plane.astype(np.int16), (-100, -90, 30 + 2.5 * z), InstanceNumber=z + 1, **place)
    assert kind(folder) == "mixed series"
    with pytest.raises(BadSample, match="ImageOrientationPatient has 2 different values"):
        VolumeReader(SHAPE).read(f"{folder}/", [crop(SHAPE)])
