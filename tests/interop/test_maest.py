"""MAE-ST: published names and shapes, and an independent forward that agrees."""

import pytest
import torch
from interop import plain
from interop.agreement import equal, model_of, opened, random_state, recognisers, same, samples

from mae_ext.errors import CheckpointError
from mae_ext.interop.format import format_of
from mae_ext.model.mask import Mask

NAME = "mae-st"
TINY = {"width": 36, "depth": 2, "wide": 24, "decoder_depth": 2, "grid": (3, 4, 4), "patch": (2, 4, 4), "hidden": 3}
HEADS = {"heads": 3, "decoder_heads": 2}


def attention(width):
    return {f"{role}.weight": (width, width) for role in "qkv"} | {f"{role}.bias": (width,) for role in "qkv"}


def stack(start, width, depth, grid, hidden):
    """Blocks, norm, positions and class token of the encoder ("") or the decoder ("decoder_")."""
    shapes = {f"{start}cls_token": (1, 1, width), f"{start}pos_embed_class": (1, 1, width)}
    shapes |= {
        f"{start}pos_embed_spatial": (1, grid[1] * grid[2], width),
        f"{start}pos_embed_temporal": (1, grid[0], width),
    }
    for i in range(depth):
        shapes |= plain.block_shapes(f"{start}blocks.{i}", width, hidden * width, attention(width))
    return shapes | plain.layer_shapes(f"{start}norm", width)


def encoder(width=1024, depth=24, grid=(8, 14, 14), patch=(2, 16, 16), hidden=4):
    return plain.layer_shapes("patch_embed.proj", width, 3, *patch) | stack("", width, depth, grid, hidden)


def pretraining(wide=512, decoder_depth=8, frames=1, **sizes):
    shapes = encoder(**sizes)
    width, patch = len_of(shapes, "norm.weight"), shapes["patch_embed.proj.weight"][2:]
    grid = (len_of(shapes, "pos_embed_temporal", 1), *[round(len_of(shapes, "pos_embed_spatial", 1) ** 0.5)] * 2)
    shapes |= stack("decoder_", wide, decoder_depth, grid, sizes.get("hidden", 4))
    shapes |= plain.layer_shapes("decoder_embed", wide, width) | {"mask_token": (1, 1, wide)}
    return shapes | plain.layer_shapes("decoder_pred", frames * patch[1] * patch[2] * 3, wide)


def len_of(shapes, name, axis=0):
    return shapes[name][axis]


def places(weights, start):
    """(1, N, width): a table of time, each row for all of space, and one of space."""
    time, space = weights[f"{start}pos_embed_temporal"], weights[f"{start}pos_embed_spatial"]
    return (time[:, :, None] + space[:, None]).flatten(1, 2)


def with_token(tokens, weights, start):
    token = weights[f"{start}cls_token"] + weights[f"{start}pos_embed_class"]
    return torch.cat([token.expand(len(tokens), -1, -1), tokens], 1)


def encoded(x, weights, keep=None):
    tokens = plain.patches(x, weights, "patch_embed.proj") + places(weights, "")
    tokens = with_token(tokens if keep is None else plain.rows(tokens, keep), weights, "")
    for i in range(2):
        tokens = plain.block(tokens, weights, f"blocks.{i}", 3, plain.three_matrices)
    return plain.norm(tokens, weights, "norm")


