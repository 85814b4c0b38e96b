"""SelfMedMAE: published names and shapes, and an independent forward that agrees."""

import pytest
import torch
import torch.nn.functional as F
from interop import plain
from interop.agreement import equal, model_of, opened, random_state, recognisers, same, samples

from mae_ext.errors import CheckpointError
from mae_ext.interop.format import format_of

NAME = "selfmedmae"
TINY = {"width": 36, "depth": 2, "wide": 24, "decoder_depth": 2, "patch": (4, 4, 4), "count": 30}
SAID = {"heads": 3, "decoder_heads": 2, "grid": (2, 3, 5)}


def blocks(start, width, depth):
    shapes = plain.layer_shapes(f"{start}.norm", width)
    for i in range(depth):
        shapes |= plain.block_shapes(f"{start}.blocks.{i}", width, 4 * width, plain.one_matrix_shapes(width))
    return shapes


def encoder(width=768, depth=12, patch=(16, 16, 16), **_):
    shapes = plain.layer_shapes("encoder.patch_embed.proj", width, 1, *patch) | {"encoder.cls_token": (1, 1, width)}
    return shapes | blocks("encoder", width, depth)


def pretraining(wide=384, decoder_depth=8, count=216, **sizes):
    shapes = encoder(**sizes)
    width, _, *patch = shapes["encoder.patch_embed.proj.weight"]
    pixels = patch[0] * patch[1] * patch[2]
    shapes |= {
        "encoder_pos_embed": (1, count, width),
        "decoder_pos_embed": (1, count, wide),
        "mask_token": (1, 1, wide),
    }
    shapes |= plain.layer_shapes("encoder_to_decoder", wide, width) | blocks("decoder", wide, decoder_depth)
    return shapes | plain.layer_shapes("decoder.head", pixels, wide)


def sines(grid, width):
    """(1, N, width): sines, then cosines, of the first axis, then of the second and third (mae3d.py)."""
    share = width // 6
    frequency = 10000 ** (-torch.arange(share).double() / share)
    places = torch.stack(torch.meshgrid(*map(torch.arange, grid), indexing="ij"), -1).flatten(0, 2).double()
    phase = places[..., None] * frequency
    return torch.cat([phase.sin(), phase.cos()], -1).flatten(1).float()[None]


def weights_of(shapes):
    weights = random_state(shapes)
    return weights | {k: sines((2, 3, 5), v.shape[-1]) for k, v in weights.items() if k.endswith("coder_pos_embed")}


def through(x, weights, name, count, heads):
    for i in range(count):
        x = plain.block(x, weights, f"{name}.blocks.{i}", heads)
    return plain.norm(x, weights, f"{name}.norm")


def encoded(x, weights, keep=None):
    tokens = plain.patches(x, weights, "encoder.patch_embed.proj") + weights["encoder_pos_embed"]
    tokens = tokens if keep is None else plain.rows(tokens, keep)
    tokens = torch.cat([weights["encoder.cls_token"].expand(len(x), -1, -1), tokens], 1)
    return through(tokens, weights, "encoder", 2, 3)


def predicted(x, weights, mask):
    visible = plain.linear(encoded(x, weights, mask.keep), weights, "encoder_to_decoder")
    places = plain.rows(weights["decoder_pos_embed"], torch.cat([mask.keep, mask.pred], 1))
    tokens = torch.cat([visible, weights["mask_token"].expand(len(x), mask.pred.shape[1], -1)], 1)
    tokens = torch.cat([tokens[:, :1], tokens[:, 1:] + places], 1)
    return plain.linear(through(tokens, weights, "decoder", 2, 2), weights, "decoder.head")[:, visible.shape[1] :]


@pytest.mark.parametrize("sizes", [{}, {"width": 1024, "depth": 24}], ids=["B", "L"])
def test_published_names_and_shapes_are_recognised(sizes):
    assert recognisers(plain.meta(pretraining(**sizes))) == [NAME]
    unetr = encoder(**sizes) | {"encoder.pos_embed": (1, 217, 768), "decoder.encoder1.layer.conv1.conv.weight": (1,)}
    assert recognisers(plain.meta(unetr)) == [NAME]


