"""Cheap baselines for segmentation: the most frequent class, the class of a place, and of a voxel's own values.

Samples are read at no more than PLACES places, shrunk where they have more; labels go to the nearest voxel of those
that the sample is stored in, on which the task is judged.
"""

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d, conv3d, one_hot, pad

from mae_ext.data.labelmap import IGNORED, Labels, cut
from mae_ext.data.loading.batches import build_reader
from mae_ext.data.plan import spread
from mae_ext.data.sample import Extent, extent_of, read_placed, whole
from mae_ext.errors import BadSample, RunError, reasons
from mae_ext.model.units import in_units
from mae_ext.probing.classifiers import logits, softmax_regression
from mae_ext.rng import rng
from mae_ext.tasks.segment.overlap import dice, found_wrongly
from mae_ext.tasks.segment.pairs import PairedExamples, check_extent

PLACES = 1 << 22
"""Of a sample, and of a map of frequencies times its classes: 16 MiB each."""

LOOKED_AT = 1000
"""Label maps, spread over the training data, that frequencies are counted in; of large sets that is plenty."""

DRAWN = 1 << 15
"""Voxels that the linear head learns from, of all samples together."""

L2 = 1e-4
"""Its strength, as in the linear probe: with a thousand voxels for each weight it decides nothing."""

PRIORS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How much of the logarithm of the classes' frequencies is added to scores that were learned from all alike: 1 is what
is most likely, 0 what is most telling. Dice wants something between; the best on the training voxels is taken."""

Answers = Iterator[tuple[int, dict[str, float]]]


def most_frequent(train: PairedExamples, tested: PairedExamples, _: int, bad: list[Any]) -> Answers:
    """One class for every voxel, mostly the background: then Dice is 0."""
    counts = sum((_counts(labels, _classes(train)) for _, labels in _maps(train)), np.zeros(_classes(train)))
    constant = np.full((1,) * len(train.modality.size), int(counts.argmax()), np.int32)
    yield from _judged(tested, bad, lambda _row: constant)


def of_place(train: PairedExamples, tested: PairedExamples, _: int, bad: list[Any]) -> Answers:
    """At each place of a sample's extent the class that most training samples have there; one scan is an atlas.

    Exactly voxel by voxel where all sizes agree, and do not exceed PLACES; else at the nearest place.
    """
    several, extents = _classes(train), list[tuple[int, ...]]()
    for _, labels in _maps(train, 64):
        extents.append(labels.shape)
    middle = tuple(int(n) for n in np.median(extents, 0))
    grid = smaller(middle, PLACES // several)
    total = torch.zeros(*grid, several)
    for _, labels in _maps(train):
        here = cut(labels, whole(labels.shape), grid)
        total += one_hot(here.clamp(min=0), several) * (here != IGNORED)[..., None]
    usual = total.argmax(-1).numpy().astype(np.int32)
    yield from _judged(tested, bad, lambda _row: usual)


def raw_values(train: PairedExamples, tested: PairedExamples, seed: int, bad: list[Any]) -> Answers:
    """A linear head on the values of a voxel and of those that touch it, learned from all classes alike."""
    x, y, counts = _drawn(train, seed)
    std, mean = torch.std_mean(x, 0, correction=0)
    scale = torch.where(std > 1e-6, 1 / std.clamp(min=1e-6), 0.0)
    weight = softmax_regression((x - mean) * scale, y, L2, iterations=100)
    weight = torch.cat([weight[:-1] * scale[:, None], weight[-1:] - (mean * scale) @ weight[:-1]])
    weight[-1] += _prior(logits(weight, x), y, counts[: weight.shape[1]])
    kernel = weight[:-1].T.reshape(weight.shape[1], -1, *[3] * len(train.modality.size))

    def answer(row: int) -> Labels:
        values = _values(tested, row)
        slide = {2: conv2d, 3: conv3d}[values.ndim - 1]
        scores: Tensor = slide(_bordered(values), kernel, weight[-1])[0]
        return scores.argmax(0).numpy().astype(np.int32)

    yield from _judged(tested, bad, answer)


VOXELS: dict[str, Callable[[Any, Any, int, list[Any]], Answers]] = {
    "majority": most_frequent,
    "mean_image": of_place,
    "raw": raw_values,
}


def _classes(examples: PairedExamples) -> int:
    return 1 + len(examples.task.classes)


def _counts(labels: Labels, classes: int) -> NDArray[np.float64]:
    return np.bincount(labels[labels >= 0].ravel(), minlength=classes).astype(np.float64)


def _maps(examples: PairedExamples, most: int = LOOKED_AT) -> Iterator[tuple[int, Labels]]:
    """(row, labels on the extent) of the training samples that can be read. Raises RunError where none can."""
    problems, looked_at = [], spread(len(examples.items), most)
    for row in looked_at:
        try:
            labels = examples.label_map(row)
        except BadSample as error:
            problems.append(error)
        else:
            yield row, labels
    if len(problems) == len(looked_at):
        raise RunError(f"none of {len(looked_at)} label maps of training can be read: {reasons(problems)}")


def smaller(shape: Sequence[int], most: int) -> tuple[int, ...]:
    """About the same proportions in at most `most` places, one along each axis at least; `shape` where it has them."""
    sides = tuple(shape)
    while prod(sides) > most and max(sides) > 1:
        factor = (most / prod(sides)) ** (1 / sum(side > 1 for side in sides))
        sides = tuple(max(1, int(side * factor + 1e-9)) for side in sides)
    return sides


def _values(examples: PairedExamples, row: int) -> Tensor:
    """(C, *at most PLACES) float32 in the reader's units, of a whole sample. Raises BadSample."""
    address, modality = examples.items.addresses[row], examples.modality
    extent = extent_of(examples.reader, address)
    shape = smaller(extent.size, PLACES)
    reader = build_reader(modality.model_copy(update={"size": shape}), f"modalities.{examples.name}.data.reader")
    (sample,) = read_placed(reader, address, [whole], (modality.channels, *shape))
    return in_units(sample.x)


