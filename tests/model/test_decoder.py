"""A decoder may have MLPs of a ratio of its own, and a class token of its own; by default it has neither."""

import pytest
import torch
from model.painted_patches import IMAGE
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mae_ext.config import parse_config
from mae_ext.engine.estimate import modality_estimates
from mae_ext.errors import ConfigError
from mae_ext.model.mae import MAE

DECODER = {"width": 16, "depth": 1, "heads": 2}


def settings(decoder=None, **model):
    model = {"width": 24, "depth": 2, "heads": 2, "decoder": DECODER | (decoder or {})} | model
    modality = {"batch": 4, "data": {"statistics": "none"}} | IMAGE
    return parse_config({"modalities": {"image": modality}, "model": model, "train": {"steps": 1, "precision": "fp32"}})


def predicted(model, change=None):
    """The answers to one mask, where the encoder's class token came out as `change` makes it."""
    modality = model.modality()
    x = torch.rand(2, modality.channels, *modality.size, generator=torch.Generator().manual_seed(0))
    mask = modality.draw_mask([torch.Generator().manual_seed(i) for i in range(2)])
    encoded = model.encoder(modality.tokens(x, mask.keep, None))
    if change is not None:
        encoded = torch.cat([change(encoded[:, :1]), encoded[:, 1:]], 1)
    with torch.no_grad():
        return model.decode(encoded, mask, modality)


def test_by_default_the_decoder_is_as_it_was():
    model = MAE(settings())
    assert model.decoder.class_token is None and not any("decoder.class_token" in name for name in model.state_dict())
    assert model.decoder.trunk.blocks[0].mlp.up.weight.shape == (64, 16)
    assert not torch.equal(predicted(model), predicted(model, lambda token: token + 1))


def test_a_class_token_of_its_own_stands_in_the_place_of_the_encoders():
    model = MAE(settings({"class_token": True}))
    assert model.decoder.class_token.shape == (16,) and 0 < model.decoder.class_token.std() < 0.04
    before = predicted(model)
    assert torch.equal(before, predicted(model, lambda token: token + 1))
    model.decoder.class_token.data += torch.arange(16) / 16  # a norm takes away what is the same for all
    assert (predicted(model) - before).abs().max() > 1e-4


def test_it_is_there_where_the_encoder_has_none_and_learns():
    model = MAE(settings({"class_token": True}, class_token=False))
    modality = model.modality()
    x = torch.rand(2, modality.channels, *modality.size)
    model(x, modality.draw_mask([torch.Generator().manual_seed(i) for i in range(2)])).backward()
    assert model.decoder.class_token.grad.abs().max() > 0


def test_mlps_of_another_ratio_have_so_many_numbers_between_their_layers():
    model = MAE(settings({"mlp_ratio": 1.5}))
    assert model.decoder.trunk.blocks[0].mlp.up.weight.shape == (24, 16)
    assert model.encoder.trunk.blocks[0].mlp.up.weight.shape == (96, 24)
    with pytest.raises(ConfigError, match=r"mlp_ratio=0\.01 leaves nothing of decoder\.width=16"):
        settings({"mlp_ratio": 0.01})


@pytest.mark.parametrize("decoder", [{"mlp_ratio": 1.5}, {"class_token": True}], ids=str)
@pytest.mark.parametrize("class_token", [True, False])
def test_flops_are_those_that_pytorch_counts(decoder, class_token, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)  # the counter knows no product of its own
    config = settings(decoder, class_token=class_token)
    model = MAE(config)
    modality, (row,) = model.modality(), modality_estimates(config, model)
    x, mask = torch.rand(1, modality.channels, *modality.size), modality.draw_mask([torch.Generator().manual_seed(0)])
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(x, mask)
    assert row.flops / 3 == counter.get_total_flops()
