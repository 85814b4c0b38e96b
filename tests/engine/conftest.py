"""A run by its command, disks that fail where they are told to, and processors with and without what ours has."""

from collections import Counter

import pytest
import torch

from mae_ext.cli import run
from mae_ext.engine import cpu, failpoint


@pytest.fixture
def train(photos, tmp_path):
    def go(config, *more, data=photos, out="run"):
        return run(["pretrain", str(config), "--data", str(data), "--out", str(tmp_path / out), *more])

    return go


@pytest.fixture
def failing(monkeypatch):
    """As MAE_EXT_FAILPOINT says, in this process; counted anew."""

    def plan(text):
        monkeypatch.setattr(failpoint, "_PLAN", failpoint.read(text))
        monkeypatch.setattr(failpoint, "_REACHED", Counter())

    return plan


@pytest.fixture(params=[True, False], ids=["oneDNN", "MKL"])
def either_library(request, monkeypatch):
    monkeypatch.setattr(cpu, "ONEDNN", request.param)


@pytest.fixture(params=["native", "not native"])
def halves(request, monkeypatch):
    """A processor with half-precision products of its own, and one without."""
    half = {torch.bfloat16, torch.float16} if request.param == "native" else set()
    monkeypatch.setattr(cpu, "NATIVE", frozenset({torch.float32, torch.float64, *half}))
