"""transformers' ViTMAE: its weights, mapped over, give its loss, its predictions, its gradients, and go back."""

import json

import pytest
import torch
from interop import peers
from interop.taken import different, model_of, names_of
from safetensors.torch import save_file

from mae_ext.errors import CheckpointError
from mae_ext.interop.files import read_foreign
from mae_ext.interop.format import Foreign, Hints
from mae_ext.interop.hf import ViTMAE
from mae_ext.model.mask import from_scores, num_keep

transformers = pytest.importorskip("transformers", reason="the peer of this comparison, an optional library")

TABLES = {"vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"}


def read(model, weights=None, **config):
    file = Foreign(model.state_dict() if weights is None else weights, "folder", model.config.to_dict() | config)
    return ViTMAE().read(file, Hints())


def pair(**other):
    theirs = peers.vitmae(transformers, **other)
    return theirs, model_of(read(theirs))


def inputs(channels=3):
    noise = torch.rand(2, 9, generator=torch.Generator().manual_seed(2))
    return peers.pixels(channels), noise, from_scores(noise.view(2, 3, 3), num_keep(9, 0.75))


def answered(theirs, mask):
    """(B, N, pix) of theirs -> (B, P, pix) for our hidden tokens."""
    return theirs.gather(1, mask.pred[..., None].expand(-1, -1, theirs.shape[-1]))


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("norm_pix", [True, False])
def test_loss_and_prediction_agree_to_1e_5(norm_pix, channels):
    theirs, ours = pair(norm_pix_loss=norm_pix, num_channels=channels)
    x, noise, mask = inputs(channels)
    with torch.no_grad():
        out = theirs(x, noise=noise)
        loss, predicted = ours(x, mask), ours.predict(x, mask, ours.modality())
    assert torch.equal(out.mask.nonzero()[:, 1].view(2, -1), mask.pred)
    assert out.logits.std() > 0.2
    assert (predicted - answered(out.logits, mask)).abs().max() < 1e-5
    assert abs(loss - out.loss) < 1e-5


@pytest.mark.parametrize("norm_pix", [True, False])
def test_gradients_agree_for_every_weight(norm_pix):
    theirs, ours = pair(norm_pix_loss=norm_pix)
    x, noise, mask = inputs()
    theirs(x, noise=noise).loss.backward()
    ours(x, mask).backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    # The map is linear in the weights, so it maps their gradients too; the tables are no weights.
    mapped = read(theirs, gradients | {name: theirs.state_dict()[name] for name in TABLES}).weights
    compared = dict(ours.named_parameters())
    assert set(compared) <= set(mapped)
    for name, parameter in compared.items():
        assert parameter.grad.abs().max() > 0, name
        assert (parameter.grad - mapped[name]).abs().max() < 1e-5, name


def test_attention_without_biases_agrees_too():
    theirs, ours = pair(qkv_bias=False)
    x, noise, mask = inputs()
    with torch.no_grad():
        assert abs(ours(x, mask) - theirs(x, noise=noise).loss) < 1e-5


@pytest.mark.parametrize("bare", [False, True])
def test_encoding_everything_agrees_with_their_encoder_without_a_mask_and_the_way_back_is_bit_for_bit(bare):
    """Theirs masks at random in eval() as well, unless its ratio is set to zero."""
    theirs = peers.vitmae(transformers, bare)
    origin, x = read(theirs), peers.pixels()
    encoder = theirs if bare else theirs.vit
    encoder.config.mask_ratio = encoder.embeddings.config.mask_ratio = 0.0
    hidden = encoder(x, noise=torch.arange(9).float().expand(2, -1)).last_hidden_state
    written = ViTMAE().write(origin, "image")
    with torch.no_grad():
        assert (model_of(origin).encode_all(x) - hidden).abs().max() < 1e-5
        assert (ViTMAE().peer(written)(x) - hidden).abs().max() < 1e-5
    assert origin.decodes is not bare and not origin.left
    tables = {name.removeprefix("vit.") if bare else name for name in TABLES}
    changed = different(theirs.state_dict(), written.weights)
    assert changed <= tables  # sines: ours are of float64, theirs of float32
    for name in changed:
        assert (theirs.state_dict()[name] - written.weights[name]).abs().max() < 1e-6


