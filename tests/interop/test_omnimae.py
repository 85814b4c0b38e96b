"""OmniMAE: published names and shapes, and an independent forward that agrees."""

import pytest
import torch
from interop import plain
from interop.agreement import equal, model_of, opened, random_state, recognisers, same, samples

from mae_ext.errors import CheckpointError
from mae_ext.interop.format import format_of
from mae_ext.model.position import SequenceSinCos

NAME = "omnimae"
TINY = {"width": 36, "depth": 2, "wide": 24, "decoder_depth": 2, "patch": (2, 8, 8), "hidden": 3, "count": 45}
SAID = {"heads": 3, "decoder_heads": 2, "grid": (3, 3, 5)}
FOLDED = ("trunk.mask_token", "trunk.decoder.pos_embed")


def encoder(width=768, depth=12, patch=(2, 16, 16), hidden=4, count=1568):
    shapes = plain.layer_shapes("trunk.patch_embed.proj.1", width, 3, *patch) | {"trunk.pos_embed": (1, count, width)}
    for i in range(depth):
        shapes |= plain.block_shapes(f"trunk.blocks.{i}", width, hidden * width, plain.one_matrix_shapes(width))
    return shapes | plain.layer_shapes("trunk.norm", width)


def pretraining(wide=384, decoder_depth=4, **sizes):
    """Its decoder's attention has no biases (omni_mae_model.py)."""
    shapes = encoder(**sizes)
    width, pixels = shapes["trunk.norm.weight"][0], 3
    for extent in shapes["trunk.patch_embed.proj.1.weight"][2:]:
        pixels *= extent
    shapes |= {"trunk.mask_token": (1, width), "trunk.decoder.pos_embed": shapes["trunk.pos_embed"]}
    for i in range(decoder_depth):
        own = {"qkv.weight": (3 * wide, wide)}
        shapes |= plain.block_shapes(f"trunk.decoder.decoder_blocks.{i}", wide, sizes.get("hidden", 4) * wide, own)
    for name, shape in (("decoder_embed", (wide, width)), ("norm", (wide,))):
        shapes |= plain.layer_shapes(f"trunk.decoder.{name}", *shape)
    return shapes | plain.layer_shapes("head", pixels, wide)


def weights_of(shapes):
    """Random, but for the buffers of positions."""
    table = plain.sequence(45, 36)[None]
    return random_state(shapes) | {name: table for name in shapes if name.endswith("pos_embed")}


def encoded(x, weights, keep=None):
    """After the blocks, not normed."""
    tokens = plain.patches(x, weights, "trunk.patch_embed.proj.1") + weights["trunk.pos_embed"]
    tokens = tokens if keep is None else plain.rows(tokens, keep)
    for i in range(2):
        tokens = plain.block(tokens, weights, f"trunk.blocks.{i}", 3)
    return tokens


def answered(x, weights, mask):
    """(B, N, pixels) of every token: mask tokens, positions and tokens are joined before the map into the decoder."""
    visible = plain.norm(encoded(x, weights, mask.keep), weights, "trunk.norm")
    tokens = weights["trunk.mask_token"].expand(len(x), 45, -1).clone()
    tokens = tokens.scatter(1, mask.keep[..., None].expand(-1, -1, 36), visible) + weights["trunk.decoder.pos_embed"]
    tokens = plain.linear(tokens, weights, "trunk.decoder.decoder_embed")
    for i in range(2):
        tokens = plain.block(tokens, weights, f"trunk.decoder.decoder_blocks.{i}", 2)
    return plain.linear(plain.norm(tokens, weights, "trunk.decoder.norm"), weights, "head")


@pytest.mark.parametrize(
    "sizes",
    [{}, {"width": 1024, "depth": 24, "wide": 512}, {"width": 1280, "depth": 32, "wide": 512, "patch": (2, 14, 14)}],
    ids=["B", "L", "H"],
)
def test_published_names_and_shapes_are_recognised(sizes):
    assert recognisers(plain.meta(pretraining(**sizes))) == [NAME]
    tuned = {key: value for key, value in sizes.items() if key != "wide"}
    assert recognisers(plain.meta(encoder(**tuned) | plain.layer_shapes("head", 174, 768))) == [NAME]


def test_features_prediction_and_loss_are_those_of_an_independent_forward():
    weights = weights_of(pretraining(**TINY))
    origin = opened(NAME, weights, **SAID)
    ours = model_of(origin)
    assert origin.config.modalities["video"].size == (6, 24, 40) and not origin.left
    x, pixels, mask, _ = samples(ours)
    with torch.no_grad():
        assert same(ours.encode_all(x), plain.norm(encoded(pixels, weights), weights, "trunk.norm"))
        theirs = plain.rows(answered(pixels, weights, mask), mask.pred)
        assert same(ours.predict(pixels, mask, ours.modality()), theirs)
        # mae_loss.py: the clip in 0..1, per channel, unbiased, 1e-6 on the variance. Ours has it on the deviation.
        wanted = plain.tubelets(x, (2, 8, 8))
        wanted = (wanted - wanted.mean(2, keepdim=True)) / (wanted.var(2, keepdim=True) + 1e-6).sqrt()
        loss = (theirs - plain.rows(wanted.flatten(2), mask.pred)).square().mean()
        assert abs(ours(x, mask) - loss) < 2e-5 < loss


