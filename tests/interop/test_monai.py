"""MONAI's ViT, UNETR and MaskedAutoEncoderViT: features and predictions agree, and weights go back as they came."""

import pytest
import torch
from interop.agreement import equal, model_of, opened, random_values, recognisers, same, samples
from monai.networks.nets import UNETR, MaskedAutoEncoderViT, ViT
from torch import nn

from mae_ext.errors import CheckpointError
from mae_ext.interop.format import format_of
from mae_ext.model.grid import patchify
from mae_ext.model.position import Learned, SinCos

IDLE = "norm_cross_attn"
VOLUME = {"img_size": (12, 20, 28), "patch_size": 4, "spatial_dims": 3, "in_channels": 2}  # a grid of 3, 5, 7
IMAGE = {"img_size": (24, 40), "patch_size": (8, 8), "spatial_dims": 2, "in_channels": 3}
TRUNK = {"hidden_size": 36, "mlp_dim": 50, "num_heads": 3}
DECODER = {"decoder_hidden_size": 24, "decoder_mlp_dim": 30, "decoder_num_layers": 2, "decoder_num_heads": 2}


def made(network, **settings):
    """With random values, but in the norm without effect, which is as all of theirs are."""
    theirs = random_values(network(**settings))
    for name, module in theirs.named_modules():
        if name.endswith(IDLE):
            module.reset_parameters()
    return theirs


def vit(where, **other):
    return made(ViT, **where, **TRUNK, num_layers=2, **other)


def masked(where, **other):
    return made(MaskedAutoEncoderViT, **{**where, **TRUNK, **DECODER, "num_layers": 2, **other})


def hints(theirs_grid, patch=None, **other):
    return {"heads": 3, "grid": theirs_grid, **({} if patch is None else {"patch": patch}), **other}


KINDS = {
    "conv, learnable": {},
    "perceptron": {"proj_type": "perceptron"},
    "sincos": {"pos_embed_type": "sincos"},
    "none": {"pos_embed_type": "none"},
    "biases": {"qkv_bias": True},
    "classification": {"classification": True},
}


@pytest.mark.parametrize("where", [VOLUME, IMAGE], ids=["volume", "image"])
@pytest.mark.parametrize("kind", KINDS)
def test_features_of_a_vit_agree_and_its_weights_go_back(kind, where):
    theirs = vit(where, **KINDS[kind])
    assert recognisers(theirs.state_dict()) == ["monai-vit"]
    grid, patch = ((3, 5, 7), (4, 4, 4)) if where is VOLUME else ((3, 5), (8, 8))
    origin = opened("monai-vit", theirs.state_dict(), **hints(grid, patch))
    ours, (modality,) = model_of(origin), origin.config.modalities
    assert not origin.decodes and origin.config.modalities[modality].grid == grid
    x, _, _, _ = samples(ours)
    captured = []
    theirs.norm.register_forward_hook(lambda module, taken, out: captured.append(out))
    written = format_of("monai-vit").write(origin, modality)
    with torch.no_grad():
        theirs(x)
        assert same(ours.encode_all(x), captured[0])
        assert same(ours.encode_all(x), format_of("monai-vit").peer(written)(x))
    again = ViT(**written.config)
    again.load_state_dict(written.weights, strict=True)
    # A perceptron comes back as the convolution that it is, and a head for classes as one of zeros.
    but = ("classification_head",) + ("patch_embedding.patch_embeddings",) * (kind == "perceptron")
    assert not equal(written.weights, theirs.state_dict(), but)
    if kind == "perceptron":
        convolution = written.weights["patch_embedding.patch_embeddings.weight"]
        matrix = theirs.patch_embedding.patch_embeddings[1].weight
        assert torch.equal(convolution.movedim(1, -1).flatten(1), matrix)