@pytest.mark.parametrize("bare", [False, True])
def test_their_from_pretrained_opens_what_was_written_and_gives_the_same_features(bare, tmp_path):
    origin = read(peers.vitmae(transformers, bare, norm_pix_loss=True))
    written = ViTMAE().write(origin, "image")
    save_file(dict(written.weights), tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(written.config))
    theirs, told = getattr(transformers, written.config["architectures"][0]).from_pretrained(
        tmp_path, mask_ratio=0.0, output_loading_info=True
    )
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    x, encoder = peers.pixels(), theirs if bare else theirs.vit
    hidden = encoder.eval()(x, noise=torch.arange(9).float().expand(2, -1)).last_hidden_state
    assert (model_of(origin).encode_all(x) - hidden).abs().max() < 1e-5
    again = ViTMAE().read(read_foreign(tmp_path), Hints())
    assert again.config == origin.config and not different(again.weights, origin.weights)


def test_names_of_transformers_4_are_understood():
    state = peers.vitmae(transformers).state_dict()
    old = {peers.of_version_4(name): tensor for name, tensor in state.items()}
    assert "vit.encoder.layer.0.attention.attention.query.weight" in old
    assert "decoder.decoder_layers.0.attention.output.dense.bias" in old
    assert "vit.encoder.layer.1.intermediate.dense.weight" in old and "vit.encoder.layer.1.output.dense.bias" in old
    hints = Hints(heads=2, decoder_heads=2)
    new, again = (ViTMAE().read(Foreign(weights, "file"), hints) for weights in (state, old))
    assert not different(new.weights, again.weights) and new.config == again.config
    assert names_of(state) == names_of(old) == ["hf-vitmae"]
    bare = peers.vitmae(transformers, bare=True).state_dict()
    assert names_of(bare) == names_of({peers.of_version_4(name): w for name, w in bare.items()}) == ["hf-vitmae"]


@pytest.mark.parametrize("kind", ["folder", "safetensors", "bin", "bare bin"])
def test_a_folder_and_a_file_of_either_kind_are_read_alike_and_only_a_folder_says_heads(kind, tmp_path):
    theirs = peers.vitmae(transformers)
    hints = Hints()
    if kind == "folder":
        theirs.save_pretrained(tmp_path)
        path = tmp_path
    elif kind == "safetensors":
        path = tmp_path / "weights.safetensors"
        save_file({name: weight.contiguous() for name, weight in theirs.state_dict().items()}, path)
        hints = Hints(heads=2, decoder_heads=2)
    else:
        path = tmp_path / ("pytorch_model.bin" if kind == "bin" else "mine.bin")
        torch.save(theirs.state_dict(), path)
        theirs.config.save_pretrained(tmp_path)
        if kind == "bare bin":
            with pytest.raises(CheckpointError, match="PATH::heads=N"):
                ViTMAE().read(read_foreign(path), hints)
            hints = Hints(heads=2, decoder_heads=2)
    origin = ViTMAE().read(read_foreign(path), hints)
    assert not different(origin.weights, read(theirs).weights)
    assert origin.config.model == read(theirs).config.model and origin.where == str(path)


@pytest.mark.parametrize(
    "lost", ["decoder.decoder_pred.bias", "vit.layers.1.attention.q_proj.bias", "vit.layers.0.attention.v_proj.weight"]
)
def test_a_weight_that_is_missing_is_named(lost):
    theirs = peers.vitmae(transformers)
    weights = theirs.state_dict()
    del weights[lost]
    with pytest.raises(CheckpointError, match=lost.replace(".", r"\.")):
        read(theirs, weights)


