"""What is written in a scan's place lies where the scan lies, in whatever software reads the two."""

import gzip
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from data.volume.placed_scans import PLACE, SHAPE, TURN, in_itk, nifti, reader, tilted

from mae_ext.data.volume import labels as label_volume
from mae_ext.data.volume.geometry import lattice, orientation
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import BadSample, UserError


def extent(address):
    found = reader.formats.declared(address)
    return tuple(found.shape[found.spatial[a]] for a in orientation(found.affine).source)


def written(address, tmp_path, values=None):
    path = tmp_path / "written.nii.gz"
    values = np.arange(np.prod(SHAPE)).reshape(extent(address)) if values is None else values
    reader.write_labels(values.astype(np.int32), address, path)
    return nib.load(path)


def micrometres(header):
    header["xyzt_units"] = 3 | 8
    header["pixdim"][1:4] *= 1000
    for name in ("srow_x", "srow_y", "srow_z", "qoffset_x", "qoffset_y", "qoffset_z"):
        header[name] *= 1000


def odd_remains(header):
    """What codes say is not to be read, and time: no software looks at it here, and it is the scan's all the same."""
    header["pixdim"][0], header["pixdim"][4:] = 0, (0, 7, 2.5, 3)
    header["quatern_b"], header["srow_x"] = 0.25, (1, 2, 3, 4)


