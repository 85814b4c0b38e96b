"""What a study says in words, and no more than its figures bear out.

All is decided on the figures as they are printed, points with one decimal, so no sentence contradicts its own numbers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mae_ext.worth.intervals import Estimate, Estimates
from mae_ext.worth.outcome import ARMS, CHEAP

PRETRAINED = ("frozen", "attentive", "finetuned")
RIVALS = {"frozen": ("random", "scratch"), "attentive": ("random", "scratch"), "finetuned": ("scratch",)}
"""What differs from each of these in the encoder's first weights alone, or learns more from the same labels."""

UNTAUGHT = (*CHEAP, "random")
"""What costs next to nothing, and belongs beside every encoder."""

NAMES = {
    "frozen": "frozen encoder",
    "attentive": "frozen encoder, attentive head",
    "finetuned": "fine-tuned",
    "scratch": "from scratch",
    "random": "random frozen weights",
    "majority": "majority",
    "raw": "raw values",
    "mean_image": "mean image",
}
POINTS = {"accuracy": "points", "dice": "Dice points", "mAP50": "points of mAP50"}

MARGIN = 3.0
"""Points. An interval about 0 that stays within them says "nothing", a wider one that it cannot be told. Our choice."""

MORE = ", which more seeds or test samples would narrow"
"""Of a wide interval about a large difference: what a reader can do about it."""

Verdict = Literal["gains", "loses", "nothing", "cannot be told"]


@dataclass(frozen=True)
class Difference:
    """`arm` with `labels` less `over` with `other`, which is `labels` where both learn from the same."""

    arm: str
    labels: str
    over: str
    other: str
    estimate: Estimate
    verdict: Verdict


@dataclass(frozen=True)
class Findings:
    """gains: of the best pretrained arm over the best other one, by number of labels, fewest first.

    saving: the most labels that pretraining stands for, None where the curves bear out none. cheap: where a cheap arm
    is as good as the encoder. sentences: all of it, the first being the one to quote. warnings: about `cheap`, about
    what was not run, what has not learned, and answers that are always the same.
    """

    gains: tuple[Difference, ...]
    saving: Difference | None
    cheap: tuple[Difference, ...]
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def points(value: float) -> float:
    """A share -> points, to one decimal; the same ones for a share as it is kept, with six."""
    return round(round(100 * value, 4), 1) + 0.0


def verdict(difference: Estimate) -> Verdict:
    if difference.low is None or difference.high is None:
        return "cannot be told"
    low, high = points(difference.low), points(difference.high)
    if low > 0:
        return "gains"
    if high < 0:
        return "loses"
    return "nothing" if low >= -MARGIN and high <= MARGIN else "cannot be told"


def phrase(labels: str) -> str:
    """ "10 a class" -> "10 labels a class"."""
    if labels.endswith(" a class"):
        number = labels.removesuffix(" a class")
        return f"{number} label{'s' * (number != '1')} a class"
    if labels.endswith("%"):
        return f"{labels} of the labels"
    return "all labels" if labels == "all" else labels


def findings(estimates: Estimates) -> Findings:
    gains = []
    for labels in estimates.labels:
        arm, over = best(estimates, labels, PRETRAINED), best(estimates, labels, _others())
        if arm is not None and over is not None and (one := _difference(estimates, arm, labels, over, labels)):
            gains.append(one)
    saving = _saving(estimates)
    cheap = _as_good(estimates)
    said = [_about_gains(estimates, gains)]
    if saving is not None:
        said.append(_about_saving(estimates, saving))
    warnings = [
        _about_cheap(estimates, rows)
        for labels in estimates.labels
        for said_so in ("loses", "nothing", "cannot be told")
        if (rows := [one for one in cheap if (one.labels, one.verdict) == (labels, said_so)])
    ]
    warnings += [*_no_rival(estimates, gains), *_unlearned(estimates), *_one_answer(estimates)]
    return Findings(tuple(gains), saving, tuple(cheap), tuple(said), tuple(warnings))


