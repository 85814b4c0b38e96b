"""The cheap arms that belong beside every encoder: what needs no network, told from the files alone.

Each gives answers as a task's own `answers` does, for the same judge. Memory is bounded by the constants below and by
what a reader needs for one sample, not by how many samples there are or how large they are.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d, one_hot

from mae_ext.data.crops import evaluation_sampler
from mae_ext.data.image.boxes import BoxTable
from mae_ext.data.loading.ahead import read_ahead
from mae_ext.data.loading.batches import build_reader
from mae_ext.data.sample import extent_of
from mae_ext.errors import BadSample, RunError, reasons
from mae_ext.model.units import in_units
from mae_ext.probing.classifiers import linear_votes
from mae_ext.tasks.classify.task import ClassExamples
from mae_ext.tasks.detect.fcos import Detections
from mae_ext.tasks.detect.task import BoxExamples
from mae_ext.worth.voxels import VOXELS, smaller

Answers = Iterator[tuple[int, Any]]
Baseline = Callable[[Any, Any, int, list[Any]], Answers]
"""(what is learned from, what is judged on, seed, bad) -> (row, answer) of each test sample; bad gains the others."""

NUMBERS = 432
"""Of a sample that raw values are learned from, at most, 12x12 colours: a linear head takes time by its cube."""

HELD = 1 << 26
"""Numbers of all samples together, 256 MiB."""

ROUNDS = 20
"""Of k-means; a handful of boxes has settled long before."""

OVERLAP = 0.5
"""IoU from which a box counts as one on an object."""


def baseline(arm: str, kind: str) -> Baseline | str:
    """How `arm` ("majority", "raw", "mean_image") answers a kind of task; or, in words, why it is not defined.

    majority: the class most samples or voxels have; of boxes, of each class the mean number of mean boxes, in every
    image. raw: a linear head on the values themselves, of a sample shrunk to NUMBERS, or of a voxel and its neighbours.
    mean_image: the class whose mean sample is nearest; for voxels, the class most training samples have at that place
    of their extent.
    """
    defined: dict[tuple[str, str], Baseline] = {
        ("majority", "classify"): most_frequent,
        ("raw", "classify"): raw_values,
        ("mean_image", "classify"): nearest_mean,
        ("majority", "detect"): mean_boxes,
        **{(arm, "segment"): answer for arm, answer in VOXELS.items()},
    }
    if (arm, kind) in defined:
        return defined[arm, kind]
    return "not defined: boxes of a whole image are no linear function of its values, and have no mean image"


def most_frequent(train: ClassExamples, tested: ClassExamples, _: int, bad: list[Any]) -> Answers:
    """The shares of the classes in the training data, for every sample."""
    shares = torch.from_numpy(train.numbers).bincount(minlength=len(train.classes)).double()
    for row, _x in _read(tested, NUMBERS, bad):
        yield row, (shares / shares.sum()).tolist()


def raw_values(train: ClassExamples, tested: ClassExamples, seed: int, bad: list[Any]) -> Answers:
    """The linear probe's head and its choice of strength, on shrunken samples."""
    rows, x, y = _learned(train)
    test_rows, x_test = _together(_read(tested, _numbers(train), bad))
    patients = train.items.patients
    groups = None
    if patients is not None:
        number: dict[str, int] = {}
        groups = torch.tensor([number.setdefault(patients[row], len(number)) for row in rows])
    votes, _ = linear_votes(x, y, x_test, seed=seed, groups=groups)
    votes = torch.nn.functional.pad(votes, (0, len(train.classes) - votes.shape[1]))
    yield from zip(test_rows, votes.tolist(), strict=True)


def nearest_mean(train: ClassExamples, tested: ClassExamples, _: int, bad: list[Any]) -> Answers:
    """1 for the class of the nearest mean, by Euclidean distance over shrunken samples, 0 for the others."""
    _rows, x, y = _learned(train)
    member = one_hot(y, len(train.classes)).to(x.dtype)
    means = member.T @ x / member.sum(0)[:, None].clamp(min=1)
    means[member.sum(0) == 0] = torch.inf
    for row, sample in _read(tested, _numbers(train), bad):
        nearest = (means - sample).square().sum(1).argmin()
        yield row, one_hot(nearest, len(means)).double().tolist()


