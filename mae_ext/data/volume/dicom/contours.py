"""RTSTRUCT: outlines in patient coordinates, filled plane by plane on the lattice of the scan they were drawn on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.volume.dicom.header import opened, parsing
from mae_ext.data.volume.labels import CORNER, MIDDLE
from mae_ext.errors import BadSample

Vector = NDArray[np.float64]

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
"""PS3.3, C.8.8.6.3. Points and open lines enclose nothing."""

MOST_CROSSINGS = 1 << 27
"""Of one file: ten times what forty organs in a whole body have, and some twenty seconds of one core."""

DIGITS = 4
"""Of a place in voxels, so that an outline through the middles of voxels is one, whatever rounding made of it."""

CROSSINGS = 1 << 20
"""Of outlines with rows of voxels, that are sorted out at once."""


@dataclass(frozen=True)
class Region:
    """outlines: (points, 3) mm, LPS, each in one plane. frame_of_reference: a UID, or ""."""

    number: int
    name: str
    frame_of_reference: str
    outlines: tuple[Vector, ...]


def regions(file: str, max_bytes: int) -> list[Region]:
    """The regions of interest of a structure set, by number. Raises BadSample."""
    data = opened(file, max_bytes)
    with parsing(file):
        drawn = {int(item.ReferencedROINumber): item for item in data.get("ROIContourSequence") or ()}
        made = []
        for item in data.get("StructureSetROISequence") or ():
            number, frame = int(item.ROINumber), str(item.get("ReferencedFrameOfReferenceUID") or "")
            outlines = tuple(_outlines(file, drawn[number])) if number in drawn else ()
            made.append(Region(number, str(item.get("ROIName") or ""), frame, outlines))
        if not made:
            raise BadSample(file, "label map", "a structure set without regions")
        return sorted(made, key=lambda region: region.number)


def _outlines(file: str, item: Any) -> Iterator[Vector]:
    seen = set()
    for contour in item.get("ContourSequence") or ():
        if str(contour.get("ContourGeometricType") or CLOSED[0]) not in CLOSED or "ContourData" not in contour:
            continue
        raw = contour.get_item("ContourData").value
        text = raw.rstrip(b"\0 ").split(b"\\") if isinstance(raw, bytes) else list(raw or ())
        try:
            points = np.array(text, dtype=np.float64)
        except ValueError:
            points = np.empty(0)
        if len(points) < 9 or len(points) % 3 or not np.isfinite(points).all():
            raise BadSample(file, "label map", f"an outline of {len(text)} numbers; expected three for each point")
        # The same outline twice is one that was written twice, and no hole that fills its region.
        if (key := points.tobytes()) not in seen:
            seen.add(key)
            yield points.reshape(-1, 3)


def filled(
    file: str, region: Region, affine: NDArray[np.float64], shape: tuple[int, ...]
) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
    """(axis, index, mask) of each plane that the region is drawn in; mask: over the other two axes, in their order.

    A voxel is inside where its centre is inside an odd number of the region's outlines in its plane: a second outline
    within another is a hole, and a third within that an island, as is one that reaches its hole by a narrow channel. On
    an outline, a lower edge is inside and an upper edge is not. affine: (4, 4) voxels -> mm, LPS. Raises BadSample
    "label map" for outlines that lie in no plane of the lattice, "too large" for more than MOST_CROSSINGS with rows.
    """
    inverse = np.linalg.inv(affine)
    placed = [np.round(points @ inverse[:3, :3].T + inverse[:3, 3], DIGITS) for points in region.outlines]
    if not placed:
        return
    axis = int(np.argmin(sum(np.ptp(points, axis=0) for points in placed)))
    planes: dict[int, list[Vector]] = {}
    outside = 0
    for points in placed:
        height = float(points[:, axis].mean())
        off = float(np.abs(points[:, axis] - np.rint(height)).max())
        if abs(height - np.rint(height)) > MIDDLE or off > CORNER:
            detail = f"an outline lies {off:.2g} voxels beside the nearest plane of the scan: it was drawn on another"
            raise BadSample(file, "label map", f"{detail}; read the scan that it was drawn on, as it was stored")
        outside += not 0 <= np.rint(height) < shape[axis]
        planes.setdefault(round(height), []).append(np.delete(points, axis, axis=1))
    if outside:
        detail = f"{outside} of {len(placed)} outlines of a region lie outside of the scan's {shape[axis]} planes"
        raise BadSample(file, "label map", f"{detail}: it was drawn on another scan, or slices are missing")
    (rows, columns), spent = np.delete(shape, axis).tolist(), 0
    for index, outlines in sorted(planes.items()):
        mask, crossings = _inside(outlines, rows, columns, MOST_CROSSINGS - spent)
        spent += crossings
        if spent > MOST_CROSSINGS:
            raise BadSample(file, "too large", f"outlines cross rows of voxels more than {MOST_CROSSINGS} times")
        yield axis, index, mask


def _inside(outlines: list[Vector], rows: int, columns: int, most: int) -> tuple[NDArray[np.bool_], int]:
    """Outlines: (points, 2) of row and column, closed. -> (rows, columns), and how often they cross a row.

    Each crossing turns all that is right of it, so what is crossed an odd number of times is inside.
    """
    turned = np.zeros((rows, columns + 1), np.int32)
    begin = np.concatenate(outlines)
    end = np.concatenate([np.roll(points, -1, axis=0) for points in outlines])
    upward = begin[:, 0] > end[:, 0]
    low, high = np.where(upward[:, None], end, begin), np.where(upward[:, None], begin, end)
    first = np.clip(np.ceil(low[:, 0]), 0, rows).astype(np.int64)
    last = np.clip(np.ceil(high[:, 0]), 0, rows).astype(np.int64)  # half open: a corner is of one of its two edges
    counts = np.maximum(last - first, 0)
    total = int(counts.sum())
    if total > most:
        return np.zeros((rows, columns), bool), total
    edges = np.flatnonzero(counts)
    ends = np.cumsum(counts[edges])
    for some in np.split(edges, np.searchsorted(ends, np.arange(CROSSINGS, total, CROSSINGS))):
        n = counts[some]
        which = np.repeat(some, n)
        row = first[which] + np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        share = (row - low[which, 0]) / (high[which, 0] - low[which, 0])
        at = low[which, 1] + share * (high[which, 1] - low[which, 1])
        np.add.at(turned, (row, np.clip(np.ceil(at), 0, columns).astype(np.int64)), 1)
    inside: NDArray[np.bool_] = np.cumsum(turned, axis=1)[:, :columns] % 2 == 1
    return inside, total
