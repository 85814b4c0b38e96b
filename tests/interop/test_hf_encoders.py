"""transformers' ViT and Pixio: features of random models agree, in and out, and a folder says what weights do not."""

import json

import pytest
import torch
from interop import peers
from interop.taken import different, model_of, names_of
from safetensors.torch import save_file

from mae_ext.errors import CheckpointError
from mae_ext.interop.files import read_foreign
from mae_ext.interop.format import Foreign, Hints, format_of

transformers = pytest.importorskip("transformers", reason="the peer of this comparison, an optional library")

KINDS = {
    "ViTModel": ("hf-vit", peers.vit),
    "ViTForImageClassification": ("hf-vit", peers.vit),
    "ViTForMaskedImageModeling": ("hf-vit", peers.vit),
    "PixioModel": ("hf-pixio", peers.pixio),
    "PixioBackbone": ("hf-pixio", peers.pixio),
}
FOLDED = {"embeddings.cls_token", "embeddings.position_embeddings"}
"""Come back as sums: class tokens with their places, which are then zero."""


def peer(kind, **other):
    settings = {"encoder_stride": 8} if kind == "ViTForMaskedImageModeling" else {}
    return KINDS[kind][1](transformers, kind, **settings, **other)


def encoder_of(theirs):
    return getattr(theirs, "vit", getattr(theirs, "pixio", theirs))


def read(kind, theirs, **config):
    file = Foreign(theirs.state_dict(), "folder", theirs.config.to_dict() | config)
    return format_of(KINDS[kind][0]).read(file, Hints())


@pytest.mark.parametrize("kind", KINDS)
def test_features_agree_in_and_out_and_the_way_back_is_bit_for_bit_but_for_tokens_and_their_places(kind):
    theirs, x = peer(kind), peers.pixels()
    origin, one = read(kind, theirs), format_of(KINDS[kind][0])
    with torch.no_grad():
        hidden, ours = encoder_of(theirs)(x).last_hidden_state, model_of(origin).encode_all(x)
    assert hidden.std() > 0.2 and (ours - hidden).abs().max() < 1e-5
    written = one.write(origin, "image")
    assert (one.peer(written)(x) - hidden).abs().max() < 1e-5
    own = encoder_of(theirs).state_dict()
    assert different({k: w for k, w in own.items() if "pooler" not in k and "mask" not in k}, written.weights) == FOLDED
    again = one.read(Foreign(written.weights, "folder", written.config), Hints())
    assert not different(again.weights, origin.weights) and again.config == origin.config


def test_heads_poolers_and_second_norms_are_left_over_by_name():
    assert set(read("ViTModel", peer("ViTModel")).left) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert set(read("ViTForImageClassification", peer("ViTForImageClassification")).left) == {
        "classifier.weight",
        "classifier.bias",
    }
    assert set(read("ViTForMaskedImageModeling", peer("ViTForMaskedImageModeling")).left) == {
        "decoder.0.weight",
        "decoder.0.bias",
        "vit.embeddings.mask_token",
    }
    assert set(read("PixioBackbone", peer("PixioBackbone")).left) == {"layernorm.weight", "layernorm.bias"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_of_one_format_with_config_json_and_without_and_in_names_of_both_versions(kind):
    theirs = peer(kind)
    state = theirs.state_dict()
    older = peers.of_version_4_of_pixio if "Pixio" in kind else peers.of_version_4
    old = {older(name): weight for name, weight in state.items()}
    assert state.keys() != old.keys() and names_of(state, config=theirs.config.to_dict()) == [KINDS[kind][0]]
    assert names_of(state) == names_of(old) == [KINDS[kind][0]]
    one, hints = format_of(KINDS[kind][0]), Hints(heads=2)
    new, again = (one.read(Foreign(weights, "file"), hints) for weights in (state, old))
    assert not different(new.weights, again.weights) and new.config == again.config


@pytest.mark.parametrize("kind", KINDS)
def test_what_their_save_pretrained_writes_is_read_back(kind, tmp_path):
    theirs = peer(kind)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.2] * 3, "image_std": [0.3] * 3}))
    file = read_foreign(tmp_path)
    assert names_of(file.weights, config=file.config) == [KINDS[kind][0]]
    origin = format_of(KINDS[kind][0]).read(file, Hints())
    statistics = {"modalities.image.mean", "modalities.image.std"}
    assert different(origin.weights, read(kind, theirs).weights) == statistics
    assert origin.weights["modalities.image.mean"].tolist() == pytest.approx([0.2] * 3)
    assert origin.weights["modalities.image.std"].tolist() == pytest.approx([0.3] * 3)


