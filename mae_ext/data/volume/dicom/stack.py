"""Planes with geometry become a volume: sorted along their normal, and refused by name where they are none."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.volume.dicom.even import Even, Uneven, even
from mae_ext.data.volume.dicom.frames import Frame
from mae_ext.data.volume.doubts import LEANS
from mae_ext.data.volume.scan import MAX_SPACING
from mae_ext.errors import BadSample, some

GAP_TOLERANCE = 0.1
"""Of the usual distance: positions are written with three digits, a missing slice is off by all of it."""

ASIDE_TOLERANCE = 0.1
"""Of a pixel: how far a slice may lie beside the line through the others. A series is reconstructed about one line."""

SAME_MM = 0.01
"""Heights that differ by less are one place."""


@dataclass(frozen=True)
class Stack:
    """rows: (slices, volumes) numbers of the planes, from the lowest place along the normal. affine: (4, 4), indices of
    (column, row, slice) -> mm LPS; sheared where the gantry was tilted. contrast: what its volumes differ in, if that
    is no time. even: how its planes become a lattice at right angles, where that was asked for and they are none."""

    rows: NDArray[np.int64]
    affine: NDArray[np.float64]
    contrast: str = ""
    even: Even | None = None


def stacked(address: str, frames: Sequence[Frame], uneven: Uneven = "refuse") -> Stack:
    """Raises BadSample "axes", "repeated slices", "missing slices", "tilted gantry" or "mixed series". The planes are
    alike. uneven: what becomes of planes at uneven distances or askew; "keep" leaves the latter's lean in the affine.
    """
    first = frames[0]
    origins = np.array([f.origin for f in frames])
    normal = np.cross(first.across, first.down)
    normal /= np.linalg.norm(normal)
    heights = origins @ normal
    groups = _places(heights)
    if len(groups) < 2:
        raise BadSample(address, "axes", f"a single slice ({len(frames)} planes at one position); a volume has more")
    times = Counter(len(g) for g in groups).most_common(1)[0][0]
    _check_repeats(address, frames, groups, heights, times)
    uneven_by = _gaps(address, np.array([heights[g[0]] for g in groups]), uneven)
    rows = np.array([sorted(g, key=lambda i: frames[i].order) for g in groups])
    step = (origins[rows[-1, 0]] - origins[rows[0, 0]]) / (len(rows) - 1)
    pixel = float(first.spacing.min())
    _check_line(address, origins[rows], normal, pixel)
    aside = float(np.linalg.norm(step - step @ normal * normal))
    degrees = float(np.rad2deg(np.arctan2(aside, step @ normal)))
    tilted = degrees >= LEANS and aside * (len(rows) - 1) > ASIDE_TOLERANCE * pixel
    if tilted and uneven == "refuse":
        detail = f"slices are stacked {degrees:.1f} degrees askew, as under a tilted gantry"
        hint = "to have them resampled at right angles, set the reader's uneven=resample; uneven=keep keeps the lean"
        raise BadSample(address, "tilted gantry", f"{detail}; {hint}")
    contrast = _check_volumes(address, frames, rows)
    if uneven == "resample" and (tilted or uneven_by):
        what = "; ".join([uneven_by] * bool(uneven_by) + [f"a tilt of {degrees:.1f} degrees is taken out"] * tilted)
        size = int(first.alike["Rows"]), int(first.alike["Columns"])
        axes = first.across, first.down, normal
        lattice, affine = even(origins[rows[:, 0]], axes, first.spacing, size, what, tilted)
        return Stack(rows, affine, contrast, lattice)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = first.across * first.spacing[1], first.down * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = step, origins[rows[0, 0]]
    return Stack(rows, affine, contrast)


def _places(heights: NDArray[np.float64]) -> list[list[int]]:
    """Numbers of the planes at each height, from the lowest."""
    groups: list[list[int]] = []
    for i in np.argsort(heights, kind="stable").tolist():
        if groups and heights[i] - heights[groups[-1][0]] < SAME_MM:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _check_repeats(
    address: str, frames: Sequence[Frame], groups: list[list[int]], heights: NDArray[np.float64], times: int
) -> None:
    if odd := [z for z, g in enumerate(groups) if len(g) != times]:
        z = odd[0]
        detail = (
            f"slice {z} of {len(groups)} (at {heights[groups[z][0]]:.2f} mm) comes {len(groups[z])} times, "
            f"the others {times}"
        )
        if len({frame.stack for frame in frames}) > 1:
            detail += "; the object holds several stacks, which are no one volume"
        raise BadSample(address, "repeated slices" if times == 1 else "missing slices", detail)
    for group in groups if times > 1 else []:
        for a, b in pairwise(sorted((frames[i] for i in group), key=lambda frame: frame.order)):
            if a.order == b.order:
                detail = f"{_name(a)} and {_name(b)} differ in nothing: no telling which volume each belongs to"
                raise BadSample(address, "repeated slices", detail)
        images: dict[tuple[str, int], Frame] = {}
        for frame in (frames[i] for i in group if frames[i].instance):
            other = images.setdefault((frame.instance, frame.number), frame)
            if other is not frame:
                detail = f"{_name(other)} and {_name(frame)} are one image (they have one SOPInstanceUID)"
                raise BadSample(address, "repeated slices", detail)


def _name(frame: Frame) -> str:
    return f"{Path(frame.file).name} (frame {frame.number + 1})" if frame.number else Path(frame.file).name


def _gaps(address: str, heights: NDArray[np.float64], uneven: Uneven) -> str:
    """What is uneven of the distances between planes, where that is to be resampled; "" where nothing is."""
    gaps, count = np.diff(heights), len(heights)
    usual = float(np.median(gaps))
    off = np.abs(heights - np.linspace(heights[0], heights[-1], count))
    if wide := np.flatnonzero(np.abs(gaps - usual) > GAP_TOLERANCE * usual).tolist():
        z = wide[0]
        detail = f"{gaps[z]:.2f} mm between slices {z} and {z + 1} of {count}, usually {usual:.2f}"
    elif off.max() > GAP_TOLERANCE * (heights[-1] - heights[0]) / (count - 1):
        z = int(off.argmax())
        detail = f"slice {z} of {count} lies {off.max():.2f} mm from where even distances would put it"
        detail += ": the distance between slices changes"
    else:
        return ""
    if uneven != "resample":
        hint = "if none is missing, the reader's uneven=resample puts them at even distances"
        raise BadSample(address, "missing slices", f"{detail}; {hint}")
    if gaps.max() > MAX_SPACING:
        hint = f"too far to resample over (up to {MAX_SPACING:g} mm)"
        raise BadSample(address, "missing slices", f"{gaps.max():.2f} mm between two slices of {count}: {hint}")
    return f"slices {gaps.min():.3g} to {gaps.max():.3g} mm apart, usually {usual:.3g}, are put at even distances"


def _check_line(address: str, origins: NDArray[np.float64], normal: NDArray[np.float64], pixel: float) -> None:
    """origins: (slices, volumes, 3) mm, each within the tolerances of its place on one line, volumes at one height."""
    count = len(origins)
    heights = (origins[:, 0] - origins[0, 0]) @ normal
    beside = origins - origins[:1, :1]
    beside -= (beside @ normal)[..., None] * normal
    gaps = np.diff(heights)[:, None]
    leans = np.diff(beside[:, 0], axis=0)
    far = np.linalg.norm(leans - np.median(leans / gaps, axis=0) * gaps, axis=1)
    if far.max() > 2 * ASIDE_TOLERANCE * pixel:
        z = int(far.argmax())
        detail = f"slice {z + 1} of {count} lies {far[z]:.2f} mm aside of where slice {z} leads to"
        raise BadSample(address, "mixed series", f"{detail}: slices of two scans, or of one that was moved")
    off = np.linalg.norm(beside - (heights / heights[-1])[:, None, None] * beside[-1, 0], axis=-1)
    if off.max() > ASIDE_TOLERANCE * pixel:
        z = int(off.max(1).argmax())
        detail = f"slice {z} of {count} lies {off.max():.2f} mm beside the line through the first and the last"
        raise BadSample(address, "mixed series", f"{detail}: slices of two scans, or of one that was moved")


def _check_volumes(address: str, frames: Sequence[Frame], rows: NDArray[np.int64]) -> str:
    """The volumes of one place are told apart by the same things everywhere; -> what that is, where it is no time."""
    count = rows.shape[1]
    names = ["EchoTime"] if count == 1 else list(dict.fromkeys(n for f in frames for n in f.contrast))
    several = []
    for name in names:
        contrasts = np.array([[frames[i].contrast.get(name, np.nan) for i in row] for row in rows])
        values = np.unique(contrasts[np.isfinite(contrasts)]).tolist()
        if len(values) < 2:
            continue
        differences = f"{name} has {len(values)} values ({some([f'{v:g}' for v in values])})"
        if not np.array_equal(contrasts, np.broadcast_to(contrasts[0], contrasts.shape), equal_nan=True):
            raise BadSample(
                address, "mixed series", f"{differences}, not the same in every slice; give each its own folder"
            )
        several.append((differences, len(values)))
    if count > 1:
        moments = np.array([[frames[i].moment for i in row] for row in rows])
        if not (moments == moments[0]).all():
            raise BadSample(address, "mixed series", "slices of one place have other time points than the next")
        if len({frames[i].stack for i in rows[0]}) > 1:
            raise BadSample(address, "mixed series", f"{count} stacks at one place; give each its own file")
    if several and max(n for _, n in several) < count:
        differences = "; ".join(t for t, _ in several)
        raise BadSample(
            address, "mixed series", f"{differences}, and {count} volumes: two axes besides the three of space"
        )
    return "; ".join(differences for differences, _ in several)
