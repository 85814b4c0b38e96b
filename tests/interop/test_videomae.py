"""Parity with transformers' VideoMAE: its weights, mapped over, give its loss, its predictions and its gradients."""

import pytest
import torch

from mae_ext.data.loading.statistics import IMAGENET
from mae_ext.engine.checkpoint import load_weights
from mae_ext.errors import CheckpointError, ConfigError
from mae_ext.interop.videomae import from_videomae, videomae_config
from mae_ext.model.mae import MAE

transformers = pytest.importorskip("transformers", reason="the peer of this comparison, an optional library")

SHAPES = [(2, 6, (24, 40)), (1, 3, (40, 24)), (4, 12, (16, 56))]  # tubelet, frames, (height, width): grids of primes


def peer(tubelet=2, frames=6, size=(24, 40), **other):
    config = transformers.VideoMAEConfig(
        **{
            "hidden_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "intermediate_size": 192,
            "image_size": list(size),
            "patch_size": 8,
            "num_frames": frames,
            "tubelet_size": tubelet,
            "decoder_hidden_size": 36,
            "decoder_num_hidden_layers": 2,
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 144,
            "use_mean_pooling": False,
            "layer_norm_eps": 1e-5,
        }
        | other
    )
    torch.manual_seed(0)
    theirs = transformers.VideoMAEForPreTraining(config).eval()
    for name, parameter in theirs.named_parameters():
        parameter.data.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.1)
    return theirs


def pair(*shape, **other):
    theirs = peer(*shape, **other)
    config = videomae_config(theirs.config.to_dict(), batch=4, ratio=0.75)
    ours = MAE(config)
    load_weights(ours, from_videomae(theirs.state_dict(), config), "transformers")
    return theirs, ours


def inputs(ours, batch=3):
    """x in 0..1, the same as theirs wants it (B, T, C, H, W), and one mask in both notations."""
    modality = ours.modality()
    x = torch.rand(batch, modality.channels, *modality.size, generator=torch.Generator().manual_seed(1))
    mask = modality.draw_mask([torch.Generator().manual_seed(i) for i in range(batch)])
    hidden = torch.zeros(batch, modality.grid[0] * modality.grid[1] * modality.grid[2], dtype=torch.bool)
    hidden.scatter_(1, mask.pred, True)
    return x, modality.normalize(x).transpose(1, 2), mask, hidden


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_loss_and_prediction_agree_to_1e_5(shape):
    theirs, ours = pair(*shape)
    x, pixel_values, mask, hidden = inputs(ours)
    with torch.no_grad():
        out = theirs(pixel_values, bool_masked_pos=hidden)
        loss, predicted = ours(x, mask), ours.predict(ours.modality().normalize(x), mask, ours.modality())
    assert out.logits.abs().max() > 0.5
    assert (predicted - out.logits).abs().max() < 1e-5
    assert abs(loss - out.loss) < 1e-5


def test_other_channels_than_three_agree_too():
    theirs, ours = pair(num_channels=5)
    x, pixel_values, mask, hidden = inputs(ours)
    with torch.no_grad():
        assert abs(ours(x, mask) - theirs(pixel_values, bool_masked_pos=hidden).loss) < 1e-5


@pytest.mark.parametrize("qv_bias", [True, False])
def test_their_default_epsilon_moves_the_loss_by_less_than_1e_5(qv_bias):
    theirs, ours = pair(layer_norm_eps=1e-12, qv_bias=qv_bias)
    x, pixel_values, mask, hidden = inputs(ours)
    with torch.no_grad():
        assert abs(ours(x, mask) - theirs(pixel_values, bool_masked_pos=hidden).loss) < 1e-5


def test_gradients_agree_for_every_weight_that_theirs_has():
    theirs, ours = pair()
    x, pixel_values, mask, hidden = inputs(ours)
    theirs(pixel_values, bool_masked_pos=hidden).loss.backward()
    ours(x, mask).backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    mapped = from_videomae(gradients, videomae_config(theirs.config.to_dict(), batch=4))
    for name, parameter in ours.named_parameters():
        theirs_has_it = mapped[name] != 0
        assert theirs_has_it.any() or name == "decoder.project.bias", name
        assert ((parameter.grad - mapped[name]) * theirs_has_it).abs().max() < 1e-5, name


def test_the_position_tables_of_both_are_the_same():
    theirs, ours = pair()
    modality, everything = ours.modality(), torch.arange(45)[None]
    assert (theirs.videomae.embeddings.position_embeddings - modality.position(everything)).abs().max() < 1e-6
    assert (theirs.position_embeddings - modality.decoder_position(everything)).abs().max() < 1e-6


def test_the_published_sizes_are_mapped_with_their_mask_and_statistics():
    config = videomae_config(transformers.VideoMAEConfig(use_mean_pooling=False).to_dict(), batch=1024)
    video = config.modalities["video"]
    assert (video.size, video.patch, video.grid) == ((16, 224, 224), (2, 16, 16), (8, 14, 14))
    assert (video.mask.name, video.mask.arguments) == ("tube", {"ratio": 0.9})
    assert video.data.statistics == IMAGENET
    assert (config.model.decoder.width, config.model.decoder.depth, config.model.decoder.heads) == (384, 4, 6)


@pytest.mark.parametrize("setting", [{"norm_pix_loss": False}, {"use_mean_pooling": True}])
def test_settings_without_a_counterpart_are_refused_by_name(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        videomae_config(transformers.VideoMAEConfig(**{"use_mean_pooling": False} | setting).to_dict(), batch=4)


def test_names_of_transformers_4_are_understood():
    theirs = peer()
    config = videomae_config(theirs.config.to_dict(), batch=4)
    old = {
        k.replace(".query.bias", ".q_bias").replace(".value.bias", ".v_bias"): v for k, v in theirs.state_dict().items()
    }
    assert old.keys() != theirs.state_dict().keys()
    new = from_videomae(theirs.state_dict(), config)
    assert all(torch.equal(tensor, new[name]) for name, tensor in from_videomae(old, config).items())


def test_a_weight_that_is_missing_is_named():
    theirs = peer()
    weights = theirs.state_dict()
    del weights["decoder.head.bias"]
    with pytest.raises(CheckpointError, match=r"decoder\.head\.bias"):
        from_videomae(weights, videomae_config(theirs.config.to_dict(), batch=4))
