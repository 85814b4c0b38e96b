"""What is no MAE, ViT or DINO that a model here can be is refused by the name of what it is."""

import pytest
import torch
from interop.timm_layout import layout, sines, weights

from mae_ext.config import parse_config
from mae_ext.errors import CheckpointError
from mae_ext.interop.format import Foreign, Hints, format_of
from mae_ext.interop.origin import Origin
from mae_ext.model.mae import MAE

HINTS = Hints(heads=2, decoder_heads=2)


def refusal(file, name="timm", hints=HINTS):
    with pytest.raises(CheckpointError) as caught:
        format_of(name).read(Foreign(file, "some/file.pth"), hints)
    text = str(caught.value)
    assert text.startswith("some/file.pth: ")
    return text


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("dist_token", (1, 1, 24), "a distillation token"),
        ("norm_pre.weight", (24,), "a norm before the blocks"),
        ("blocks.1.attn.q_norm.weight", (12,), "a norm of queries"),
        ("blocks.0.attn.k_norm.bias", (12,), "a norm of keys"),
        ("blocks.0.mlp.w12.weight", (128, 24), "a gated MLP"),
        ("blocks.0.mlp.fc1_g.weight", (96, 24), "a gated MLP"),
        ("blocks.0.mlp.norm.weight", (96,), "a norm within the MLP"),
        ("blocks.0.attn.norm.weight", (24,), "a norm within attention"),
        ("blocks.0.attn.rel_pos.relative_position_bias_table", (9, 2), "relative positions"),
        ("patch_embed.norm.weight", (24,), "a norm of patches"),
        ("blocks.0.gamma_1", (24,), "nothing here does what it does"),
        ("blocks.0.norm3.weight", (24,), "nothing here does what it does"),
        ("temporal_embed", (1, 8, 24), "nothing here does what it does"),
    ],
)
@pytest.mark.parametrize("kind", ["timm", "dino"])
def test_what_no_block_here_does_is_refused_by_name(kind, name, shape, words):
    file = weights("timm" if kind == "timm" else "dinov2") | {name: torch.zeros(shape)}
    if name == "dist_token":
        file["pos_embed"] = torch.zeros(1, 11, 24)  # it has a row of its own, and the others are still a square
    if "w12" in name:
        file = {key: weight for key, weight in file.items() if ".mlp.fc" not in key}
    text = refusal(file, kind)
    assert f"'{name}'" in text and words in text


def test_a_gate_that_is_packed_into_the_first_layer_is_told_by_its_shape():
    file = weights("dinov2")
    for i in range(2):
        file |= {f"blocks.{i}.mlp.fc1.weight": torch.zeros(192, 24), f"blocks.{i}.mlp.fc1.bias": torch.zeros(192)}
    assert "'blocks.0.mlp.fc1.weight' is of a gated MLP (SwiGLU)" in refusal(file, "dino")


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("vit_base_patch16_rpn_224", "norms after its layers"),
        ("vit_so400m_patch14_siglip_224", "GELU by a tanh"),
        ("vit_base_patch16_clip_quickgelu_224", "GELU by a sigmoid"),
    ],
)
def test_a_config_json_of_another_architecture_with_the_same_names_is_refused(architecture, words):
    with pytest.raises(CheckpointError, match=words):
        format_of("timm").read(Foreign(weights("timm"), "folder", {"architecture": architecture}), HINTS)


@pytest.mark.parametrize(
    ("kind", "lost"),
    [
        ("timm", "blocks.0.norm1.weight"),
        ("timm", "blocks.1.attn.qkv.weight"),
        ("timm", "blocks.0.mlp.fc2.bias"),
        ("timm", "norm.weight"),
        ("timm", "pos_embed"),
        ("timm", "patch_embed.proj.bias"),
        ("mae", "cls_token"),
        ("mae", "mask_token"),
        ("mae", "decoder_pred.weight"),
        ("mae", "decoder_blocks.0.norm2.bias"),
        ("dino", "blocks.1.ls2.gamma"),
    ],
)
def test_a_weight_that_is_missing_is_named(kind, lost):
    file = weights({"dino": "dinov2"}.get(kind, kind))
    del file[lost]
    assert f"no weight '{lost}'" in refusal(file, kind)


def test_a_block_that_is_missing_between_others_is_named():
    file = {name: weight for name, weight in weights("timm").items() if not name.startswith("blocks.0.")}
    assert "no weight 'blocks.0.norm1.weight'" in refusal(file)
    assert "no weight 'blocks.0.norm1.weight'" in refusal({"head.weight": torch.zeros(2, 24)})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["blocks.1.mlp.fc1.weight", "pos_embed", "cls_token", "norm.bias"])
def test_numbers_that_are_not_finite_are_refused_by_the_weight_that_holds_them(name, number):
    file = weights("timm")
    file[name].view(-1)[-1] = number
    assert f"weight '{name}' holds numbers that are not finite" in refusal(file)


