"""A DICOM file may say anything in any tag, and end anywhere: each is a verdict, and none ends the run."""

import io
import itertools

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="DICOM is an optional extra: pip install 'mae-ext[dicom]'")

from data.volume.dicom.dicom_files import classic, enhanced, frame  # noqa: E402
from pydicom.dataelem import RawDataElement  # noqa: E402
from pydicom.tag import Tag  # noqa: E402

from mae_ext.data.volume.reader import VolumeReader  # noqa: E402
from mae_ext.errors import BadSample  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

TAGS = {
    "PixelSpacing": "DS", "ImageOrientationPatient": "DS", "ImagePositionPatient": "DS", "RescaleSlope": "DS",
    "RescaleIntercept": "DS", "EchoTime": "DS", "FlipAngle": "DS", "NumberOfFrames": "IS", "InstanceNumber": "IS",
    "TemporalPositionIdentifier": "IS", "Rows": "US", "Columns": "US", "BitsAllocated": "US", "BitsStored": "US",
    "PixelRepresentation": "US", "SamplesPerPixel": "US", "PixelPaddingValue": "US", "ImageType": "CS",
    "PhotometricInterpretation": "CS", "SeriesInstanceUID": "UI", "SOPClassUID": "UI", "TriggerTime": "DS",
}  # fmt: skip
VALUES = {
    "a comma": b"0,8\\0,8 ", "letters": b"1A", "empty": b"", "blank": b"  ", "nul": b"\0\0", "one": b"1 ",
    "many": b"1\\2\\3\\4\\5\\6\\7\\8 ", "huge": b"9" * 400, "infinite": b"1e400 ", "not a number": b"nan ",
    "negative": b"-1", "zero": b"0 ", "bytes": bytes(range(128, 160)), "slashes": b"\\\\\\\\", "odd": b"\x01\x02\x03",
    "real": b"1.5 ", "ones": b"\xff" * 6, "surrogate": b"\xed\xa0\x80 ",
}  # fmt: skip
VRS = ("UN", "SQ", "AT", "FD")
PLANES = np.random.default_rng(0).integers(0, 500, (3, 4, 5)).astype(np.int16)


def outcome(address):
    """The kind of the verdict, or "good". Anything but a BadSample fails the test."""
    reader = VolumeReader((2, 2, 2), intensity="none")
    try:
        reader.scan(address)
    except BadSample as error:
        return error.kind if error.detail and error.path.startswith(address.rstrip("/")) else "says too little"
    return "good"


@pytest.fixture
def base(tmp_path):
    """A series of three slices, and its middle one as a data set that can be changed."""
    for z in range(3):
        classic(tmp_path / "s" / f"{z}.dcm", PLANES[z], (0, 0, 2.5 * z), InstanceNumber=z)
    assert outcome(f"{tmp_path / 's'}/") == "good"
    return tmp_path / "s"


def rewritten(file, change):
    """The file with a change to its data set, whatever that makes of it."""
    data, buffer = pydicom.dcmread(io.BytesIO(file)), io.BytesIO()
    change(data)
    pydicom.dcmwrite(buffer, data)
    return buffer.getvalue()


def raw(tag, value, vr):
    def change(data):
        where = Tag(tag)
        data._dict[where] = RawDataElement(where, vr, len(value), value, 0, False, True)

    return change


def test_no_value_of_any_tag_escapes_the_verdicts(base):
    target = base / "1.dcm"
    whole, found = target.read_bytes(), {}
    for (tag, vr), (name, value) in itertools.product(TAGS.items(), VALUES.items()):
        target.write_bytes(rewritten(whole, raw(tag, value, vr)))
        found[tag, name] = outcome(f"{base}/")
    assert len(found) == 396
    assert found["PixelSpacing", "a comma"] == found["NumberOfFrames", "letters"] == "header"
    assert found["InstanceNumber", "empty"] == "good"
    bad = [key for key, kind in found.items() if kind != "good"]
    assert {tag for tag, _ in bad} >= {"PixelSpacing", "Rows", "BitsAllocated", "NumberOfFrames", "SOPClassUID"}
    assert "unreadable" not in found.values()  # every one of them has a kind of its own


def test_no_value_representation_escapes_the_verdicts(base):
    target = base / "1.dcm"
    whole, found = target.read_bytes(), []
    for tag, vr, value in itertools.product(TAGS, VRS, (b"\1\0\0\0\0\0\0\0",)):
        try:
            content = rewritten(whole, raw(tag, value, vr))
        except (NotImplementedError, KeyError):  # this one cannot even be written
            continue
        target.write_bytes(content)
        found.append(outcome(f"{base}/"))
    assert len(found) > 60 and set(found) > {"good", "header"}


def test_no_length_and_no_flipped_byte_escapes_the_verdicts(base):
    target = base / "1.dcm"
    whole = target.read_bytes()
    for length in range(0, len(whole), 23):
        target.write_bytes(whole[:length])
        assert outcome(f"{base}/") != "good", length
    draws = np.random.default_rng(0)
    for at in draws.integers(132, len(whole) - 40, 100).tolist():
        target.write_bytes(whole[:at] + bytes([int(draws.integers(256))]) + whole[at + 1 :])
        outcome(f"{base}/")


def test_nothing_in_the_groups_of_an_enhanced_object_escapes_the_verdicts(tmp_path):
    target = tmp_path / "a.dcm"
    enhanced(target, [frame(PLANES[z], z, echo=2.0, b=0.0, kind="M") for z in range(3)])
    whole, found = target.read_bytes(), []
    groups = pydicom.dcmread(target).PerFrameFunctionalGroupsSequence[1]
    said = [(group.keyword, element.keyword, element.VR) for group in groups for element in group.value[0]]
    for (name, tag, vr), value in itertools.product(said, (b"0,8 ", b"\xff" * 6, b"")):

        def change(data, name=name, tag=tag, vr=vr, value=value):
            raw(tag, value, vr)(data.PerFrameFunctionalGroupsSequence[1][name].value[0])

        target.write_bytes(rewritten(whole, change))
        found.append(outcome(str(target)))
    groups = [group.keyword for group in groups]
    assert len(groups) == 8
    for name in groups:
        for emptied in (delattr, lambda g, n: setattr(g, n, pydicom.Sequence())):
            target.write_bytes(
                rewritten(whole, lambda d, e=emptied, n=name: e(d.PerFrameFunctionalGroupsSequence[1], n))
            )
            found.append(outcome(str(target)))
    for top in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence", "DimensionIndexSequence"):
        for value in (b"", b"\0" * 8, b"\xfe\xff\x00\xe0\xff\xff\xff\xff"):
            target.write_bytes(rewritten(whole, raw(top, value, "UN")))
            found.append(outcome(str(target)))
    assert len(found) == 3 * len(said) + 2 * 8 + 9 > 60 and {"good", "header", "mixed series"} <= set(found) <= {
        "good", "header", "mixed series", "missing slices", "geometry", "truncated", "axes",
    }  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM" + b"\xff" * 5000, b"x" * 999])
def test_a_file_of_nothing_is_named(base, content):
    (base / "1.dcm").write_bytes(content)
    assert outcome(f"{base}/") in ("empty", "not a scan", "header", "truncated")


def test_a_picture_larger_than_the_memory_is_refused_before_it_is_made_room_for(base):
    for file in base.iterdir():
        file.write_bytes(
            rewritten(file.read_bytes(), lambda d: (setattr(d, "Rows", 65535), setattr(d, "Columns", 65535)))
        )
    assert outcome(f"{base}/") == "too large"
