"""How good are frozen features? Nearest neighbours, a linear and an attentive classifier, as one JSON object."""

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import torch
from torch import Tensor

from mae_ext.engine.checkpoint import is_run
from mae_ext.engine.log import warn
from mae_ext.engine.outputs import warn_one_sided
from mae_ext.errors import UserError
from mae_ext.features.encoder import Features, FrozenEncoder, Pool, View, load_encoder
from mae_ext.probing.attentive import attentive_votes
from mae_ext.probing.classifiers import linear_votes, neighbour_votes
from mae_ext.probing.labelled import Labelled, check_classes, confounds, folds, labelled, matched, people
from mae_ext.probing.scores import accuracy, each_class, judge, judge_marks
from mae_ext.strict_json import dumps

PROBES = "probes.jsonl"
Baseline = Literal["random"]
Progress = Callable[[str, int, int], None]
"""Called as progress(what, done, total), what being "train" or "test"."""

Votes = Callable[[Labelled, Labelled], tuple[Tensor, dict[str, Any]]]
"""(train, test) -> (n, classes) scores for test, and settings to report."""


def probe(
    run: str | Path,
    train: str,
    test: str | None,
    k: int = 20,
    pool: Pool = "mean",
    epochs: int = 100,
    seed: int = 0,
    baseline: Baseline | None = None,
    name: str | None = None,
    batch_size: int = 64,
    max_bad_fraction: float | None = None,
    record: bool = True,
    progress: Progress | None = None,
    attentive: bool = False,
    view: View | None = None,
    folds: int | None = None,
    mirror: bool = False,
) -> dict[str, Any]:
    """Scores of kNN and of a linear classifier on frozen features of two labelled sources: one JSON-able dict.

    k: neighbours. epochs: at most so many L-BFGS iterations, each over the whole training set. seed: of the held-out
    split, of folds, of bootstrap draws and of the random weights. baseline="random": the same architecture and
    statistics with untrained weights. attentive: also the probe that attends over all tokens, which takes a second
    pass over both sources. view: what the encoder is shown instead of a sample. folds: judge on each of so many parts
    of `train` after learning from the others, whole patients where they are known, and `test` is None. mirror:
    learn from each sample and from its mirror image along the last axis, for which labels have to hold (the code of
    MAE's linear probe flips at random); judged are samples as they are. record: add the result to probes.jsonl where
    `run` is a run directory, for its report. Labels are matched by class name. Raises UserError: no labels, a class
    seen only in test, a patient in both, fewer than two classes, k or epochs below 1.
    """
    if baseline not in (None, "random"):
        raise UserError(f"baseline '{baseline}': expected 'random', or none")
    _check(k, pool, epochs)
    if (test is None) == (folds is None):
        raise UserError("expected either a source to test on or a number of folds of the one to learn from")
    encoder = load_encoder(run, name)
    warn_one_sided([encoder.modality], [train, *([] if test is None else [test])])
    if baseline == "random":
        encoder = encoder.randomised(seed)
    read = Reading(encoder, batch_size, max_bad_fraction, progress, view)
    result = judged(read, train, test, k, pool, epochs, seed, attentive, folds, baseline or "pretrained", mirror)
    if record and is_run(run):
        _record(Path(run) / PROBES, result)
    return result


def _check(k: int, pool: str, epochs: int) -> None:
    for key, value in (("k", k), ("epochs", epochs)):
        if value < 1:
            raise UserError(f"{key}={value}: expected at least 1")
    if pool == "tokens":
        raise UserError("pool 'tokens': neighbours and the linear probe need one feature a sample; give attentive=True")


class Reading:
    """How sources become features: an encoder, and what it is told each time."""

    def __init__(
        self, encoder: FrozenEncoder, batch_size: int = 64, max_bad_fraction: float | None = None,
        progress: Progress | None = None, view: View | None = None,
    ) -> None:  # fmt: skip
        self.encoder, self.batch_size, self.max_bad_fraction = encoder, batch_size, max_bad_fraction
        self.progress, self.view = progress, view

    def __call__(self, what: str, source: str, pool: Pool, mirror: bool = False) -> tuple[Labelled, Features]:
        progress, view = self.progress, self.view or (lambda x: x)
        report = None if progress is None else lambda done, total: progress(what, done, total)
        features = self.encoder.features(
            source, pool, self.batch_size, max_bad_fraction=self.max_bad_fraction, progress=report,
            view=(lambda x: view(x).flip(-1)) if mirror else view,
        )  # fmt: skip
        if features.bad and not mirror:
            files = "; ".join(f"{b['path']}: {b['kind']}" for b in features.bad)
            warn(f"{source}: {len(features.bad)} samples could not be read and are left out: {files}")
        return labelled(features, str(source)), features

    def also_mirrored(self, found: Labelled, what: str, source: str, pool: Pool) -> Labelled:
        """What was found in a source, and below it the same samples' mirror images."""
        return found.and_mirrored(self(what, source, pool, mirror=True)[0].x)


