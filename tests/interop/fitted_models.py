"""Small models of two configs, and inputs that are the same picture at any size."""

import math
from functools import lru_cache

import torch

from mae_ext.config import parse_config
from mae_ext.interop.fit import fitted
from mae_ext.interop.origin import Origin
from mae_ext.model.mae import MAE

MODEL = {"width": 24, "depth": 2, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}


def config_of(init=None, model=None, **modalities):
    """init: {"parts": "encoder", "channels": "repeat"}."""
    return parse_config(
        {
            "modalities": {n: {"batch": 1, "data": {"statistics": "none"}} | m for n, m in modalities.items()},
            "model": MODEL | (model or {}),
            "train": {"steps": 1, "precision": "fp32"},
            **{f"init_{key}": value for key, value in (init or {}).items()},
        }
    )


def origin_of(config, decodes=True, **more):
    """Weights of which none is zero, nor what a new model of the same seed has."""
    weights = MAE(config, decodes).state_dict()
    generator = torch.Generator().manual_seed(5)
    shaken = {k: v + 0.1 * torch.randn(v.shape, generator=generator) for k, v in weights.items()}
    measured = {k: v.abs() for k, v in shaken.items() if k.endswith(".std")}
    return Origin(shaken | measured, config, "theirs.pth", decodes=decodes, **more)


def fit(origin, config, decodes=True):
    """-> (the model with the weights, in eval mode; the report)."""
    model = MAE(config, decodes).eval()
    weights, report = fitted(origin, model, config)
    model.load_state_dict(weights)
    assert list(report.rows) == list(weights) == list(model.state_dict())
    return model, report


def model_of(origin):
    model = MAE(origin.config, origin.decodes).eval()
    model.load_state_dict(origin.weights)
    return model


@lru_cache
def waves(size, channels, periods, number=4, seed=0):
    """(number, channels, *size): sums of four plane waves over the unit box, at most `periods` along each axis."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*[(torch.arange(s) + 0.5) / s for s in size], indexing="ij")
    place = torch.stack(axes, -1)
    shape = (number, channels, 4)
    frequency = (2 * torch.rand(*shape, len(size), generator=generator) - 1) * torch.tensor(periods)
    phase = torch.rand(shape, generator=generator)
    turns = torch.einsum("...a,ncka->nck...", place, frequency)
    return (2 * math.pi * (turns + phase.view(*shape, *[1] * len(size)))).cos().sum(2) / 2
