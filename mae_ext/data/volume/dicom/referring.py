"""Which SEG or RTSTRUCT of a folder is of which scan: by what it says itself, in this order.

By the series that it refers to (of which it names images: by these, where several scans are volumes of one series), by
the images that its frames or outlines were made of, and where it names neither by the frame of reference: of several
scans in it those on whose voxels its frames lie. Whether it lies on its scan's voxels is judged where it is read.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from mae_ext.data.sources.address import fetch
from mae_ext.data.sources.dicom.export import files_of, is_series, label_objects
from mae_ext.data.sources.dicom.glance import glance
from mae_ext.data.sources.dicom.grouping import SUFFIXES
from mae_ext.data.sources.dicom.keyed import hashed
from mae_ext.data.volume.dicom.header import dataset, parsing
from mae_ext.data.volume.dicom.segments import lies_on
from mae_ext.data.volume.scan import Declared
from mae_ext.errors import BadSample

log = logging.getLogger(__name__)

_KEY = b"of one listing"
"""Nothing that is hashed here is kept or said."""

_TAGS = (
    "FrameOfReferenceUID", "ReferencedSeriesSequence", "ReferencedFrameOfReferenceSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ROIContourSequence",
    "StructureSetROISequence",
)  # fmt: skip
_IMAGES = (
    "ReferencedInstanceSequence", "ReferencedImageSequence", "ContourImageSequence", "SourceImageSequence",
    "DerivationImageSequence", "ContourSequence",
)  # fmt: skip


@dataclass(frozen=True)
class _Object:
    """What a label object refers to: UIDs of series, of images and of frames of reference, as hashes."""

    file: str
    series: frozenset[str]
    images: frozenset[str]
    places: frozenset[str]


@dataclass
class _Scan:
    address: str
    files: list[str]
    series: str
    place: str
    _images: set[str] = field(default_factory=set)

    def shows(self, images: frozenset[str]) -> bool:
        """Whether any of its files is one of these images."""
        if not self._images:
            self._images |= {glance(file, _KEY).instance for file in self.files}
        return not self._images.isdisjoint(images)


def maps_referring(
    folder: str, addresses: Sequence[str], header: Callable[[str], Declared], max_bytes: int
) -> dict[str, list[str]]:
    """{address: the label objects in a folder, at any depth, that are of this scan}, of those of DICOM that have any.

    header: of a scan at an address. An object that cannot be read is said. Raises UserError for a folder that cannot be
    walked.
    """
    if not any(map(_may_be, addresses)):
        return {}
    objects = list(_objects(label_objects(folder), max_bytes))
    scans = list(_scans(addresses)) if objects else []
    maps: dict[str, list[str]] = {}
    for one in objects:
        for scan in _scans_of(one, scans, header, max_bytes):
            maps.setdefault(scan.address, []).append(one.file)
    return maps


def _may_be(address: str) -> bool:
    return is_series(address) or ("::" not in address and address.lower().rstrip("/").endswith(SUFFIXES)) or (
        "::" not in address and address.endswith("/")
    )  # fmt: skip


def _scans(addresses: Iterable[str]) -> Iterator[_Scan]:
    """Those that can be looked at: who reads the others says what is wrong with them."""
    for address in filter(_may_be, addresses):
        try:
            files = files_of(address, SUFFIXES) if is_series(address) or address.endswith("/") else [address]
            of = glance(files[0], _KEY).of
        except (BadSample, OSError, IndexError):
            continue
        if of:
            yield _Scan(address, files, of["series"], of["place"])


def _scans_of(
    one: _Object, scans: Sequence[_Scan], header: Callable[[str], Declared], max_bytes: int
) -> list[_Scan]:  # fmt: skip
    near = [scan for scan in scans if scan.series in one.series]
    if len(near) == 1 or (near and not one.images):
        return near
    if one.images:
        return [scan for scan in near or scans if scan.shows(one.images)]
    if one.series:
        return []
    near = [scan for scan in scans if scan.place in one.places]
    return near if len(near) == 1 else [scan for scan in near if _holds(one, scan, header, max_bytes)]


def _holds(one: _Object, scan: _Scan, header: Callable[[str], Declared], max_bytes: int) -> bool:
    try:
        return lies_on(one.file, header(scan.address), max_bytes)
    except BadSample:
        return False


def _objects(files: Iterable[str], max_bytes: int) -> Iterator[_Object]:
    for file in files:
        try:
            content = fetch(file, max_bytes)
            assert isinstance(content, bytes)
            with parsing(file):
                yield _read(file, dataset(BytesIO(content), stop_before_pixels=True, specific_tags=list(_TAGS)))
        except BadSample as error:
            log.warning("what the label object %s refers to cannot be read: %s", file, error)


def _read(file: str, data: Any) -> _Object:
    series, images, places = set[str](), set[str](), {_text(data, "FrameOfReferenceUID")}
    listed = [data]
    for frame in data.get("ReferencedFrameOfReferenceSequence") or ():
        places.add(_text(frame, "FrameOfReferenceUID"))
        for study in frame.get("RTReferencedStudySequence") or ():
            listed += list(study.get("RTReferencedSeriesSequence") or ())
    for region in data.get("StructureSetROISequence") or ():
        places.add(_text(region, "ReferencedFrameOfReferenceUID"))
    for one in [*(data.get("ReferencedSeriesSequence") or ()), *listed[1:]]:
        series.add(_text(one, "SeriesInstanceUID"))
        images |= set(_images(one))
    if not images:
        for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ROIContourSequence"):
            for group in data.get(name) or ():
                images |= set(_images(group))
    return _Object(
        file, _hashes("series", series), _hashes("instance", images), _hashes("place", places)
    )  # fmt: skip


def _images(item: Any) -> Iterator[str]:
    """UIDs of the images that an item names, by way of items within it that name some."""
    for name in _IMAGES:
        for inner in item.get(name) or ():
            yield _text(inner, "ReferencedSOPInstanceUID")
            yield from _images(inner)


def _text(item: Any, name: str) -> str:
    return str(item.get(name) or "").strip(" \0")


def _hashes(kind: str, texts: set[str]) -> frozenset[str]:
    return frozenset(hashed(_KEY, kind, text) for text in texts if text)