HEADERS = {
    **{f"codes s{s} q{q}": {"sform": TURN @ PLACE, "codes": (s, q)} for s, q in product((0, 1, 2, 4), (0, 1, 3))},
    "flipped": {"sform": PLACE @ np.diag([-1, 1, 1, 1]), "qform": PLACE @ np.diag([-1, 1, 1, 1])},
    "tilted beside a qform": {"sform": tilted(18), "codes": (2, 1)},
    "tilted alone": {"sform": tilted(18), "codes": (2, 0)},
    "sform off by a thousandth": {"sform": PLACE + 0.0025 * np.eye(4)[[3, 2, 3, 3]] * [0, 0, 1, 0]},
    "micrometres": {"fix": micrometres},
    "no units": {"fix": lambda h: h.__setitem__("xyzt_units", 0)},
    "odd remains": {"codes": (0, 0), "fix": odd_remains},
    "big-endian": {"sform": TURN @ PLACE, "codes": (2, 1), "order": ">"},
    "NIfTI-2": {"sform": TURN @ PLACE / 3, "qform": PLACE / 3, "codes": (3, 1), "version": 2},
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_prediction_has_the_place_of_its_nifti_to_the_bit_and_every_voxel_where_it_was(tmp_path, kind):
    address = nifti(tmp_path / "a.nii", **HEADERS[kind])
    scan = nib.load(address)
    labels = np.arange(np.prod(SHAPE), dtype=np.int32).reshape(extent(address))
    found = written(address, tmp_path, labels)
    assert type(found) is type(scan) and found.shape == SHAPE
    raw = gzip.decompress((tmp_path / "written.nii.gz").read_bytes())
    header = type(found.header)(raw[: found.header.sizeof_hdr], check=False)
    own = type(scan.header)(
        Path(address).read_bytes()[: scan.header.sizeof_hdr], HEADERS[kind].get("order"), check=False
    )
    for name in label_volume.PLACE:
        assert np.array_equal(header[name], own[name]), name
    assert {"pixdim", "xyzt_units", "sform_code", "qform_code", "srow_z", "quatern_d", "qoffset_y"} <= {
        *label_volume.PLACE
    }
    assert int(header["vox_offset"]) == (544 if kind == "NIfTI-2" else 352)
    assert (float(header["scl_slope"]), float(header["scl_inter"])) == (1, 0)
    # The voxel of the file that a label came from: the crops' own order, told apart from the reader's by its values.
    there = reader.label_map(str(tmp_path / "written.nii.gz"), address)
    np.testing.assert_array_equal(there, labels)


@pytest.mark.parametrize("kind", [k for k in HEADERS if k not in ("NIfTI-2", "tilted alone", "odd remains")])
def test_itk_sees_a_prediction_exactly_where_it_sees_the_scan(tmp_path, kind):
    address = nifti(tmp_path / "a.nii", **HEADERS[kind])
    written(address, tmp_path)
    np.testing.assert_array_equal(in_itk(tmp_path / "written.nii.gz"), in_itk(address))


def test_a_tilted_sform_alone_is_no_file_for_itk_and_its_prediction_is_none_either(tmp_path):
    pytest.importorskip("SimpleITK", reason="SimpleITK is not installed (extra dev)")
    address = nifti(tmp_path / "a.nii", **HEADERS["tilted alone"])
    written(address, tmp_path)
    for path in (address, tmp_path / "written.nii.gz"):
        with pytest.raises(RuntimeError, match="orthonormal"):
            in_itk(path)


def dicom(folder, tilt):
    """A series of slices that are turned by `tilt` degrees out of the axial plane, and stacked along the patient."""
    pydicom = pytest.importorskip("pydicom")
    folder.mkdir()
    for k in range(SHAPE[2]):
        d = pydicom.Dataset()
        d.file_meta = pydicom.dataset.FileMetaDataset()
        d.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        d.SeriesInstanceUID, d.Modality, d.InstanceNumber = "1.2.3", "CT", k
        d.Rows, d.Columns, d.BitsAllocated, d.BitsStored, d.HighBit = SHAPE[1], SHAPE[0], 16, 16, 15
        d.PixelRepresentation, d.SamplesPerPixel, d.PhotometricInterpretation = 1, 1, "MONOCHROME2"
        d.PixelSpacing = [0.8, 0.8]
        d.ImageOrientationPatient = [1, 0, 0, 0, round(np.cos(np.deg2rad(tilt)), 9), round(np.sin(np.deg2rad(tilt)), 9)]
        d.ImagePositionPatient = [-20, -20, 10 + 2.5 * k]
        d.PixelData = np.full(SHAPE[1::-1], k, np.int16).tobytes()
        d.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    return f"{folder}/"


@pytest.mark.parametrize("tilt", [0.0, 18.5, -27.0])
def test_a_prediction_for_a_dicom_series_has_its_lean_in_the_sform_and_itks_own_reading_in_the_qform(tmp_path, tilt):
    address = dicom(tmp_path / "series", tilt)
    header = written(address, tmp_path).header
    assert (int(header["sform_code"]), int(header["qform_code"]), int(header["xyzt_units"]) & 7) == (1, 1, 2)
    t = np.deg2rad(tilt)
    exact = np.array(
        [[-0.8, 0, 0, 20], [0, -0.8 * np.cos(t), 0, 20], [0, 0.8 * np.sin(t), 2.5, 10], [0, 0, 0, 1]]
    )  # RAS of what is LPS there
    np.testing.assert_allclose(header.get_sform(), exact, atol=1e-5)
    normal = 2.5 * np.array([0, np.sin(t), np.cos(t)])
    np.testing.assert_allclose(
        header.get_qform(), np.column_stack([exact[:, :2], [*normal, 0], exact[:, 3]]), atol=1e-5
    )
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed (extra dev)")
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(address)
    np.testing.assert_allclose(in_itk(tmp_path / "written.nii.gz"), in_itk(files), atol=1e-4)


def test_predictions_for_mgh_nrrd_and_rows_of_arrays_have_both_forms_in_mm(tmp_path):
    voxels = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    nib.MGHImage(voxels, TURN @ PLACE).to_filename(tmp_path / "a.mgz")
    text = "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 7 6 5\nendian: little\n"
    text += "space directions: (0.8,0,0) (0,0,-0.8) (0,2.5,0)\nencoding: raw\nspace origin: (5,6,7)\n\n"
    (tmp_path / "a.nrrd").write_bytes(text.encode() + voxels.tobytes("F"))
    np.savez(tmp_path / "a.npz", train_images=voxels.T[None])
    nrrd = np.array([[-0.8, 0, 0, -5], [0, 0, -2.5, -6], [0, -0.8, 0, 7], [0, 0, 0, 1]])
    # What an array's axes are is our own convention (RAS from its last axis on), so no scanner's coordinates: code 2.
    for name, affine, code in (
        ("a.mgz", TURN @ PLACE, 1), ("a.nrrd", nrrd, 1), ("a.npz::train_images::0", np.eye(4), 2),
    ):  # fmt: skip
        header = written(str(tmp_path / name), tmp_path).header
        assert (int(header["sform_code"]), int(header["qform_code"]), int(header["xyzt_units"])) == (code, code, 2)
        np.testing.assert_allclose(header.get_sform(), affine, atol=1e-5)
        np.testing.assert_allclose(header.get_qform(), affine, atol=1e-3)  # TURN is no rotation in its fourth digit
    written(str(tmp_path / "a.nrrd"), tmp_path)
    np.testing.assert_allclose(in_itk(tmp_path / "written.nii.gz"), in_itk(tmp_path / "a.nrrd"), atol=1e-5)


def test_a_prediction_of_a_scan_with_time_has_its_three_axes_of_space(tmp_path):
    address = nifti(tmp_path / "a.nii", data=np.zeros((*SHAPE, 3), np.int16), codes=(2, 1))
    found = written(address, tmp_path)
    assert found.shape == SHAPE and int(found.header["dim"][0]) == 3
    assert np.array_equal(found.header["pixdim"], nib.load(address).header["pixdim"])


@pytest.mark.parametrize(("top", "kind"), [(255, np.uint8), (256, np.int32), (100_000, np.int32)])
def test_labels_are_written_in_the_smallest_type_that_holds_them(tmp_path, top, kind):
    values = np.zeros(SHAPE[::-1], np.int32)
    values[1, 2, 3] = top
    found = written(nifti(tmp_path / "a.nii"), tmp_path, values)
    assert found.get_data_dtype() == kind
    assert np.asarray(found.dataobj)[3, 2, 1] == top and np.asarray(found.dataobj).sum() == top


def test_a_dense_map_is_written_as_float32_in_the_scans_place(tmp_path):
    address = nifti(tmp_path / "a.nii", sform=TURN @ PLACE, codes=(2, 1))
    values = np.random.default_rng(0).normal(size=SHAPE[::-1])
    label_volume.write(values, reader.formats.declared(address), None, tmp_path / "map.nii")
    found = nib.load(tmp_path / "map.nii")
    assert found.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asarray(found.dataobj), values.T.astype(np.float32))
    assert int(found.header["sform_code"]) == 2 and np.array_equal(found.affine, nib.load(address).affine)


