"""DICOM objects that are label maps: SEG (BINARY, FRACTIONAL, LABELMAP) and RTSTRUCT, on the lattice of their scan.

Where each frame and outline lies is said by the file. It is put on the voxels of the scan that it belongs to, or
refused: nothing is resampled. Which class a segment is, its name says (`numbers`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.sources.address import head
from mae_ext.data.sources.dicom.elements import class_of
from mae_ext.data.sources.dicom.grouping import SUFFIXES
from mae_ext.data.sources.folder import members
from mae_ext.data.volume.dicom.codecs import check_readable, planes
from mae_ext.data.volume.dicom.contours import filled, regions
from mae_ext.data.volume.dicom.frames import Frame, frames_of
from mae_ext.data.volume.dicom.header import HEADER_BYTES, SEGMENTATION, opened, parsing
from mae_ext.data.volume.dicom.series import RAS_FROM_LPS
from mae_ext.data.volume.labels import CORNER, MIDDLE
from mae_ext.data.volume.scan import Declared
from mae_ext.errors import BadSample

SEG, LABELMAP, RTSTRUCT = f"{SEGMENTATION}4", f"{SEGMENTATION}7", "1.2.840.10008.5.1.4.1.1.481.3"
"""SOP classes: PS3.4, table B.5-1."""

GRID = 0.1
"""Of a step: what positions of frames may miss a regular lattice by, where a SEG is read without its scan."""

By = Literal["name", "number"]

Painted = tuple[tuple[int | slice, ...], NDArray[Any]]


def check_by(segments: By) -> By:
    """Raises ValueError."""
    if segments not in ("name", "number"):
        raise ValueError(f"segments={segments!r}: expected 'name' or 'number'")
    return segments


def declared(
    address: str, scan: tuple[str, Declared] | None, classes: Sequence[str] | None, max_bytes: int
) -> Declared | None:
    """The label map at an address: a file, or a folder with one; None where it is no SEG and no RTSTRUCT.

    scan: its address and header, whose lattice the labels are on; without it, a SEG's own. classes: the names of 1, 2,
    ...; None: a segment's number is its label. Raises BadSample "label map" and what else is wrong with the file.
    """
    if "::" in address or not _may_be(address):
        return None
    files = members(address, SUFFIXES) if Path(address).is_dir() else [address]
    kinds = [_kind(file) for file in files]
    drawn = [file for file, kind in zip(files, kinds, strict=True) if kind in (SEG, LABELMAP, RTSTRUCT)]
    if not drawn:
        return None
    if len(files) > 1:
        detail = f"{len(drawn)} label objects among {len(files)} files of one folder; expected one file for a scan"
        raise BadSample(address, "label map", detail)
    of_scan = "" if scan is None else scan[1].frame_of_reference
    if kinds[0] == RTSTRUCT:
        if scan is None:
            detail = "outlines have no lattice of their own; they are read with the scan they belong to"
            raise BadSample(address, "label map", detail)
        return _from_regions(drawn[0], scan[1], classes, max_bytes)
    data = opened(drawn[0], max_bytes)
    with parsing(drawn[0]):
        check_readable(drawn[0], data)
        frames = frames_of(drawn[0], data)
        _check_reference(drawn[0], str(data.get("FrameOfReferenceUID") or ""), of_scan)
        lattice = _own(drawn[0], frames, data, max_bytes) if scan is None else scan[1]
        return _painted(drawn[0], "SEG", lattice, lambda: _of_frames(drawn[0], data, frames, lattice, classes))


def numbers(file: str, names: Mapping[int, str], classes: Sequence[str] | None) -> dict[int, int]:
    """Of each segment's number, its label. Names are compared without case, and " ", "_" and "-" are one.

    Segments that no class names are background. Raises BadSample where none is.
    """
    if classes is None:
        return {number: number for number in names}
    wanted = {_folded(name): label for label, name in enumerate(classes, start=1)}
    known = {n: wanted[_folded(name)] for n, name in names.items() if _folded(name) in wanted}
    if not known:
        # Not the names themselves: people are called by some.
        raise BadSample(
            file, "label map",
            f"none of its {len(names)} segments has the name of a class ({', '.join(classes)}); name the classes as "
            f"the segments are named, or set the reader's segments=number, where segment 1 is the first class",
        )  # fmt: skip
    return known


def _folded(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _may_be(address: str) -> bool:
    """Whether to look: a folder, a name that ends as DICOM's do, or without any ending."""
    name = address.rstrip("/").rpartition("/")[2].lower()
    return name.endswith(SUFFIXES) or "." not in name or Path(address).is_dir()