def best(estimates: Estimates, labels: str, arms: Sequence[str]) -> str | None:
    """The arm with the highest mean, None where none of them was judged. The first of equal ones."""
    values = {arm: one.value for arm in arms if (one := estimates.score(arm, labels)) is not None}
    return max(values, key=lambda arm: values[arm]) if values else None


def _others() -> tuple[str, ...]:
    return tuple(arm for arm in ARMS if arm not in PRETRAINED)


def _difference(estimates: Estimates, arm: str, labels: str, over: str, other: str) -> Difference | None:
    estimate = estimates.gain(arm, over, labels, other)
    return None if estimate is None else Difference(arm, labels, over, other, estimate, verdict(estimate))


def _saving(estimates: Estimates) -> Difference | None:
    """The pair of the largest ratio: pretrained with few labels, as good as all else with more, and with any between.

    "As good": no lower, and by its interval at most MARGIN lower. Where something else is as good with few labels, too,
    it is not pretraining that saves any.
    """
    most, chosen, order = 1.0, None, estimates.labels
    for i, few in enumerate(order):
        arm, rival = best(estimates, few, PRETRAINED), best(estimates, few, _others())
        gain = None if arm is None or rival is None else _difference(estimates, arm, few, rival, few)
        for many in order[i + 1 :] if gain is not None and gain.verdict == "gains" else ():
            assert arm is not None
            over = best(estimates, many, _others())
            one = None if over is None else _difference(estimates, arm, few, over, many)
            if one is None or not _holds(one.estimate):
                break
            ratio = estimates.count(many) / max(estimates.count(few), 1)
            if ratio > most:
                most, chosen = ratio, one
    return chosen


def _holds(difference: Estimate) -> bool:
    return difference.low is not None and difference.value >= 0 and points(difference.low) >= -MARGIN


def _as_good(estimates: Estimates) -> list[Difference]:
    cheap = []
    for labels in estimates.labels:
        arm = best(estimates, labels, PRETRAINED)
        for over in UNTAUGHT if arm is not None else ():
            assert arm is not None
            one = _difference(estimates, arm, labels, over, labels)
            if one is not None and one.verdict != "gains":
                cheap.append(one)
    return cheap


def _about_gains(estimates: Estimates, gains: Sequence[Difference]) -> str:
    if not gains:
        return "Nothing can be told yet: no number of labels has both a pretrained arm and one without pretraining."
    unit, parts = POINTS[estimates.tested.score], list[str]()
    for one in gains:
        who, size = "it" if parts else "pretraining", f"{abs(points(one.estimate.value)):.1f} {unit}"
        cheap = one.over in UNTAUGHT  # whose lead is no loss by pretraining
        what = {
            "gains": f"{who} gains {size}",
            "loses": f"{NAMES[one.arm]} is {size} below {NAMES[one.over]}" if cheap else f"{who} loses {size}",
            "nothing": f"{who} gains nothing",
            "cannot be told": "that cannot be told" if parts else "it cannot be told what pretraining gains",
        }[one.verdict]
        parts.append(f"with {phrase(one.labels)} {what} ({_interval(estimates, one)}; {_both(estimates, one)})")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _about_saving(estimates: Estimates, one: Difference) -> str:
    better = "better than" if one.verdict == "gains" else "as well as"
    return (
        f"With {phrase(one.labels)} pretraining does {better} anything without it with {phrase(one.other)}, "
        f"{estimates.count(one.other) / estimates.count(one.labels):.3g} times as many "
        f"({_interval(estimates, one)}; {_both(estimates, one)})."
    )


