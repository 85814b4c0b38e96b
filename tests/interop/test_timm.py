"""MAE's, timm's and DINO's files go in and compute what was published, and come out again as they were."""

import re
from dataclasses import replace

import pytest
import torch
from interop.taken import different, model_of, names_of
from interop.timm_layout import features, layout, prediction, sines, weights

from mae_ext.interop.format import Foreign, Hints, format_of
from mae_ext.model.mask import from_scores, num_keep

FORMAT = {
    "mae": "mae",
    "mae encoder": "mae",
    "mae fine-tuned": "mae",
    "timm": "timm",
    "timm registers": "timm",
    "timm without a class token": "timm",
    "dino": "dino",
    "dinov2": "dino",
    "dinov2 registers": "dino",
}
HINTS = Hints(heads=2, decoder_heads=2)


def file_of(kind):
    """As published: MAE's tables, where it pretrained, are sines and its decoder's class token has no place."""
    file = weights(kind)
    if kind in ("mae", "mae encoder"):
        file["pos_embed"] = sines(24, 3)
    if kind == "mae":
        file["decoder_pos_embed"] = sines(16, 3)
    return file


def read(kind, file=None):
    return format_of(FORMAT[kind]).read(Foreign(file_of(kind) if file is None else file, "file.pth"), HINTS)


def pixels():
    return torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", FORMAT)
def test_features_are_those_of_the_published_computation_to_1e_5(kind):
    file, x = file_of(kind), pixels()
    origin = read(kind)
    model = model_of(origin)
    with torch.no_grad():
        ours, theirs = model.encode_all(x), features(x, file)
    assert theirs.std() > 0.1 and ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1e-5
    assert origin.kind == FORMAT[kind] and origin.decodes == (kind == "mae")
    registers = {"timm registers": 5, "dinov2 registers": 5, "timm without a class token": False}
    assert origin.config.model.class_token == registers.get(kind, True)


