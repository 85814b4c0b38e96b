"""Analyze 7.5 has the voxels and the place that nibabel gives it, and its sides are said to be a guess."""

import nibabel as nib
import numpy as np
import pytest
from data.volume.formats.written import SHAPE, numbered

from mae_ext.data.sample import whole
from mae_ext.data.volume.formats.known import Formats, Taken
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import BadSample

formats = Formats(Taken(1 << 20))


def save(folder, kind, origin=None, factor=None):
    image = kind(numbered(), None if origin is None else origin)
    image.header.set_zooms((0.8, 1.25, 2.5))
    if factor is not None:
        image.header["scl_slope"] = factor
    image.to_filename(folder / "a.img")
    return str(folder / "a.hdr")


@pytest.mark.parametrize("kind", [nib.AnalyzeImage, nib.Spm99AnalyzeImage, nib.Spm2AnalyzeImage])
def test_an_analyze_pair_is_placed_as_nibabel_places_it(tmp_path, kind):
    path = save(tmp_path, kind)
    scan, theirs = formats.declared(path), nib.load(path)
    np.testing.assert_allclose(scan.affine, theirs.affine)
    np.testing.assert_array_equal(scan.load() * scan.slope + scan.inter, theirs.get_fdata().T)
    assert scan.shape == SHAPE and scan.format == "Analyze"


def test_an_origin_of_spm_places_the_scan(tmp_path):
    path = save(tmp_path, nib.AnalyzeImage)
    header = bytearray((tmp_path / "a.hdr").read_bytes())
    header[253:259] = np.array([2, 3, 4], "<i2").tobytes()
    (tmp_path / "a.hdr").write_bytes(header)
    np.testing.assert_allclose(formats.declared(path).affine, nib.load(path).affine)
    np.testing.assert_allclose(formats.declared(path).affine @ [1, 2, 3, 1], [0, 0, 0, 1], atol=1e-6)


def test_left_and_right_of_an_analyze_pair_are_in_doubt_and_counted(tmp_path):
    path = save(tmp_path, nib.AnalyzeImage)
    reader = VolumeReader((4, 4, 4))
    _, *doubts = reader.describe(path).splitlines()
    (doubt,) = doubts
    assert doubt.startswith("says nothing of left and right, as no Analyze file does: read as LAS, as nibabel")
    assert doubt.endswith("software on ITK reads it as LPS")
    assert "1 of 1 scans" in reader.one_sided([path])


def test_a_nifti_pair_keeps_its_sform_and_says_its_sides(tmp_path):
    affine = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])
    nib.Nifti1Pair(numbered(), affine).to_filename(tmp_path / "a.img")
    scan = formats.declared(str(tmp_path / "a.hdr"))
    np.testing.assert_allclose(scan.affine, affine)
    assert scan.sided and VolumeReader((4, 4, 4)).one_sided([str(tmp_path / "a.hdr")]) is None


def test_a_packed_header_without_its_end_is_named(tmp_path):
    nib.Nifti1Pair(numbered(), np.eye(4)).to_filename(tmp_path / "a.img.gz")
    reader, header = VolumeReader(SHAPE[::-1], intensity="none"), tmp_path / "a.hdr.gz"
    reader.read(str(header), [whole])
    header.write_bytes(header.read_bytes()[:-9])
    with pytest.raises(BadSample, match="no end") as bad:
        reader.read(str(header), [whole])
    assert bad.value.kind == "truncated" and bad.value.path == str(header)