def test_features_prediction_and_loss_are_those_of_an_independent_forward():
    weights = weights_of(pretraining(**TINY))
    origin = opened(NAME, weights, **SAID)
    ours = model_of(origin)
    assert origin.config.modalities["volume"].size == (8, 12, 20) and not origin.left
    x, pixels, mask, _ = samples(ours)
    with torch.no_grad():
        assert same(ours.encode_all(x), encoded(pixels, weights))
        theirs = predicted(pixels, weights, mask)
        assert same(ours.predict(pixels, mask, ours.modality()), theirs)
        wanted = F.layer_norm(plain.tubelets(x, (4, 4, 4)).flatten(2), (64,), eps=1e-6)
        assert abs(ours(x, mask) - (theirs - plain.rows(wanted, mask.pred)).square().mean()) < 1e-5


def test_weights_go_back_bit_for_bit():
    weights = weights_of(pretraining(**TINY))
    written = format_of(NAME).write(opened(NAME, weights, **SAID), "volume")
    assert not equal(written.weights, weights) and not written.notes


def test_the_encoder_of_its_unetr_has_a_place_for_the_class_token():
    weights = random_state(encoder(**TINY) | {"encoder.pos_embed": (1, 31, 36), "decoder.out.conv.weight": (2, 3)})
    origin = opened(NAME, weights, **SAID)
    ours = model_of(origin)
    x, pixels, _, _ = samples(ours)
    apart = weights | {
        "encoder.cls_token": weights["encoder.cls_token"] + weights["encoder.pos_embed"][:, :1],
        "encoder_pos_embed": weights["encoder.pos_embed"][:, 1:],
    }
    with torch.no_grad():
        assert same(ours.encode_all(x), encoded(pixels, apart))
    assert list(origin.left) == ["decoder.out.conv.weight"] and not origin.decodes
    back = format_of(NAME).write(origin, "volume").weights
    assert not equal(
        back, {k: v for k, v in apart.items() if k not in ("encoder.pos_embed", "decoder.out.conv.weight")}
    )


def test_what_theirs_cannot_be_is_refused_or_left_out_by_name():
    origin = opened(NAME, weights_of(pretraining(**TINY)), **SAID)

    def changed(part, **values):
        config = origin.config.model_dump(mode="json")
        place = config["modalities"]["volume"] if part == "volume" else config["model"]
        place.update(values)
        return type(origin)(origin.weights, type(origin.config)(**config), "RUN")

    for other, message in (
        (changed("model", class_token=False), "SelfMedMAE has a class token, and this model has none"),
        (changed("model", mlp_ratio=3.0), "mlp_ratio=3; that of SelfMedMAE is 4"),
    ):
        with pytest.raises(CheckpointError, match=message):
            format_of(NAME).write(other, "volume")
    written = format_of(NAME).write(changed("volume", target={"name": "pixel", "normalize": "mae"}), "volume")
    assert "its target is another" in written.notes[0] and "mask_token" not in written.weights


def test_missing_damaged_and_unknown_weights_are_named():
    weights = weights_of(pretraining(**TINY))
    for lost in ("encoder.blocks.0.attn.qkv.weight", "decoder_pos_embed", "encoder_to_decoder.bias", "mask_token"):
        with pytest.raises(CheckpointError, match=f"no weight '{lost}'".replace(".", r"\.")):
            opened(NAME, {k: v for k, v in weights.items() if k != lost}, **SAID)
    with pytest.raises(CheckpointError, match=r"no weight 'decoder\.blocks\.0\.norm1\.weight'"):
        opened(NAME, {k: v for k, v in weights.items() if not k.startswith("decoder.blocks.0.")}, **SAID)
    with pytest.raises(CheckpointError, match=r"'decoder\.head\.bias' holds numbers that are not finite"):
        opened(NAME, weights | {"decoder.head.bias": torch.full((64,), torch.nan)}, **SAID)
    with pytest.raises(CheckpointError, match=r"'momentum\.weight' is none of SelfMedMAE"):
        opened(NAME, weights | {"momentum.weight": torch.ones(3)}, **SAID)
    with pytest.raises(CheckpointError, match="its 30 positions are no cube"):
        opened(NAME, weights, heads=3, decoder_heads=2)