def answered(x, weights, mask):
    """(B, N, pixels): every token, the visible ones and the mask's in the order of the grid."""
    visible = plain.linear(encoded(x, weights, mask.keep)[:, 1:], weights, "decoder_embed")
    tokens = weights["mask_token"].expand(len(x), x.shape[2] // 2 * 16, -1).clone()
    tokens = tokens.scatter(1, mask.keep[..., None].expand(-1, -1, visible.shape[-1]), visible)
    tokens = with_token(tokens + places(weights, "decoder_"), weights, "decoder_")
    for i in range(2):
        tokens = plain.block(tokens, weights, f"decoder_blocks.{i}", 2, plain.three_matrices)
    return plain.linear(plain.norm(tokens, weights, "decoder_norm"), weights, "decoder_pred")[:, 1:]


def wanted(x, frames):
    """(B, N, pixels): so many frames at equal steps over a clip, normed by all pixels of a patch (models_mae.py)."""
    index = torch.linspace(0, x.shape[2] - 1, x.shape[2] // 2 * frames).long()
    pixels = plain.tubelets(x[:, :, index], (frames, 4, 4)).flatten(2)
    return (pixels - pixels.mean(-1, keepdim=True)) / (pixels.var(-1, keepdim=True) + 1e-6).sqrt()


@pytest.mark.parametrize("sizes", [{"width": 768, "depth": 12}, {"width": 1024, "depth": 24}], ids=["B", "L"])
def test_published_names_and_shapes_are_recognised(sizes):
    assert recognisers(plain.meta(pretraining(**sizes))) == [NAME]
    assert recognisers(plain.meta(encoder(**sizes) | plain.layer_shapes("head", 400, sizes["width"]))) == [NAME]


@pytest.mark.parametrize("frames", [1, 2], ids=["one frame of two", "all frames"])
def test_features_prediction_and_loss_are_those_of_an_independent_forward(frames):
    weights = random_state(pretraining(**TINY, frames=frames))
    origin = opened(NAME, weights, **HEADS)
    ours = model_of(origin)
    assert origin.config.modalities["video"].size == (6, 16, 16) and ours.decoder.class_token is not None
    x, pixels, _, _ = samples(ours)
    # One frame of two: theirs takes frames 0, 2 and 5 of 6, and the last tubelet's first is 4: it stays visible here.
    order = torch.stack([torch.randperm(32, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    hidden = order[:, :20].sort().values
    keep = torch.cat([order[:, 20:], torch.arange(32, 48).expand(2, -1)], 1).sort().values
    mask = Mask(keep, hidden, (3, 4, 4))
    with torch.no_grad():
        assert same(ours.encode_all(x), encoded(pixels, weights))
        theirs = plain.rows(answered(pixels, weights, mask), mask.pred)
        mine = ours.predict(pixels, mask, ours.modality()).unflatten(-1, (2, -1))
        assert same(mine[:, :, :frames].flatten(2), theirs)
        loss = (theirs - plain.rows(wanted(pixels, frames), mask.pred)).square().mean()
        assert abs(ours(x, mask) - loss) < 1e-5
    assert origin.notes == (
        (
            "it was trained on frames [0] of each tubelet, and of [2] on [[1]]: there our loss is of others",
        )
        * (frames == 1)
    )  # fmt: skip


def test_what_differs_is_the_loss_of_the_last_tubelet_alone():
    """Of 6 frames it takes 0, 2 and 5; ours the first of each tubelet: 0, 2 and 4. A still clip has one loss."""
    weights = random_state(pretraining(**TINY))
    ours = model_of(opened(NAME, weights, **HEADS))
    x, pixels, _, _ = samples(ours)
    mask = Mask(torch.arange(32).expand(2, -1), torch.arange(32, 48).expand(2, -1), (3, 4, 4))
    still = x[:, :, :1].expand_as(x)
    with torch.no_grad():
        for clip, agrees in ((x, False), (still, True)):
            normal = ours.modality().normalize(clip)
            theirs = plain.rows(answered(normal, weights, mask), mask.pred)
            loss = (theirs - plain.rows(wanted(normal, 1), mask.pred)).square().mean()
            assert (abs(ours(clip, mask) - loss) < 1e-5) == agrees
    assert pixels.shape == x.shape


def test_weights_go_back_and_a_class_token_brings_its_place_with_it():
    """The sum of both comes back as the token, with a place of 0: the same features to the bit."""
    weights = random_state(pretraining(**TINY))
    written = format_of(NAME).write(opened(NAME, weights, **HEADS), "video")
    folded = ("cls_token", "decoder_cls_token", "pos_embed_class", "decoder_pos_embed_class")
    assert not equal(written.weights, weights, but=folded) and written.weights.keys() == weights.keys()
    for start in ("", "decoder_"):
        token, place = (written.weights[f"{start}{key}"] for key in ("cls_token", "pos_embed_class"))
        assert torch.equal(token, weights[f"{start}cls_token"] + weights[f"{start}pos_embed_class"]) and not place.any()
    x = torch.rand(1, 3, 6, 16, 16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(encoded(x, written.weights), encoded(x, weights))
    assert not equal(opened(NAME, written.weights, **HEADS).weights, opened(NAME, weights, **HEADS).weights)


def test_a_fine_tuned_file_a_joint_table_and_no_biases_are_understood():
    sizes = {key: TINY[key] for key in ("width", "depth", "grid", "patch", "hidden")}
    tuned = random_state(encoder(**sizes) | plain.layer_shapes("head", 5, 36))
    origin = opened(NAME, tuned, heads=3)
    assert set(origin.left) == {"head.weight", "head.bias"} and "follows the mean over tokens" in origin.notes[0]
    joint = {key: tensor for key, tensor in tuned.items() if not key.startswith(("pos_embed", "head."))}
    joint = {key: tensor for key, tensor in joint.items() if not key.endswith(("q.bias", "k.bias", "v.bias"))}
    joint["pos_embed"] = torch.cat([tuned["pos_embed_class"], places(tuned, "")], 1)
    origin = opened(NAME, joint, heads=3, grid=(3, 4, 4))
    ours = model_of(origin)
    x, pixels, _, _ = samples(ours)
    bare = tuned | {key: torch.zeros(36) for key in tuned if key.endswith(("q.bias", "k.bias", "v.bias"))}
    with torch.no_grad():
        assert same(ours.encode_all(x), encoded(pixels, bare))
    back = format_of(NAME).write(origin, "video")
    assert not equal(back.weights, joint, but=("cls_token", "pos_embed")) and "no_qkv_bias" in back.notes[0]


def test_what_theirs_cannot_be_is_refused_or_left_out_by_name():
    origin = opened(NAME, random_state(pretraining(**TINY)), **HEADS)
    values = origin.config.model_dump(mode="json")
    values["model"]["decoder"]["class_token"] = False
    weights = {k: v for k, v in origin.weights.items() if k != "decoder.class_token"}
    written = format_of(NAME).write(type(origin)(weights, type(origin.config)(**values), "RUN"), "video")
    assert "its class token is the encoder's, and theirs is one of its own" in written.notes[0]
    assert not any(name.startswith("decoder_") for name in written.weights)
    values["modalities"]["video"]["size"] = [6, 16, 20]
    with pytest.raises(CheckpointError, match=r"MAE-ST is of clips of squares; this grid is \[3, 4, 5\]"):
        format_of(NAME).write(type(origin)(weights, type(origin.config)(**values), "RUN"), "video")


def test_missing_damaged_and_unknown_weights_are_named():
    weights = random_state(pretraining(**TINY))
    for lost in ("blocks.1.attn.q.weight", "decoder_pos_embed_class", "decoder_cls_token", "pos_embed_spatial"):
        with pytest.raises(CheckpointError, match=f"no weight '{lost}'".replace(".", r"\.")):
            opened(NAME, {k: v for k, v in weights.items() if k != lost}, **HEADS)
    with pytest.raises(CheckpointError, match=r"'mask_token' holds numbers that are not finite"):
        opened(NAME, weights | {"mask_token": torch.full((1, 1, 24), torch.nan)}, **HEADS)
    with pytest.raises(CheckpointError, match=r"'rel_pos_h' is none of MAE-ST"):
        opened(NAME, weights | {"rel_pos_h": torch.ones(3)}, **HEADS)
    with pytest.raises(CheckpointError, match="answers 100 numbers; expected those of 1 to 2 frames of 48"):
        opened(NAME, weights | {"decoder_pred.weight": torch.ones(100, 24)}, **HEADS)
    with pytest.raises(CheckpointError, match=r"for 3 times 16 tokens, and a grid of \[3, 4, 5\] has 3 times 20"):
        opened(NAME, weights, **HEADS, grid=(3, 4, 5))