def test_mae_predicts_what_the_published_decoder_does_under_the_same_mask():
    file, x = file_of("mae"), pixels()
    model = model_of(read("mae"))
    mask = from_scores(torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(2)), num_keep(9, 0.75))
    with torch.no_grad():
        theirs = prediction(x, file, mask.keep).gather(1, mask.pred[..., None].expand(-1, -1, 192))
        ours = model.predict(x, mask, model.modality())
    assert theirs.std() > 0.1 and (ours - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("learned", ["both", "decoder"])
def test_learned_places_of_an_mae_are_kept_in_encoder_and_decoder(learned):
    file, x = file_of("mae"), pixels()
    g = torch.Generator().manual_seed(3)
    for name in ("pos_embed", "decoder_pos_embed") if learned == "both" else ("decoder_pos_embed",):
        file[name] = file[name] + torch.randn(file[name].shape, generator=g) * 0.1
    file["decoder_pos_embed"][:, 0] = 0
    origin = read("mae", file)
    assert origin.config.modalities["image"].position.name == "learned"
    model = model_of(origin)
    mask = from_scores(torch.rand(2, 3, 3, generator=g), num_keep(9, 0.5))
    with torch.no_grad():
        theirs = prediction(x, file, mask.keep).gather(1, mask.pred[..., None].expand(-1, -1, 192))
        assert (model.encode_all(x) - features(x, file)).abs().max() < 1e-5
        assert (model.predict(x, mask, model.modality()) - theirs).abs().max() < 1e-5


def test_sines_are_told_in_float32_and_in_halves_and_what_was_trained_on_from_them_is_learned():
    def position(change):
        file = file_of("mae encoder")
        file["pos_embed"] = change(file["pos_embed"])
        return read("mae encoder", file).config.modalities["image"].position.name

    assert position(lambda table: table) == "sincos"
    assert position(torch.Tensor.half) == position(lambda table: table.bfloat16().float()) == "sincos"
    assert position(lambda table: table + 5e-4) == "learned"
    h_first = torch.cat([sines(24, 3)[..., 12:], sines(24, 3)[..., :12]], -1)
    assert position(lambda _: h_first) == "learned"


FOLDED = {"cls_token", "pos_embed"}
"""Come back as sums: the class token with its place, which is then zero."""


@pytest.mark.parametrize("kind", FORMAT)
def test_what_goes_in_comes_out_bit_for_bit_but_for_what_was_multiplied_or_added(kind):
    file, origin = file_of(kind), read(kind)
    left = set(origin.left)
    written = format_of(FORMAT[kind]).write(origin, "image")
    changed = different({name: weight for name, weight in file.items() if name not in left}, written.weights)
    norm = {"fc_norm.weight", "fc_norm.bias", "norm.weight", "norm.bias"}
    scales = {"ls1.gamma", "ls2.gamma", "attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias"}
    scaled = {f"blocks.{i}.{name}" for i in range(2) for name in scales} | {"mask_token"}
    ones = {f"blocks.{i}.{name}" for i in range(2) for name in ("ls1.gamma", "ls2.gamma")} | {"mask_token"}
    assert (
        changed
        == {
            "mae": set(),
            "mae encoder": set(),
            "mae fine-tuned": FOLDED | norm,
            "timm": FOLDED,
            "timm registers": set(),
            "timm without a class token": set(),
            "dino": FOLDED | ones,
            "dinov2": FOLDED | scaled,
            "dinov2 registers": FOLDED | scaled,
        }[kind]
    )
    again = read(kind, dict(written.weights))
    assert not different(origin.weights, again.weights) and again.config == origin.config
    theirs = features(pixels(), dict(written.weights))
    assert (model_of(origin).encode_all(pixels()) - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("size", ["B", "L"])
@pytest.mark.parametrize("kind", FORMAT)
def test_published_files_are_of_one_format_by_their_names_and_shapes(kind, size):
    file = {name: torch.empty(shape, device="meta") for name, shape in layout(kind, size).items()}
    if kind == "mae encoder":  # its sines are what tells it, and nothing else
        file["pos_embed"] = sines({"B": 768, "L": 1024}[size], 14)
    # A ViT that was trained on, by MAE or DINO, has the layout of timm: no name and no shape says more.
    expected = {"mae fine-tuned": "timm", "dino": "timm"}.get(kind, FORMAT[kind])
    assert names_of(file) == [expected]


@pytest.mark.parametrize("size", ["B", "L"])
def test_every_tensor_of_a_published_mae_has_its_place_in_ours(size):
    """Names and shapes alone, of which one number fills each. All blocks are alike: two are enough."""
    shapes = {n: s for n, s in layout("mae", size).items() if not re.match(r"(decoder_)?blocks\.([2-9]|\d\d)\.", n)}
    file = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    e = 512
    file |= {"pos_embed": sines({"B": 768, "L": 1024}[size], 14), "decoder_pos_embed": sines(e, 14)}
    origin = format_of("mae").read(Foreign(file, "file.pth"), Hints())
    model, image = origin.config.model, origin.config.modalities["image"]
    assert (model.width, model.depth, model.heads) == {"B": (768, 2, 12), "L": (1024, 2, 16)}[size]
    assert (model.decoder.width, model.decoder.depth, model.decoder.heads) == (512, 2, 16)
    assert (image.size, image.patch, image.position.name, model.mlp_ratio) == ((224, 224), (16, 16), "sincos", 4.0)
    assert not origin.left and not different(file, format_of("mae").write(origin, "image").weights)


def test_heads_are_left_over_by_name_with_their_number_of_classes():
    left = read("mae fine-tuned").left
    assert left == {"head.weight": "a head for 5 classes", "head.bias": "a head for 5 classes"}
    assert read("dinov2").left == {"mask_token": "stands for hidden patches where they pretrain"}
    both = file_of("timm") | {"fc_norm.weight": torch.ones(24), "fc_norm.bias": torch.zeros(24)}
    assert read("timm", both).left["fc_norm.weight"] == "the norm before their head"
    assert "fc_norm" in read("mae fine-tuned").notes[0] and not read("timm", both).notes


def test_what_dino_saves_while_it_trains_is_read_without_its_wrapper_its_chunks_and_its_heads():
    plain = file_of("dinov2")
    wrapped = {
        f"backbone.{name.replace('blocks.1.', 'blocks.1.1.').replace('blocks.0.', 'blocks.0.0.')}": weight
        for name, weight in plain.items()
    }
    wrapped |= {"dino_head.last_layer.weight_v": torch.ones(3, 2), "ibot_head.mlp.0.weight": torch.ones(2, 2)}
    assert names_of(wrapped) == ["dino"] and "backbone.blocks.1.1.ls1.gamma" in wrapped
    origin = read("dinov2", wrapped)
    assert not different(origin.weights, read("dinov2").weights)
    assert set(origin.left) == {"mask_token", "dino_head.last_layer.weight_v", "ibot_head.mlp.0.weight"}


def test_heads_and_statistics_come_from_a_config_json_of_timm_and_else_are_its_defaults():
    config = {
        "architecture": "vit_base_patch16_224",
        "model_args": {"num_heads": 3},
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
    }
    origin = format_of("timm").read(Foreign(file_of("timm"), "folder", config), Hints())
    assert origin.config.model.heads == 3
    assert origin.weights["modalities.image.mean"].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert origin.weights["modalities.image.std"].tolist() == pytest.approx([0.4, 0.5, 0.6])
    assert read("timm").weights["modalities.image.mean"].tolist() == [0.5] * 3
    assert read("mae").weights["modalities.image.mean"].tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_a_config_json_for_timm_has_the_statistics_of_the_run_measured_or_not():
    origin = read("mae")
    assert format_of("timm").write(origin, "image").config["pretrained_cfg"]["mean"] == [0.485, 0.456, 0.406]
    image = origin.config.modalities["image"]
    measured = image.model_copy(update={"data": image.data.model_copy(update={"statistics": "measured"})})
    config = origin.config.model_copy(update={"modalities": {"image": measured}})
    weights = dict(origin.weights) | {"modalities.image.std": torch.tensor([0.5, 0.25, 2.0])}
    said = format_of("timm").write(replace(origin, config=config, weights=weights), "image").config["pretrained_cfg"]
    assert said["std"] == [0.5, 0.25, 2.0] and said["input_size"] == [3, 24, 24]


def test_without_biases_of_queries_keys_and_values_they_are_zero():
    file = {name: weight for name, weight in file_of("timm").items() if not name.endswith("qkv.bias")}
    zeros = file_of("timm") | {f"blocks.{i}.attn.qkv.bias": torch.zeros(72) for i in range(2)}
    assert not different(read("timm", file).weights, read("timm", zeros).weights)


def test_a_picture_that_is_no_square_is_read_by_its_grid_or_its_size_and_goes_out_to_timm():
    file = file_of("timm")
    file["pos_embed"] = torch.randn(1, 1 + 15, 24, generator=torch.Generator().manual_seed(4))
    x = torch.randn(1, 3, 24, 40, generator=torch.Generator().manual_seed(5))
    by_grid = format_of("timm").read(Foreign(file, "file"), Hints(heads=2, grid=(3, 5)))
    by_size = format_of("timm").read(Foreign(file, "file"), Hints(heads=2, size=(24, 40)))
    assert by_grid.config == by_size.config and by_grid.config.modalities["image"].size == (24, 40)
    assert (model_of(by_grid).encode_all(x) - features(x, file)).abs().max() < 1e-5
    written = format_of("timm").write(by_grid, "image")
    assert written.config["model_args"]["img_size"] == [24, 40] and written.weights["pos_embed"].shape == (1, 16, 24)


def test_timms_own_package_agrees_to_1e_5():
    pytest.importorskip("timm", reason="timm is not installed, or has no torchvision to import")
    for kind in ("timm", "timm registers", "timm without a class token"):
        origin = read(kind)
        written = format_of("timm").write(origin, "image")
        peer = format_of("timm").peer(written)
        assert (model_of(origin).encode_all(pixels()) - peer(pixels())).abs().max() < 1e-5
