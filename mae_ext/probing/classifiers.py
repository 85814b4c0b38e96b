"""The two classifiers of a probe, nearest neighbours and a linear one, on features and labels that are in memory.

Labels are (n,) int64, one class for each sample, or (n, classes) marks: 1 where a sample has the class, 0 where it has
not, -1 where nobody knows.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize, one_hot

from mae_ext.probing.scores import DRAWS, MANY, accuracy, score_marks, split

TEMPERATURE = 0.07
"""Of the weighted vote, exp(cosine / T): Wu et al., 1805.01978, with k=200; DINO, 2104.14294, with k=20."""

L2 = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Strengths tried: the loss is mean cross-entropy + l2 / 2 * |W|^2, over standardised features."""


def neighbour_votes(x: Tensor, y: Tensor, x_test: Tensor, k: int = 20) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """(n, D) float, labels, (m, D) -> (m, classes) shares, (m, classes) counts, and the settings.

    Neighbours are those of the largest cosine similarity of the features as they are given. Shares, in 0..1, are of
    votes weighted by exp(cosine / 0.07); counts are of the k votes alike, a draw going to the class with the larger
    summed similarity.
    """
    k = min(k, len(x))
    marks = one_hot(y, int(y.max()) + 1) if y.ndim == 1 else y
    x, x_test = normalize(x, dim=1), normalize(x_test, dim=1)
    weighted, counted = [], []
    for rows in x_test.split(1024):
        similarity, nearest = (rows @ x.T).topk(k, dim=1)
        weight = ((similarity.double() - 1) / TEMPERATURE).exp()[..., None]
        has, known = (marks[nearest] == 1).double(), (marks[nearest] >= 0).double()
        weighted.append((has * weight).sum(1) / (known * weight).sum(1).clamp(min=1e-300))
        # Similarities are at most 1, so this share of one vote decides between equal counts and nothing else.
        counted.append(has.sum(1) + (has * (similarity.double() + 1)[..., None]).sum(1) / (4 * k))
    settings = {"k": k, "temperature": TEMPERATURE, "metric": "cosine"}
    return torch.cat(weighted), torch.cat(counted), settings


WIDE = 1024
"""Numbers of a feature beyond which fewer samples than numbers are turned into what they span. The axes of 6144 numbers
(moments of a ViT-B) take 85 s of a core, and are wanted once for each of five draws; those of 1024 under a second, and
what 500 samples span of 6144 numbers 1 s (measured)."""

SHARED = 3.0
"""What `whitened` adds to each variance, of 1 in the mean. Of 0.1 to 3 the best for 10 to 300 samples a class, and 1.4
points below the best for 1000 (docs/results.md): axes that few samples know little of are best left as they are."""


def standardised(x: Tensor, x_test: Tensor) -> tuple[Tensor, Tensor]:
    """(n, D), (m, D) -> the same sizes, each number with x's mean 0 and variance 1; 0 where it is constant in x."""
    std, mean = torch.std_mean(x.double(), 0, correction=0)
    constant = std <= 1e-6 * x.double().abs().amax(0)
    scale = torch.where(constant, 0.0, 1 / std.where(~constant, 1.0))
    x, x_test = (((a.double() - mean) * scale).to(x.dtype) for a in (x, x_test))
    return x, x_test


def whitened(x: Tensor, x_test: Tensor) -> tuple[Tensor, Tensor]:
    """(n, D), (m, D) -> the same sizes: standardised, then divided along the principal axes of x by
    sqrt(variance + `SHARED`), so that no kind of number outweighs the others for being larger, or many times there."""
    x, x_test = standardised(x, x_test)
    _, sizes, axes = torch.linalg.svd(x.double(), full_matrices=False)
    outside = SHARED**-0.5
    along = (sizes.square() / len(x) + SHARED).rsqrt() - outside
    x, x_test = ((a * outside + (a.double() @ axes.T * along) @ axes).to(a.dtype) for a in (x, x_test))
    return x, x_test