def test_sines_and_cosines_are_ours_where_the_axes_are_and_a_table_where_they_are_not():
    for where, kind in ((IMAGE, SinCos), (VOLUME, Learned)):
        theirs = random_sincos(where)
        grid = (3, 5, 7) if where is VOLUME else (3, 5)
        origin = opened("monai-vit", theirs.state_dict(), **hints(grid))
        ours, (name,) = model_of(origin), origin.config.modalities
        assert isinstance(ours.modality().position, kind)
        table = theirs.patch_embedding.position_embeddings[0]
        assert (ours.modality().position(torch.arange(len(table))[None])[0] - table).abs().max() < 1e-5
        back = format_of("monai-vit").write(origin, name).weights["patch_embedding.position_embeddings"][0]
        assert (back - table).abs().max() < 1e-5 and (kind is SinCos or torch.equal(back, table))


def random_sincos(where):
    theirs = ViT(**where, **TRUNK, num_layers=1, pos_embed_type="sincos")
    table = theirs.patch_embedding.position_embeddings.clone()
    random_values(theirs).patch_embedding.position_embeddings.data.copy_(table)
    return theirs


class Masked(nn.Module):
    """Their MaskedAutoEncoderViT, which hides the tokens that it is told to."""

    def __init__(self, network, keep):
        super().__init__()
        self.network = network
        network._masking = lambda x, masking_ratio=None: (x[rows(keep), keep], keep, self.hidden(x, keep))

    @staticmethod
    def hidden(x, keep):
        return torch.ones(x.shape[:2], dtype=torch.int).scatter_(1, keep, 0)

    def forward(self, x):
        return self.network(x)[0]


def rows(index):
    return torch.arange(len(index))[:, None]


@pytest.mark.parametrize("where", [VOLUME, IMAGE], ids=["volume", "image"])
@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"proj_type": "perceptron"},
        {"pos_embed_type": "learnable", "qkv_bias": True},
        {"decoder_pos_embed_type": "none"},
    ],
    ids=str,
)
def test_a_masked_autoencoder_predicts_the_same_of_the_same_mask(kind, where):
    theirs = masked(where, **kind)
    assert recognisers(theirs.state_dict()) == ["monai-mae"]
    grid, patch = ((3, 5, 7), (4, 4, 4)) if where is VOLUME else ((3, 5), (8, 8))
    origin = opened("monai-mae", theirs.state_dict(), **hints(grid, patch, decoder_heads=2))
    ours, (name,) = model_of(origin), origin.config.modalities
    assert origin.decodes and origin.config.model.decoder.mlp_ratio is not None
    x, _, mask, _ = samples(ours)
    written = format_of("monai-mae").write(origin, name)
    with torch.no_grad():
        predicted = Masked(theirs, mask.keep)(x)[rows(mask.pred), mask.pred]
        assert same(ours.predict(x, mask, ours.modality()), predicted)
        # Theirs has no loss; the mean squared error of these pixels, in the order of their perceptron, is ours.
        wanted = patchify(x, ours.modality().patch)[rows(mask.pred), mask.pred]
        assert abs(ours(x, mask) - (predicted - wanted).square().mean()) < 1e-5
        assert same(ours.encode_all(x), format_of("monai-mae").peer(written)(x))
    MaskedAutoEncoderViT(**written.config).load_state_dict(written.weights, strict=True)
    but = ("patch_embedding.patch_embeddings",) * ("proj_type" in kind)
    assert not equal(written.weights, theirs.state_dict(), but)


def test_the_default_masked_autoencoder_has_mlps_of_another_ratio_in_its_decoder():
    """768 and 512 numbers in the encoder, 384 and 512 in the decoder, as MONAI's class has it."""
    theirs = masked(VOLUME, hidden_size=48, mlp_dim=32, decoder_hidden_size=24, decoder_mlp_dim=32)
    config = opened("monai-mae", theirs.state_dict(), **hints((3, 5, 7), decoder_heads=2)).config.model
    assert (config.mlp_ratio, config.decoder.mlp_ratio) == (32 / 48, 32 / 24)


def unetr(**other):
    settings = {"in_channels": 1, "img_size": (16, 32, 48), **TRUNK} | other
    return made(UNETR, **settings, out_channels=3, feature_size=2)


