"""VideoMAE's and VideoMAE V2's own files: published names and shapes, and an independent forward that agrees."""

import pytest
import torch
from interop import plain
from interop.agreement import equal, model_of, opened, random_state, recognisers, same, samples

from mae_ext.errors import CheckpointError
from mae_ext.interop.format import format_of

NAME = "videomae"
SIZES = {  # width, depth, decoder width, patch, MLP ratio: modeling_pretrain.py of both
    "S": (384, 12, 192, 16, 4),
    "B": (768, 12, 384, 16, 4),
    "L": (1024, 24, 512, 16, 4),
    "H": (1280, 32, 640, 16, 4),
    "g": (1408, 40, 512, 14, 48 / 11),
}
TINY = (36, 2, 24, 8, 3)
SAID = {"size": (6, 24, 40), "heads": 3, "decoder_heads": 2}


def attention(width):
    return {"qkv.weight": (3 * width, width), "q_bias": (width,), "v_bias": (width,)}


def encoder(start, width, depth, patch, ratio, norm="norm"):
    shapes = plain.layer_shapes(f"{start}patch_embed.proj", width, 3, 2, patch, patch)
    for i in range(depth):
        shapes |= plain.block_shapes(f"{start}blocks.{i}", width, int(width * ratio), attention(width))
    return shapes | plain.layer_shapes(f"{start}{norm}", width)


def pretraining(width, depth, wide, patch, ratio, decoder_depth=4):
    shapes = encoder("encoder.", width, depth, patch, ratio)
    for i in range(decoder_depth):
        shapes |= plain.block_shapes(f"decoder.blocks.{i}", wide, int(wide * ratio), attention(wide))
    shapes |= plain.layer_shapes("decoder.norm", wide) | plain.layer_shapes("decoder.head", 6 * patch**2, wide)
    return shapes | {"encoder_to_decoder.weight": (wide, width), "mask_token": (1, 1, wide)}


def fine_tuned(width, depth, patch, ratio, classes=400):
    return encoder("", width, depth, patch, ratio, "fc_norm") | plain.layer_shapes("head", classes, width)


def blocks(x, weights, name, count, heads):
    for i in range(count):
        x = plain.block(x, weights, f"{name}.{i}", heads, plain.no_key_bias)
    return x


def encoded(x, weights, keep=None, start="encoder."):
    """After the blocks, not normed."""
    tokens = plain.patches(x, weights, f"{start}patch_embed.proj")
    tokens = tokens + plain.sequence(*tokens.shape[1:])
    return blocks(tokens if keep is None else plain.rows(tokens, keep), weights, f"{start}blocks", 2, 3)


def predicted(x, weights, mask):
    visible = plain.linear(
        plain.norm(encoded(x, weights, mask.keep), weights, "encoder.norm"), weights, "encoder_to_decoder"
    )
    places = plain.sequence(45, visible.shape[-1])[None]
    hidden = weights["mask_token"] + plain.rows(places, mask.pred)
    tokens = torch.cat([visible + plain.rows(places, mask.keep), hidden], 1)
    tokens = blocks(tokens, weights, "decoder.blocks", 2, 2)[:, visible.shape[1] :]
    return plain.linear(plain.norm(tokens, weights, "decoder.norm"), weights, "decoder.head")


@pytest.mark.parametrize("size", SIZES)
def test_published_names_and_shapes_are_recognised(size):
    width, depth, _, patch, ratio = SIZES[size]
    assert recognisers(plain.meta(pretraining(*SIZES[size]))) == [NAME]
    assert recognisers(plain.meta(fine_tuned(width, depth, patch, ratio))) == [NAME]


def test_features_prediction_and_loss_are_those_of_an_independent_forward():
    weights = random_state(pretraining(*TINY, decoder_depth=2))
    ours = model_of(opened(NAME, weights, **SAID))
    x, pixels, mask, _ = samples(ours)
    with torch.no_grad():
        assert same(ours.encode_all(x), plain.norm(encoded(pixels, weights), weights, "encoder.norm"))
        answer = predicted(pixels, weights, mask)
        assert same(ours.predict(pixels, mask, ours.modality()), answer)
        # engine_for_pretraining.py: the clip in 0..1, per channel of a tubelet, unbiased, 1e-6 on the deviation.
        wanted = plain.tubelets(x, (2, 8, 8))
        wanted = (wanted - wanted.mean(2, keepdim=True)) / (wanted.var(2, keepdim=True).sqrt() + 1e-6)
        assert abs(ours(x, mask) - (answer - plain.rows(wanted.flatten(2), mask.pred)).square().mean()) < 1e-5


def test_a_fine_tuned_file_gives_its_encoder_and_names_what_is_left():
    weights = random_state(fine_tuned(36, 2, 8, 3, classes=5))
    origin = opened(NAME, weights, **SAID)
    ours = model_of(origin)
    x, pixels, _, _ = samples(ours)
    with torch.no_grad():
        before, after = ours.encode_layers(x, [2])
        hidden = encoded(pixels, weights, start="")
        assert same(before, hidden) and same(after, plain.norm(hidden, weights, "fc_norm"))
    assert origin.left == dict.fromkeys(["head.weight", "head.bias"], "a head for classes") and not origin.decodes
    assert "its norm follows the mean over tokens" in origin.notes[0]


