"""Answers of a trained model on the test samples, as what an outcome keeps of them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mae_ext.config import Config, DataConfig
from mae_ext.data.sources.table import Items
from mae_ext.engine.precision import as_evaluated
from mae_ext.errors import BadSample, UserError, check_bad, reasons
from mae_ext.tasks.classify.task import ClassExamples
from mae_ext.tasks.detect.average_precision import average_precision, evaluated
from mae_ext.tasks.detect.fcos import Detections
from mae_ext.tasks.detect.task import BoxExamples
from mae_ext.tasks.finetuning import FineTuning
from mae_ext.tasks.segment.overlap import mean_scores
from mae_ext.worth.outcome import Judged, Tested

SCORES = {"classify": "accuracy", "segment": "dice", "detect": "mAP50"}


def tested_of(kind: str, examples: Any, classes: Sequence[str]) -> Tested:
    items: Items = examples.items
    groups = None if items.patients is None else tuple(items.patients)
    return Tested(kind, SCORES[kind], tuple(classes), tuple(items.addresses), groups)


def check_any(examples: Any, source: str) -> None:
    """Raises UserError where no sample that can be read has a box or a labelled voxel: with nothing to find, every arm
    has 0. Samples are looked at up to the first that has one."""
    if isinstance(examples, ClassExamples):
        return
    empty, classes = 0, examples.table.classes if isinstance(examples, BoxExamples) else examples.task.classes
    for row in range(len(examples.items)):
        try:
            if isinstance(examples, BoxExamples):
                some = bool((~examples.table[row].ignored).any())
            else:
                some = bool((examples.label_map(row) > 0).any())
        except BadSample:
            continue
        if some:
            return
        empty += 1
    if empty:
        raise UserError(
            f"{source}: none of its {empty} samples has a label of {', '.join(classes)}; give samples where there is "
            f"something to find"
        )


def judge(
    task: FineTuning, model: nn.Module, config: Config, examples: Any, source: DataConfig, most: int | None = None
) -> tuple[float, Judged]:  # fmt: skip
    """What a trained model says, as `judged_answers` has it. most: of how many samples, the first ones."""
    device, rows = next(model.parameters()).device, range(len(examples.items))[:most]
    with as_evaluated(model, config):
        return judged_answers(
            lambda bad: task.answers(model.eval(), config, examples, rows, device, bad), examples, source
        )


def judged_answers(
    answering: Callable[[list[Any]], Iterable[tuple[int, Any]]], examples: Any, source: DataConfig
) -> tuple[float, Judged]:
    """(score, what was said of each sample). answering: gives what a task's `answers` does, and fills `bad` with the
    samples that cannot be read. examples: of `source.test`. Raises NoneUsable where more are bad than
    max_bad_fraction allows."""
    bad: list[Any] = []
    answers, total = list(answering(bad)), len(examples.items)
    check_bad(bad, total, source.max_bad_fraction, str(source.test))
    if not answers:
        raise UserError(f"{source.test}: none of its {total} samples can be read: {reasons(bad)}")
    rows = np.array([row for row, _ in answers], np.int64)
    said = [one for _, one in answers]
    if isinstance(examples, ClassExamples):
        return of_classes(rows, np.asarray(said).argmax(1), examples.numbers[rows])
    if isinstance(examples, BoxExamples):
        return _of_boxes(rows, said, examples)
    return of_overlap(rows, said, examples.task.classes)


def of_classes(
    rows: NDArray[np.int64], predicted: NDArray[np.int64], true: NDArray[np.int64]
) -> tuple[float, Judged]:  # fmt: skip
    true, predicted = true.astype(np.int64), predicted.astype(np.int64)
    return float((true == predicted).mean()), {"row": rows, "true": true, "predicted": predicted}


def of_overlap(
    rows: NDArray[np.int64], scores: Sequence[dict[str, float]], classes: Sequence[str]
) -> tuple[float, Judged]:
    """scores: of each sample, as `segment.overlap.dice` has them. 0 where no sample has a class, nor was any found."""
    overlap = np.array([[one.get(f"dice/{name}", np.nan) for name in classes] for one in scores], np.float64)
    own = [{key: value for key, value in one.items() if key.startswith("dice/")} for one in scores]
    return mean_scores(own).get("dice", 0.0), {"row": rows, "dice": overlap}


def _of_boxes(rows: NDArray[np.int64], detected: Sequence[Detections], examples: BoxExamples) -> tuple[float, Judged]:
    truth, classes = [examples.table[int(row)] for row in rows], examples.table.classes
    evaluator = evaluated(truth, detected, classes)
    images, areas = len(rows), len(evaluator.params.areaRng)
    objects = np.zeros((images, len(classes)), np.int64)
    columns: dict[str, list[NDArray[Any]]] = {"image": [], "label": [], "confidence": [], "hit": []}
    for label in range(len(classes)):
        for image in range(images):
            one = evaluator.evalImgs[label * areas * images + image]  # of all areas, which come first
            if one is None:
                continue
            objects[image, label] = int((np.asarray(one["gtIgnore"]) == 0).sum())
            confidence = np.asarray(one["dtScores"], np.float64)
            matched, passed = (np.asarray(one[key])[0].astype(bool) for key in ("dtMatches", "dtIgnore"))  # IoU 0.5
            columns["image"].append(np.full(len(confidence), image, np.int64))
            columns["label"].append(np.full(len(confidence), label, np.int64))
            columns["confidence"].append(confidence)
            columns["hit"].append(np.where(passed, -1, matched.astype(np.int8)).astype(np.int8))
    types = {"image": np.int64, "label": np.int64, "confidence": np.float64, "hit": np.int8}
    tables = {name: np.concatenate([np.zeros(0, types[name]), *parts]) for name, parts in columns.items()}
    order = np.lexsort((-tables["confidence"], tables["label"]))  # stable: images stay in order, as COCO sorts them
    value = average_precision(truth, detected, classes)["mAP50"]
    return value, {"row": rows, "objects": objects, **{name: table[order] for name, table in tables.items()}}


def of_probe(votes: torch.Tensor, rows: NDArray[np.int64], true: torch.Tensor) -> tuple[float, Judged]:
    """(n, classes) votes for the samples at `rows`, (n,) their classes."""
    return of_classes(rows, votes.argmax(1).numpy(), true.numpy())