def test_the_same_prediction_is_the_same_bytes_and_one_that_fails_leaves_nothing(tmp_path):
    address = nifti(tmp_path / "a.nii")
    contents = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        reader.write_labels(np.ones(SHAPE[::-1], np.int32), address, tmp_path / name / "a.nii.gz")
        contents.add((tmp_path / name / "a.nii.gz").read_bytes())
        assert [p.name for p in (tmp_path / name).iterdir()] == ["a.nii.gz"]
    assert len(contents) == 1
    assert contents.pop()[3:8] == bytes(5)  # of gzip: neither a name nor a time
    (tmp_path / "taken.nii.gz").mkdir()
    with pytest.raises(UserError, match=r"taken\.nii\.gz"):
        reader.write_labels(np.ones(SHAPE[::-1], np.int32), address, tmp_path / "taken.nii.gz")
    assert not list(tmp_path.glob("*tmp-*"))


# Reading


def ramp(path, length=1.0, count=12, name="l"):
    """Labels 0, 1, 2, ... along the first axis."""
    labels = np.arange(count, dtype=np.uint8).repeat(4).reshape(count, 2, 2)
    nib.Nifti1Image(labels, np.diag([length, 1, 1, 1])).to_filename(path / f"{name}.nii.gz")
    return str(path / f"{name}.nii.gz")


@pytest.mark.parametrize(
    ("spacing", "wanted"),
    [
        (0.75, [0, 1, 2, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9, 10, 10, 11]),  # at 0, 0.75, 1.5 (even), 2.25, ... of the stored
        (1.6, [0, 2, 3, 5, 6, 8, 10, 11]),
    ],
)
def test_labels_at_another_spacing_are_those_of_the_nearest_voxel(tmp_path, spacing, wanted):
    found = VolumeReader((4, 4, 4), spacing=(1, 1, spacing)).label_map(ramp(tmp_path))
    assert found[0, 0].tolist() == wanted and found[1, 1].tolist() == wanted


