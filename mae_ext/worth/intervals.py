"""How far the figures of a study can be trusted: intervals of scores and of differences between two arms.

An interval is of 95 %, and has two parts. Test samples are resampled, or patients where they are known, with all that
they have; both arms of a difference see the same draw. And seeds, of which there are few: the mean over k seeds lies
about its value as Student's t with k - 1 degrees says. A difference is taken seed by seed first, for both arms learn
from the same labels. With one seed the second part is missing, and `Estimate.seeds` says so.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae_ext.probing.scores import PERCENTILES, resampled
from mae_ext.worth.outcome import Asked, Judged, Outcome, Tested

STRATA = 200
"""Places in Student's distribution, of equal chance, that each draw of test samples is moved to."""

NEVER_SEEN = 3.0
"""What was not seen once in n samples has a rate of at most 3 / n (95 %, the rule of three)."""

RECALLS = torch.linspace(0, 1, 101, dtype=torch.float64)
"""At which COCO reads precision."""

CHUNK = 1 << 22
"""Test samples or detections, times draws, that are looked at together."""

DIGITS = 6
"""Of what is written: beyond them processors differ."""


@dataclass(frozen=True)
class Estimate:
    """A score, 0..1, or the difference of two, and its interval.

    low, high: None where nothing can be said, as with a single test sample or patient. spread: the standard deviation
    over seeds, None of one. units: test samples, or patients where they are known.
    """

    value: float
    low: float | None
    high: float | None
    spread: float | None
    seeds: int
    units: int


class Estimates:
    """Scores and differences of all cells of a study. outcomes: of each (arm, labels, seed) one at most.

    Everything is a function of what is given and `seed`: the same numbers to the bit, in any order of outcomes.
    """

    def __init__(self, tested: Tested, outcomes: Iterable[Outcome], seed: int = 0) -> None:
        self.tested, self.seed = tested, seed
        self.cells: dict[tuple[str, str], dict[int, Outcome]] = {}
        ordered = sorted(outcomes, key=lambda o: (o.cell.count, o.cell.labels, o.cell.arm, o.cell.seed))
        for outcome in ordered:
            cell = self.cells.setdefault((outcome.cell.arm, outcome.cell.labels), {})
            assert outcome.cell.seed not in cell
            cell[outcome.cell.seed] = outcome
        self._drawn: dict[Asked, NDArray[np.float64]] = {}

    @property
    def labels(self) -> list[str]:
        """As they are printed, fewest first."""
        return list(dict.fromkeys(labels for _, labels in self.cells))

    @property
    def arms(self) -> set[str]:
        return {arm for arm, _ in self.cells}

    def count(self, labels: str) -> float:
        """The mean number of labelled samples behind `labels`."""
        counts = [o.cell.count for (_, name), cell in self.cells.items() if name == labels for o in cell.values()]
        return float(np.mean(counts))

    def minutes(self, arm: str, labels: str) -> float:
        """Of work, all seeds together."""
        return sum(outcome.minutes for outcome in self.cells.get((arm, labels), {}).values())

    def score(self, arm: str, labels: str) -> Estimate | None:
        """None of a cell that is not there."""
        cell = self.cells.get((arm, labels))
        if cell is None:
            return None
        values = [outcome.value for outcome in cell.values()]
        return self._estimate(values, [self._draws(outcome) for outcome in cell.values()], (0.0, 1.0))

    def gain(self, arm: str, over: str, labels: str, other: str | None = None) -> Estimate | None:
        """`arm` less `over`, at `labels` and `other` (the same, by default), over the seeds that both have.

        None where there are none.
        """
        pairs = self._pairs(arm, over, labels, other)
        if not pairs:
            return None
        draws = [self._draws(mine) - self._draws(theirs) for mine, theirs in pairs]
        return self._estimate([mine.value - theirs.value for mine, theirs in pairs], draws, (-1.0, 1.0))

    def means(self, arm: str, over: str, labels: str, other: str | None = None) -> tuple[float, float]:
        """Those whose difference `gain` is."""
        pairs = self._pairs(arm, over, labels, other)
        mine, theirs = (float(np.mean([pair[side].value for pair in pairs])) for side in (0, 1))
        return mine, theirs

    def _pairs(self, arm: str, over: str, labels: str, other: str | None) -> list[tuple[Outcome, Outcome]]:
        mine, theirs = self.cells.get((arm, labels), {}), self.cells.get((over, other or labels), {})
        return [(mine[seed], theirs[seed]) for seed in mine if seed in theirs]

    @cached_property
    def groups(self) -> Tensor:
        """(n,) int64: the patient of each test sample; one of which none is known stands for itself."""
        names = self.tested.groups or ("",) * len(self.tested.ids)
        number: dict[str, int] = {}
        each = [number.setdefault(name or f"\0{i}", len(number)) for i, name in enumerate(names)]
        return torch.tensor(each, dtype=torch.int64)

    @cached_property
    def units(self) -> int:
        return len(self.groups.unique())

    @cached_property
    def _weight(self) -> Tensor:
        return resampled(len(self.tested.ids), self.seed, self.groups)

    def _draws(self, outcome: Outcome) -> NDArray[np.float64]:
        if outcome.cell not in self._drawn:
            self._drawn[outcome.cell] = rescored(self.tested, outcome.judged, self._weight).numpy()
        return self._drawn[outcome.cell]

    def _estimate(
        self, values: Sequence[float], draws: Sequence[NDArray[np.float64]], span: tuple[float, float]
    ) -> Estimate:
        value, seeds = float(np.mean(values)), len(values)
        spread = float(np.std(values, ddof=1)) if seeds > 1 else None
        ends = (None, None) if self.units < 2 else self._interval(value, spread, seeds, np.mean(draws, 0))
        low, high = (None if end is None else round(min(max(end, span[0]), span[1]), DIGITS) for end in ends)
        spread = None if spread is None else round(spread, DIGITS)
        return Estimate(round(value, DIGITS), low, high, spread, seeds, self.units)

    def _interval(
        self, value: float, spread: float | None, seeds: int, draws: NDArray[np.float64]
    ) -> tuple[float, float] | tuple[None, None]:
        about = draws[np.isfinite(draws)] - value
        if not len(about):
            return None, None
        # Few samples vary less among themselves than they would about the truth (Hesterberg 2015, "expanded").
        about = about * expansion(self.units)
        if self.tested.kind == "classify" and not about.any():
            about = np.linspace(-1, 1, 1 + 2 * STRATA) * min(1.0, NEVER_SEEN / self.units)
            about = about / (PERCENTILES[1] - PERCENTILES[0]) * 100
        if spread:
            about = (about[:, None] + students(seeds - 1) * spread / seeds**0.5).ravel()
        low, high = np.percentile(about, PERCENTILES)
        return min(value + float(low), value), max(value + float(high), value)