@pytest.mark.parametrize(
    ("kind", "name", "shape"),
    [
        ("timm", "blocks.1.norm1.weight", (20,)),
        ("timm", "blocks.1.attn.qkv.weight", (60, 24)),
        ("timm", "blocks.1.mlp.fc1.weight", (80, 24)),
        ("timm", "norm.bias", (48,)),
        ("timm", "cls_token", (1, 1, 20)),
        ("timm", "pos_embed", (1, 10, 20)),
        ("timm", "pos_embed", (10, 24)),
        ("timm", "patch_embed.proj.weight", (24, 3, 2, 8, 8)),
        ("dino", "blocks.1.ls1.gamma", (1,)),
        ("dino", "register_tokens", (1, 4, 12)),
        ("mae", "decoder_embed.weight", (16, 20)),
        ("mae", "decoder_pred.weight", (100, 16)),
        ("mae", "decoder_blocks.0.mlp.fc1.weight", (32, 16)),
        ("mae", "mask_token", (1, 1, 12)),
    ],
)
def test_a_weight_of_another_shape_than_the_others_have_is_named(kind, name, shape):
    file = weights({"dino": "dinov2 registers"}.get(kind, kind))
    if kind == "mae":
        file["decoder_pos_embed"] = sines(16, 3)
    file[name] = torch.zeros(shape)
    text = refusal(file, kind)
    assert f"'{name}'" in text or (name == "mask_token" and "decoder_pos_embed" in text)
    assert "shape" in text


def test_whole_numbers_are_no_weights():
    file = weights("timm")
    file["norm.weight"] = torch.ones(24, dtype=torch.int8)
    assert "weight 'norm.weight' holds torch.int8" in refusal(file)


def test_what_a_file_does_not_say_is_asked_for():
    assert "how many heads there are is not in the file; say so: PATH::heads=N" in refusal(
        weights("timm"), hints=Hints()
    )
    assert "PATH::decoder_heads=N" in refusal(
        weights("mae") | {"decoder_pos_embed": sines(16, 3)}, "mae", Hints(heads=2)
    )
    assert "heads=5 does not divide the width, 24" in refusal(weights("timm"), hints=Hints(heads=5))
    file = weights("timm")
    file["pos_embed"] = torch.zeros(1, 13, 24)
    assert "PATH::grid=10x10" in refusal(file)
    assert "expected those of a grid of 3x5 and 1 or 0 more" in refusal(file, hints=Hints(heads=2, grid=(3, 5)))


def test_a_class_token_with_a_place_in_the_decoder_is_refused():
    file = weights("mae")
    assert "in the decoder the class token has a place that is not zero" in refusal(file, "mae")


def ours(**changes):
    """A model of ours, of pictures of 24 pixels."""
    image = {"size": [24, 24], "patch": [8, 8], "batch": 1, "data": {"statistics": "none"}, **changes.pop("image", {})}
    model = {"width": 24, "depth": 1, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}, **changes}
    config = parse_config({"modalities": {"image": image}, "model": model, "train": {"steps": 1}})
    return Origin(MAE(config).state_dict(), config, "runs/mine")


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("mae", {"class_token": 3}, "has 1 class token; model.class_token is 3"),
        ("mae", {"class_token": False}, "has 1 class token; model.class_token is False"),
        ("mae", {"image": {"size": [24, 32]}}, "is of squares alone; size is [24, 32]"),
        ("dino", {"image": {"patch": [8, 4]}}, "is of squares alone; patch is [8, 4]"),
        ("dino", {"class_token": False}, "has a class token; model.class_token is false"),
        ("timm", {"image": {"size": [8, 24, 24], "patch": [4, 8, 8]}}, "has 3 axes"),
        ("mae", {"image": {"position": {"name": "sincos", "unit": 8.0}}}, "is in mm or seconds"),
        ("hf-vit", {"class_token": 2}, "has 1 class token; model.class_token is 2"),
        ("hf-vitmae", {"image": {"size": [24, 32]}}, "is of squares alone"),
        ("hf-pixio", {"class_token": False}, "model.class_token is False"),
        ("hf-pixio", {"mlp_ratio": 2.5}, "model.mlp_ratio is 2.5"),
    ],
)
def test_a_model_that_theirs_cannot_be_is_refused_by_what_it_has(name, changes, words):
    with pytest.raises(CheckpointError) as caught:
        format_of(name).write(ours(**changes), "image")
    assert str(caught.value).startswith("runs/mine: ") and words in str(caught.value)


def test_an_epsilon_that_theirs_do_not_have_is_a_note():
    assert not format_of("mae").write(ours(), "image").notes
    (note,) = format_of("mae").write(ours(norm_eps=1e-5), "image").notes
    assert "norms here add 1e-05, theirs 1e-06" in note


def test_positions_of_any_kind_go_out_as_a_table():
    for position in ("sincos", "learned", "separable", "sequence"):
        origin = ours(image={"position": position})
        table = format_of("mae").write(origin, "image").weights["pos_embed"]
        model = MAE(origin.config)
        model.load_state_dict(origin.weights)
        assert torch.equal(table[0, 1:], model.modality().position(torch.arange(9)[None], None)[0])
        assert not table[0, 0].any() and layout("mae", "tiny")["pos_embed"] == tuple(table.shape)