def mean_boxes(train: BoxExamples, tested: BoxExamples, _: int, bad: list[Any]) -> Answers:
    """Of each class as many boxes as an image has on average, at the means of clusters of the boxes of training.

    As shares of the image; confidence: in how many images of training one is on an object.
    """
    shares, image, label = _relative(train)
    boxes, labels, scores = [], [], []
    for c in range(len(train.table.classes)):
        own, whose = shares[label == c], image[label == c]
        if not len(own):
            continue
        for box in _clusters(own, max(1, round(len(own) / len(train.items)))):
            boxes.append(box)
            labels.append(c)
            scores.append(len(whose[_iou(own, box) >= OVERLAP].unique()) / len(train.items))
    order = torch.tensor(scores).argsort(descending=True, stable=True)
    every = [torch.stack(boxes)[order], torch.tensor(scores)[order], torch.tensor(labels)[order]]
    for row, (height, width) in _sizes(tested, bad):
        yield row, Detections(every[0] * torch.tensor([width, height] * 2), every[1], every[2])


def _numbers(train: ClassExamples) -> int:
    return min(NUMBERS, HELD // len(train.items))


def _learned(train: ClassExamples) -> tuple[list[int], Tensor, Tensor]:
    """-> rows, (n, D) float32, (n,) int64. Raises RunError where none can be read."""
    bad: list[Any] = []
    rows, x = _together(_read(train, _numbers(train), bad))
    if not rows:
        raise RunError(f"{train.modality.data.path}: none of {len(train.items)} samples can be read: {reasons(bad)}")
    return rows, x, torch.from_numpy(train.numbers)[torch.tensor(rows)]


def _together(samples: Iterator[tuple[int, Tensor]]) -> tuple[list[int], Tensor]:
    pairs = list(samples)
    return [row for row, _ in pairs], torch.stack([x for _, x in pairs]) if pairs else torch.zeros(0, 0)


def _read(examples: ClassExamples, most: int, bad: list[Any]) -> Iterator[tuple[int, Tensor]]:
    """(row, (D,) float32) of the samples that can be read: seen as a model is shown them, shrunk to `most` numbers."""
    modality = examples.modality
    crop = evaluation_sampler(modality.data.augment, modality.size)
    for row, outcome in enumerate(read_ahead(examples.reader, examples.items.addresses, crop)):
        if isinstance(outcome, BadSample):
            bad.append(outcome)
        else:
            yield row, shrunk(in_units(outcome.x), most).flatten()


def shrunk(x: Tensor, most: int) -> Tensor:
    """(C, *S) -> (C, *smaller) of at most `most` numbers, but one place a channel at least: means over boxes."""
    pool = {2: adaptive_avg_pool2d, 3: adaptive_avg_pool3d}[x.ndim - 1]
    small: Tensor = pool(x[None], smaller(x.shape[1:], most // len(x)))[0]  # type: ignore[arg-type]
    return small


def _sizes(examples: BoxExamples, bad: list[Any]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(row, (height, width)) of each image that its header can be read of."""
    reader = build_reader(examples.modality, f"modalities.{examples.name}.data.reader")
    for row, address in enumerate(examples.items.addresses):
        try:
            size = extent_of(reader, address).size
            examples.table[row].check(address, size)
        except BadSample as error:
            bad.append(error)
        else:
            yield row, size


def _relative(train: BoxExamples) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (k, 4) as shares of their image, which image each is in, and its class; without those to be ignored."""
    table: BoxTable = train.table
    boxes, image, label = [], [], []
    for row, (height, width) in _sizes(train, []):
        one = table[row]
        kept = ~one.ignored
        boxes.append(one.boxes[kept] / torch.tensor([width, height] * 2))
        image.append(torch.full((int(kept.sum()),), row))
        label.append(one.labels[kept])
    if not boxes:
        raise RunError(f"{train.modality.data.path}: none of {len(train.items)} images can be read")
    return torch.cat(boxes), torch.cat(image), torch.cat(label)


def _clusters(boxes: Tensor, count: int) -> Tensor:
    """(k, 4) -> (at most count, 4): means by k-means, begun at the box nearest the mean and then the farthest ones."""
    chosen: Sequence[int] = [int((boxes - boxes.mean(0)).square().sum(1).argmin())]
    while len(chosen) < count:
        distance = torch.cdist(boxes, boxes[chosen]).amin(1)
        if not bool(distance.any()):
            break
        chosen = [*chosen, int(distance.argmax())]
    means = boxes[chosen]
    for _ in range(ROUNDS):
        member = one_hot(torch.cdist(boxes, means).argmin(1), len(means)).to(boxes.dtype)
        total = member.sum(0)[:, None]
        means = torch.where(total > 0, member.T @ boxes / total.clamp(min=1), means)
    return means


def _iou(boxes: Tensor, box: Tensor) -> Tensor:
    """(k, 4), (4,) -> (k,)."""
    shared = (torch.minimum(boxes[:, 2:], box[2:]) - torch.maximum(boxes[:, :2], box[:2])).clamp(min=0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return shared / (areas - shared)
