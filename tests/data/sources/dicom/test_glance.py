"""What a listing sees of one file is what pydicom reads of it, and nobody's name."""

import os
import zlib

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="DICOM is an optional extra: pip install 'mae-ext[dicom]'")

from data.volume.dicom.dicom_files import classic, enhanced, frame, mosaic  # noqa: E402

from mae_ext.data.sources.dicom import unwanted  # noqa: E402
from mae_ext.data.sources.dicom.glance import NOT_DICOM, NUMBERS, glance  # noqa: E402

KEY = b"a key of the tests"
PLANE = np.arange(42, dtype=np.int16).reshape(6, 7)
WHO = {
    "PatientName": "PLANTED^NAME", "PatientID": "PLANTED-ID", "PatientBirthDate": "19550505", "StudyDate": "20010203",
    "AcquisitionDate": "20010203", "AcquisitionTime": "101112.5", "AccessionNumber": "PLANTED7", "StudyID": "PLANTED8",
    "InstitutionName": "PLANTED HOSPITAL", "ReferringPhysicianName": "PLANTED^DOCTOR", "StationName": "PLANTEDCT",
    "SeriesDescription": "chest of NAME", "ProtocolName": "for PLANTED", "StudyInstanceUID": "1.2.3.4.55555",
}  # fmt: skip


def see(path):
    return glance(str(path), KEY)


def numbers(path):
    return dict(zip(NUMBERS, see(path).numbers, strict=True))


def rewritten(path, syntax, **how):
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = syntax
    data.save_as(path, **how)


@pytest.mark.parametrize("syntax", ["ExplicitVRLittleEndian", "ImplicitVRLittleEndian", "ExplicitVRBigEndian"])
def test_every_way_of_writing_a_header_is_read_alike(tmp_path, syntax):
    path = tmp_path / "a"
    nested = pydicom.Dataset()
    nested.CodeValue = "1"
    nested.is_undefined_length_sequence_item = True
    several = pydicom.DataElement(0x00081032, "SQ", [nested, nested])
    several.is_undefined_length = True
    classic(path, PLANE, (-100.25, 3, 7.5), EchoTime=4.5, InstanceNumber=9, ProcedureCodeSequence=several)
    before = see(path)
    uid = getattr(pydicom.uid, syntax)
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = uid
    pydicom.dcmwrite(path, data, implicit_vr=uid.is_implicit_VR, little_endian=uid.is_little_endian)
    assert str(see(path)) == str(before) and before.left == ""
    assert (before.of["rows"], before.of["columns"]) == ("6", "7")
    seen = numbers(path)
    assert [seen[k] for k in ("x", "y", "z", "echo", "number", "between_rows")] == [-100.25, 3, 7.5, 4.5, 9, 0.7]


def test_a_deflated_header_is_read_and_one_that_swells_is_not(tmp_path):
    path = tmp_path / "a"
    classic(path, PLANE, (1, 2, 3))
    before = see(path)
    rewritten(path, pydicom.uid.DeflatedExplicitVRLittleEndian)
    assert str(see(path)) == str(before)
    content = path.read_bytes()
    start = content.index(b"1.2.840.10008.1.2.1.99") + 22
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    path.write_bytes(
        content[:start] + packer.compress(b"\x08\0\x05\0UN\0\0\xff\xff\xff\x3f" + bytes(1 << 26)) + packer.flush()
    )
    assert see(path).left in (NOT_DICOM, unwanted.BROKEN)