def judged(
    read: Reading, train: str, test: str | None, k: int, pool: Pool, epochs: int, seed: int, attentive: bool,
    parts: int | None, weights: str, mirror: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """What `probe` returns, of an encoder in memory. test None: `parts` folds of train."""
    started = perf_counter()
    learn, raw = read("train", train, pool)
    if test is None:
        assert parts is not None
        fold: Tensor | None = folds(learn, parts, seed)
        judge_on, raw_test = learn, raw
    else:
        fold = None
        judge_on, raw_test = read("test", test, pool)
        judge_on = matched(learn, judge_on)
    check_classes(learn)
    if attentive and learn.several:
        raise UserError(f"{train}: gives a sample several classes, which the attentive probe does not do; leave it out")
    for sentence in dict.fromkeys([*confounds(learn), *confounds(judge_on)]):
        warn(sentence)
    result: dict[str, Any] = {
        "checkpoint": str(read.encoder.path),
        "step": read.encoder.step,
        "weights": weights,
        "pool": pool,
        "train": str(train),
        "test": str(train if test is None else test),
        "n_train": len(learn.y),
        "n_test": len(judge_on.y),
        "n_classes": len(learn.has_classes()),
        "bad": {"train": len(raw.bad), "test": len(raw_test.bad)},
        "unlabelled": {"train": learn.left_out, "test": judge_on.left_out},
        "chance": None if learn.several else int(judge_on.y.bincount().max()) / len(judge_on.y),
    }
    if fold is not None:
        result |= {"folds": parts, "n_test_of_fold": fold.bincount(minlength=parts or 0).tolist()}
    if learn.patients is not None or judge_on.patients is not None:
        result["patients"] = {"train": people(learn), "test": people(judge_on)}
    if mirror:
        result["mirrored"] = True
        learn = read.also_mirrored(learn, "train", train, pool)
    kinds: dict[str, Votes] = {
        "knn": lambda a, b: _neighbours(a, b, k),
        "linear": lambda a, b: linear_votes(a.x, a.y, b.x, epochs, seed, a.groups),
    }
    for kind, votes in kinds.items():
        result[kind] = _scored(votes, learn, judge_on, fold, seed)
    result["seed"] = seed
    if attentive:
        grid = read.encoder.modality.grid
        tokens = read("train", train, "tokens")[0]
        tokens_test = tokens if test is None else matched(tokens, read("test", test, "tokens")[0])
        if mirror:
            tokens = read.also_mirrored(tokens, "train", train, "tokens")
        result["attentive"] = _scored(
            lambda a, b: attentive_votes(a.x, a.y, b.x, grid, seed=seed, groups=a.groups),
            tokens,
            tokens_test,
            fold,
            seed,
        )
    result["seconds"] = round(perf_counter() - started, 2)
    return result


def _neighbours(train: Labelled, test: Labelled, k: int) -> tuple[Tensor, dict[str, Any]]:
    votes, counted, settings = neighbour_votes(train.x, train.y, test.x, k)
    if train.several:
        return votes, settings
    return votes, {"majority_accuracy": accuracy(counted.argmax(1), test.y), **settings}


def _scored(votes: Votes, train: Labelled, test: Labelled, fold: Tensor | None, seed: int) -> dict[str, Any]:
    """Scores and settings; with folds the scores are of all samples together, each judged by its own fold's classifier.

    "folds" then holds what each fold had.
    """
    if fold is None:
        found, settings = votes(train, test)
        return {**_judged(found, test, seed), **settings}
    together = torch.zeros(len(fold), len(train.classes), dtype=torch.float64)
    each = []
    learned = fold.repeat(len(train.y) // len(fold))  # mirror images are in the folds of their samples
    for number in range(int(fold.max()) + 1):
        inside = (fold == number).nonzero()[:, 0]
        part = test.rows(inside)
        found, settings = votes(train.rows((learned != number).nonzero()[:, 0]), part)
        together[inside, : found.shape[1]] = found.double()
        own = {key: value for key, value in _judged(found, part, seed).items() if not key.endswith("_ci")}
        each.append({**own, **settings})
    return {**_judged(together, test, seed), "folds": each}


def _judged(votes: Tensor, test: Labelled, seed: int) -> dict[str, Any]:
    if not test.several:
        return judge(votes, test.y, seed, test.groups)
    return {**judge_marks(votes, test.y, seed, test.groups), "classes": each_class(votes, test.y, test.classes)}


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