@pytest.mark.parametrize("kind", ["ViTModel", "PixioModel"])
def test_their_from_pretrained_opens_what_was_written_and_gives_the_same_features(kind, tmp_path):
    origin, x = read(kind, peer(kind, layer_norm_eps=1e-4)), peers.pixels()
    written = format_of(KINDS[kind][0]).write(origin, "image")
    save_file(dict(written.weights), tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(written.config))
    bare = {"add_pooling_layer": False} if kind == "ViTModel" else {}
    theirs, told = getattr(transformers, kind).from_pretrained(tmp_path, output_loading_info=True, **bare)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        assert (theirs.eval()(x).last_hidden_state - model_of(origin).encode_all(x)).abs().max() < 1e-5
    auto = transformers.AutoModel.from_pretrained(tmp_path).eval()
    assert (auto(x).last_hidden_state - model_of(origin).encode_all(x)).abs().max() < 1e-5


def test_pictures_that_are_no_squares_are_read_and_written_by_their_size():
    theirs = peer("ViTModel", image_size=[24, 40], patch_size=[8, 4], num_channels=1)
    origin, x = read("ViTModel", theirs), peers.pixels(1, (24, 40))
    assert origin.config.modalities["image"].grid == (3, 10)
    written = format_of("hf-vit").write(origin, "image")
    assert (written.config["image_size"], written.config["patch_size"]) == ([24, 40], [8, 4])
    with torch.no_grad():
        hidden, ours = theirs(x).last_hidden_state, model_of(origin).encode_all(x)
        assert (ours - hidden).abs().max() < 1e-5
        assert (format_of("hf-vit").peer(written)(x) - hidden).abs().max() < 1e-5


def test_without_a_config_json_epsilons_and_statistics_are_the_defaults_of_each():
    for kind, eps, mean in (("ViTModel", 1e-12, 0.5), ("PixioModel", 1e-6, 0.485)):
        state = peer(kind).state_dict()
        origin = format_of(KINDS[kind][0]).read(Foreign(state, "file"), Hints(heads=2))
        assert origin.config.model.norm_eps == eps
        assert origin.weights["modalities.image.mean"][0].item() == pytest.approx(mean)
        said = format_of(KINDS[kind][0]).read(Foreign(state, "file"), Hints(heads=2, eps=1e-5))
        assert said.config.model.norm_eps == 1e-5


def test_each_class_token_of_pixio_has_its_place_and_one_alone_is_a_vector():
    three, one = (read("PixioModel", peer("PixioModel", n_cls_tokens=count)) for count in (3, 1))
    assert three.config.model.class_token == 3 and three.weights["encoder.class_token"].shape == (3, 24)
    assert one.config.model.class_token is True and one.weights["encoder.class_token"].shape == (24,)
    embeddings = peer("PixioModel").embeddings
    sums = (embeddings.cls_token + embeddings.position_embeddings[:, :3])[0]
    assert torch.equal(three.weights["encoder.class_token"], sums)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("embeddings.distillation_token", "a distillation token"),
        ("layers.0.layer_scale1.lambda1", "layer scale"),
        ("layers.1.mlp.weights_in.weight", "a gated MLP"),
        ("layers.0.attention.q_norm.weight", "a norm of queries"),
        ("layers.0.extra.weight", "nothing here does what it does"),
    ],
)
def test_what_no_block_here_does_is_refused_by_name(name, words):
    state = peer("ViTModel").state_dict() | {name: torch.zeros(24)}
    with pytest.raises(CheckpointError, match=rf"^file: weight '{name}'.*{words}"):
        format_of("hf-vit").read(Foreign(state, "file"), Hints(heads=2))


@pytest.mark.parametrize("kind", ["ViTForImageClassification", "PixioModel"])
def test_weights_that_are_missing_not_finite_or_of_another_shape_are_named(kind):
    start = "vit." if kind == "ViTForImageClassification" else ""
    changes = {
        f"{start}layers.1.mlp.fc1.weight": (None, "no weight"),
        f"{start}layers.0.attention.k_proj.weight": (torch.zeros(20, 24), "shape"),
        f"{start}layers.1.layernorm_after.weight": (torch.zeros(20), "shape"),
        f"{start}embeddings.cls_token": (torch.full((1, 1, 24), torch.nan), "not finite"),
        f"{start}embeddings.patch_embeddings.projection.weight": (torch.zeros(24, 192), "four axes"),
    }
    for name, (weight, words) in changes.items():
        state = peer(kind).state_dict() | {name: weight}
        if weight is None:
            del state[name]
        with pytest.raises(CheckpointError) as caught:
            format_of(KINDS[kind][0]).read(Foreign(state, "file"), Hints(heads=2))
        assert f"'{name}'" in str(caught.value) and words in str(caught.value)
