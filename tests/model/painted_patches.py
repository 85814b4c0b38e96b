"""Patches painted over, and weights shaken: what a model looks at, and what it does not, shows."""

import numpy as np
import torch

IMAGE = {"size": [24, 20], "patch": [8, 4]}
CLIP = {"size": [6, 20, 14], "patch": [2, 4, 2]}


NORMALIZE = ["none", "mae", "channel", "layernorm"]


def boxes(numbers, modality):
    """The box of pixels of each token of one sample, from plain arithmetic."""
    for number in numbers.tolist():
        place = np.unravel_index(number, modality.grid)
        yield tuple(slice(i * p, (i + 1) * p) for i, p in zip(place, modality.patch, strict=True))


def paint(x, tokens, modality, value):
    """A copy of x with the pixels of each sample's tokens (B, K) replaced."""
    x = x.clone()
    for row, numbers in zip(x, tokens, strict=True):
        for box in boxes(numbers, modality):
            row[(slice(None), *box)] = value
    return x


def shake(model, std=0.2):
    """Weights of a size at which nothing is linear by accident, biases and norms included."""
    g = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += torch.randn(parameter.shape, generator=g) * std
    return model