@pytest.mark.parametrize("change", ["zero", "axes swapped"])
def test_tables_that_are_no_sines_are_kept_as_learned_places_and_agree_too(change):
    theirs = peers.vitmae(transformers)
    for table in (theirs.vit.embeddings.position_embeddings, theirs.decoder.decoder_pos_embed):
        grid = table.data[:, 1:].unflatten(1, (3, 3)).transpose(1, 2).flatten(1, 2)
        table.data[:, 1:] = 0 if change == "zero" else grid
    origin = read(theirs)
    assert origin.config.modalities["image"].position.name == "learned"
    assert origin.notes == ("a position table is all zero: it was never filled",) * (change == "zero")
    assert not different(theirs.state_dict(), ViTMAE().write(origin, "image").weights)
    ours, (x, noise, mask) = model_of(origin), inputs()
    with torch.no_grad():
        predicted = ours.predict(x, mask, ours.modality())
        assert (predicted - answered(theirs(x, noise=noise).logits, mask)).abs().max() < 1e-5


def test_a_table_of_another_length_is_named():
    theirs = peers.vitmae(transformers)
    for name in TABLES:
        weights = theirs.state_dict()
        weights[name] = weights[name][:, :-5]
        with pytest.raises(CheckpointError, match=r"places; expected"):
            read(theirs, weights)


def test_statistics_are_those_of_the_processor_beside_the_weights_and_else_imagenets():
    theirs = peers.vitmae(transformers)
    file = Foreign(
        theirs.state_dict(), "folder", theirs.config.to_dict(), {"image_mean": [0.1] * 3, "image_std": [2.0] * 3}
    )
    said, silent = ViTMAE().read(file, Hints()).weights, read(theirs).weights
    assert said["modalities.image.mean"].tolist() == pytest.approx([0.1] * 3)
    assert said["modalities.image.std"].tolist() == [2.0] * 3
    assert silent["modalities.image.mean"].tolist() == pytest.approx([0.485, 0.456, 0.406])
    one = read(peers.vitmae(transformers, num_channels=1)).weights
    assert (one["modalities.image.mean"].tolist(), one["modalities.image.std"].tolist()) == ([0.0], [1.0])


def test_their_config_becomes_ours():
    origin = read(peers.vitmae(transformers, layer_norm_eps=1e-5, mask_ratio=0.6, norm_pix_loss=True))
    image, model = origin.config.modalities["image"], origin.config.model
    assert (image.size, image.patch, image.channels, image.position.name) == ((24, 24), (8, 8), 3, "sincos")
    assert (model.width, model.depth, model.heads, model.mlp_ratio, model.norm_eps) == (24, 2, 2, 4.0, 1e-5)
    assert (model.decoder.width, model.decoder.depth, model.decoder.heads) == (16, 1, 2)
    assert (image.mask.arguments, image.target.arguments) == ({"ratio": 0.6}, {"normalize": "mae"})
    assert read(peers.vitmae(transformers)).config.model.norm_eps == 1e-12
    for_features = read(peers.vitmae(transformers), mask_ratio=0.0)
    assert for_features.config.modalities["image"].mask.arguments == {"ratio": 0.75}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"hidden_act": "relu"}, "hidden_act='relu'; only 'gelu'"),
        ({"num_attention_heads": "2"}, "num_attention_heads='2'; expected a whole number"),
        ({"num_attention_heads": 5}, "heads=5 does not divide the width, 24"),
        ({"num_hidden_layers": 3}, "num_hidden_layers=3, and the weights 2"),
        ({"patch_size": 4}, r"patch_size=4, and the weights \[8, 8\]"),
        ({"image_size": 32}, "expected those of a grid of 4x4"),
        ({"image_size": [24, 24, 24]}, "expected one or two whole numbers"),
        ({"mask_ratio": 1.0}, "mask_ratio=1.0; expected a number of at least 0 and below 1"),
        ({"layer_norm_eps": 0}, "layer_norm_eps=0; expected a number above 0"),
    ],
)
def test_a_config_json_that_cannot_be_or_is_of_other_weights_is_refused(config, words):
    with pytest.raises(CheckpointError, match=words):
        read(peers.vitmae(transformers), **config)
