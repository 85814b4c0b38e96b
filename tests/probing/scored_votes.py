"""Classifiers with the scores of what they vote, as a probe reports them."""

from typing import Any

from torch import Tensor

from mae_ext.probing.attentive import attentive_votes
from mae_ext.probing.classifiers import linear_votes, neighbour_votes
from mae_ext.probing.scores import accuracy, score_classes, score_marks


def knn(
    x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, k: int = 20, seed: int = 0, groups: Tensor | None = None
) -> dict[str, Any]:
    votes, counted, settings = neighbour_votes(x, y, x_test, k)
    if y.ndim == 2:
        return {**score_marks(votes, y_test, seed, groups), **settings}
    majority = {"majority_accuracy": accuracy(counted.argmax(1), y_test)}
    return {**score_classes(votes, y_test, seed, groups), **majority, **settings}


def linear(
    x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, epochs: int = 100, seed: int = 0,
    groups: Tensor | None = None, groups_test: Tensor | None = None,
) -> dict[str, Any]:  # fmt: skip
    votes, settings = linear_votes(x, y, x_test, epochs, seed, groups)
    score = score_marks if y.ndim == 2 else score_classes
    return {**score(votes, y_test, seed, groups_test), **settings}


def attentive(
    x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, grid: tuple[int, ...], epochs: int = 60, seed: int = 0,
    groups: Tensor | None = None, groups_test: Tensor | None = None,
) -> dict[str, Any]:  # fmt: skip
    votes, settings = attentive_votes(x, y, x_test, grid, epochs, seed, groups)
    return {**score_classes(votes, y_test, seed, groups_test), **settings}
