"""How good are frozen features? Nearest neighbours, a linear and an attentive classifier, as one JSON object."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, one_hot

from mae_ext.downstream.attentive import attentive as attentive_probe
from mae_ext.downstream.encoder import Features, FrozenEncoder, Pool, View, load_encoder
from mae_ext.downstream.scores import DRAWS, MANY, accuracy, scores, split
from mae_ext.engine.log import warn
from mae_ext.errors import UserError

TEMPERATURE = 0.07
"""Of the weighted vote, exp(cosine / T): Wu et al., 1805.01978, with k=200; DINO, 2104.14294, with k=20."""

L2 = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Strengths tried: the loss is mean cross-entropy + l2 / 2 * |W|^2, over standardised features."""

PROBES = "probes.jsonl"
Baseline = Literal["random"]
Progress = Callable[[str, int, int], None]
"""Called as progress(what, done, total), what being "train" or "test"."""


def probe(
    run: str | Path,
    train: str,
    test: str,
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
) -> dict[str, Any]:
    """Accuracy of kNN and of a linear classifier on frozen features of two labelled sources: one JSON-able dict.

    k: neighbours. epochs: at most so many L-BFGS iterations, each over the whole training set. seed: of the held-out
    split and of the random weights. baseline="random": the same architecture and statistics with untrained weights.
    attentive: also the probe that attends over all tokens, which takes a second pass over both sources. view: what the
    encoder is shown instead of a sample. record: add the result to probes.jsonl where `run` is a run directory, for its
    report. Labels are matched by class name. Raises UserError: no labels, a class seen only in test, fewer than two
    classes, k or epochs below 1.
    """
    for key, value in (("k", k), ("epochs", epochs)):
        if value < 1:
            raise UserError(f"{key}={value}: expected at least 1")
    if pool == "tokens":
        raise UserError("pool 'tokens': neighbours and the linear probe need one feature a sample; give attentive=True")
    if baseline not in (None, "random"):
        raise UserError(f"baseline '{baseline}': expected 'random', or none")
    started = perf_counter()
    encoder = load_encoder(run, name)
    if baseline == "random":
        encoder = encoder.randomised(seed)

    def labelled(pool: Pool) -> tuple[list[Features], tuple[Tensor, Tensor, Tensor, Tensor]]:
        both = [
            _features(encoder, what, source, pool, batch_size, max_bad_fraction, progress, view)
            for what, source in (("train", train), ("test", test))
        ]
        (x, y, classes), (x_test, y_test, _) = _labelled(both[0], train), _labelled(both[1], test)
        return both, (x, y, x_test, _in_terms_of(classes, both[1].classes, y_test, y, train, test))

    both, (x, y, x_test, y_test) = labelled(pool)
    result: dict[str, Any] = {
        "checkpoint": str(encoder.path),
        "step": encoder.step,
        "weights": baseline or "pretrained",
        "pool": pool,
        "train": str(train),
        "test": str(test),
        "n_train": len(y),
        "n_test": len(y_test),
        "n_classes": len(y.unique()),
        "bad": {"train": len(both[0].bad), "test": len(both[1].bad)},
        "unlabelled": {"train": len(both[0].sources) - len(y), "test": len(both[1].sources) - len(y_test)},
        "chance": int(y_test.bincount().max()) / len(y_test),
        "knn": knn(x, y, x_test, y_test, k),
        "linear": linear(x, y, x_test, y_test, epochs, seed),
        "seed": seed,
    }
    if attentive:
        result["attentive"] = attentive_probe(*labelled("tokens")[1], seed=seed)
    result["seconds"] = round(perf_counter() - started, 2)
    if record and Path(run).is_dir() and (Path(run) / "config.yaml").is_file():
        _record(Path(run) / PROBES, result)
    return result


def knn(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, k: int = 20) -> dict[str, Any]:
    """(n, D) float, (n,) int64, and the same for test -> scores. Cosine similarity on the features as they are.

    "accuracy" is that of votes weighted by exp(cosine / 0.07); "majority_accuracy" counts the k votes alike, a draw
    going to the class with the larger summed similarity.
    """
    k = min(k, len(x))
    classes = int(y.max()) + 1
    x, x_test = normalize(x, dim=1), normalize(x_test, dim=1)
    weighted, majority = [], []
    for rows in x_test.split(1024):
        similarity, nearest = (rows @ x.T).topk(k, dim=1)
        votes = one_hot(y[nearest], classes).to(similarity.dtype)
        weighted.append((votes * ((similarity - 1) / TEMPERATURE).exp()[..., None]).sum(1).argmax(1))
        # Similarities are at most 1, so this share of one vote decides between equal counts and nothing else.
        tie = (votes * (similarity + 1)[..., None]).sum(1) / (4 * k)
        majority.append((votes.sum(1) + tie).argmax(1))
    by_weight, by_count = torch.cat(weighted), torch.cat(majority)
    return {
        **scores(by_weight, y_test),
        "majority_accuracy": accuracy(by_count, y_test),
        "k": k,
        "temperature": TEMPERATURE,
        "metric": "cosine",
    }