def _kind(file: str) -> str:
    """The SOP class that a file says it is of, in the group before its data set; "" where it is no DICOM."""
    content = head(file, HEADER_BYTES)
    if content[128:132] != b"DICM":
        return ""
    if said := class_of(content):  # of a deflated file the rest is no beginning that pydicom could read
        return said
    from pydicom.filereader import read_partial

    with parsing(file):
        data = read_partial(BytesIO(content), lambda tag, _, __: tag.group > 8)
        return str(data.get("SOPClassUID") or "")


def _check_reference(file: str, one: str, other: str) -> None:
    if one and other and one != other:
        detail = "its FrameOfReferenceUID is not that of the scan: it was drawn on another examination"
        raise BadSample(file, "label map", detail)


def _of_frames(
    file: str, data: Any, frames: Sequence[Frame], lattice: Declared, classes: Sequence[str] | None
) -> Iterator[Painted]:
    items = list(data.get("SegmentSequence") or ())
    kind = str(data.get("SegmentationType") or "").upper()
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise BadSample(file, "label map", f"SegmentationType '{kind[:16]}'; BINARY, FRACTIONAL and LABELMAP are read")
    names = {int(item.SegmentNumber): str(item.get("SegmentLabel") or "") for item in items}
    names = {number: name for number, name in names.items() if number > 0}
    label = numbers(file, names, classes)
    places = [_place(file, frame, (int(data.Rows), int(data.Columns)), lattice) for frame in frames]
    if kind == "LABELMAP":
        yield from _of_numbers(file, data, frames, places, label)
        return
    least = 1 if kind == "BINARY" else int(data.get("MaximumFractionalValue") or 255) / 2
    if lost := {frame.segment for frame in frames} - set(names):
        raise BadSample(file, "label map", f"frames of {len(lost)} segments that SegmentSequence does not list")
    order = sorted((n for n, frame in enumerate(frames) if frame.segment in label),
                   key=lambda n: label[frames[n].segment])  # fmt: skip
    for n, plane in zip(order, planes(file, data, order), strict=True):
        index, turn = places[n]
        yield index, turn(np.where(np.asarray(plane, np.float64) >= least, label[frames[n].segment], 0))


def _of_numbers(
    file: str, data: Any, frames: Sequence[Frame], places: Sequence[Any], label: Mapping[int, int]
) -> Iterator[Painted]:
    if int(data.BitsAllocated) not in (8, 16):
        raise BadSample(file, "data type", f"a label map of {data.BitsAllocated} bits; 8 and 16 are read")
    known = np.zeros(1 << int(data.BitsAllocated), np.int32)
    for number, value in label.items():
        known[number] = value
    for (index, turn), plane in zip(places, planes(file, data, range(len(frames))), strict=True):
        yield index, turn(known[plane])


