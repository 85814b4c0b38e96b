"""One DICOM plane, whatever the object that it comes in: where it lies, how it is scaled, what it is an image of.

A classic slice says so in its header; an enhanced (multi-frame) object says it frame by frame, or once for all frames.
What is true of a plane is looked up in one way for both, so that whatever is done with planes is done for both.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from math import isfinite, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.volume.dicom.header import IDENTITY, frames_in, is_enhanced, numeral, parsing, shown
from mae_ext.errors import BadSample, some

Vector = NDArray[np.float64]

# Where an enhanced object keeps it: PS3.3, C.7.6.16.2 (common macros), C.8.13.5 (MR), C.8.15.3 (CT), C.8.22 (PET).
_MACROS = {
    "PixelSpacing": ("PixelMeasuresSequence",),
    "ImageOrientationPatient": ("PlaneOrientationSequence",),
    "ImagePositionPatient": ("PlanePositionSequence",),
    "RescaleSlope": ("PixelValueTransformationSequence",),
    "RescaleIntercept": ("PixelValueTransformationSequence",),
    "RescaleType": ("PixelValueTransformationSequence",),
    "EffectiveEchoTime": ("MREchoSequence",),
    "FlipAngle": ("MRTimingAndRelatedParametersSequence",),
    "InversionTimes": ("MRModifierSequence",),
    "DiffusionBValue": ("MRDiffusionSequence",),
    "DiffusionDirectionality": ("MRDiffusionSequence",),
    "FrameType": ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence"),
    "ComplexImageComponent": ("MRImageFrameTypeSequence",),
    "TemporalPositionIndex": ("FrameContentSequence",),
    "DimensionIndexValues": ("FrameContentSequence",),
    "StackID": ("FrameContentSequence",),
    "ReferencedSegmentNumber": ("SegmentIdentificationSequence",),
    "FrameAcquisitionDateTime": ("FrameContentSequence",),
    "FrameReferenceDateTime": ("FrameContentSequence",),
}

_OF_PLACE = (0x00209056, 0x00209057, 0x00200032, 0x00201041)
"""Dimensions that count places, not volumes: stack, position in it, image position, slice location."""


RIGHT_ANGLE = 0.01
"""How far the directions of rows and columns may be from unit length and a right angle: cosines have few digits."""


@dataclass(frozen=True)
class Frame:
    """One plane. across, down: unit vectors along its rows and columns; origin: of its first pixel. mm, LPS.

    spacing: between rows, between columns. padding: least and largest stored number that stands for no measurement.
    alike: what must be the same in all planes of a series, by name. contrast: what may differ between volumes of one
    place and is no time. order: sorts the planes of one place into volumes.
    """

    file: str
    number: int
    across: Vector
    down: Vector
    origin: Vector
    spacing: Vector
    slope: float | None
    inter: float | None
    padding: tuple[int, int] | None
    alike: dict[str, str]
    contrast: dict[str, float]
    moment: float
    stack: str
    order: tuple[Any, ...]
    instance: str
    segment: int = 0
    """Of a segmentation: which of its segments the plane is of."""


class _Said:
    """What a data set says, by name, each looked up once: pydicom takes its time over a name."""

    def __init__(self, data: Any) -> None:
        self._data, self._tags, self._known = data, {int(tag) for tag in data.keys()}, dict[str, Any]()  # noqa: SIM118

    def __call__(self, name: str) -> Any:
        """None where it is not said, or left empty."""
        if name not in self._known:
            value = self._data[_tag(name)].value if _tag(name) in self._tags else None
            self._known[name] = None if value in (None, "") else value
        return self._known[name]

    def within(self, macro: str) -> "_Said | None":
        """The one item of a sequence."""
        if macro not in self._known:
            items = list(self._data[_tag(macro)].value or ())[:1] if _tag(macro) in self._tags else []
            self._known[macro] = _Said(items[0]) if items else None
        item: _Said | None = self._known[macro]
        return item


@lru_cache(maxsize=256)
def _tag(name: str) -> int:
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(name)
    assert tag is not None, name
    return tag


def frames_of(file: str, data: Any, place_in_series: int = 0) -> list[Frame]:
    """The planes of one file, as it stores them. place_in_series: which volume it is among whole volumes."""
    with parsing(file):
        top = _Said(data)
        if not is_enhanced(data):
            return [_frame(file, 0, top, [], place_in_series)]
        shared = list(data.get("SharedFunctionalGroupsSequence") or ())[:1]
        each = list(data.get("PerFrameFunctionalGroupsSequence") or ())
        if not each and not shared:
            detail = f"{frames_in(data)} frames and no functional groups: nothing says where each of them lies"
            raise BadSample(file, "header", f"{detail}; convert it with the vendor's software or dcm2niix")
        if len(each) != frames_in(data):
            raise BadSample(file, "header", f"{frames_in(data)} frames, and functional groups of {len(each)}")
        common = [_Said(group) for group in shared]
        return [_frame(file, i, top, [_Said(group), *common], place_in_series) for i, group in enumerate(each)]


def _frame(file: str, index: int, top: _Said, groups: Sequence[_Said], place_in_series: int) -> Frame:
    of_frame = f" of frame {index + 1}" if groups else ""

    def said(name: str) -> Any:
        """Of this frame, of all frames, or of the object; None where it is not said, or left empty."""
        for group in groups:
            for macro in _MACROS.get(name, ()):
                inner = group.within(macro)
                if inner is not None and (value := inner(name)) is not None:
                    return value
        return top(name)

    def numbers(name: str, count: int) -> Vector:
        value = said(name)
        if value is None:
            hint = ": the order of the slices is unknown" if name == "ImagePositionPatient" else ""
            raise BadSample(file, "header", f"{name} is missing{of_frame}{hint}")
        return _numbers(file, name + of_frame, value, count)

    def number(name: str) -> float | None:
        value = said(name)
        return None if value is None else _number(file, name + of_frame, next(iter(_listed(value)), None))

    direction = numbers("ImageOrientationPatient", 6)
    across, down = direction[:3], direction[3:]
    if max(abs(across @ across - 1), abs(down @ down - 1), abs(across @ down)) > RIGHT_ANGLE:
        detail = f"ImageOrientationPatient is {direction.tolist()}: no two directions at right angles"
        raise BadSample(file, "geometry", detail)
    spacing, slope = numbers("PixelSpacing", 2), number("RescaleSlope")
    if spacing.min() < 0:
        raise BadSample(file, "header", f"PixelSpacing{of_frame} is {spacing.tolist()}; expected two lengths in mm")
    if slope == 0:
        raise BadSample(file, "scaling", f"RescaleSlope{of_frame} is 0: every pixel would have one value")
    kind = said("FrameType") or top("ImageType")
    alike = {name: str(v) for name in IDENTITY if (v := top(name)) is not None}
    alike |= {"Rows": str(top("Rows")), "Columns": str(top("Columns"))}
    alike["ImageType"] = "\\".join(map(str, _listed(kind or "")))
    for name in ("ComplexImageComponent", "RescaleType"):
        if (value := said(name)) is not None:
            alike[name] = str(value)
    if said("DiffusionDirectionality") == "ISOTROPIC":
        alike["DiffusionDirectionality"] = "ISOTROPIC"
    echo, inversion = number("EffectiveEchoTime"), number("InversionTimes")
    contrast = {
        "EchoTime": number("EchoTime") if echo is None else echo,
        "FlipAngle": number("FlipAngle"),
        "InversionTime": number("InversionTime") if inversion is None else inversion,
    }
    known = {name: round(v, 3) for name, v in contrast.items() if v is not None}
    moment = number("TemporalPositionIndex") or number("TemporalPositionIdentifier") or 0.0
    weight = number("DiffusionBValue") or 0.0
    order = (
        place_in_series, moment, tuple(known.values()), weight, *_counted(said, top),
        *(number(name) or 0.0 for name in ("InstanceNumber", "AcquisitionNumber")),
        *(str(said(name) or "") for name in ("FrameAcquisitionDateTime", "FrameReferenceDateTime")),
        *(str(said(name) or "") for name in ("AcquisitionDateTime", "AcquisitionTime", "ContentTime")),
        number("TriggerTime") or 0.0,
    )  # fmt: skip
    return Frame(
        file, index, across, down, numbers("ImagePositionPatient", 3), spacing,
        slope, number("RescaleIntercept"), _padding(top),
        alike, known, moment, str(said("StackID") or ""), order, str(top("SOPInstanceUID") or ""),
        int(number("ReferencedSegmentNumber") or 0),
    )  # fmt: skip


def _listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)


def _number(file: str, name: str, value: Any) -> float:
    try:
        number = float(value)
    except (ValueError, TypeError, OverflowError):
        number = nan
    if not isfinite(number):
        raise BadSample(file, "header", f"{name} is '{numeral(str(value))}'; expected a number")
    return number


def _numbers(file: str, name: str, value: Any, count: int) -> Vector:
    values = _listed(value)
    try:
        numbers = [float(v) for v in values]
    except (ValueError, TypeError, OverflowError):
        numbers = []
    if len(numbers) != count or not all(map(isfinite, numbers)):
        text = "\\".join(map(str, values))
        raise BadSample(file, "header", f"{name} is '{numeral(text)}'; expected {count} numbers")
    return np.array(numbers)


def _counted(said: Callable[[str], Any], top: _Said) -> tuple[tuple[int, ...]]:
    """The frame's index along the dimensions that count volumes."""
    value = said("DimensionIndexValues")
    index = [] if value is None else [int(v) for v in _listed(value)]
    pointers = [int(d.get("DimensionIndexPointer") or 0) for d in top("DimensionIndexSequence") or ()]
    if len(pointers) != len(index):
        return ((),)
    return (tuple(v for v, pointer in zip(index, pointers, strict=True) if pointer not in _OF_PLACE),)