def linear(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, epochs: int = 100, seed: int = 0) -> dict[str, Any]:
    """(n, D) float, (n,) int64, and the same for test -> scores of softmax regression on standardised features.

    Standardising by train statistics is the parameter-free batch norm of MAE's linear probe (2111.06377, appendix A).
    The L2 strength is the best of `L2` on a tenth of train, held out class by class (the mean of five draws where that
    is less than `MANY` / 10 samples); then all of train is fitted.
    """
    std, mean = torch.std_mean(x.double(), 0, correction=0)
    constant = std <= 1e-6 * x.double().abs().amax(0)
    scale = torch.where(constant, 0.0, 1 / std.where(~constant, 1.0))
    x, x_test = (((a.double() - mean) * scale).to(x.dtype) for a in (x, x_test))
    draws = 1 if len(y) >= MANY else DRAWS
    tried = dict.fromkeys(sorted(L2, reverse=True), 0.0)
    for draw in range(draws):
        fit, held = split(y, seed, draw)
        for l2 in tried if len(held) else ():
            weight = softmax_regression(x[fit], y[fit], l2, epochs)
            tried[l2] += accuracy(predict(weight, x[held]), y[held]) / draws
    # A draw between strengths goes to the strongest, which comes first.
    best = max(tried, key=lambda l2: round(tried[l2], 9))
    weight = softmax_regression(x, y, best, epochs)
    return {
        **scores(predict(weight, x_test), y_test),
        "train_accuracy": accuracy(predict(weight, x), y),
        "l2": best,
        "held_out_accuracy": {f"{l2:g}": round(value, 6) for l2, value in tried.items()},
        "epochs": epochs,
    }


def softmax_regression(x: Tensor, y: Tensor, l2: float, iterations: int) -> Tensor:
    """(n, D), (n,) -> (D + 1, classes): weights, and biases in the last row (not regularised). Convex: one minimum.

    Features of a transformer are strongly correlated, and L-BFGS would need thousands of iterations to tell nearly
    parallel directions apart. It works in coordinates in which the loss curves about alike in all of them; the minimum
    is the same.
    """
    variance, axes = torch.linalg.eigh(x.T.double() @ x.double() / len(x))
    # A class of probability p curves the cross-entropy by p (1 - p) times the variance: 0.09 for one of ten.
    basis = (axes * (0.09 * variance.clamp(min=0) + l2).rsqrt()).to(x.dtype)
    turned = x @ basis
    coordinates = x.new_zeros(x.shape[1] + 1, int(y.max()) + 1, requires_grad=True)
    solver = torch.optim.LBFGS(
        [coordinates], max_iter=iterations, max_eval=2 * iterations, tolerance_grad=1e-5, tolerance_change=1e-8,
        history_size=10, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        solver.zero_grad()
        value: Tensor = cross_entropy(torch.addmm(coordinates[-1], turned, coordinates[:-1]), y)
        value += l2 / 2 * (basis @ coordinates[:-1]).square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    solved = coordinates.detach()
    return torch.cat([basis @ solved[:-1], solved[-1:]])


def predict(weight: Tensor, x: Tensor) -> Tensor:
    """(D + 1, classes), (n, D) -> (n,) int64."""
    logits: Tensor = torch.addmm(weight[-1], x, weight[:-1])
    return logits.argmax(1)


def _features(
    encoder: FrozenEncoder,
    what: str,
    source: str,
    pool: Pool,
    batch_size: int,
    max_bad_fraction: float | None,
    progress: Progress | None,
    view: View | None,
) -> Features:
    report = None if progress is None else lambda done, total: progress(what, done, total)
    features = encoder.features(source, pool, batch_size, max_bad_fraction=max_bad_fraction, progress=report, view=view)
    if features.bad:
        files = "; ".join(f"{b['path']}: {b['kind']}" for b in features.bad)
        warn(f"{source}: {len(features.bad)} samples could not be read and are left out: {files}")
    return features


def _labelled(features: Features, source: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """The labelled rows alone."""
    labels = None if features.labels is None else torch.from_numpy(features.labels)
    if labels is None or not bool((labels >= 0).any()):
        raise UserError(f"{source}: no labels; expected one folder for each class, or a labelled .npz or shard")
    x = torch.from_numpy(features.features)[labels >= 0]
    if not bool(x.isfinite().all()):
        raise UserError(f"{source}: the encoder gives features that are not finite; the checkpoint is of no use")
    return x, labels[labels >= 0], features.classes


def _in_terms_of(
    classes: Sequence[str], test_classes: Sequence[str], y_test: Tensor, y: Tensor, train: str, test: str
) -> Tensor:
    """Test labels as numbers into train's classes. Raises UserError where they don't match."""
    present = set(y.unique().tolist())
    if len(present) < 2:
        raise UserError(f"{train}: its labels have {len(present)} class; a probe needs at least two")
    where = {name: i for i, name in enumerate(classes)}
    renumber = {i: where.get(test_classes[i], -1) for i in y_test.unique().tolist()}
    unknown = [test_classes[i] for i, j in renumber.items() if j not in present]
    if unknown:
        known = ", ".join(classes[i] for i in sorted(present)[:10])
        raise UserError(
            f"{test}: class {', '.join(map(repr, unknown[:10]))} is not in the training data {train} (there: {known}); "
            "train and test need the same class names"
        )
    return torch.tensor([renumber[i] for i in y_test.tolist()])


def _record(path: Path, result: dict[str, Any]) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
    except OSError as error:
        warn(f"{path}: the result could not be added: {error}")
