"""Uniformity of a batch that lies over two ranks is that of the batch, and so is its gradient."""

import json
import sys
from pathlib import Path

import pytest
from engine.test_distributed import start_as_ranks, wait_for
from model.terms_of_a_rank import value


def test_uniformity_and_its_gradient_are_those_of_one_process(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    started = start_as_ranks([sys.executable, "-m", "model.terms_of_a_rank"], tmp_path / "ranks")
    assert wait_for(started) == [0, 0], [log.read_text()[-2000:] for _, log in started]
    loss, gradient = value()
    ranks = [json.loads(log.read_text().splitlines()[-1]) for _, log in started]
    assert ranks[0] == ranks[1] and loss > 0.01 and max(map(abs, gradient)) > 1e-3
    assert ranks[0] == [pytest.approx(loss, abs=1e-6), pytest.approx(gradient, abs=1e-6)]
