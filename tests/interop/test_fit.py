"""A start gives what it has: each tensor taken, fitted or new, and said which; what cannot mean anything is refused."""

import pytest
import torch
from interop.fitted_models import config_of, fit, model_of, origin_of

from mae_ext import plugins
from mae_ext.errors import CheckpointError
from mae_ext.interop.fit import fitted
from mae_ext.interop.origin import Origin
from mae_ext.model.mae import MAE

IMAGE = {"size": [16, 24], "patch": [8, 8]}
CLIP = {"size": [4, 16, 24], "patch": [2, 8, 8], "data": {"reader": "video", "statistics": "none"}}
SCAN = {"size": [8, 16, 24], "patch": [4, 8, 8], "channels": 1, "data": {"reader": "volume", "statistics": "none"}}
MEASURED = {"mean": [0.5, 0.4, 0.6], "std": [0.2, 0.3, 0.25]}
BLOCK = [
    f"{layer}.{kind}"
    for layer in ("norm1", "norm2", "attention.qkv", "attention.out", "mlp.up", "mlp.down")
    for kind in ("weight", "bias")
]


def trunk(part, depth):
    blocks = [f"{part}.trunk.blocks.{i}.{name}" for i in range(depth) for name in BLOCK]
    return [*blocks, f"{part}.trunk.norm.weight", f"{part}.trunk.norm.bias"]


ENCODER = ["encoder.class_token", *trunk("encoder", 2)]
DECODER = ["decoder.mask_token", "decoder.project.weight", "decoder.project.bias", *trunk("decoder", 1)]


def refused(origin, config, decodes=True):
    """The message, once nothing was changed."""
    model = MAE(config, decodes)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as info:
        fitted(origin, model, config)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "\n" not in str(info.value)
    return str(info.value)


@pytest.mark.parametrize("decodes", [True, False])
@pytest.mark.parametrize("position", ["sincos", "learned", "separable"])
def test_the_same_model_is_taken_whole(position, decodes):
    config = config_of(x=IMAGE | {"position": position})
    origin = origin_of(config, decodes)
    model, report = fit(origin, config, decodes)
    assert all(torch.equal(value, origin.weights[name]) for name, value in model.state_dict().items())
    assert report.count("taken") == len(origin.weights) and not report.left and not report.notes
    assert report.summary() == f"theirs.pth: {len(origin.weights)} tensors as they are"


def test_every_row_of_an_image_model_that_becomes_one_of_scans():
    """Patch, channels, axes, positions, grid, statistics and a decoder, all at once."""
    theirs = config_of(x=IMAGE | {"position": "learned"}, old=CLIP)
    ours = config_of(
        x={
            "size": [8, 16, 32],
            "patch": [4, 4, 8],
            "channels": 1,
            "position": "learned",
            "data": {"statistics": {"mean": [3.0], "std": [2.0]}},
        },
        old=CLIP | {"target": {"name": "pixel", "normalize": "none"}},
    )
    origin = origin_of(theirs, left={"head.weight": "a head for 1000 classes"}, notes=("half precision",))
    _, report = fit(origin, ours)
    embed = "patch 8x8 -> 4x8, pseudo-inverse; inflated along axis 0, centre; 3 channels -> 1, mean"
    drawn = "patch 8x8 -> 4x8, bilinear; repeated along axis 0; 3 channels -> 1, mean"
    place = "positions 2x3 -> 2x4x4, cubic, repeated along axis 0"
    other = "target 'pixel' there, 'pixel' (normalize=none) here"
    assert report.rows == {
        **dict.fromkeys([*ENCODER, *DECODER], ("taken", "")),
        "modalities.x.embed.project.weight": ("fitted", embed),
        "modalities.x.embed.project.bias": ("taken", ""),
        "modalities.x.position.table": ("fitted", place),
        "modalities.x.decoder_position.table": ("fitted", place),
        "modalities.x.predict.weight": ("fitted", drawn),
        "modalities.x.predict.bias": ("fitted", drawn),
        "modalities.x.mean": ("new", "statistics are this config's"),
        "modalities.x.std": ("new", "statistics are this config's"),
        "modalities.old.embed.project.weight": ("taken", ""),
        "modalities.old.embed.project.bias": ("taken", ""),
        "modalities.old.predict.weight": ("new", other),
        "modalities.old.predict.bias": ("new", other),
        "modalities.old.mean": ("taken", ""),
        "modalities.old.std": ("taken", ""),
    }
    assert report.left == {
        "head.weight": "a head for 1000 classes",
        "modalities.x.mean": "statistics are this config's",
        "modalities.x.std": "statistics are this config's",
        "modalities.old.predict.weight": other,
        "modalities.old.predict.bias": other,
    }
    assert report.notes == ("half precision",) and report.where == "theirs.pth"


