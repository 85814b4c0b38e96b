"""What every foreign format is held to: our model of an origin, both ways there and back, and published names."""

import re

import torch

from mae_ext.engine.checkpoint import load_weights
from mae_ext.interop.format import Foreign, Hints, format_of
from mae_ext.model.mae import MAE

CLOSE = 1e-5
"""Largest difference, in float32, of what two programs say."""

HERE = ("hf-videomae", "videomae", "mae-st", "omnimae", "monai-vit", "monai-unetr", "monai-mae", "selfmedmae")
"""Formats of clips and volumes."""


def recognisers(weights):
    return [name for name in HERE if format_of(name).recognises(Foreign(weights, "FILE"))]


def opened(name, weights, config=None, **hints):
    return format_of(name).read(Foreign(weights, "FILE", config or {}), Hints(**hints))


def model_of(origin):
    """Our model with an origin's weights: every one of them, and no other."""
    model = MAE(origin.config, origin.decodes)
    load_weights(model, origin.weights, origin.where)
    return model.eval()


def random_values(model, std=0.1):
    """Their model, with every weight, bias and norm moved from what it begins with."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        tensor.copy_(
            torch.randn(tensor.shape, generator=generator) * std + (re.search(r"norm.*weight", name) is not None)
        )
    return model.eval()


def random_state(shapes, std=0.1):
    """Weights of these shapes, norms around 1."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator) * std + (re.search(r"norm.*weight", name) is not None)
        for name, shape in shapes.items()
    }


def samples(model, batch=2):
    """(x in reader units, x normalised, a mask, which tokens are hidden (B, N) bool)."""
    modality = model.modality()
    x = torch.rand(batch, modality.channels, *modality.size, generator=torch.Generator().manual_seed(1))
    mask = modality.draw_mask([torch.Generator().manual_seed(i) for i in range(batch)])
    hidden = torch.zeros(batch, mask.keep.shape[1] + mask.pred.shape[1], dtype=torch.bool).scatter_(1, mask.pred, True)
    return x, modality.normalize(x), mask, hidden


def same(ours, theirs, close=CLOSE):
    """Whether two outputs agree, and say something."""
    assert ours.shape == theirs.shape and theirs.abs().max() > 0.1
    return (ours - theirs).abs().max() < close


def equal(one, other, but=()):
    """Names of weights that are not the same to the bit, or of one side alone. but: beginnings that are passed over."""
    names = {name for name in one.keys() | other.keys() if not name.startswith(tuple(but))}
    return {name for name in names if name not in one or name not in other or not torch.equal(one[name], other[name])}
