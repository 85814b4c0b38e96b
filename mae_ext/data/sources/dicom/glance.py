"""What a listing wants to know of one DICOM file: of which series it is, where it lies, and whether it is an image.

Nothing that says who the patient is comes out of here but as keyed hashes; of free text nothing does at all.
"""

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite, nan

from mae_ext.data.sources.dicom.elements import BrokenOff, NotDicom, elements
from mae_ext.data.sources.dicom.keyed import hashed
from mae_ext.data.sources.dicom.unwanted import BROKEN, COLOUR, UNNAMED, reason_of

NOT_DICOM = "not DICOM"

FORMAT = 2
"""Of what is kept; raise it with every change here, in elements.py or in unwanted.py."""

NUMBERS = (
    *("x", "y", "z", "rx", "ry", "rz", "cx", "cy", "cz", "between_rows", "between_columns", "thickness"),
    *("echo", "inversion", "flip", "b", "time", "number", "acquisition", "trigger", "frames", "moment"),
)
"""Of a file, float64, nan where it is not said. x to z: the first pixel, mm LPS; rx to cz: directions of rows and
columns; moment: seconds from a time that the key hides."""

_TEXT = {
    "image_type": 0x00080008, "class": 0x00080016, "complex": 0x00089208, "modality": 0x00080060, "body": 0x00180015,
    "scanning": 0x00180020, "sequence": 0x00180024, "kernel": 0x00181210, "photometric": 0x00280004,
    "units": 0x00541001, "rescale": 0x00281054, "direction": 0x00189075,
}  # fmt: skip
_IDS = {
    "instance": 0x00080018, "study": 0x0020000D, "series": 0x0020000E, "place": 0x00200052,
    "concatenation": 0x00209161,
}  # fmt: skip
_DECIMAL = {
    "thickness": 0x00180050, "echo": 0x00180081, "inversion": 0x00180082, "flip": 0x00181314, "time": 0x00200100,
    "number": 0x00200013, "acquisition": 0x00200012, "trigger": 0x00181060, "frames": 0x00280008,
}  # fmt: skip
_VECTORS = {"position": (0x00200032, 3), "orientation": (0x00200037, 6), "spacing": (0x00280030, 2)}
_WHOLE = {
    "samples": 0x00280002, "rows": 0x00280010, "columns": 0x00280011, "allocated": 0x00280100, "stored": 0x00280101,
    "signed": 0x00280103,
}  # fmt: skip
_B, _GRADIENT, _SIEMENS, _SIEMENS_B = 0x00189087, 0x00189089, 0x00190010, 0x0019100C
_MOMENTS = (0x0008002A, 0x00080022, 0x00080032, 0x00080023, 0x00080033)
"""Acquisition date and time in one, then apart; then those of the content."""

_NAME, _PATIENT, _BIRTH = 0x00100010, 0x00100020, 0x00100030
_DESCRIPTIONS = (0x0008103E, 0x00181030)
_WHO = (
    _NAME, _PATIENT, _BIRTH, 0x00101000, 0x00101001, 0x00101005, 0x00101060, 0x00080050, 0x00080080, 0x00080081,
    0x00080090, 0x00081010, 0x00081040, 0x00081048, 0x00081050, 0x00081060, 0x00081070, 0x00200010,
)  # fmt: skip
"""Names, numbers and places that no text which comes out may hold: of patient, physicians, institution and station."""

_WANTED = frozenset(
    (
        *_TEXT.values(), *_IDS.values(), *_DECIMAL.values(), *(tag for tag, _ in _VECTORS.values()), *_WHOLE.values(),
        *(_B, _GRADIENT, _SIEMENS, _SIEMENS_B), *_MOMENTS, *_DESCRIPTIONS, *_WHO,
    )
)  # fmt: skip
_LAST = max(_WANTED)
_SCOUT = re.compile(r"(?i)localizer|localiser|scout|surview|survey|topogram|scanogram|plan ?scan")


@dataclass(frozen=True)
class Glance:
    """of: what all files of a series have in common, by name; {} where there is nothing to say. left: why it is left
    out, "" of an image. instance: a hash. numbers: see NUMBERS."""

    left: str
    of: dict[str, str]
    instance: str = ""
    numbers: tuple[float, ...] = ()


