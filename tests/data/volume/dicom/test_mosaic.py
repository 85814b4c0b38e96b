"""Siemens mosaics: volumes of one series at one place, in the order of their numbers, as nibabel lays them out."""

import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="DICOM is an optional extra: pip install 'mae-ext[dicom]'")

from data.volume.dicom.dicom_files import mosaic  # noqa: E402

from mae_ext.config import AugmentConfig  # noqa: E402
from mae_ext.data.crops import evaluation_sampler  # noqa: E402
from mae_ext.data.volume.reader import VolumeReader  # noqa: E402
from mae_ext.errors import BadSample  # noqa: E402

SHARED = Path(__file__).parents[5] / "shared" / "data" / "volume" / "dicom_series" / "20180918Si" / "mr_0003"


@pytest.fixture
def two(tmp_path):
    """Write the two volumes of a real series, with changes to the second; -> their folder."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data")

    def write(change=lambda data: None):
        for file, data in zip("ab", map(pydicom.dcmread, sorted(SHARED.glob("*.dcm"))), strict=True):
            if file == "b":
                change(data)
            data.save_as(tmp_path / f"{file}.dcm")
        return tmp_path

    return write


def read(folder, **options):
    size = (5, 72, 72)
    reader = VolumeReader(size, intensity="none", time_axis=3, **options)
    return reader.read(f"{folder}/", [evaluation_sampler(AugmentConfig(fixed=(0, 1, 2)), size)])[0]


def test_volumes_come_in_the_order_of_their_numbers_with_nibabels_values_and_place(two):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nibabel.nicom.dicomwrappers import wrapper_from_file
    folder = two(lambda data: setattr(data, "InstanceNumber", 0))  # the second becomes the first
    volumes = []
    for name in "ba":
        wrapped = wrapper_from_file(folder / f"{name}.dcm")
        affine = np.diag([-1, -1, 1, 1]) @ wrapped.affine
        image = nib.as_closest_canonical(nib.Nifti1Image(np.asarray(wrapped.get_data(), float), affine))
        volumes.append(image.get_fdata().T)
    for time, expected in (("first", volumes[0]), ("middle", volumes[1]), ("mean", np.mean(volumes, axis=0))):
        np.testing.assert_allclose(read(folder, time=time).x[0].numpy(), expected, rtol=1e-6)
    found = VolumeReader((5, 72, 72)).formats.declared(f"{folder}/")
    np.testing.assert_allclose(found.affine, affine)
    assert (found.shape[2:], str(found).split()[:2]) == ((5, 2), ["DICOM", "mosaic"])


def as_the_first(data):
    """The same image again, under another name and number."""
    data.SOPInstanceUID = pydicom.dcmread(min(SHARED.glob("*.dcm")), stop_before_pixels=True).SOPInstanceUID


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "P", "ND", "MOSAIC"]), "mixed series"),
        (lambda d: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "M", "ND"]), "mixed series"),
        (lambda d: setattr(d, "SeriesInstanceUID", "1.2.3"), "mixed series"),
        (lambda d: setattr(d, "EchoTime", 99), "mixed series"),
        (lambda d: setattr(d, "PatientID", "another"), "mixed series"),
        (lambda d: setattr(d, "PixelSpacing", [3.5, 3.5]), "mixed series"),
        (lambda d: d.ImagePositionPatient.__setitem__(0, d.ImagePositionPatient[0] + 5), "mixed series"),
        (lambda d: d.ImageOrientationPatient.__setitem__(slice(None), [0, 1, 0, -1, 0, 0]), "mixed series"),
        (as_the_first, "repeated slices"),
        (lambda d: d.remove_private_tags(), "axes"),
        (lambda d: setattr(d, "PixelData", d.PixelData[:-100]), "truncated"),
    ],
)  # fmt: skip
def test_mosaics_that_are_no_series_are_refused_by_name(two, change, expected):
    with pytest.raises(BadSample) as found:
        read(two(change))
    assert found.value.kind == expected


def test_a_series_of_mosaics_larger_than_the_limit_is_refused_before_it_is_read(two):
    with pytest.raises(BadSample, match="too large"):
        read(two(), max_bytes=200_000)


TURNED = (0.99619470, 0.08715574, 0, -0.08715574, 0.99619470, 0)
TILTED = (1, 0, 0, 0, 0.99619470, 0.08715574)


def volumes(count=2):
    return np.random.default_rng(0).integers(0, 900, (count, 5, 8, 6)).astype(np.int16)


def made(folder, **second):
    """Two volumes of five slices of 8 x 6 pixels, the second with changes; -> what is read of them."""
    for number, stored in enumerate(volumes(), start=1):
        mosaic(folder / f"{number}.dcm", stored, **{"number": number} | (second if number == 2 else {}))
    reader = VolumeReader((5, 8, 6), intensity="none", time_axis=3, time="mean")
    return reader.read(f"{folder}/", [evaluation_sampler(AugmentConfig(fixed=(0, 1, 2)), (5, 8, 6))])[0]


def test_a_mosaic_is_taken_apart_into_slices_that_lie_where_its_header_says(tmp_path):
    sample = made(tmp_path)
    # Rows run to the left and to the back of the patient, ours to the right and to the front.
    np.testing.assert_allclose(sample.x[0].numpy(), volumes().mean(0)[:, ::-1, ::-1])
    assert sample.spacing == pytest.approx((2.5, 0.7, 0.8))
    affine = VolumeReader((5, 8, 6)).formats.declared(f"{tmp_path}/").affine
    # Of nibabel, which counts the rows first.
    expected = np.array([[0, -0.8, 0, 100], [-0.7, 0, 0, 90], [0, 0, 2.5, 30], [0, 0, 0, 1]])
    np.testing.assert_allclose(affine, expected, atol=1e-6)


@pytest.mark.parametrize(
    "second",
    [
        {"corner": (-99.0, -90.0, 30.0)},
        {"corner": (-100.0, -90.0, 30.02)},
        {"orientation": TURNED},  # about the first corner, which stays
        {"orientation": TILTED},
        {"orientation": (0, 1, 0, -1, 0, 0)},
    ],
)
def test_a_volume_that_lies_elsewhere_or_is_turned_about_its_first_corner_is_of_no_series(tmp_path, second):
    with pytest.raises(BadSample) as found:
        made(tmp_path, **second)
    assert found.value.kind == "mixed series" and "from the first volume: another place" in found.value.detail


@pytest.mark.parametrize(
    "second",
    [{"EchoTime": 40}, {"PatientID": "another"}, {"SeriesInstanceUID": "1.2.4"}, {"BitsStored": 12, "HighBit": 11}],
)
def test_volumes_of_other_kinds_are_of_no_series(tmp_path, second):
    with pytest.raises(BadSample) as found:
        made(tmp_path, **second)
    assert found.value.kind == "mixed series" and next(iter(second)) in found.value.detail


def test_volumes_come_in_the_order_of_their_numbers_whatever_their_names(tmp_path):
    each = volumes(3)
    for name, number in (("c", 2), ("a", 10), ("b", 1)):
        mosaic(tmp_path / f"{name}.dcm", each[(1, 2, 10).index(number)], number=number)
    for time, wanted in (("first", each[0]), ("middle", each[1])):
        reader = VolumeReader((5, 8, 6), intensity="none", time_axis=3, time=time)
        (sample,) = reader.read(f"{tmp_path}/", [evaluation_sampler(AugmentConfig(fixed=(0, 1, 2)), (5, 8, 6))])
        np.testing.assert_allclose(sample.x[0].numpy(), wanted[:, ::-1, ::-1])