def test_the_vit_of_a_unetr_goes_in_and_back_and_leaves_its_convolutions():
    theirs = unetr()
    assert recognisers(theirs.state_dict()) == ["monai-unetr"]
    origin = opened("monai-unetr", theirs.state_dict(), **hints((1, 2, 3)))
    ours = model_of(origin)
    assert origin.left["encoder2.transp_conv_init.conv.weight"] == "a convolution of UNETR"
    assert origin.config.modalities["volume"].size == (16, 32, 48) and origin.config.model.depth == 12
    x, _, _, _ = samples(ours, batch=1)
    written = format_of("monai-unetr").write(origin, "volume")
    with torch.no_grad():
        assert same(ours.encode_all(x), theirs.vit(x)[0])
        assert same(ours.encode_all(x), format_of("monai-unetr").peer(written)(x))
    missing, unexpected = unetr().load_state_dict(written.weights, strict=False)
    assert not unexpected and not any(name.startswith("vit.") for name in missing)
    assert not equal(written.weights, {k: v for k, v in theirs.state_dict().items() if k.startswith("vit.")})
    assert opened("monai-unetr", written.weights, written.config).config == origin.config


def test_what_theirs_cannot_be_is_refused_by_name():
    theirs = vit(VOLUME, classification=True)
    origin = opened("monai-vit", theirs.state_dict(), **hints((3, 5, 7)))
    with pytest.raises(CheckpointError, match="UNETR has no class token, and this model does"):
        format_of("monai-unetr").write(origin, "volume")
    with pytest.raises(CheckpointError, match="it has no decoder, and MONAI MaskedAutoEncoderViT is none without"):
        format_of("monai-mae").write(origin, "volume")
    origin = opened("monai-vit", vit(VOLUME).state_dict(), **hints((3, 5, 7)))
    with pytest.raises(CheckpointError, match=r"patches of 16 along each axis and 12 blocks; .* \[4, 4, 4\] and 2"):
        format_of("monai-unetr").write(origin, "volume")


def test_an_older_file_has_weights_of_cross_attention_that_do_nothing():
    theirs = vit(VOLUME)
    old = {"blocks.0.cross_attn.to_q.weight": torch.ones(36, 36)}
    origin = opened("monai-vit", theirs.state_dict() | old, **hints((3, 5, 7)))
    assert origin.left["blocks.0.cross_attn.to_q.weight"] == "does nothing without cross-attention"
    assert origin.left["blocks.1.norm_cross_attn.bias"] == "does nothing without cross-attention"


def test_what_a_file_does_not_say_has_to_be_said():
    theirs = vit(VOLUME, proj_type="perceptron").state_dict()
    with pytest.raises(CheckpointError, match=r"patches of 128 numbers, .* say them: PATH::patch=16x16x16"):
        opened("monai-vit", theirs, **hints((3, 5, 7)))
    with pytest.raises(CheckpointError, match="its 105 positions are no cube"):
        opened("monai-vit", vit(VOLUME).state_dict(), heads=3)
    with pytest.raises(CheckpointError, match="how many heads there are is not in the file"):
        opened("monai-vit", vit(VOLUME).state_dict(), grid=(3, 5, 7))
    by_size = opened("monai-vit", vit(VOLUME).state_dict(), heads=3, size=(12, 20, 28))
    assert by_size.config.modalities["volume"].grid == (3, 5, 7)


def test_missing_damaged_and_unknown_weights_are_named():
    weights, said = masked(VOLUME).state_dict(), hints((3, 5, 7), decoder_heads=2)
    for lost in ("blocks.2.weight", "decoder_blocks.0.norm1.weight", "mask_tokens", "decoder_pred.bias"):
        with pytest.raises(CheckpointError, match=f"no weight '{lost.replace('.', chr(92) + '.')}'"):
            opened("monai-mae", {k: v for k, v in weights.items() if k != lost}, **said)
    with pytest.raises(CheckpointError, match=r"'decoder_embed\.bias' holds numbers that are not finite"):
        opened("monai-mae", weights | {"decoder_embed.bias": torch.full((24,), torch.inf)}, **said)
    with pytest.raises(CheckpointError, match=r"'rel_pos\.table' is none of MONAI MaskedAutoEncoderViT"):
        opened("monai-mae", weights | {"rel_pos.table": torch.ones(3)}, **said)
