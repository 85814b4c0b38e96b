"""How good are frozen features? Nearest neighbours, a linear and an attentive classifier, as one JSON object."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import torch
from torch import Tensor

from mae_ext.engine.checkpoint import is_run
from mae_ext.engine.log import warn
from mae_ext.engine.outputs import warn_one_sided
from mae_ext.errors import RunError, UserError, some
from mae_ext.features.encoder import FrozenEncoder
from mae_ext.features.shares import Pool
from mae_ext.features.sharing import Opened, opened_run
from mae_ext.features.windowed import Windows
from mae_ext.probing.attentive import attentive_votes
from mae_ext.probing.classifiers import linear_votes, neighbour_votes, whitened
from mae_ext.probing.labelled import Labelled, check_classes, confounds, folds, labelled, matched, people
from mae_ext.probing.scores import accuracy, score_classes, score_each_class, score_marks
from mae_ext.probing.spec import ProbeSpec
from mae_ext.strict_json import dumps

PROBES = "probes.jsonl"
Baseline = Literal["random"]
SourceProgress = Callable[[str, int, int], None]
"""Called as progress(what, done, total), what being "train" or "test"."""

Classifier = Callable[[Labelled, Labelled], tuple[Tensor, dict[str, Any]]]
"""(train, test) -> (m, classes) votes for the rows of test.x, and settings to report."""


def probe(
    run: str | Path | Opened,
    spec: ProbeSpec,
    *,
    name: str | None = None,
    baseline: Baseline | None = None,
    record: bool = True,
    progress: SourceProgress | None = None,
) -> dict[str, Any]:
    """Scores of kNN and of a linear classifier on frozen features of labelled sources: one JSON-able dict.

    name: which modality, of a run that has several. baseline="random": the same architecture and statistics with
    untrained weights, which a run that is `Opened` has already. record: add the result to probes.jsonl where `run` is a
    run directory, for its report. Features are computed in the run's precision, and labels matched by class name.
    Raises UserError: no labels, a class seen only in test, a patient in both, fewer than two classes.
    """
    if baseline not in (None, "random"):
        raise UserError(f"baseline '{baseline}': expected 'random', or none")
    opened = opened_run(run, name)
    encoder = opened.encoder
    warn_one_sided([encoder.modality], spec.sources)
    if baseline == "random" and not isinstance(run, Opened):
        encoder = encoder.randomised(spec.seed)
    result = probe_encoder(encoder, spec, baseline or "pretrained", progress)
    if record and is_run(opened.run):
        _record(Path(opened.run) / PROBES, result)
    return result


def probe_encoder(
    encoder: FrozenEncoder, spec: ProbeSpec, weights: str, progress: SourceProgress | None = None
) -> dict[str, Any]:
    """What `probe` returns, of an encoder in memory. weights: what they are called in the result."""
    started = perf_counter()
    reading = Reading(encoder, spec, progress)
    sides = reading.sides(spec.pool)
    _check(sides, spec)
    result = {
        "checkpoint": str(encoder.path),
        "step": encoder.step,
        "weights": weights,
        "pool": str(spec.pool),
        **_described(sides, spec),
    }
    if spec.mirror:
        sides = reading.and_mirrored(sides, spec.pool)
    result["knn"] = _scored(lambda train, test: _neighbours(train, test, spec), sides, spec.seed)
    result["linear"] = _scored(
        lambda train, test: linear_votes(train.x, train.y, test.x, spec.epochs, spec.seed, train.groups),
        sides,
        spec.seed,
    )
    result["seed"] = spec.seed
    if spec.attentive:
        sides = reading.sides("tokens")
        if spec.mirror:
            sides = reading.and_mirrored(sides, "tokens")
        grid = encoder.modality.grid
        result["attentive"] = _scored(
            lambda train, test: attentive_votes(train.x, train.y, test.x, grid, seed=spec.seed, groups=train.groups),
            sides,
            spec.seed,
        )
    result["seconds"] = round(perf_counter() - started, 2)
    return result


@dataclass(frozen=True)
class Sides:
    """What a classifier learns from, and what it is judged on, with labels as numbers into the same classes.

    fold: (n,) int64, where both are the same samples: each is judged by what has learned from other folds.
    bad: how many samples of each side could not be read. mirrored: train then holds mirror images below its samples,
    and test.x is (n, 2, ...), of each sample and of its mirror image.
    """

    train: Labelled
    test: Labelled
    fold: Tensor | None = None
    bad: tuple[int, int] = (0, 0)
    mirrored: bool = False


class Reading:
    """How sources become features with labels."""

    def __init__(self, encoder: FrozenEncoder, spec: ProbeSpec, progress: SourceProgress | None = None) -> None:
        self.encoder, self.spec, self.progress = encoder, spec, progress

    def sides(self, pool: Pool | Windows) -> Sides:
        """Both sources of the spec, or its one source twice, in folds."""
        spec = self.spec
        train, bad = self.labelled("train", spec.train, pool)
        if spec.folds is not None:
            return Sides(train, train, folds(train, spec.folds, spec.seed), (bad, bad))
        assert spec.test is not None
        test, bad_test = self.labelled("test", spec.test, pool)
        return Sides(train, matched(train, test), None, (bad, bad_test))

    def and_mirrored(self, sides: Sides, pool: Pool | Windows) -> Sides:
        """With mirror images of all samples; of one source twice they are read once.

        Raises RunError where other files can be read than before, for then a row would be beside another's.
        """
        train, test = sides.train, sides.test
        images = self._mirrored("train", train, pool)
        others = images if self.spec.test is None else self._mirrored("test", test, pool)
        both = replace(test, x=torch.stack([test.x, others], 1))
        return replace(sides, train=train.and_mirrored(images), test=both, mirrored=True)

    def _mirrored(self, what: str, seen: Labelled, pool: Pool | Windows) -> Tensor:
        again, _ = self.labelled(what, seen.source, pool, mirror=True)
        if again.paths != seen.paths:
            once = sorted({*again.paths} ^ {*seen.paths})
            raise RunError(
                f"{seen.source}: {some(once)} could be read at one of two passes and not at the other; expected the "
                "same files both times: see to what keeps them from being read, or leave --mirror out"
            )
        return again.x

    def labelled(self, what: str, source: str, pool: Pool | Windows, mirror: bool = False) -> tuple[Labelled, int]:
        """-> what is labelled in a source, and how many of its samples could not be read."""
        progress = self.progress
        features = self.encoder.features(
            source,
            pool,
            self.spec.batch_size,
            max_bad_fraction=self.spec.max_bad_fraction,
            progress=None if progress is None else lambda done, total: progress(what, done, total),
            view=self.spec.mirrored if mirror else self.spec.view,
        )
        if features.bad and not mirror:
            files = "; ".join(f"{b['path']}: {b['kind']}" for b in features.bad)
            warn(f"{source}: {len(features.bad)} samples could not be read and are left out: {files}")
        return labelled(features, str(source)), len(features.bad)


def _check(sides: Sides, spec: ProbeSpec) -> None:
    """Raises UserError for what cannot be judged, and warns of what may mislead."""
    check_classes(sides.train)
    if spec.attentive and sides.train.several:
        raise UserError(
            f"{spec.train}: gives a sample several classes, which the attentive probe does not do; leave it out"
        )
    for sentence in dict.fromkeys([*confounds(sides.train), *confounds(sides.test)]):
        warn(sentence)


def _described(sides: Sides, spec: ProbeSpec) -> dict[str, Any]:
    """What a result says of the two sides."""
    train, test = sides.train, sides.test
    facts: dict[str, Any] = {
        "train": str(spec.train),
        "test": str(spec.sources[-1]),
        "n_train": len(train.y),
        "n_test": len(test.y),
        "n_classes": len(train.has_classes()),
        "bad": dict(zip(("train", "test"), sides.bad, strict=True)),
        "unlabelled": {"train": train.left_out, "test": test.left_out},
        "chance": None if train.several else int(test.y.bincount().max()) / len(test.y),
    }
    if sides.fold is not None:
        facts |= {"folds": spec.folds, "n_test_of_fold": sides.fold.bincount(minlength=spec.folds or 0).tolist()}
    if train.patients is not None or test.patients is not None:
        facts["patients"] = {"train": people(train), "test": people(test)}
    if spec.mirror:
        facts["mirrored"] = True
    return facts


def _neighbours(train: Labelled, test: Labelled, spec: ProbeSpec) -> tuple[Tensor, dict[str, Any]]:
    x, x_test, how = train.x, test.x, dict[str, Any]()
    if spec.mixes:
        x, x_test = whitened(x, x_test)
        how["whitened"] = True
    votes, counted, settings = neighbour_votes(x, train.y, x_test, spec.k)
    settings |= how
    if train.several:
        return votes, settings
    return votes, {"majority_accuracy": accuracy(_each(counted, test).argmax(1), test.y), **settings}


def _each(votes: Tensor, test: Labelled) -> Tensor:
    """(n v, classes) of v views of each sample, one sample after the other -> (n, classes), their mean."""
    mean: Tensor = votes.unflatten(0, (len(test.y), -1)).mean(1)
    return mean


def _scored(classifier: Classifier, sides: Sides, seed: int) -> dict[str, Any]:
    """Scores and settings; with folds the scores are of all samples together, each judged by its own fold's classifier.

    "folds" then holds what each fold had.
    """
    train, test, fold = sides.train, sides.test, sides.fold

    def judged(learn: Labelled, judge: Labelled) -> tuple[Tensor, dict[str, Any]]:
        seen = replace(judge, x=judge.x.flatten(0, 1)) if sides.mirrored else judge
        votes, settings = classifier(learn, seen)
        return _each(votes, judge), settings

    if fold is None:
        votes, settings = judged(train, test)
        return {**_scores(votes, test, seed), **settings}
    together = torch.zeros(len(fold), len(train.classes), dtype=torch.float64)
    each = []
    learned = fold.repeat(len(train.y) // len(fold))  # mirror images are in the folds of their samples
    for number in range(int(fold.max()) + 1):
        inside = (fold == number).nonzero()[:, 0]
        part = test.rows(inside)
        votes, settings = judged(train.rows((learned != number).nonzero()[:, 0]), part)
        together[inside, : votes.shape[1]] = votes.double()
        own = {key: value for key, value in _scores(votes, part, seed).items() if not key.endswith("_ci")}
        each.append({**own, **settings})
    return {**_scores(together, test, seed), "folds": each}


def _scores(votes: Tensor, test: Labelled, seed: int) -> dict[str, Any]:
    if not test.several:
        return score_classes(votes, test.y, seed, test.groups)
    each = score_each_class(votes, test.y, test.classes)
    return {**score_marks(votes, test.y, seed, test.groups), "classes": each}


def _record(path: Path, result: dict[str, Any]) -> None:
    """A line more, whole or not at all: on a full disk half of one would spoil the next."""
    try:
        with path.open("ab", buffering=0) as file:
            before, line = file.tell(), dumps(result).encode() + b"\n"
            try:
                if file.write(line) != len(line):
                    raise OSError("the disk is full")
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        warn(f"{path}: the result could not be added: {error}")
