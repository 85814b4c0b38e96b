"""What one arm came to with some labels and one seed, and all that is needed to score it again on resampled tests."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_ext.strict_json import dumps

Judged = Mapping[str, NDArray[Any]]
"""What was said of each test sample, by kind of task. `row` (n,) int64, ascending, are places in `Tested.ids`; a sample
that could not be read has none.

classify: true, predicted (n,) int64 into `Tested.classes`.
segment: dice (n, classes) float64, NaN where a class is neither there nor found. The score is the mean over the samples
that have a class, then over the classes (`segment.overlap.mean_scores`).
detect: objects (n, classes) int64, those that count; and of each detection, class by class and by falling confidence
(equal ones in the order of images): image (d,) int64, a place
in `row`, label (d,) int64, confidence (d,) float64, hit (d,) int8: 1 on an object at IoU 0.5, 0 on none, -1 on one that
is ignored and counts neither way (COCO's matching, of at most 100 an image). The score is COCO's AP at IoU 0.5, its 101
points of recall, the mean over classes that occur."""

ARMS = ("frozen", "attentive", "finetuned", "scratch", "random", "majority", "raw", "mean_image")
"""Frozen encoder under a light head (attentive: one that attends over the tokens), fine-tuned whole, the same from
scratch, random frozen weights under the light head; and the cheap ones of `worth.baselines`."""

CHEAP = ("majority", "raw", "mean_image")
"""Those without an encoder."""

KINDS = ("classify", "segment", "detect")


@dataclass(frozen=True)
class Tested:
    """What all outcomes of one study are judged on.

    kind: one of KINDS. ids: the addresses of test samples. groups: the patient (or whatever is resampled as one) of
    each, or None where the data names none. classes: without the background. score: "accuracy", "dice" or "mAP50".
    """

    kind: str
    score: str
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    groups: tuple[str, ...] | None


@dataclass(frozen=True)
class Asked:
    """One cell of the table: which arm learns from which labels.

    labels: as it is printed: "10 a class", "3 scans", "10 %", "all". count: labelled samples it comes to. seed: of the
    draw, the order, the crops and the head, the same in all arms.
    """

    arm: str
    labels: str
    count: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What came of a cell. score: its name; value: 0..1, more is better; minutes: of work."""

    cell: Asked
    score: str
    value: float
    minutes: float
    judged: Judged


def to_json(outcome: Outcome) -> dict[str, Any]:
    """-> what `from_json` makes the same outcome of, to the bit; NaN becomes null. `digest` is of all the rest."""
    judged = {
        name: {"dtype": str(table.dtype), "shape": list(table.shape), "values": _plain(table)}
        for name, table in outcome.judged.items()
    }
    cell = outcome.cell
    values = {
        "arm": cell.arm, "labels": cell.labels, "count": cell.count, "seed": cell.seed, "score": outcome.score,
        "value": outcome.value, "minutes": outcome.minutes, "judged": judged,
    }  # fmt: skip
    return {**values, "digest": digest(dumps(values))}


def from_json(values: Mapping[str, Any]) -> Outcome:
    """Raises ValueError for values that are not those that were written, and others for what has not their form."""
    if values["digest"] != digest(dumps({key: value for key, value in values.items() if key != "digest"})):
        raise ValueError("its values were changed")
    judged = {
        name: np.array([np.nan if v is None else v for v in one["values"]], one["dtype"]).reshape(one["shape"])
        for name, one in values["judged"].items()
    }
    cell = Asked(values["arm"], values["labels"], values["count"], values["seed"])
    return Outcome(cell, values["score"], values["value"], values["minutes"], judged)


def _plain(table: NDArray[Any]) -> list[Any]:
    return [None if v != v else v for v in table.ravel().tolist()]


def digest(*parts: str | bytes | Sequence[str]) -> str:
    """Of texts, and of lists of them, in their order."""
    summed = hashlib.sha256()
    for part in parts:
        for one in [part] if isinstance(part, str | bytes) else part:
            content = one if isinstance(one, bytes) else one.encode("utf-8", "surrogateescape")
            summed.update(f"{len(content)}:".encode() + content)
    return summed.hexdigest()[:16]