def linear_votes(
    x: Tensor, y: Tensor, x_test: Tensor, epochs: int = 100, seed: int = 0, groups: Tensor | None = None
) -> tuple[Tensor, dict[str, Any]]:
    """(n, D) float, labels, (m, D) -> (m, classes) float64 probabilities, and what was tried and chosen.

    Softmax regression, or a logistic regression for each class where labels are marks. Standardising by train
    statistics is the parameter-free batch norm of MAE's linear probe (2111.06377, appendix A). The L2 strength is the
    best of `L2` on a tenth of train, held out class by class (the mean of five draws where that is less than `MANY` /
    10 samples), by accuracy or, of marks, by mean AUROC; then all of train is fitted. groups: patients of train, held
    out whole.
    """
    x, x_test = standardised(x, x_test)
    several = y.ndim == 2
    fitted = logistic_regression if several else softmax_regression
    name = "auroc" if several else "accuracy"

    def score(votes: Tensor, wanted: Tensor) -> float:
        return _mean_auroc(votes, wanted) if several else accuracy(votes.argmax(1), wanted)

    draws = 1 if len(y) >= MANY else DRAWS
    tried = dict.fromkeys(sorted(L2, reverse=True), 0.0)
    for draw in range(draws):
        # Of marks no class is the sample's own: what is held out is a tenth of all.
        fit, held = split(y.new_zeros(len(y), dtype=torch.int64) if several else y, seed, draw, groups)
        if not len(held):
            continue
        axes = principal_axes(x[fit])
        for l2 in tried:
            weight = fitted(x[fit], y[fit], l2, epochs, axes)
            tried[l2] += score(logits(weight, x[held]), y[held]) / draws
    # A draw between strengths goes to the strongest, which comes first.
    best = max(tried, key=lambda l2: round(tried[l2], 9))
    weight = fitted(x, y, best, epochs)
    raw = logits(weight, x_test).double()
    return raw.sigmoid() if several else raw.softmax(1), {
        f"train_{name}": score(logits(weight, x), y),
        "l2": best,
        f"held_out_{name}": {f"{l2:g}": round(value, 6) for l2, value in tried.items()},
        "epochs": epochs,
    }


Axes = tuple[Tensor, Tensor]
"""(k,) float64 variances and (D, k) float64 principal axes of (n, D) samples; k is D, or n where only n are spanned."""


def principal_axes(x: Tensor) -> Axes:
    """(n, D) -> the axes in which features are fitted; for one x at any strength the same ones."""
    if len(x) < x.shape[1] > WIDE:
        _, sizes, spanned = torch.linalg.svd(x.double(), full_matrices=False)
        return sizes.square() / len(x), spanned.T
    variance, axes = torch.linalg.eigh(x.T.double() @ x.double() / len(x))
    return variance.clamp(min=0), axes


def softmax_regression(x: Tensor, y: Tensor, l2: float, iterations: int, axes: Axes | None = None) -> Tensor:
    """(n, D), (n,) -> (D + 1, classes): weights, and biases in the last row (not regularised). Convex: one minimum.
    axes: those of x, where they are known."""
    return _regression(x, int(y.max()) + 1, l2, iterations, axes, lambda logits: cross_entropy(logits, y))


def logistic_regression(x: Tensor, marks: Tensor, l2: float, iterations: int, axes: Axes | None = None) -> Tensor:
    """(n, D), (n, classes) of 1, 0, -1 -> (D + 1, classes), as above: each class by itself, over what is known."""
    known = (marks >= 0).to(x.dtype)
    share = known / known.sum(0).clamp(min=1)
    wanted = (marks == 1).to(x.dtype)

    def loss(logits: Tensor) -> Tensor:
        return (binary_cross_entropy_with_logits(logits, wanted, reduction="none") * share).sum()

    return _regression(x, marks.shape[1], l2, iterations, axes, loss)


def logits(weight: Tensor, x: Tensor) -> Tensor:
    """(D + 1, classes), (n, D) -> (n, classes)."""
    out: Tensor = torch.addmm(weight[-1], x, weight[:-1])
    return out


def _mean_auroc(votes: Tensor, marks: Tensor) -> float:
    """0.5, what guessing has, where no class has both a sample and the lack of one."""
    area = score_marks(votes, marks, draws=1)["auroc"]
    return 0.5 if area is None else float(area)


def _regression(
    x: Tensor, classes: int, l2: float, iterations: int, axes: Axes | None, error: Callable[[Tensor], Tensor]
) -> Tensor:
    """The minimum of error(logits (n, classes)) + l2 / 2 * |W|^2.

    Features of a transformer are strongly correlated, and L-BFGS would need thousands of iterations to tell nearly
    parallel directions apart. It works in coordinates in which the loss curves about alike in all of them; the minimum
    is the same. So it is in what fewer samples than numbers span: nothing but the term in |W|^2 feels the rest.
    """
    variance, along = axes or principal_axes(x)
    # A class of probability p curves the cross-entropy by p (1 - p) times the variance: 0.09 for one of ten.
    basis = (along * (0.09 * variance + l2).rsqrt()).to(x.dtype)
    turned = x @ basis
    coordinates = x.new_zeros(basis.shape[1] + 1, classes, requires_grad=True)
    solver = torch.optim.LBFGS(
        [coordinates], max_iter=iterations, max_eval=2 * iterations, tolerance_grad=1e-5, tolerance_change=1e-8,
        history_size=10, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        solver.zero_grad()
        value: Tensor = error(torch.addmm(coordinates[-1], turned, coordinates[:-1]))
        value = value + l2 / 2 * (basis @ coordinates[:-1]).square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    solved = coordinates.detach()
    return torch.cat([basis @ solved[:-1], solved[-1:]])