def students(freedom: int) -> NDArray[np.float64]:
    """-> (STRATA,): Student's t with so many degrees of freedom, in the middle of strata of equal chance."""
    from scipy.special import stdtrit

    t: NDArray[np.float64] = stdtrit(freedom, (np.arange(STRATA) + 0.5) / STRATA)
    return t


def expansion(units: int) -> float:
    """By how much a bootstrap interval of so many samples is too narrow: the deviation's n - 1, and t for normal."""
    from scipy.special import ndtri, stdtrit

    return float((units / (units - 1)) ** 0.5 * stdtrit(units - 1, 0.975) / ndtri(0.975))


def rescored(tested: Tested, judged: Judged, weight: Tensor) -> Tensor:
    """(W, n): how often each test sample counts -> (W,) float64, the score; NaN where a draw leaves none."""
    score = {"classify": _accuracy, "segment": _dice, "detect": _average_precision}[tested.kind]
    rows = torch.from_numpy(judged["row"])
    together = max(1, CHUNK // max(1, len(rows), len(judged.get("image", ()))))
    return torch.cat([score(judged, part[:, rows].double()) for part in weight.split(together)])


def _accuracy(judged: Judged, weight: Tensor) -> Tensor:
    return weight @ torch.from_numpy(judged["true"] == judged["predicted"]).double() / weight.sum(1)


def _dice(judged: Judged, weight: Tensor) -> Tensor:
    """The mean over the samples that have a class, then over the classes."""
    dice = torch.from_numpy(judged["dice"])
    return (weight @ dice.nan_to_num() / (weight @ (~dice.isnan()).double())).nanmean(1)


def _average_precision(judged: Judged, weight: Tensor) -> Tensor:
    """COCO's, at IoU 0.5: what is ignored counts neither way, and the curve never rises with recall."""
    image, label, hit = (torch.from_numpy(judged[name]) for name in ("image", "label", "hit"))
    objects = weight @ torch.from_numpy(judged["objects"]).double()
    areas = []
    for c in range(objects.shape[1]):
        chosen = (label == c) & (hit >= 0)
        counts, true = weight[:, image[chosen]], (hit[chosen] == 1).double()
        right = (counts * true).cumsum(1)
        recall = right / objects[:, c : c + 1].clamp(min=1)
        precision = right / counts.cumsum(1).clamp(min=1)
        precision = precision.flip(1).cummax(1).values.flip(1) if len(true) else precision
        at = torch.searchsorted(recall, RECALLS.expand(len(weight), -1).contiguous())
        read = torch.cat([precision, precision.new_zeros(len(weight), 1)], 1).gather(1, at)
        areas.append(torch.where(objects[:, c] > 0, read.mean(1), torch.nan))
    return torch.stack(areas, 1).nanmean(1)
