"""Parity with transformers' ViTMAE: its weights, mapped over, give its loss, its predictions and its gradients."""

import pytest
import torch

from mae_ext.config import parse_config
from mae_ext.engine.checkpoint import load_weights
from mae_ext.errors import CheckpointError
from mae_ext.interop.hf import VERSION_4, from_vitmae, vitmae_config
from mae_ext.model.mae import MAE
from mae_ext.model.mask import from_scores, num_keep

transformers = pytest.importorskip("transformers", reason="the peer of this comparison, an optional library")

GRID = (6, 6)
N = 36


def peer(norm_pix, **other):
    """Their model with random weights, biases and norms, and with the position tables that theirs are meant to have."""
    config = transformers.ViTMAEConfig(
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=384,
        image_size=48,
        patch_size=8,
        decoder_hidden_size=48,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=3,
        decoder_intermediate_size=192,
        norm_pix_loss=norm_pix,
        **other,
    )
    torch.manual_seed(0)
    theirs = transformers.ViTMAEForPreTraining(config).eval()
    for name, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            parameter.data.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.1)
    # transformers 5.23 leaves both tables at zero; these calls fill them, and nothing else that is random matters here.
    theirs.decoder.initialize_weights(N)
    theirs.vit.embeddings.patch_embeddings.projection._is_hf_initialized = False
    theirs.vit.embeddings.initialize_weights()
    return theirs


def pair(norm_pix, **other):
    theirs = peer(norm_pix, **other)
    config = vitmae_config(theirs.config.to_dict(), batch=4)
    ours = MAE(config)
    load_weights(ours, from_vitmae(theirs.state_dict(), config), "transformers")
    return theirs, ours


def inputs(channels=3):
    g = torch.Generator().manual_seed(1)
    x, noise = torch.randn(4, channels, 48, 48, generator=g), torch.rand(4, N, generator=g)
    return x, noise, from_scores(noise.view(4, *GRID), num_keep(N, 0.75))


def restored_order(theirs, mask):
    """(B, N, pix) of theirs -> (B, P, pix) for our hidden tokens."""
    return theirs.gather(1, mask.pred[..., None].expand(-1, -1, theirs.shape[-1]))


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("norm_pix", [True, False])
def test_loss_and_prediction_agree_to_1e_5(norm_pix, channels):
    theirs, ours = pair(norm_pix, num_channels=channels)
    x, noise, mask = inputs(channels)
    with torch.no_grad():
        out = theirs(x, noise=noise)
        loss, predicted = ours(x, mask), ours.predict(x, mask, ours.modality())
    assert torch.equal(out.mask.nonzero()[:, 1].view(4, -1), mask.pred)
    assert out.logits.abs().max() > 0.5
    assert (predicted - restored_order(out.logits, mask)).abs().max() < 1e-5
    assert abs(loss - out.loss) < 1e-5


@pytest.mark.parametrize("norm_pix", [True, False])
def test_gradients_agree_for_every_weight(norm_pix):
    theirs, ours = pair(norm_pix)
    x, noise, mask = inputs()
    theirs(x, noise=noise).loss.backward()
    ours(x, mask).backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    # The map is linear in the weights, so it maps their gradients too; the tables it checks are no weights.
    tables = {
        name: tensor
        for name, tensor in theirs.state_dict().items()
        if name.endswith(("position_embeddings", "pos_embed"))
    }
    mapped = from_vitmae(gradients | tables, vitmae_config(theirs.config.to_dict(), batch=4))
    compared = dict(ours.named_parameters())
    assert set(compared) <= set(mapped)
    for name, parameter in compared.items():
        assert parameter.grad.abs().max() > 0, name
        assert (parameter.grad - mapped[name]).abs().max() < 1e-5, name


def test_attention_without_biases_agrees_too():
    theirs, ours = pair(True, qkv_bias=False)
    x, noise, mask = inputs()
    with torch.no_grad():
        assert abs(ours(x, mask) - theirs(x, noise=noise).loss) < 1e-5


@pytest.mark.parametrize(
    "lost", ["decoder.decoder_pred.bias", "vit.layers.1.attention.q_proj.bias", "vit.layers.0.attention.v_proj.weight"]
)
def test_a_weight_that_is_missing_is_named(lost):
    theirs = peer(True)
    weights = theirs.state_dict()
    del weights[lost]
    with pytest.raises(CheckpointError, match=lost.replace(".", r"\.")):
        from_vitmae(weights, vitmae_config(theirs.config.to_dict(), batch=4))