def test_weights_go_back_and_the_mask_token_to_one_that_comes_to_the_same():
    """Of mask tokens that the map into the decoder makes the same, the smallest: predictions are as they were."""
    weights = weights_of(pretraining(**TINY))
    written = format_of(NAME).write(opened(NAME, weights, **SAID), "video")
    assert not equal(written.weights, weights, but=FOLDED) and written.weights.keys() == weights.keys()
    fixed = "trunk.decoder.pos_embed"
    assert (
        (written.weights[fixed] - weights[fixed]).abs().max() < 1e-6
        and not written.notes
        and written.weights["trunk.mask_token"].norm() <= weights["trunk.mask_token"].norm()
    )
    ours = model_of(opened(NAME, weights, **SAID))
    _, pixels, mask, _ = samples(ours)
    with torch.no_grad():
        assert same(answered(pixels, written.weights, mask), answered(pixels, weights, mask))


def test_positions_that_were_trained_on_go_back_through_the_map():
    origin = opened(NAME, weights_of(pretraining(**TINY)), **SAID)
    trained = {**origin.weights}
    for key in ("position", "decoder_position"):
        table = trained[f"modalities.video.{key}.table"]
        trained[f"modalities.video.{key}.table"] = table + torch.randn(
            table.shape, generator=torch.Generator().manual_seed(2)
        )
    ours = model_of(type(origin)(trained, origin.config, "RUN"))
    _, pixels, mask, _ = samples(ours)
    written = format_of(NAME).write(type(origin)(trained, origin.config, "RUN"), "video").weights
    with torch.no_grad():
        theirs = plain.rows(answered(pixels, written, mask), mask.pred)
        assert same(ours.predict(pixels, mask, ours.modality()), theirs)


def test_a_fine_tuned_file_gives_its_encoder_with_fixed_positions():
    sizes = {key: TINY[key] for key in ("width", "depth", "patch", "hidden", "count")}
    weights = weights_of(encoder(**sizes) | plain.layer_shapes("head", 5, 36))
    origin = opened(NAME, weights, **SAID)
    ours = model_of(origin)
    x, pixels, _, _ = samples(ours)
    assert isinstance(ours.modality().position, SequenceSinCos) and set(origin.left) == {"head.weight", "head.bias"}
    with torch.no_grad():
        assert same(ours.encode_layers(x, [2])[0], encoded(pixels, weights))
    back = format_of(NAME).write(origin, "video").weights
    assert not equal(back, {k: v for k, v in weights.items() if not k.startswith("head.")}, but=("trunk.pos_embed",))
    assert (back["trunk.pos_embed"] - weights["trunk.pos_embed"]).abs().max() < 1e-6


def test_what_theirs_cannot_be_is_refused_or_left_out_by_name():
    origin = opened(NAME, weights_of(pretraining(**TINY)), **SAID)
    values = origin.config.model_dump(mode="json")
    values["modalities"]["video"]["target"] = {"name": "pixel", "normalize": "mae"}
    written = format_of(NAME).write(type(origin)(origin.weights, type(origin.config)(**values), "RUN"), "video")
    assert "its target is another than pixels normalised per channel" in written.notes[0]
    assert not any(name.startswith(("trunk.decoder.", "head.")) for name in written.weights)
    values["model"]["class_token"] = True
    with pytest.raises(CheckpointError, match="OmniMAE has no class token, and this model does"):
        format_of(NAME).write(type(origin)(origin.weights, type(origin.config)(**values), "RUN"), "video")


def test_missing_damaged_and_unknown_weights_are_named():
    weights = weights_of(pretraining(**TINY))
    for lost in ("trunk.mask_token", "trunk.decoder.decoder_embed.bias", "trunk.blocks.0.norm1.weight", "head.bias"):
        with pytest.raises(CheckpointError, match=f"no weight '{lost}'".replace(".", r"\.")):
            opened(NAME, {k: v for k, v in weights.items() if k != lost}, **SAID)
    with pytest.raises(CheckpointError, match=r"'head\.bias' holds numbers that are not finite"):
        opened(NAME, weights | {"head.bias": torch.full((384,), torch.nan)}, **SAID)
    with pytest.raises(CheckpointError, match=r"'trunk\.blocks\.0\.layer_scale_gamma1' is none of OmniMAE"):
        opened(NAME, weights | {"trunk.blocks.0.layer_scale_gamma1": torch.ones(1, 1, 36)}, **SAID)
    with pytest.raises(CheckpointError, match="of which grid its 45 positions are is not clear"):
        opened(NAME, weights, heads=3, decoder_heads=2)