def _bordered(values: Tensor) -> Tensor:
    """(C, *S) -> (1, C, *S + 2), the outermost voxels twice."""
    return pad(values[None], (1, 1) * (values.ndim - 1), mode="replicate")


def _drawn(train: PairedExamples, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Voxels with their neighbours (n, C * 3^axes), their classes (n,), as many of each as there are; and how many
    voxels of each class there are in all.

    Raises RunError where nothing can be read.
    """
    features, classes, counts = [], [], np.zeros(_classes(train))
    rows = spread(len(train.items), DRAWN // 32)
    for row in rows:
        try:
            values = _values(train, row)
            labels = train.label_map(row)
        except BadSample:
            continue
        y = cut(labels, whole(labels.shape), tuple(values.shape[1:])).flatten()
        counts += _counts(labels, len(counts))
        generator = rng(seed, "voxels", row)
        occurring = y[y != IGNORED].unique()
        for c in occurring.tolist():
            places = (y == c).nonzero()[:, 0]
            wanted = max(1, DRAWN // len(rows) // len(occurring))
            chosen = places[torch.randperm(len(places), generator=generator)[:wanted]]
            features.append(_around(values, chosen))
            classes.append(torch.full((len(chosen),), c))
    if not features:
        raise RunError(f"{train.modality.data.path}: none of {len(train.items)} samples can be read with its labels")
    return torch.cat(features), torch.cat(classes), torch.from_numpy(counts)


def _around(values: Tensor, places: Tensor) -> Tensor:
    """(C, *S), (n,) places in S -> (n, C * 3^axes): as a kernel of convolution has them."""
    bordered, axes = _bordered(values)[0], values.ndim - 1
    at = torch.unravel_index(places, values.shape[1:])
    steps = torch.cartesian_prod(*[torch.arange(3)] * axes)
    index = tuple(at[axis][:, None] + steps[:, axis] for axis in range(axes))
    return torch.stack([channel[index] for channel in bordered], 1).flatten(1)


def _prior(scores: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """(n, classes) scores of voxels, their classes, and voxels of each class in all -> (classes,) to be added."""
    drawn = y.bincount(minlength=len(counts)).double()
    stands_for = counts / drawn.clamp(min=1)
    shift = stands_for.clamp(min=1e-12).log().float()
    truth = one_hot(y, len(counts)).double() * stands_for[y][:, None]

    def overlap(share: float) -> float:
        answer = one_hot((scores + share * shift).argmax(1), len(counts)).double() * stands_for[y][:, None]
        both = torch.minimum(answer, truth).sum(0)[1:]
        return float((2 * both / (answer.sum(0) + truth.sum(0))[1:].clamp(min=1e-12)).mean())

    return max(PRIORS, key=overlap) * shift


def _judged(tested: PairedExamples, bad: list[Any], answer: Callable[[int], Labels]) -> Answers:
    """answer: labels of a sample at any number of places, evenly over its extent. bad: gains what cannot be read."""
    names = tested.task.classes
    for row, address in enumerate(tested.items.addresses):
        try:
            wanted = tested.label_map(row, as_stored=True)
            extent = extent_of(tested.reader, address)
            check_extent(tested.maps[row], wanted, address, extent.stored)
            labels = _onto(answer(row), extent)
        except BadSample as error:
            bad.append(error)
            continue
        yield row, dice(labels, wanted, names) | found_wrongly(labels, wanted, names)


def _onto(labels: Labels, extent: Extent) -> Labels:
    """Labels evenly over the extent -> those of the voxels that are stored."""
    nearest = [
        np.clip(np.rint((at + 0.5) * n / m - 0.5), 0, n - 1).astype(np.int64)
        for at, n, m in zip(extent.places, labels.shape, extent.size, strict=True)
    ]
    spread_out: Labels = labels[np.ix_(*nearest)]
    return spread_out
