"""Planes of one series that repeat places are several volumes: which of them belong together.

What scanners write is tried in the order of how much it says: echo and diffusion weight always part a series, the
others where they make of repeated places such as come once.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.sources.dicom.glance import NUMBERS

SAME_MM = 0.01
"""Heights that differ by less are one place."""

SAME_DIRECTION = 1e-3
"""Of a cosine, and of a spacing in mm: what differs by less was written with other digits."""


@dataclass(frozen=True)
class Plane:
    """numbers: by name, as glance.py has them. height: mm along the normal. folder: which the file is in."""

    file: int
    numbers: dict[str, float]
    gradient: str
    folder: str
    height: float


def alike(rows: Sequence[Sequence[float]] | NDArray[np.float64]) -> list[int]:
    """For each row of numbers which group it is of: a group differs from its first by less than SAME_DIRECTION.

    A row in which a number is missing, or is none, is of the largest group: its reader says what is wrong with it, and
    the others are no volume without it.
    """
    firsts: list[np.ndarray] = []
    groups: list[int] = []
    numbers = np.array(rows, float)
    known = np.isfinite(numbers).all(1)
    if known.any() and not known.all():
        whole = alike(numbers[known].tolist())
        most = max(set(whole), key=whole.count)
        among = iter(whole)
        return [next(among) if has else most for has in known]
    numbers = np.nan_to_num(numbers, nan=-1e9)
    if len(numbers) and np.abs(numbers - numbers[0]).max() <= SAME_DIRECTION:
        return [0] * len(numbers)
    for row in numbers:
        near = (i for i, first in enumerate(firsts) if np.abs(row - first).max() <= SAME_DIRECTION)
        group = next(near, len(firsts))
        if group == len(firsts):
            firsts.append(row)
        groups.append(group)
    return groups


def heights(numbers: NDArray[np.float64]) -> list[float]:
    """mm along the normals of planes, of each one's numbers (n, NUMBERS); nan where the header does not say."""
    place, across, down = (
        numbers[:, [NUMBERS.index(f"{axis}{k}") for k in "xyz"]] for axis in ("", "r", "c")
    )  # fmt: skip
    said: list[float] = (np.cross(across, down) * place).sum(1).tolist()
    return said


def places(planes: Sequence[Plane]) -> list[list[Plane]]:
    """The planes at each height, from the lowest."""
    groups: list[list[Plane]] = []
    for plane in sorted(planes, key=lambda p: p.height):
        if groups and not plane.height - groups[-1][0].height >= SAME_MM:
            groups[-1].append(plane)
        else:
            groups.append([plane])
    return groups


def once(planes: Sequence[Plane]) -> bool:
    return all(len(group) == 1 for group in places(planes))


def _rounded(name: str, digits: int = 3, absent: float | None = None) -> Callable[[Plane], str]:
    def said(plane: Plane) -> str:
        value = plane.numbers[name]
        value = absent if isnan(value) and absent is not None else value
        return "" if isnan(value) else f"{round(value, digits) + 0.0:.12g}"

    return said


ALWAYS: tuple[tuple[str, Callable[[Plane], str]], ...] = (
    ("echo", _rounded("echo")), ("b", _rounded("b", 0, absent=0.0)),
)  # fmt: skip
WHERE_REPEATED: tuple[tuple[str, Callable[[Plane], str]], ...] = (
    ("time", _rounded("time")), ("flip", _rounded("flip")), ("inversion", _rounded("inversion")),
    ("gradient", lambda plane: plane.gradient), ("acquisition", _rounded("acquisition")),
    ("trigger", _rounded("trigger", 0)), ("moment", _rounded("moment", 0)), ("folder", lambda plane: plane.folder),
)  # fmt: skip
ORDER = ("time", "flip", "inversion", "b", "number", "acquisition", "moment", "trigger")


def volumes(planes: Sequence[Plane]) -> list[tuple[str, list[Plane]]]:
    """(what it differs in from the others, its planes) of each. What cannot be parted stays together: who reads it
    says why it is no volume."""
    parts = {"": list(planes)}
    for name, of in ALWAYS:
        parts = _refined(parts, name, of)
    return [
        (" ".join(filter(None, (label, inner))), volume)
        for label, part in parts.items()
        for inner, volume in _once_each(part).items()
    ]


def _refined(parts: dict[str, list[Plane]], name: str, of: Callable[[Plane], str]) -> dict[str, list[Plane]]:
    refined: dict[str, list[Plane]] = {}
    for label, planes in parts.items():
        values = defaultdict(list)
        for plane in planes:
            values[of(plane)].append(plane)
        for value, some in values.items():
            clause = f"{name} {value or 'unsaid'}" if len(values) > 1 else ""
            refined[" ".join(filter(None, (label, clause)))] = some
    return refined


def _once_each(planes: list[Plane]) -> dict[str, list[Plane]]:
    """By the fewest of the things that may part them."""
    parts = {"": planes}
    if once(planes):
        return parts
    for name, of in WHERE_REPEATED:
        refined = _refined(parts, name, of)
        if len(refined) > len(parts) and all(len(places(part)) > 1 for part in refined.values()):
            parts = refined
        if all(map(once, parts.values())):
            shown = name != "moment"
            return parts if shown or len(parts) == 1 else dict(zip(_numbers(parts), parts.values(), strict=True))
    by_rank = {}
    for label, part in parts.items():
        rows = places(part)
        count = len(rows[0])
        if count > 1 and len(rows) > 1 and all(len(row) == count for row in rows):
            rows = [sorted(row, key=_order) for row in rows]
            for k in range(count):
                by_rank[f"{label} volume {k + 1}".strip()] = [row[k] for row in rows]
        else:
            by_rank[label] = part
    return by_rank


def _numbers(parts: dict[str, list[Plane]]) -> list[str]:
    """Moments are hidden; their order is not."""
    order = sorted(parts, key=lambda label: min(p.numbers["moment"] for p in parts[label]))
    return [f"time {order.index(label) + 1}" for label in parts]


def _order(plane: Plane) -> tuple[float, ...]:
    return tuple(0.0 if isnan(v := plane.numbers[name]) else v for name in ORDER)