@pytest.mark.parametrize(
    ("spacing", "wanted"),
    [
        (0.75, [0, 1, 3, 4, 5, 7, 8, 9, 11, 12, 13, 15]),  # voxel i is at i / 0.75 of the lattice
        (1.6, [0, 1, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7]),
        (2.0, [0, 0, 1, 1]),  # the last one is half a voxel beyond a lattice of two
    ],
)
def test_labels_on_another_lattice_are_written_from_the_nearest_of_it(tmp_path, spacing, wanted):
    address, other = ramp(tmp_path, count=len(wanted)), VolumeReader((4, 4, 4), spacing=(1, 1, spacing))
    count = lattice((len(wanted),), (1.0,), (spacing,)).shape[0]
    labels = np.broadcast_to(np.arange(count, dtype=np.int32), (2, 2, count))
    other.write_labels(labels, address, tmp_path / "w.nii.gz")
    assert np.asarray(nib.load(tmp_path / "w.nii.gz").dataobj)[:, 1, 0].tolist() == wanted


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int16, np.uint16, np.int32])
@pytest.mark.parametrize("top", [2, 7, 117])
def test_labels_that_were_floats_when_they_were_saved_as_whole_numbers_are_read_as_what_they_were(tmp_path, kind, top):
    """nibabel stretches get_fdata() over the levels of the type: of 0, 1, 2 in uint8 come back 0, 0.996 and 2."""
    labels = np.random.default_rng(0).integers(0, top + 1, SHAPE)
    labels.flat[:2] = 0, top
    image = nib.Nifti1Image(labels.astype(np.float64), PLACE)
    image.set_data_dtype(kind)
    image.to_filename(tmp_path / "l.nii.gz")
    assert nib.load(tmp_path / "l.nii.gz").dataobj.slope != 1
    np.testing.assert_array_equal(reader.label_map(str(tmp_path / "l.nii.gz")), labels.T)


@pytest.mark.parametrize(
    ("values", "kind", "told"),
    [
        ([0, 0.5, 1], np.float32, r"from 0 on: 0\.5 \(stored as float32\); save the labels as integers"),
        ([0, 0.996, 2], np.float32, r"0\.996"),
        ([0, 1, -1], np.int16, "from 0 on: -1"),
        ([0, 1, np.nan], np.float32, r"from 0 on: nan \(stored as float32\)"),
        ([0, 1, 3e9], np.float64, r"from 0 on: 3e\+09"),
        ([0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 1], np.float32, r"0\.1, 0\.2, 0\.3, 0\.4, 0\.6 and others"),
        (np.linspace(0, 1, 60), np.uint8, r"and others \(stored as uint8\)"),  # probabilities
        ([0, 0.008, 2], np.uint8, r"from 0 on: 0\.00784\d \(stored as uint8\)"),  # a whole step, and not half of one
        ([0, 1, 37.4, 104], np.uint8, r"37\.\d+ \(stored as uint8\)"),
        ([0, 1, 150, 200], np.uint8, r"\(stored as uint8, in steps of 0\.784, which are too coarse to tell\)"),
    ],
)
def test_what_is_no_whole_number_is_named_with_its_values_and_the_remedy(tmp_path, values, kind, told):
    image = nib.Nifti1Image(np.resize(np.array(values, np.float64), SHAPE), PLACE)
    image.set_data_dtype(kind)
    image.to_filename(tmp_path / "l.nii.gz")
    with pytest.raises(BadSample, match=told) as info:
        reader.label_map(str(tmp_path / "l.nii.gz"))
    assert info.value.kind == "label map"


def test_an_intercept_of_labels_is_added(tmp_path):
    labels = np.random.default_rng(0).integers(5, 9, SHAPE)
    address = nifti(tmp_path / "l.nii", data=(labels - 5).astype(np.uint8), fix=lambda h: h.__setitem__("scl_inter", 5))
    np.testing.assert_array_equal(reader.label_map(address), labels.T)