@pytest.mark.parametrize("how", ["centre", "mean"])
def test_an_encoder_of_images_says_the_same_of_equal_slices(how):
    """Tokens as the encoder has them after its last block, of a scan whose slices are all one image."""
    origin = origin_of(config_of(x=IMAGE | {"position": "learned"}), decodes=False)
    one_layer = IMAGE | {"size": [4, 16, 24], "patch": [4, 8, 8], "position": "learned"}
    model, _ = fit(origin, config_of(init={"inflate": how}, x=one_layer), decodes=False)
    image = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model_of(origin).encode_all(image)
        said = model.encode_all(image[:, :, None].expand(-1, -1, 4, -1, -1))
    torch.testing.assert_close(said, wanted, atol=1e-5, rtol=0)


def test_a_modality_is_fed_by_its_name_or_by_the_only_one():
    origin = origin_of(config_of(image=IMAGE, clip=CLIP))
    _, report = fit(origin, config_of(clip=CLIP))
    assert report.rows["modalities.clip.embed.project.weight"] == ("taken", "")
    assert report.left["modalities.image.embed.project.weight"] == "no modality here starts from 'image'"
    _, report = fit(origin_of(config_of(image=IMAGE)), config_of(photo=IMAGE, scan=SCAN, film=CLIP))
    for name, how in {
        "photo": "",
        "film": "inflated along axis 0, centre",
        "scan": "inflated along axis 0, centre; 3 channels -> 1, mean",
    }.items():
        row = ("fitted", how) if how else ("taken", "")
        assert report.rows[f"modalities.{name}.embed.project.weight"] == row
    assert not report.left


def test_which_of_several_modalities_is_meant_has_to_be_said_by_its_name():
    origin = origin_of(config_of(image=IMAGE, clip=CLIP))
    assert refused(origin, config_of(scan=SCAN)) == (
        "modalities.scan: theirs.pth has no such modality, but image, clip; give yours the name of the one that it is "
        "to start from"
    )


