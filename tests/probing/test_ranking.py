"""Areas under curves are exact, whatever the ties and weights: compared with counting pairs, and with scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mae_ext.probing.ranking import auroc, average_precision
from mae_ext.rng import rng

FEW_LEVELS = st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=2, max_size=24)


def by_pairs(score: Tensor, positive: Tensor) -> float:
    pairs = [(float(p > n) + 0.5 * float(p == n)) for p in score[positive] for n in score[~positive]]
    return float(np.mean(pairs)) if pairs else float("nan")


def repeated(values: Tensor, counts: Tensor) -> Tensor:
    return values.repeat_interleave(counts)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(FEW_LEVELS)
def test_auroc_is_the_share_of_pairs_in_order_with_ties_counted_half_and_weights_as_copies(rows):
    score, positive, weight = (torch.tensor(column) for column in zip(*rows, strict=True))
    expected = by_pairs(repeated(score, weight), repeated(positive, weight))
    found = float(auroc(score, positive, weight[None]))
    assert found == pytest.approx(expected, nan_ok=True)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(FEW_LEVELS)
def test_average_precision_is_that_of_scikit_learn_with_weights_as_copies(rows):
    metrics = pytest.importorskip("sklearn.metrics")
    score, positive, weight = (torch.tensor(column) for column in zip(*rows, strict=True))
    some = repeated(positive, weight)
    found = float(average_precision(score, positive, weight[None]))
    if some.any():
        expected = metrics.average_precision_score(some.numpy(), repeated(score, weight).numpy())
        assert found == pytest.approx(expected)
    else:
        assert np.isnan(found)


def test_many_weightings_at_once_are_each_alone(monkeypatch):
    g = rng(0, "ranking")
    score, positive = torch.randn(40, generator=g), torch.randint(2, (40,), generator=g).bool()
    weight = torch.randint(3, (11, 40), generator=g)
    for area in (auroc, average_precision):
        together = area(score, positive, weight)
        monkeypatch.setattr("mae_ext.probing.ranking.CHUNK", 80)
        assert torch.allclose(area(score, positive, weight), together, rtol=1e-12)
        alone = torch.cat([area(score, positive, row[None]) for row in weight])
        assert torch.allclose(alone, together, rtol=1e-12)
        assert torch.allclose(area(score * 3 - 7, positive, weight), together)  # only the order counts


def test_a_perfect_a_reversed_and_a_constant_score_are_one_zero_and_a_half():
    positive = torch.tensor([False, False, True, True, True])
    once = torch.ones(1, 5)
    score = torch.arange(5.0)
    assert auroc(score, positive, once) == 1
    assert auroc(-score, positive, once) == 0
    assert auroc(torch.zeros(5), positive, once) == 0.5
    assert average_precision(score, positive, once) == 1
    assert average_precision(torch.zeros(5), positive, once) == pytest.approx(0.6)