def _padding(top: _Said) -> tuple[int, int] | None:
    """PS3.3, C.7.5.1.1.2: one number, or all up to a limit; of as many bits and of the sign that the pixels are of,
    whatever it was written as."""
    value, limit = top("PixelPaddingValue"), top("PixelPaddingRangeLimit")
    if value is None:
        return None
    bits = int(top("BitsStored") or top("BitsAllocated"))
    signed = bool(int(top("PixelRepresentation") or 0))

    def stored(padding: Any) -> int:
        number = (int.from_bytes(padding[:2], "little") if isinstance(padding, bytes) else int(padding)) % (1 << bits)
        return number - (1 << bits) if signed and number >> (bits - 1) else number

    ends = [stored(value), stored(value if limit is None else limit)]
    return min(ends), max(ends)


def check_alike(address: str, frames: Sequence[Frame]) -> None:
    """Raises BadSample "mixed series" or "header": planes that are not of one series, each difference by its name."""
    for name in dict.fromkeys(chain.from_iterable(frame.alike for frame in frames)):
        only_one(address, name, [frame.alike.get(name) for frame in frames])
    for name, scales in (("RescaleSlope", [f.slope for f in frames]), ("RescaleIntercept", [f.inter for f in frames])):
        if 0 < scales.count(None) < len(scales):
            detail = f"{name} is missing in {scales.count(None)} of {len(scales)} slices: their values have two scales"
            raise BadSample(address, "mixed series", detail)
    for name, rows in (
        ("PixelSpacing", [f.spacing for f in frames]),
        ("ImageOrientationPatient", [np.concatenate([f.across, f.down]) for f in frames]),
    ):
        values = np.array(rows)
        if np.ptp(values, axis=0).max() > 1e-3:
            kinds = len(np.unique(values.round(3), axis=0))
            raise BadSample(
                address, "mixed series", f"{name} has {kinds} different values (a localizer among the slices?)"
            )


def only_one(address: str, name: str, values: Sequence[str | None]) -> None:
    if len(set(values)) == 1:
        return
    counts = Counter("none" if value is None else shown(name, value) for value in values)
    kinds = some([f"{n} of {value}" for value, n in counts.most_common()])
    hints = {
        "SeriesInstanceUID": "a folder is one series, give each its own",
        "ImageType": "magnitude, phase and maps are series of their own, give each its folder",
        "ComplexImageComponent": "magnitude and phase are series of their own, give each its folder",
    }
    hint = hints.get(name, "slices of one series have one; give each kind its own folder")
    raise BadSample(address, "mixed series", f"{name} has {len(counts)} different values ({kinds}); {hint}")