@pytest.mark.parametrize(
    ("change", "says", "way"),
    [
        ({"width": 36}, "model.width is 36, and 24 there", "--set model.width=24"),
        ({"depth": 3}, "model.depth is 3, and 2 there", "--set model.depth=2"),
        ({"depth": 1}, "model.depth is 1, and 2 there", "--set model.depth=2"),
        ({"heads": 4}, "model.heads is 4, and 2 there", "--set model.heads=2"),
        ({"mlp_ratio": 2.0}, "model.mlp_ratio is 2.0, and 4.0 there", "--set model.mlp_ratio=4.0"),
        ({"norm_eps": 1e-5}, "model.norm_eps is 1e-05, and 1e-06 there", "--set model.norm_eps=1e-06"),
        ({"class_token": False}, "model.class_token is false, and true there", "--set model.class_token=true"),
        (
            {"heads": 3, "depth": 4},
            "model.depth is 4, and 2 there, model.heads is 3, and 2 there",
            "--set model.depth=2 --set model.heads=2",
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("decodes", [True, False])
def test_an_encoder_of_another_architecture_is_refused_with_what_to_type(change, says, way, decodes):
    said = refused(origin_of(config_of(x=IMAGE)), config_of(x=IMAGE, model=change), decodes)
    assert said == (
        f"theirs.pth has an encoder of another architecture: {says}; weights mean something in their own alone: {way}"
    )


def test_a_ratio_of_widths_that_comes_to_the_same_layer_is_the_same():
    theirs = config_of(x=IMAGE, model={"mlp_ratio": 64 / 24})
    _, report = fit(origin_of(theirs), config_of(x=IMAGE, model={"mlp_ratio": 2.6667}))
    assert report.count("new") == 0


@pytest.mark.parametrize(
    ("change", "says", "way"),
    [
        ({"width": 32}, "model.decoder.width is 32, and 16 there", "--set model.decoder.width=16"),
        ({"depth": 2}, "model.decoder.depth is 2, and 1 there", "--set model.decoder.depth=1"),
        ({"heads": 4}, "model.decoder.heads is 4, and 2 there", "--set model.decoder.heads=2"),
    ],
    ids=str,
)
def test_a_decoder_of_another_architecture_is_refused_or_new(change, says, way):
    origin, model = origin_of(config_of(x=IMAGE)), {"decoder": {"width": 16, "depth": 1, "heads": 2} | change}
    for parts in (None, "all"):
        assert refused(origin, config_of(init={"parts": parts}, x=IMAGE, model=model)) == (
            f"theirs.pth has a decoder of another architecture: {says}; begin with init_parts=encoder and a new "
            f"decoder, or take theirs: {way}"
        )
    _, report = fit(origin, config_of(init={"parts": "encoder"}, x=IMAGE, model=model))
    assert report.rows["decoder.mask_token"] == ("new", "init_parts=encoder")


def test_of_the_encoder_alone_the_decoder_is_new_with_all_that_is_its():
    config = config_of(init={"parts": "encoder"}, x=IMAGE | {"position": "learned"})
    origin = origin_of(config)
    model, report = fit(origin, config)
    parts = ["predict.weight", "predict.bias", "decoder_position.table"]
    decoding = [*DECODER, *(f"modalities.x.{part}" for part in parts)]
    assert {name for name, (outcome, _) in report.rows.items() if outcome == "new"} == set(decoding)
    assert report.left == dict.fromkeys(report.left, "init_parts=encoder") and set(report.left) == set(decoding)
    new = MAE(config).state_dict()
    assert all(torch.equal(model.state_dict()[name], new[name]) for name in decoding)


def test_what_has_no_decoder_gives_an_encoder_and_cannot_give_all():
    origin, ours = origin_of(config_of(x=IMAGE), decodes=False), config_of(x=IMAGE)
    _, report = fit(origin, ours)
    assert report.rows["decoder.mask_token"] == ("new", "no decoder to start from")
    assert report.rows["modalities.x.predict.weight"] == ("new", "no decoder to start from")
    assert refused(origin, config_of(init={"parts": "all"}, x=IMAGE)) == (
        "init_parts=all: theirs.pth has no decoder; with init_parts=encoder the decoder is new"
    )


def test_tables_that_fixed_positions_have_no_use_for_are_left_over():
    origin = origin_of(config_of(x=IMAGE | {"position": "learned"}))
    _, report = fit(origin, config_of(x=IMAGE))
    keys = ("modalities.x.position.table", "modalities.x.decoder_position.table")
    assert report.left == dict.fromkeys(keys, "positions here are sincos 2x3")


@pytest.mark.parametrize("parts", [None, "all", "encoder"])
def test_a_task_takes_no_decoder_whatever_the_config_says(parts):
    origin = origin_of(config_of(x=IMAGE))
    ours = config_of(init={"parts": parts}, x=IMAGE, model={"decoder": {"width": 32, "depth": 2, "heads": 2}})
    _, report = fit(origin, ours, decodes=False)
    assert report.count("taken") == len(report.rows)
    assert report.left["decoder.mask_token"] == "this model decodes nothing"
    assert report.left["modalities.x.predict.bias"] == "this model decodes nothing"


def test_statistics_are_those_that_the_config_states_and_else_the_origins():
    theirs = config_of(x=IMAGE)
    origin = origin_of(theirs)
    stated = config_of(x=IMAGE | {"data": {"statistics": MEASURED}})
    model, report = fit(origin, stated)
    assert torch.equal(model.modality().mean, torch.tensor(MEASURED["mean"]))
    assert report.rows["modalities.x.mean"] == ("new", "statistics are this config's")
    model, report = fit(origin, config_of(x=IMAGE | {"data": {"statistics": "measured"}}))
    assert torch.equal(model.modality().mean, origin.weights["modalities.x.mean"])
    assert report.rows["modalities.x.mean"] == ("taken", "")


def test_weights_that_lack_all_or_some_of_a_trunk_are_refused():
    config = config_of(x=IMAGE)
    origin = origin_of(config)
    bare = Origin({"head.weight": torch.zeros(3)}, config, "theirs.pth")
    assert refused(bare, config) == (
        "theirs.pth: none of the 27 tensors of this encoder is among its 1; nothing can be taken"
    )
    cut = {k: v for k, v in origin.weights.items() if k != "encoder.trunk.blocks.1.mlp.up.bias"}
    cut["encoder.class_token"] = torch.zeros(7)
    said = refused(Origin(cut, config, "theirs.pth"), config)
    assert said.startswith(
        "theirs.pth is of another architecture: 25 of 27 tensors of the encoder (99% of its numbers)"
    )
    assert "encoder.class_token is [7], not [24]" in said
    assert "encoder.trunk.blocks.1.mlp.up.bias is absent" in said
    half = {k: v for k, v in origin.weights.items() if k != "decoder.trunk.norm.bias"}
    assert "17 tensors of the decoder" in refused(Origin(half, config, "theirs.pth"), config)


def test_a_patch_embedding_that_is_not_what_its_config_says_is_new():
    config, key = config_of(x=IMAGE), "modalities.x.embed.project.weight"
    weights = origin_of(config).weights
    _, report = fit(Origin({**weights, key: torch.zeros(24, 48)}, config, "w"), config)
    assert report.rows[key] == ("new", f"{key} is [24, 48], not [24, 192]")
    _, report = fit(Origin({k: v for k, v in weights.items() if k != key}, config, "w"), config)
    assert report.rows[key] == ("new", f"absent at {key}")


def test_another_embedder_is_taken_where_plug_in_arguments_and_shapes_are_the_same(monkeypatch):
    monkeypatch.setitem(plugins.embedders.builtins, "own", "mae_ext.model.embed:PatchEmbed")
    own, key = IMAGE | {"embed": "own"}, "modalities.x.embed.project.weight"
    origin = origin_of(config_of(x=own))
    assert fit(origin, config_of(x=own))[1].rows[key] == ("taken", "")
    assert fit(origin, config_of(x=own | {"size": [24, 16]}))[1].rows[key] == ("taken", "")
    assert fit(origin, config_of(x=IMAGE))[1].rows[key] == ("new", "embed 'own' there, 'patch' here")
    finer = own | {"patch": [4, 8]}
    assert fit(origin, config_of(x=finer))[1].rows[key] == ("new", f"{key} is [24, 192], not [24, 96]")
    turned = own | {"patch": [4, 16], "size": [16, 32]}
    other = fit(origin, config_of(x=IMAGE | {"position": "sincos"}))[1]
    assert other.left[key] == "embed 'own' there, 'patch' here"
    assert fit(origin, config_of(x=turned))[1].rows[key] == ("new", "embed 'own' is of another patch there")


def test_a_target_that_counts_errors_otherwise_predicts_the_same():
    origin = origin_of(config_of(x=IMAGE))
    for target, outcome in (
        ({"name": "pixel", "normalize": "mae", "loss": "l1", "floor": 0.1}, "taken"),
        ({"name": "pixel", "normalize": "channel"}, "new"),
    ):
        _, report = fit(origin, config_of(x=IMAGE | {"target": target}))
        assert report.rows["modalities.x.predict.weight"][0] == outcome


def test_what_is_fitted_is_whole_and_in_the_order_of_the_model():
    config = config_of(x=IMAGE | {"position": "learned"})
    origin = origin_of(config)
    model = MAE(config_of(x=IMAGE | {"position": "learned", "size": [24, 40], "patch": [4, 8]}))
    ours = config_of(x=IMAGE | {"position": "learned", "size": [24, 40], "patch": [4, 8]})
    weights, _ = fitted(origin, model, ours)
    assert list(weights) == list(model.state_dict())
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in weights.values())
    model.load_state_dict(weights)
