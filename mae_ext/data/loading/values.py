"""Which values samples hold, and which of them are unlike the others': a wrapped uint16, a PET among CTs."""

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.sample import Sample

MOST = 100_000
"""Percentiles are those of so many values, evenly spread; least and most are those of all."""

NAMES = {"low": "least", "p1": "1 %", "p50": "median", "p99": "99 %", "high": "most"}

FEWEST = 5
"""Files without which nothing is called unlike the others."""

FAR = 8.0
"""Spreads away from the median of the files at which a file is unlike the others."""

LEAST_SPREAD = 0.05
"""Of the typical distance between a file's 1 % and 99 %: no spread counts as less, or none were alike."""

SIDES = 3
"""Files that each of two kinds has at least."""

MANY = 0.25
"""Of the files: more than that are no exceptions."""

RULE = (
    f"A file is unlike the others when one of its five numbers is more than {FAR:g} spreads from the median of the "
    "files, the spread being 1.4826 times the median distance from it, though never less than "
    f"{LEAST_SPREAD:g} of the typical 1 % to 99 %. Where no file is, and the largest gap between two files in a row is "
    f"wider than {FAR:g} such spreads of either side, with {SIDES} files or more on both, there are two kinds. "
    f"Where more than {MANY:.0%} of the files were unlike the others, and {FEWEST} files or more are of each of "
    "several types of number, as pictures and their masks are, each type is judged by itself. "
    f"Nothing is said of fewer than {FEWEST} files, nor where all are of 8 bits, which have one range."
)
"""Robust: a median and a median distance do not move for fewer than half of the files."""


@dataclass(frozen=True)
class Values:
    """Of one file: least, 1st, 50th and 99th percentile, most. Of a scan, its voxels in its own units (CT: HU); of
    others, the view that was read, in the reader's units. dtype: of the voxels in the file, or of the view."""

    dtype: str
    low: float
    p1: float
    p50: float
    p99: float
    high: float

    @property
    def numbers(self) -> tuple[float, ...]:
        return astuple(self)[1:]

    @property
    def row(self) -> dict[str, Any]:
        """As a report in JSON has it."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.low:.5g} to {self.high:.5g}, 1 % {self.p1:.5g}, median {self.p50:.5g}, 99 % {self.p99:.5g}"


def values_of(dtype: str, numbers: NDArray[Any]) -> Values | None:
    """numbers: (n,), of which none need be finite, or there. dtype: theirs in the file, or as read."""
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return None
    few = numbers[:: -(-len(numbers) // MOST)]
    return Values(dtype, *map(float, (numbers.min(), *np.percentile(few, [1, 50, 99]), numbers.max())))


def valid_of(sample: Sample) -> NDArray[Any]:
    """(n,), of all channels, in the reader's units."""
    x = sample.x.numpy().reshape(-1)
    return x if sample.valid is None else x[sample.valid.expand(sample.x.shape).numpy().reshape(-1)]


def typical(values: Sequence[Values | None]) -> Values | None:
    """The median of each number over the files."""
    known = [one for one in values if one is not None]
    if not known:
        return None
    types = sorted({one.dtype for one in known})
    return Values(" and ".join(types), *np.median([one.numbers for one in known], axis=0).tolist())


def unlike(values: Sequence[Values | None]) -> dict[int, str]:
    """What is to be said of each file that is unlike the others, by its place; RULE says when."""
    if not (types := _types(values)):
        return _exceptions(values)
    said: dict[int, str] = {}
    for places in types.values():
        said |= _exceptions([one if i in places else None for i, one in enumerate(values)])
    return said


def _exceptions(values: Sequence[Values | None]) -> dict[int, str]:
    places = [i for i, one in enumerate(values) if one is not None]
    if len(places) < FEWEST or _bounded(values):
        return {}
    numbers = np.array([one.numbers for one in values if one is not None])
    centre, spread = _spreads(numbers)
    far = np.abs(numbers - centre) > FAR * spread
    return {
        places[row]: "values unlike the others': "
        + "; ".join(
            f"{name} {numbers[row, i]:.5g}, where {centre[i]:.5g} is usual"
            for i, name in enumerate(NAMES.values())
            if far[row, i]
        )
        for row in np.flatnonzero(far.any(1)).tolist()
    }


def _types(values: Sequence[Values | None]) -> dict[str, set[int]]:
    """The places of each type of number where the files fall apart by it; {} where they do not, as of CTs, which are
    alike in whatever type they are stored. Of rarer types a file is judged with the most frequent."""
    number = sum(one is not None for one in values)
    types: dict[str, set[int]] = {}
    for i, one in enumerate(values):
        if one is not None:
            types.setdefault(one.dtype, set()).add(i)
    several = {dtype: places for dtype, places in types.items() if len(places) >= FEWEST}
    if len(several) < 2 or len(_exceptions(values)) <= MANY * number:
        return {}
    most = max(several.values(), key=len)
    for dtype in types.keys() - several.keys():
        most |= types[dtype]
    return several


def of_types(paths: Sequence[str], values: Sequence[Values | None]) -> str:
    """A sentence where files fall apart by their types of number; "" where not. RULE says when."""
    sides = []
    for dtype in sorted(_types(values)):
        files = [path for path, one in zip(paths, values, strict=True) if one is not None and one.dtype == dtype]
        sides.append(f"{len(files)} of {dtype} (such as {files[0]})")
    return (
        f"several types of number: {', '.join(sides)}; a model takes one scale for all: is that meant?" if sides else ""
    )


def two_kinds(paths: Sequence[str], values: Sequence[Values | None]) -> str:
    """A sentence where files fall into two kinds, none of which is an exception; "" where not. RULE says when."""
    known = [(path, one) for path, one in zip(paths, values, strict=True) if one is not None]
    if len(known) < max(FEWEST, 2 * SIDES) or _bounded(values):
        return ""
    numbers = np.array([one.numbers for _, one in known])
    widest, split = 0.0, (0, 0)
    for i in range(1, 4):  # least and most are single values, and stray
        ranks = np.argsort(numbers[:, i], kind="stable")
        gaps = np.diff(numbers[ranks, i])
        at = SIDES - 1 + int(np.argmax(gaps[SIDES - 1 : len(gaps) - SIDES + 1]))
        sides = numbers[ranks[: at + 1]], numbers[ranks[at + 1 :]]
        ratio = float(gaps[at] / (FAR * max(_spreads(side)[1][i] for side in sides)))
        if ratio > max(1.0, widest):
            widest, split = ratio, (i, at)
    if not widest:
        return ""
    name, ranks = list(NAMES.values())[split[0]], np.argsort(numbers[:, split[0]], kind="stable")
    sides = ranks[: split[1] + 1], ranks[split[1] + 1 :]
    sides_said = [
        f"{len(side)} with {name} {numbers[side, split[0]].min():.5g} to {numbers[side, split[0]].max():.5g} "
        f"(such as {known[int(side.min())][0]})"
        for side in sides
    ]
    return f"two kinds of values: {sides_said[0]} and {sides_said[1]}; a model takes one scale for all: is that meant?"


def _bounded(values: Sequence[Values | None]) -> bool:
    return all(one.dtype == "uint8" for one in values if one is not None)


def _spreads(numbers: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(files, 5) -> centre (5,) and spread (5,), above 0."""
    centre = np.median(numbers, axis=0)
    distance = np.median(np.abs(numbers - centre), axis=0)
    width = float(np.median(numbers[:, 3] - numbers[:, 1])) or float(np.median(numbers[:, 4] - numbers[:, 0])) or 1.0
    return centre, np.maximum(1.4826 * distance, LEAST_SPREAD * width)