def test_the_position_tables_of_both_are_the_same():
    theirs, ours = pair(True)
    modality = ours.modality()
    everything = torch.arange(N)[None]
    assert (theirs.vit.embeddings.position_embeddings[:, 1:] - modality.position(everything)).abs().max() < 1e-6
    assert (theirs.decoder.decoder_pos_embed[:, 1:] - modality.decoder_position(everything)).abs().max() < 1e-6


def test_encoding_everything_agrees_with_their_encoder_without_a_mask():
    """Theirs masks at random in eval() as well, unless its ratio is set to zero."""
    theirs, ours = pair(True)
    theirs.vit.embeddings.config.mask_ratio = 0.0
    x, _, _ = inputs()
    with torch.no_grad():
        hidden = theirs.vit(x, noise=torch.arange(N).float().expand(4, -1)).last_hidden_state
        assert (ours.encode_all(x) - hidden).abs().max() < 1e-5


def test_names_of_transformers_4_are_understood():
    theirs = peer(True)
    config = vitmae_config(theirs.config.to_dict(), batch=4)

    def older(name):
        for old, new in reversed(VERSION_4.items()):
            name = name.replace(new, old)
        return name

    state = theirs.state_dict()
    old = {older(name): tensor for name, tensor in state.items()}
    assert "vit.encoder.layer.0.attention.attention.query.weight" in old
    assert "decoder.decoder_layers.1.attention.output.dense.bias" in old
    assert "vit.encoder.layer.2.intermediate.dense.weight" in old and "vit.encoder.layer.2.output.dense.bias" in old
    new, again = from_vitmae(state, config), from_vitmae(old, config)
    assert new.keys() == again.keys() and all(torch.equal(new[name], again[name]) for name in new)


@pytest.mark.parametrize("table", ["vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"])
@pytest.mark.parametrize("damage", ["zero", "axes swapped", "another length"])
def test_weights_with_other_positions_are_refused(table, damage):
    theirs = peer(True)
    state = theirs.state_dict()
    if damage == "zero":
        state[table] = torch.zeros_like(state[table])
    elif damage == "axes swapped":
        grid = state[table][:, 1:].unflatten(1, GRID).transpose(1, 2).flatten(1, 2)
        state[table] = torch.cat([state[table][:, :1], grid], 1)
    else:
        state[table] = state[table][:, :-5]
    with pytest.raises(CheckpointError, match=f"{table} is not MAE's sine-cosine table"):
        from_vitmae(state, vitmae_config(theirs.config.to_dict(), batch=4))


def test_statistics_are_the_configs_so_that_pixels_in_0_to_1_can_be_fed():
    theirs = peer(True, num_channels=1)
    plain = vitmae_config(theirs.config.to_dict(), batch=4)
    mapped = from_vitmae(theirs.state_dict(), plain)
    assert mapped["modalities.image.mean"].tolist() == [0.0] and mapped["modalities.image.std"].tolist() == [1.0]
    values = plain.model_dump(mode="json")
    values["modalities"]["image"]["data"]["statistics"] = {"mean": [0.25], "std": [0.5]}
    mapped = from_vitmae(theirs.state_dict(), parse_config(values, "config"))
    assert mapped["modalities.image.mean"].tolist() == [0.25] and mapped["modalities.image.std"].tolist() == [0.5]
    values["modalities"]["image"]["data"]["statistics"] = "measured"
    with pytest.raises(CheckpointError, match=r"data\.statistics=measured: of weights from elsewhere, say which"):
        from_vitmae(theirs.state_dict(), parse_config(values, "config"))


def test_their_config_becomes_ours():
    config = vitmae_config(transformers.ViTMAEConfig().to_dict(), batch=16)
    image = config.modalities["image"]
    assert (image.size, image.patch, image.channels, image.batch) == ((224, 224), (16, 16), 3, 16)
    assert (config.model.width, config.model.depth, config.model.heads, config.model.mlp_ratio) == (768, 12, 12, 4.0)
    assert (config.model.decoder.width, config.model.decoder.depth, config.model.decoder.heads) == (512, 8, 16)
    assert (image.mask.arguments, image.target.arguments) == ({"ratio": 0.75}, {"normalize": "none"})
    assert config.model.norm_eps == transformers.ViTMAEConfig().layer_norm_eps
