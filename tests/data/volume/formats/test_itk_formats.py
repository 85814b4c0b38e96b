"""MetaImage, NRRD and pairs hold the voxels and the place that ITK reads from them."""

import numpy as np
import pytest
from data.volume.formats.written import DIRECTION, SHAPE, itk, numbered, write_itk
from data.volume.placed_scans import in_itk

from mae_ext.data.sample import whole
from mae_ext.data.sources.table import list_items
from mae_ext.data.volume.formats.known import Formats, Taken
from mae_ext.data.volume.geometry import apart
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import BadSample

LIMIT = 1 << 20
formats = Formats(Taken(LIMIT))
KINDS = [
    *((name, packed) for name in ("a.mha", "a.mhd", "a.nhdr", "a.nrrd") for packed in (False, True)),
    *(("a.hdr", False), ("a.img.gz", False)),
]


def read(path):
    scan = formats.declared(str(path))
    return scan, scan.load()


@pytest.mark.parametrize(("name", "packed"), KINDS)
def test_a_scan_that_itk_wrote_has_the_voxels_and_corners_that_itk_reads(tmp_path, name, packed):
    image = itk(np.float32)
    write_itk(image, tmp_path / name, packed)
    path = tmp_path / name.replace(".img", ".hdr")
    scan, voxels = read(path)
    np.testing.assert_array_equal(voxels, numbered(np.float32).T)
    assert apart(in_itk(str(tmp_path / name)), scan.affine, SHAPE).mm < 0.01
    assert abs(DIRECTION[0, 0]) < 0.99  # it is oblique
    header = formats.declared(str(path), header_alone=True)
    np.testing.assert_array_equal(header.affine, scan.affine)
    assert list(list_items(str(tmp_path), VolumeReader.suffixes).addresses) == [str(path)]


@pytest.mark.parametrize(
    "kind", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"]
)
def test_every_type_of_meta_image_keeps_its_numbers(tmp_path, kind):
    path = write_itk(itk(np.dtype(kind), (5, 4, 3)), tmp_path / "a.mha", True)
    scan, voxels = read(path)
    assert scan.dtype == np.dtype(kind)
    np.testing.assert_array_equal(voxels, numbered(np.dtype(kind), (5, 4, 3)).T)


def test_components_of_a_voxel_are_channels_without_being_asked_for(tmp_path):
    path = write_itk(itk(parts=2), tmp_path / "a.mhd")
    reader = VolumeReader((5, 6, 7), channels=2, intensity="none")
    (sample,) = reader.read(path, [whole])
    assert sample.x.shape == (2, 5, 6, 7)
    np.testing.assert_array_equal(sample.x[1] - sample.x[0], np.ones((5, 6, 7)))
    with pytest.raises(BadSample, match="the scan has 2, the config wants 1"):
        VolumeReader((5, 6, 7)).read(path, [whole])


META = """ObjectType = Image
NDims = 3
DimSize = 7 6 5
ElementSpacing = 1 2 3
ElementType = MET_SHORT
{more}ElementDataFile = {file}
"""
NRRD = """NRRD0004
type: short
dimension: 3
space: left-posterior-superior
sizes: 7 6 5
space directions: (1,0,0) (0,2,0) (0,0,3)
endian: little
encoding: raw
{more}data file: {file}
"""


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.mhd", "s%03d.raw 1 5 1"),
        ("a.mhd", "LIST\ns001.raw\ns002.raw\ns003.raw\ns004.raw\ns005.raw"),
        ("a.nhdr", "s%03d.raw 1 5 1"),
        ("a.nhdr", "s%03d.raw 1 5 1 2"),
        ("a.nhdr", "LIST\ns001.raw\ns002.raw\ns003.raw\ns004.raw\ns005.raw"),
    ],
)
def test_voxels_in_a_file_for_each_slice_are_read_in_their_order(tmp_path, name, file):
    for z in range(5):
        (tmp_path / f"s{z + 1:03d}.raw").write_bytes(numbered()[:, :, z].tobytes("F"))
    path = tmp_path / name
    path.write_text((META if name == "a.mhd" else NRRD).format(more="", file=file))
    np.testing.assert_array_equal(read(path)[1], numbered().T)
    assert formats.files(str(path)) == [str(path), *(str(tmp_path / f"s{z + 1:03d}.raw") for z in range(5))]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("a.mhd", "HeaderSize = 10\n"),
        ("a.mhd", "HeaderSize = -1\n"),
        ("a.nhdr", "byte skip: 10\n"),
        ("a.nhdr", "byte skip: -1\n"),
        ("a.nhdr", "line skip: 2\n"),
    ],
)
def test_what_stands_before_the_voxels_is_skipped_as_the_header_says(tmp_path, name, more):
    (tmp_path / "a.raw").write_bytes(b"abcd\nefgh\n" + numbered().tobytes("F"))
    path = tmp_path / name
    path.write_text((META if name == "a.mhd" else NRRD).format(more=more, file="a.raw"))
    np.testing.assert_array_equal(read(path)[1], numbered().T)


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.raw", "x/../../a.raw", "C:\\a.raw", "..\\a.raw", " "])
@pytest.mark.parametrize("header", ["a.mhd", "a.nhdr"])
def test_voxels_outside_the_folder_of_a_header_are_not_opened(tmp_path, header, name):
    path = tmp_path / header
    path.write_text((META if header == "a.mhd" else NRRD).format(more="", file=name))
    with pytest.raises(BadSample) as refused:
        formats.declared(str(path))
    assert refused.value.kind == "header" and "is not in the folder of the header" in refused.value.detail


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ("ElementToIntensityFunctionSlope = 2\n", "scaling"),
        ("DistanceUnits = um\n", "geometry"),
        ("BinaryData = False\n", "header"),
        ("TransformMatrix = 1 0 0 0\n", "header"),
        ("HeaderSize = -7\n", "header"),
        ("TransformMatrix = 1 0 0 1 0 0 0 0 1\n", "geometry"),
        ("ElementNumberOfChannels = 0\n", "axes"),
    ],
)
def test_what_software_reads_in_two_ways_is_refused_by_name(tmp_path, more, kind):
    path = tmp_path / "a.mhd"
    path.write_text(META.format(more=more, file="a.raw"))
    with pytest.raises(BadSample) as refused:
        formats.declared(str(path))
    assert refused.value.kind == kind


def test_a_header_of_another_file_is_named_in_the_cases_own_words(tmp_path):
    path = write_itk(itk(), tmp_path / "a.mhd")
    (tmp_path / "a.raw").unlink()
    with pytest.raises(BadSample, match=r"a\.mhd.*no such file.*its data file .*a\.raw"):
        read(path)
    write_itk(itk(), tmp_path / "a.hdr")
    (tmp_path / "a.img").unlink()
    with pytest.raises(BadSample, match=r"a\.hdr.*no such file.*a\.img"):
        read(tmp_path / "a.hdr")