def test_weights_go_back_bit_for_bit():
    weights = random_state(pretraining(*TINY, decoder_depth=2))
    written = format_of(NAME).write(opened(NAME, weights, **SAID), "video")
    assert not equal(written.weights, weights) and not written.notes and not written.config
    tuned = random_state(fine_tuned(36, 2, 8, 3))
    back = format_of(NAME).write(opened(NAME, tuned, **SAID), "video").weights
    renamed = {f"encoder.{k}".replace("fc_norm", "norm"): v for k, v in tuned.items() if not k.startswith("head.")}
    assert not equal(back, renamed)
    assert not equal(opened(NAME, back, **SAID).weights, opened(NAME, tuned, **SAID).weights)


def test_giant_has_mlps_of_48_elevenths_and_heads_of_width_88():
    """ViT-g is 1408 wide with 16 heads, and 6144 between its layers; 2234 in a decoder of 512."""
    weights = random_state(pretraining(1408, 1, 512, 2, 48 / 11, decoder_depth=1), std=0.01)
    assert weights["encoder.blocks.0.mlp.fc1.weight"].shape == (6144, 1408)
    assert weights["decoder.blocks.0.mlp.fc1.weight"].shape == (2234, 512)
    model = opened(NAME, weights, size=(2, 4, 4)).config.model
    assert (model.heads, int(model.width * model.mlp_ratio), model.decoder.mlp_ratio) == (16, 6144, None)
    assert model.decoder.heads == 8


def test_half_precision_layer_scale_and_a_stored_table_are_understood():
    weights = random_state(fine_tuned(36, 2, 8, 3)) | {"pos_embed": plain.sequence(45, 36)[None]}
    scaled = weights | {f"blocks.{i}.gamma_{j}": torch.full((36,), 0.5 + i) for i in range(2) for j in (1, 2)}
    halves = {name: tensor.half() for name, tensor in scaled.items()}
    origin = opened(NAME, halves, **SAID)
    ours = model_of(origin)
    assert all(tensor.dtype == torch.float32 for tensor in origin.weights.values())
    for i in range(2):
        row = ours.state_dict()[f"encoder.trunk.blocks.{i}.mlp.down.weight"]
        assert torch.equal(row, halves[f"blocks.{i}.mlp.fc2.weight"].float() * (0.5 + i))
    with pytest.raises(CheckpointError, match="pos_embed is not VideoMAE's fixed sequence"):
        opened(NAME, weights | {"pos_embed": torch.randn(1, 45, 36)}, **SAID)
    with pytest.raises(CheckpointError, match=r"44 positions, and clips of \[6, 24, 40\] have 45 tokens"):
        opened(NAME, weights | {"pos_embed": weights["pos_embed"][:, :44]}, **SAID)


def test_what_theirs_cannot_be_is_refused_or_left_out_by_name():
    weights = random_state(pretraining(*TINY, decoder_depth=2))
    origin = opened(NAME, weights, **SAID)
    trained = {**origin.weights, "decoder.project.bias": torch.ones(24)}
    written = format_of(NAME).write(type(origin)(trained, origin.config, "RUN"), "video")
    assert written.notes == ("the encoder alone, without the decoder: the map into it has a bias, and theirs has none",)
    assert all(name.startswith("encoder.") for name in written.weights)
    biased = {**origin.weights, "encoder.trunk.blocks.0.attention.qkv.bias": torch.ones(108)}
    written = format_of(NAME).write(type(origin)(biased, origin.config, "RUN"), "video")
    assert "biases of keys" in written.notes[0]
    values = origin.config.model_dump(mode="json")
    values["modalities"]["video"]["position"] = {"name": "sincos"}
    with pytest.raises(CheckpointError, match="has the fixed positions 'sequence' and no others; these are 'sincos'"):
        format_of(NAME).write(type(origin)(origin.weights, type(origin.config)(**values), "RUN"), "video")
    values = origin.config.model_dump(mode="json")
    values["model"]["class_token"] = True
    with pytest.raises(CheckpointError, match="VideoMAE has no class token, and this model does"):
        format_of(NAME).write(type(origin)(origin.weights, type(origin.config)(**values), "RUN"), "video")


def test_missing_damaged_and_unknown_weights_are_named():
    weights = random_state(pretraining(*TINY, decoder_depth=2))
    for lost in ("encoder.blocks.1.attn.v_bias", "decoder.blocks.0.norm1.weight", "encoder_to_decoder.weight"):
        with pytest.raises(CheckpointError, match=f"no weight '{lost.replace('.', chr(92) + '.')}'"):
            opened(NAME, {k: v for k, v in weights.items() if k != lost}, **SAID)
    with pytest.raises(CheckpointError, match=r"no weight 'decoder\.blocks\.0\.norm1\.weight'"):
        opened(NAME, {k: v for k, v in weights.items() if not k.startswith("decoder.blocks.0.")}, **SAID)
    with pytest.raises(CheckpointError, match=r"'mask_token' holds numbers that are not finite"):
        opened(NAME, weights | {"mask_token": torch.full((1, 1, 24), torch.nan)}, **SAID)
    with pytest.raises(CheckpointError, match=r"'encoder\.blocks\.0\.attn\.scale' is none of VideoMAE"):
        opened(NAME, weights | {"encoder.blocks.0.attn.scale": torch.ones(3, 1, 1)}, **SAID)
    with pytest.raises(CheckpointError, match=r"clips of \[16, 224, 224\] are no tubelets of \[2, 9, 9\]"):
        opened(NAME, random_state(fine_tuned(36, 2, 9, 3)), heads=3)
