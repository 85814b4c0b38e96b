"""Siemens mosaics: volumes of one series at one place, in the order of their numbers, as nibabel lays them out."""

import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="DICOM is an optional extra: pip install 'mae-ext[dicom]'")

from mae_ext.config import AugmentConfig  # noqa: E402
from mae_ext.data.augment import evaluation_sampler  # noqa: E402
from mae_ext.data.volume import VolumeReader  # noqa: E402
from mae_ext.errors import BadSample  # noqa: E402

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "volume" / "dicom_series" / "20180918Si" / "mr_0003"

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data")


@pytest.fixture
def two(tmp_path):
    """Write the two volumes of a real series, with changes to the second; -> their folder."""

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
    found = VolumeReader((5, 72, 72))._declared(f"{folder}/")
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