def _about_cheap(estimates: Estimates, rows: Sequence[Difference]) -> str:
    """Of one number of labels and one verdict."""
    verb = (
        "cannot be told from"
        if rows[0].verdict != "loses"
        else "are better than"
        if len(rows) > 1
        else "is better than"
    )
    each = []
    for one in rows:
        mine, theirs = estimates.means(one.arm, one.over, one.labels)
        ends = one.estimate.low is not None
        wide = ends and one.verdict == "cannot be told" and points(one.estimate.value) > MARGIN
        words = f"{NAMES[one.over]} {points(theirs):.1f} against {points(mine):.1f}, {_ends(one.estimate)}"
        each.append(words + MORE * wide)
    plural = "s" * (len(rows) > 1)
    return (
        f"With {phrase(rows[0].labels)} the cheap baseline{plural} {verb} the best pretrained arm, "
        f"{NAMES[rows[0].arm]}: {'; '.join(each)}."
    )


def _no_rival(estimates: Estimates, gains: Sequence[Difference]) -> list[str]:
    """Of gains over what differs in more than the first weights: the labels or the architecture may be their cause."""
    texts = []
    for one in gains:
        if one.verdict == "gains" and not any((rival, one.labels) in estimates.cells for rival in RIVALS[one.arm]):
            who, over = NAMES[one.arm], NAMES[one.over]
            missing = " and ".join(f"`{rival}`" for rival in RIVALS[one.arm])
            texts.append(
                f"With {phrase(one.labels)} what {who} gains over {over} may be no merit of pretraining: --arms leaves "
                f"out {missing}, the same network with other weights to begin with."
            )
    return texts


def _unlearned(estimates: Estimates) -> list[str]:
    """Of trainings that end below the encoder that they began from."""
    texts = []
    for labels in estimates.labels:
        one = _difference(estimates, "frozen", labels, "finetuned", labels)
        if one is not None and one.verdict == "gains" and points(one.estimate.value) > MARGIN:
            what = f"{_both(estimates, one)}, {_ends(one.estimate)}"
            texts.append(
                f"With {phrase(labels)} fine-tuning ends below the encoder that it began from ({what}): its steps may "
                f"be too few, or its rate too high."
            )
    return texts


def _one_answer(estimates: Estimates) -> list[str]:
    """Of the best pretrained arm, where there is more than one class to be told apart."""
    texts = []
    for labels in estimates.labels if estimates.tested.kind == "classify" else ():
        arm = best(estimates, labels, PRETRAINED)
        cell = list(estimates.cells[arm, labels].values()) if arm is not None else []
        answers = [{int(one) for one in outcome.judged["predicted"]} for outcome in cell]
        several = any(len(set(outcome.judged["true"].tolist())) > 1 for outcome in cell)
        if arm is not None and several and all(len(each) == 1 for each in answers):
            numbers = set[int]().union(*answers)
            names = " or ".join(sorted(f"'{estimates.tested.classes[number]}'" for number in numbers))
            texts.append(
                f"With {phrase(labels)} {NAMES[arm]} answers {names}{', by seed,' * (len(numbers) > 1)} whatever it is "
                f"shown: it tells no classes apart, and its accuracy is the share of that answer."
            )
    return texts


def _interval(estimates: Estimates, one: Difference) -> str:
    e, text = one.estimate, _ends(one.estimate)
    if one.verdict == "cannot be told":
        who = "test sample" if estimates.tested.groups is None else "patient"
        return f"{text}, {e.units} {who}{'s' * (e.units != 1)}, {'one seed' if e.seeds == 1 else f'{e.seeds} seeds'}"
    return f"{text}, of one seed" if e.seeds == 1 else text


def _ends(e: Estimate) -> str:
    return "no interval" if e.low is None or e.high is None else f"interval {points(e.low):.1f} to {points(e.high):.1f}"


def _both(estimates: Estimates, one: Difference) -> str:
    """ "fine-tuned 51.5, from scratch 31.8"."""
    mine, theirs = estimates.means(one.arm, one.over, one.labels, one.other)
    return f"{NAMES[one.arm]} {points(mine):.1f}, {NAMES[one.over]} {points(theirs):.1f}"
