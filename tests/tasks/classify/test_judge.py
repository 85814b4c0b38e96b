"""Samples that were held out: each is judged by its own label, once, whatever else cannot be read."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tasks.classify.striped_config import ALONE, striped_config

from mae_ext.engine.distributed import Ranks
from mae_ext.tasks.classify.judge import class_scores


class Stripes(torch.nn.Module):
    """A classifier that has nothing to learn: it sees along which axes a picture changes."""

    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Linear(1, 1)

    def forward(self, x, name, spacing=None):
        x = x.float().mean(1)
        down, across = (x.diff(dim=d).abs().mean((1, 2)) for d in (1, 2))
        slanted = torch.minimum(down, across)
        return 9 * torch.stack([across - down, down - across, 2 * slanted - (down - across).abs() - 9], 1) / 9


@torch.no_grad()
def test_each_sample_is_judged_by_its_own_label_also_where_others_cannot_be_read(tiny, striped, tmp_path):
    test = Path(shutil.copytree(striped / "test", tmp_path / "test"))
    task, config = striped_config(tiny, striped, test)
    whole = task.evaluate(Stripes(), config, task.data(config), ALONE)
    assert whole["samples"] == 12 and whole["accuracy"] == whole["balanced_accuracy"] == whole["auroc"] == 1
    min((test / "across").iterdir()).write_text("no picture")
    rest = task.evaluate(Stripes(), config, task.data(config), ALONE)
    assert rest["samples"] == 11 and rest["accuracy"] == rest["balanced_accuracy"] == rest["auroc"] == 1


@torch.no_grad()
def test_each_rank_judges_samples_of_its_own(tiny, striped, tmp_path):
    """One sample, the second, is in the folder of another class, and counts once."""
    test = Path(shutil.copytree(striped / "test", tmp_path / "test"))
    shutil.copy(next((test / "down").iterdir()), sorted((test / "across").iterdir())[1])
    task, config = striped_config(tiny, striped, test)
    said = []

    class Meeting(Ranks):
        """Ranks that come one after the other and hear those before them."""

        def gather(self, value):
            said.append(value)
            return said

    scores = [task.evaluate(Stripes(), config, task.data(config), Meeting(rank, 3, ALONE.device)) for rank in range(3)]
    assert [(s["samples"], s["accuracy"]) for s in scores] == [(4, 1), (8, 7 / 8), (12, pytest.approx(11 / 12))]
    assert scores[-1] == task.evaluate(Stripes(), config, task.data(config), ALONE)


def test_scores_of_probabilities_are_these():
    values = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.2, 0.6, 0.2]])
    found = class_scores(values, torch.tensor([0, 1, 1, 1]))
    assert found == pytest.approx({
        "samples": 4, "loss": -(np.log(0.7) + np.log(0.8) + np.log(0.3) + np.log(0.6)) / 4, "accuracy": 0.75,
        "balanced_accuracy": (1 + 2 / 3) / 2, "auroc": 1.0,
    })  # fmt: skip
    # Class 0: of 0.5 and 0.2 against 0.7 and 0.1; class 1: of 0.2 and 0.8 against 0.3 and 0.6.
    assert class_scores(values, torch.tensor([1, 1, 0, 0]))["auroc"] == pytest.approx((0.5 + 0.5) / 2)
    assert "auroc" not in class_scores(values, torch.tensor([2, 2, 2, 2]))
