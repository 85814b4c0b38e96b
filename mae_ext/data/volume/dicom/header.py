"""What a DICOM file says before its pixels, and which objects are none that a scan is made of."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import Any

from mae_ext.data.sources.address import fetch, head
from mae_ext.data.sources.dicom.elements import plausible
from mae_ext.data.sources.dicom.keyed import hidden
from mae_ext.data.volume.dicom.codecs import check_readable, inflated
from mae_ext.errors import BadSample, UserError

# What pydicom makes of an odd value is our verdict on the file, or nothing that anyone has to act on.
warnings.filterwarnings("ignore", module=r"pydicom\b")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

IDENTITY = (
    *("SeriesInstanceUID", "StudyInstanceUID", "PatientID", "FrameOfReferenceUID", "Modality", "SOPClassUID"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation", "Units"),
)
"""What all files of a series have in common, or have not."""

_GEOMETRY = ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")
_CONTRAST = ("EchoTime", "FlipAngle", "InversionTime", "DiffusionBValue")
_ORDER = (
    *("TemporalPositionIdentifier", "InstanceNumber", "AcquisitionNumber", "TriggerTime"),
    *("AcquisitionDateTime", "AcquisitionTime", "ContentTime"),
)
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DimensionIndexSequence")
_TAGS = (
    *IDENTITY, *_GEOMETRY, *_CONTRAST, *_ORDER, *_GROUPS, "SOPInstanceUID", "ImageType", "NumberOfFrames",
    "SamplesPerPixel", "PhotometricInterpretation", "HighBit", "RescaleSlope", "RescaleIntercept", "RescaleType",
    "ModalityLUTSequence", "PixelPaddingValue", "PixelPaddingRangeLimit", "ConcatenationUID",
    "InConcatenationTotalNumber",
)  # fmt: skip

HEADER_BYTES = 1 << 16
"""Of a file's beginning, where its header ends as a rule; that of an enhanced object with many frames is longer."""

WHO = {
    "SeriesInstanceUID": "series", "StudyInstanceUID": "study", "PatientID": "patient", "FrameOfReferenceUID": "place",
}  # fmt: skip
"""What of IDENTITY says who somebody is, or when: only hashes of it are shown."""

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66."


def header(file: str, max_bytes: int) -> Any:
    """A pydicom data set without pixels. Raises BadSample, and UserError without pydicom."""
    try:
        import pydicom
    except ImportError:
        raise UserError("DICOM is read by pydicom, which is not installed: pip install 'mae-ext[dicom]'") from None
    content = head(file, HEADER_BYTES, max_bytes)
    with parsing(file):
        try:
            data = _before_pixels(file, content, max_bytes)
        except pydicom.errors.InvalidDicomError as error:
            detail = "no DICOM preamble, and it begins as nothing that DICOM knows"
            raise BadSample(file, "not a scan", detail) from error
        if not (data.get("Rows") and data.get("Columns")):
            what = getattr(data.get("SOPClassUID"), "name", "an object of unknown class")
            raise BadSample(file, "not a scan", f"{what}: it holds no pixels")
        if str(data.get("SOPClassUID")).startswith(SEGMENTATION):
            detail = f"{data.SOPClassUID.name}: labels or a surface, not measured values; name it in task.masks"
            raise BadSample(file, "not a scan", detail)
        if int(data.get("SamplesPerPixel") or 1) != 1:
            raise BadSample(file, "RGB", "colour pixels (a secondary capture or an overlay), not measured values")
        if data.get("PhotometricInterpretation", "MONOCHROME2") != "MONOCHROME2":
            detail = f"photometric interpretation {data.PhotometricInterpretation}; MONOCHROME2 is read"
            raise BadSample(file, "data type", detail)
        if data.get("ModalityLUTSequence"):
            detail = "its values are given by a table (ModalityLUTSequence); slope and intercept are read"
            raise BadSample(file, "scaling", detail)
        frames_in(data)
        check_readable(file, data)
        return data


def opened(file: str, max_bytes: int) -> Any:
    """The whole data set of one file. Raises BadSample."""
    content = fetch(file, max_bytes)
    assert isinstance(content, bytes)
    with parsing(file):
        return dataset(inflated(file, content, max_bytes))


def _before_pixels(file: str, content: bytes, max_bytes: int) -> Any:
    """The data set that begins with `content`. All of the file is read where it goes on behind that."""
    if len(content) < HEADER_BYTES:
        content = inflated(file, content, max_bytes)
    else:
        beginning = BytesIO(content)
        with suppress(Exception):  # where it breaks off
            data = dataset(beginning, stop_before_pixels=True, specific_tags=list(_TAGS))
            if beginning.tell() < len(content):  # at the pixels
                return data
        every = fetch(file, max_bytes)
        assert isinstance(every, bytes)
        content = inflated(file, every, max_bytes)
    return dataset(BytesIO(content), stop_before_pixels=True, specific_tags=list(_TAGS))


def dataset(content: bytes | BytesIO, **how: Any) -> Any:
    """What pydicom makes of a file's bytes, also where the preamble is missing and what follows begins as DICOM does;
    with the syntax in which it is written."""
    import pydicom

    file = BytesIO(content) if isinstance(content, bytes) else content
    data = pydicom.dcmread(file, force=plausible(file.getvalue()[:16]), **how)
    if "TransferSyntaxUID" not in data.file_meta:
        little, implicit = data.original_encoding[1], data.original_encoding[0]
        names = ("ImplicitVRLittleEndian",) if implicit else ("ExplicitVRBigEndian", "ExplicitVRLittleEndian")
        data.file_meta.TransferSyntaxUID = getattr(pydicom.uid, names[-1] if little else names[0])
    return data


def is_mosaic(data: Any) -> bool:
    return "MOSAIC" in (data.get("ImageType") or ())


def is_enhanced(data: Any) -> bool:
    return bool(data.get("PerFrameFunctionalGroupsSequence") or frames_in(data) > 1)


def frames_in(data: Any) -> int:
    count = data.get("NumberOfFrames")
    if count in (None, ""):
        return 1
    if not int(count) >= 1:
        raise ValueError(f"NumberOfFrames is {count}; expected 1 or more")
    return int(count)


@contextmanager
def parsing(file: str) -> Iterator[None]:
    """What pydicom and nibabel raise at a file's content, of whatever kind, becomes a verdict on the file."""
    try:
        yield
    except (BadSample, UserError, MemoryError):
        raise
    except Exception as error:
        text = unsaid(" ".join(str(error).split()))
        short = "less than" in text or ("expected" in text and "bytes" in text) or isinstance(error, EOFError)
        detail = f"{type(error).__name__}: {text}" if text else type(error).__name__
        raise BadSample(file, "truncated" if short else "header", detail[:300]) from error


def shown(name: str, value: str) -> str:
    """A value as a message may have it."""
    return hidden(WHO[name], value) if name in WHO else value[-64:]


def numeral(text: str) -> str:
    """What stands where numbers are expected, as a message may have it: of anything but numbers, how long it is."""
    parts = text[:80].split("\\")
    numbers = all(re.fullmatch(r"(?i) *([-+\d.e]{0,20}|nan|-?inf|none) *", part) for part in parts)
    return text[:80] if numbers and not re.search(r"\d{8}", text) else f"a text of {len(text)} letters"


def unsaid(text: str) -> str:
    """A message about a header without what stands in the header: texts in quotes, dates, UIDs."""
    text = re.sub(r"(['\"]).*?\1", "...", text)
    return re.sub(r"\d[\d.]{7,}(?! bytes)", "...", text)
