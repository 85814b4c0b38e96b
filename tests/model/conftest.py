"""Small models of any number of modalities, and grids whose axes cannot be confused: every length is another prime."""

import pytest
import torch

from mae_ext.config import parse_config
from mae_ext.model.mae import MAE

MODEL = {"width": 24, "depth": 2, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}


@pytest.fixture
def build():
    """build(clip={"size": ..., "patch": ...}, model={...}, train={...}) -> MAE"""

    def make(model=None, train=None, **modalities):
        modalities = {name: {"batch": 4, "data": {"statistics": "none"}} | m for name, m in modalities.items()}
        settings = {"steps": 1, "precision": "fp32"} | (train or {})
        return MAE(parse_config({"modalities": modalities, "model": MODEL | (model or {}), "train": settings}))

    return make


@pytest.fixture
def draw():
    """draw(modality, batch, seed) -> (x in 0..1, mask)."""

    def sample(modality, batch=2, seed=0):
        g = torch.Generator().manual_seed(seed)
        x = torch.rand(batch, modality.channels, *modality.size, generator=g)
        return x, modality.draw_mask([torch.Generator().manual_seed(seed + i) for i in range(batch)])

    return sample