def _place(file: str, frame: Frame, size: tuple[int, int], lattice: Declared) -> tuple[tuple[int | slice, ...], Any]:
    """Where a frame stands in the lattice's three axes, and what turns its (rows, columns) that way.

    Raises BadSample "label map" where its pixels are not the lattice's voxels.
    """
    inverse = np.linalg.inv(RAS_FROM_LPS @ lattice.affine)
    steps = inverse[:3, :3] @ np.stack([frame.down * frame.spacing[0], frame.across * frame.spacing[1]], axis=1)
    start = inverse[:3, :3] @ frame.origin + inverse[:3, 3]
    whole, first = np.rint(steps), np.rint(start)
    corners = np.array([(r, c) for r in (0, size[0] - 1) for c in (0, size[1] - 1)])
    off = (start - first) + corners @ (steps - whole).T
    shape = np.array([lattice.shape[a] for a in lattice.spatial])
    ends = first + corners @ whole.T
    straight = (np.abs(whole).sum(0) == 1).all() and (np.abs(whole).sum(1) <= 1).all()
    if not straight or np.abs(off).max() >= CORNER or np.abs(off.mean(0)).max() > MIDDLE:
        detail = "its frames are not on the voxels of the scan: another spacing, direction or place"
        raise BadSample(file, "label map", f"{detail}; read it with the scan that it was made of, as it was stored")
    if ends.min() < 0 or (ends > shape - 1).any():
        detail = "frames lie outside of the scan: it was made of another, or slices are missing"
        raise BadSample(file, "label map", detail)
    index: list[int | slice] = [int(v) for v in first]
    across, down = int(np.abs(whole[:, 1]).argmax()), int(np.abs(whole[:, 0]).argmax())
    for axis in (across, down):
        index[axis] = slice(int(ends[:, axis].min()), int(ends[:, axis].max()) + 1)
    turns = tuple(slice(None, None, int(whole[axis, n])) for n, axis in enumerate((down, across)))
    return tuple(index), lambda plane: plane[turns] if down < across else plane[turns].T


def _from_regions(file: str, scan: Declared, classes: Sequence[str] | None, max_bytes: int) -> Declared:
    drawn = regions(file, max_bytes)
    label = numbers(file, {region.number: region.name for region in drawn}, classes)
    shape, affine = tuple(scan.shape[a] for a in scan.spatial), RAS_FROM_LPS @ scan.affine

    def planes_of() -> Iterator[Painted]:
        for region in sorted((r for r in drawn if r.number in label), key=lambda r: label[r.number]):
            _check_reference(file, region.frame_of_reference, scan.frame_of_reference)
            for axis, at, mask in filled(file, region, affine, shape):
                index: list[int | slice] = [slice(None)] * 3
                index[axis] = at
                yield tuple(index), np.where(mask, label[region.number], 0)

    return _painted(file, "RTSTRUCT", scan, planes_of)


def _painted(file: str, what: str, lattice: Declared, painted: Callable[[], Iterator[Painted]]) -> Declared:
    """A label map on the three axes of the lattice. What is painted later covers what was before: the later class."""
    shape = tuple(lattice.shape[a] for a in lattice.spatial)

    def load() -> NDArray[np.int32]:
        labels = np.zeros(shape[::-1], np.int32)
        with parsing(file):
            for index, plane in painted():
                view = labels.T[index]
                view[plane > 0] = plane[plane > 0]
        return labels

    return Declared(f"DICOM {what}", shape, np.dtype(np.int32), lattice.affine, load)


def _own(file: str, frames: Sequence[Frame], data: Any, max_bytes: int) -> Declared:
    """The least regular lattice that holds all frames: those without labels are left out as a rule."""
    first = frames[0]
    normal = np.cross(first.across, first.down)
    heights = np.array([frame.origin @ normal for frame in frames])
    places = np.unique(heights.round(3))
    step = float(np.diff(places).min()) if len(places) > 1 else 1.0
    off = (places - places[0]) / step
    if np.abs(off - np.rint(off)).max() > GRID:
        detail = "its frames are at uneven distances; it is read with the scan it was made of"
        raise BadSample(file, "label map", detail)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = first.across * first.spacing[1], first.down * first.spacing[0]
    affine[:3, 2] = normal * step
    affine[:3, 3] = frames[int(heights.argmin())].origin
    shape = int(data.Columns), int(data.Rows), round(float(off[-1])) + 1
    if prod(shape) * 4 > max_bytes:
        detail = f"labels of {shape} voxels are {prod(shape) * 4} bytes, the limit is {max_bytes}"
        raise BadSample(file, "too large", detail)
    return Declared("DICOM segmentation", shape, np.dtype(np.int32), RAS_FROM_LPS @ affine, lambda: np.empty(0))