def glance(path: str, secret: bytes) -> Glance:
    """Raises OSError."""
    try:
        values, order = elements(path, _WANTED, _LAST)
    except NotDicom:
        return Glance(NOT_DICOM, {})
    except BrokenOff:
        return Glance(BROKEN, {})
    text = {name: _text(values.get(tag)) for name, tag in _TEXT.items()}
    ids = {name: _text(values.get(tag)) for name, tag in _IDS.items()}
    if not re.fullmatch(r"[0-9.]{5,64}", text["class"]):
        return Glance(NOT_DICOM if not values or not text["class"] else BROKEN, {})
    whole = {name: _whole(values.get(tag), order) for name, tag in _WHOLE.items()}
    what_for = [_text(values.get(tag)) for tag in _DESCRIPTIONS]
    scout = "LOCALIZER" in text["image_type"].split("\\") or any(map(_SCOUT.search, what_for))
    left = reason_of(text["class"], text["image_type"], bool(whole["rows"] and whole["columns"]), scout)
    if not left and (whole["samples"] or 1) != 1:
        left = COLOUR
    if not left and not ids["series"]:
        left = UNNAMED
    who = {part for tag in _WHO for part in re.split(r"[\s^=\\,;/]+", _text(values.get(tag)).upper()) if len(part) > 1}
    patient = _text(values.get(_PATIENT)) or "\n".join(filter(None, (_text(values.get(t)) for t in (_NAME, _BIRTH))))
    of = {
        "series": hashed(secret, "series", ids["series"]),
        "study": hashed(secret, "study", ids["study"]) if ids["study"] else "",
        "patient": hashed(secret, "patient", patient or f"of study {ids['study'] or ids['series']}"),
        "place": hashed(secret, "place", ids["place"]) if ids["place"] else "",
        "concatenation": hashed(secret, "concatenation", ids["concatenation"]) if ids["concatenation"] else "",
        "class": text["class"],
        "image_type": "\\".join(_without(who, word, secret) for word in text["image_type"].split("\\")),
    }
    of |= {name: _without(who, text[name], secret) for name in _TEXT if name not in of}
    of |= {name: "" if value is None else str(value) for name, value in whole.items()}
    numbers = _numbers(values, order)
    of["gradient"] = hashed(secret, "gradient", _text(values.get(_GRADIENT))) if _GRADIENT in values else ""
    hidden = int(hashed(secret, "moment", ids["study"] or ids["series"]), 16) % 10**9
    numbers["moment"] = _moment([_text(values.get(tag)) for tag in _MOMENTS]) + hidden
    instance = hashed(secret, "instance", ids["instance"]) if ids["instance"] else ""
    return Glance(left, of, instance, tuple(numbers.get(name, nan) for name in NUMBERS))


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("latin-1").strip(" \0")


def _without(who: set[str], text: str, secret: bytes) -> str:
    """A coded text as it is; another one, or one that holds a word of those that say who somebody is, as a hash."""
    coded = re.fullmatch(r"[\w+*/.()\\ -]{1,64}", text, re.ASCII) is not None
    words = re.split(r"[\s\\_/]+", text.upper())
    if not text or (coded and not any(word in who for word in words) and not re.search(r"\d{5}", text)):
        return text
    return f"#{hashed(secret, 'text', text)[:6]}"


def _whole(value: bytes | None, order: str) -> int | None:
    return struct.unpack(f"{order}H", value[:2])[0] if value is not None and len(value) >= 2 else None


def _decimals(value: bytes | None, count: int) -> Sequence[float]:
    """All nan where they are not so many numbers."""
    try:
        numbers = [float(part) for part in _text(value).split("\\")] if value else []
    except ValueError:
        numbers = []
    return numbers if len(numbers) >= count and all(map(isfinite, numbers)) else [nan] * count


def _numbers(values: dict[int, bytes], order: str) -> dict[str, float]:
    numbers = {name: _decimals(values.get(tag), 1)[0] for name, tag in _DECIMAL.items()}
    for names, (tag, count) in zip(
        (("x", "y", "z"), ("rx", "ry", "rz", "cx", "cy", "cz"), ("between_rows", "between_columns")),
        _VECTORS.values(),
        strict=True,
    ):
        numbers |= dict(zip(names, _decimals(values.get(tag), count), strict=False))
    if len(b := values.get(_B, b"")) == 8:
        numbers["b"] = struct.unpack(f"{order}d", b)[0]
    elif _text(values.get(_SIEMENS)) == "SIEMENS MR HEADER":
        numbers["b"] = _decimals(values.get(_SIEMENS_B), 1)[0]
    return numbers


def _moment(said: Sequence[str]) -> float:
    """Seconds; nan where nothing is said. The date may be left out: a series begins and ends on one day as a rule."""
    whole, day, hour, content_day, content_hour = said
    texts = [whole[:21].split("+")[0].split("-")[0], f"{day}{hour}" if hour else "", f"{content_day}{content_hour}"]
    for text in texts:
        digits, _, part = text.replace(":", "").partition(".")
        if len(digits) == 6:
            digits = f"20000101{digits}"
        try:
            at = datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()
            return at + float(f"0.{part or 0}")
        except (ValueError, OverflowError):
            continue
    return nan
