"""What tests of formats do with what they read."""

import torch

from mae_ext.interop.format import FORMATS, Foreign, format_of
from mae_ext.model.mae import MAE


def names_of(weights, **beside):
    """Of all formats that say a file is theirs."""
    return [name for name in FORMATS if format_of(name).recognises(Foreign(weights, "file", **beside))]


def model_of(origin):
    """Ours, for pixels that are normalised already."""
    model = MAE(origin.config, origin.decodes)
    model.load_state_dict(origin.weights)
    modality = model.modality()
    modality.mean.zero_()
    modality.std.fill_(1)
    return model.eval()


def different(first, second):
    """Names of tensors that are not the same bits, or that only one of both has."""
    same = {name for name in first.keys() & second.keys() if torch.equal(first[name], second[name])}
    return (first.keys() | second.keys()) - same
