"""A run by its command, and processors with and without what ours has."""

import pytest
import torch

from mae_ext.cli import run
from mae_ext.engine import cpu


@pytest.fixture
def train(photos, tmp_path):
    def go(config, *more, data=photos, out="run"):
        return run(["pretrain", str(config), "--data", str(data), "--out", str(tmp_path / out), *more])

    return go


@pytest.fixture(params=[True, False], ids=["oneDNN", "MKL"])
def either_library(request, monkeypatch):
    monkeypatch.setattr(cpu, "ONEDNN", request.param)


@pytest.fixture(params=["native", "not native"])
def halves(request, monkeypatch):
    """A processor with half-precision products of its own, and one without."""
    half = {torch.bfloat16, torch.float16} if request.param == "native" else set()
    monkeypatch.setattr(cpu, "NATIVE", frozenset({torch.float32, torch.float64, *half}))