def test_a_file_without_preamble_is_dicom_where_it_begins_as_such(tmp_path):
    path = tmp_path / "a"
    classic(path, PLANE, (1, 2, 3))
    before = see(path)
    path.write_bytes(path.read_bytes()[132:])
    assert str(see(path)) == str(before)
    data = pydicom.dcmread(path, force=True)
    pydicom.dcmwrite(path, pydicom.Dataset(data), implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert str(see(path)) == str(before)


@pytest.mark.parametrize(
    "content", [b"", b"\x08", bytes(400), b"\x08\0text that begins so", b"PK\x03\x04" + bytes(200), os.urandom(5000)]
)
def test_what_is_not_dicom_is_not_taken_for_it(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert see(tmp_path / "a").left == NOT_DICOM


def test_a_header_that_ends_anywhere_is_broken_and_never_more(tmp_path):
    path = tmp_path / "a"
    classic(path, PLANE, (1, 2, 3), **WHO)
    whole = path.read_bytes()
    pixels = whole.index(b"\xe0\x7f\x10\0")
    for end in range(140, pixels, 7):
        path.write_bytes(whole[:end])
        assert see(path).left in (unwanted.BROKEN, NOT_DICOM, unwanted.NO_PIXELS, unwanted.UNNAMED, "")
        assert not see(path).of or "PLANTED" not in str(see(path))


def test_nothing_that_says_who_the_patient_is_comes_out(tmp_path):
    path = tmp_path / "a"
    kernel = {"ConvolutionKernel": "PLANTED", "BodyPartExamined": "NAME", "ImageType": ["ORIGINAL", "PLANTED^NAME"]}
    classic(path, PLANE, (1, 2, 3), **WHO, **kernel, SequenceName="x 20010203")
    seen = see(path)
    text = f"{seen.of} {seen.instance}"
    planted = ["PLANTED", "NAME", "DOCTOR", "HOSPITAL", "1955", "2001", "55555", "1.2.3"]
    assert seen.left == "" and [word for word in planted if word in text] == []
    assert numbers(path)["moment"] != pytest.approx(981195072.5, abs=1e7)


def test_moments_of_one_study_keep_their_distance(tmp_path):
    for name, time in (("a", "101112.5"), ("b", "101152.75")):
        classic(tmp_path / name, PLANE, (1, 2, 3), **WHO | {"AcquisitionTime": time})
    assert numbers(tmp_path / "b")["moment"] - numbers(tmp_path / "a")["moment"] == pytest.approx(40.25)


def test_patients_are_one_by_their_id_and_else_by_name_and_birth(tmp_path):
    def patient(**tags):
        classic(tmp_path / "a", PLANE, (1, 2, 3), **tags)
        return see(tmp_path / "a").of["patient"]

    assert patient(PatientID="7", PatientName="A") == patient(PatientID="7 ", PatientName="B")
    assert patient(PatientName="A", PatientBirthDate="1") != patient(PatientName="A", PatientBirthDate="2")
    assert patient(StudyInstanceUID="1.2") != patient(StudyInstanceUID="1.3")


@pytest.mark.parametrize(
    ("tags", "left"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11"}, unwanted.REPORTS),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1"}, unwanted.STATES),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, unwanted.PAPERS),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, unwanted.MASKS),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.3"}, unwanted.MASKS),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2"}, unwanted.DOSES),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.5"}, unwanted.RADIOTHERAPY),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2"}, unwanted.CAPTURES),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1"}, unwanted.PROJECTIONS),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1"}, unwanted.PROJECTIONS),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.12.1"}, unwanted.PROJECTIONS),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.13.1.3"}, ""),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.128"}, ""),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.20"}, ""),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, unwanted.SCOUTS),
        ({"SeriesDescription": "3-plane Localizer"}, unwanted.SCOUTS),
        ({"SeriesDescription": "Topogram  0.6  T20s"}, unwanted.SCOUTS),
        ({"SamplesPerPixel": 3}, unwanted.COLOUR),
        ({"Rows": None}, unwanted.NO_PIXELS),
        ({"SeriesInstanceUID": None}, unwanted.UNNAMED),
    ],
)
def test_what_is_no_scan_is_left_out_by_what_it_is(tmp_path, tags, left):
    classic(tmp_path / "a", PLANE, (1, 2, 3), **tags)
    assert see(tmp_path / "a").left == left
    assert left == "" or left in unwanted.REMEDIES


def test_objects_of_many_frames_and_mosaics_say_so(tmp_path):
    enhanced(tmp_path / "e", [frame(PLANE, z) for z in range(3)])
    mosaic(tmp_path / "m", np.zeros((4, 6, 7), np.int16))
    assert numbers(tmp_path / "e")["frames"] == 3
    assert "MOSAIC" in see(tmp_path / "m").of["image_type"]


def test_a_device_in_a_files_place_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a")
    assert see(tmp_path / "a").left == NOT_DICOM
