"""transformers' VideoMAE: its weights give its features, predictions, loss and gradients, and go back as they came."""

import json

import pytest
import torch
from interop.agreement import equal, model_of, opened, random_values, recognisers, same, samples
from safetensors.torch import save_file

from mae_ext.data.loading.statistics import IMAGENET
from mae_ext.errors import CheckpointError
from mae_ext.interop.files import read_foreign
from mae_ext.interop.format import Hints, format_of
from mae_ext.model.position import SequenceSinCos

transformers = pytest.importorskip("transformers", reason="the peer of this comparison, an optional library")

SHAPES = [(2, 6, (24, 40)), (1, 3, (40, 24)), (4, 12, (16, 56))]  # tubelet, frames, (height, width): grids of primes
NAME = "hf-videomae"


def settings(tubelet=2, frames=6, size=(24, 40), **other):
    return transformers.VideoMAEConfig(
        **{
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "intermediate_size": 192,
            "image_size": list(size),
            "patch_size": 8,
            "num_frames": frames,
            "tubelet_size": tubelet,
            "decoder_hidden_size": 36,
            "decoder_num_hidden_layers": 2,
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 144,
            "use_mean_pooling": False,
            "layer_norm_eps": 1e-5,
        }
        | other
    )


def peer(*shape, kind="VideoMAEForPreTraining", **other):
    return random_values(getattr(transformers, kind)(settings(*shape, **other)))


def origin_of(theirs):
    return opened(NAME, theirs.state_dict(), theirs.config.to_dict())


def pair(*shape, **other):
    theirs = peer(*shape, **other)
    return theirs, model_of(origin_of(theirs))


def clip(x):
    return x.transpose(1, 2)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_features_prediction_and_loss_agree_to_1e_5(shape):
    theirs, ours = pair(*shape)
    x, pixels, mask, hidden = samples(ours)
    with torch.no_grad():
        out = theirs(clip(pixels), bool_masked_pos=hidden)
        assert same(ours.encode_all(x), theirs.videomae(clip(pixels)).last_hidden_state)
        assert same(ours.predict(pixels, mask, ours.modality()), out.logits)
        assert abs(ours(x, mask) - out.loss) < 1e-5


@pytest.mark.parametrize(
    "other", [{"num_channels": 5}, {"layer_norm_eps": 1e-12}, {"layer_norm_eps": 1e-12, "qv_bias": False}], ids=str
)
def test_other_channels_their_epsilon_and_no_biases_move_the_loss_by_less_than_1e_5(other):
    """The last decoder norm of theirs has 1e-5 whatever the config says."""
    theirs, ours = pair(**other)
    x, pixels, mask, hidden = samples(ours)
    with torch.no_grad():
        assert abs(ours(x, mask) - theirs(clip(pixels), bool_masked_pos=hidden).loss) < 1e-5


def test_an_mlp_of_another_ratio_in_the_decoder_agrees():
    theirs, ours = pair(intermediate_size=100, decoder_intermediate_size=70)
    x, pixels, mask, hidden = samples(ours)
    with torch.no_grad():
        assert abs(ours(x, mask) - theirs(clip(pixels), bool_masked_pos=hidden).loss) < 1e-5


def test_gradients_agree_for_every_weight_that_theirs_has():
    theirs, ours = pair()
    x, pixels, mask, hidden = samples(ours)
    theirs(clip(pixels), bool_masked_pos=hidden).loss.backward()
    ours(x, mask).backward()
    # The map is linear in the weights, so it maps their gradients too.
    mapped = opened(NAME, {k: p.grad for k, p in theirs.named_parameters()}, theirs.config.to_dict()).weights
    for name, parameter in ours.named_parameters():
        theirs_has_it = mapped[name] != 0
        assert theirs_has_it.any() or name == "decoder.project.bias", name
        assert ((parameter.grad - mapped[name]) * theirs_has_it).abs().max() < 1e-5, name


def test_the_position_tables_of_both_are_the_same():
    theirs, ours = pair()
    modality, everything = ours.modality(), torch.arange(45)[None]
    assert isinstance(modality.position, SequenceSinCos)
    assert (theirs.videomae.embeddings.position_embeddings - modality.position(everything)).abs().max() < 1e-6
    assert (theirs.position_embeddings - modality.decoder_position(everything)).abs().max() < 1e-6


def test_their_config_becomes_ours_with_their_mask_and_statistics():
    theirs = peer(2, 16, (16, 16))
    assert recognisers(theirs.state_dict()) == [NAME]
    origin = origin_of(theirs)
    video, model = origin.config.modalities["video"], origin.config.model
    assert (video.size, video.patch, video.grid) == ((16, 16, 16), (2, 8, 8), (8, 2, 2))
    assert (video.mask.name, video.mask.arguments, video.data.reader.name) == ("tube", {"ratio": 0.9}, "video")
    assert video.data.statistics == IMAGENET
    assert (model.width, model.depth, model.heads, model.mlp_ratio, model.norm_eps) == (48, 2, 3, 4.0, 1e-5)
    assert (model.decoder.width, model.decoder.depth, model.decoder.heads) == (36, 2, 2)


@pytest.mark.parametrize("other", [{}, {"qv_bias": False}], ids=str)
def test_weights_go_back_bit_for_bit_and_from_pretrained_opens_them(other, tmp_path):
    theirs, ours = pair(**other)
    written = format_of(NAME).write(origin_of(theirs), "video")
    assert not equal(written.weights, theirs.state_dict()) and written.notes == ()
    save_file({k: v.contiguous() for k, v in written.weights.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(written.config))
    again = transformers.VideoMAEForPreTraining.from_pretrained(tmp_path).eval()
    x, pixels, _, hidden = samples(ours)
    with torch.no_grad():
        out = again(clip(pixels), bool_masked_pos=hidden)
        assert torch.equal(out.logits, theirs(clip(pixels), bool_masked_pos=hidden).logits)
        assert same(
            ours.encode_all(x), transformers.AutoModel.from_pretrained(tmp_path)(clip(pixels)).last_hidden_state
        )
        assert same(ours.encode_all(x), format_of(NAME).peer(written)(pixels))
    origin = format_of(NAME).read(read_foreign(tmp_path), Hints())
    assert not equal(origin.weights, ours.state_dict()) and origin.config == origin_of(theirs).config


def test_a_bare_encoder_goes_in_and_out(tmp_path):
    theirs = peer(kind="VideoMAEModel")
    assert recognisers(theirs.state_dict()) == [NAME]
    origin = origin_of(theirs)
    ours = model_of(origin)
    x, pixels, _, _ = samples(ours)
    written = format_of(NAME).write(origin, "video")
    assert not origin.decodes and not origin.left and not equal(written.weights, theirs.state_dict())
    with torch.no_grad():
        assert same(ours.encode_all(x), theirs(clip(pixels)).last_hidden_state)
        assert torch.equal(theirs(clip(pixels)).last_hidden_state, format_of(NAME).peer(written)(pixels))


def test_a_fine_tuned_model_gives_its_encoder_and_the_norm_that_follows_its_mean():
    """Theirs norms the mean, ours the tokens: what comes before is the same, and after it what theirs makes of each."""
    theirs = peer(kind="VideoMAEForVideoClassification", use_mean_pooling=True, num_labels=7)
    origin = origin_of(theirs)
    ours = model_of(origin)
    x, pixels, _, _ = samples(ours)
    with torch.no_grad():
        hidden = theirs.videomae(clip(pixels)).last_hidden_state
        before, after = ours.encode_layers(x, [2])
        assert same(before, hidden) and same(after, theirs.fc_norm(hidden))
    assert origin.left == dict.fromkeys(["classifier.weight", "classifier.bias"], "a head for classes")
    assert "its norm follows the mean over tokens" in origin.notes[0]
    plain = peer(kind="VideoMAEModel", use_mean_pooling=True)
    origin = origin_of(plain)
    assert "has no norm after its blocks" in origin.notes[0]
    with torch.no_grad():
        assert same(model_of(origin).encode_layers(x, [2])[0], plain(clip(pixels)).last_hidden_state)


@pytest.mark.parametrize("kind", ["VideoMAEForPreTraining", "VideoMAEForVideoClassification"])
def test_names_of_transformers_4_are_understood(kind):
    theirs = peer(kind=kind)
    state = theirs.state_dict()
    old = {k.replace(".query.bias", ".q_bias").replace(".value.bias", ".v_bias"): v for k, v in state.items()}
    assert old.keys() != state.keys()
    new = origin_of(theirs).weights
    assert not equal(opened(NAME, old, theirs.config.to_dict()).weights, new)


def test_a_file_alone_needs_to_be_told_its_size_and_heads_where_they_are_not_the_published_ones():
    theirs = peer()
    origin = opened(NAME, theirs.state_dict(), size=(6, 24, 40), heads=3, decoder_heads=2, eps=1e-5)
    assert origin.config.modalities == origin_of(theirs).config.modalities
    assert not equal(origin.weights, origin_of(theirs).weights)
    with pytest.raises(CheckpointError, match=r"how many heads there are is not in the file; say so: PATH::heads=N"):
        opened(NAME, theirs.state_dict(), size=(6, 24, 40))
    with pytest.raises(CheckpointError, match=r"clips of \[6, 24, 41\] are no tubelets of \[2, 8, 8\]"):
        opened(NAME, theirs.state_dict(), size=(6, 24, 41), heads=3, decoder_heads=2)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"norm_pix_loss": False}, "norm_pix_loss=False; only True"),
        ({"use_mean_pooling": True}, "use_mean_pooling=True; only False"),
        ({"hidden_act": "relu"}, "hidden_act=relu; only gelu"),
        ({"decoder_num_hidden_layers": 3}, "config.json says decoder_num_hidden_layers=3, and its weights say 2"),
        ({"hidden_size": 64}, "config.json says hidden_size=64, and its weights say 48"),
    ],
)
def test_settings_without_a_counterpart_or_of_other_weights_are_refused_by_name(setting, message):
    theirs = peer()
    with pytest.raises(CheckpointError, match=message):
        opened(NAME, theirs.state_dict(), theirs.config.to_dict() | setting)


def test_missing_damaged_and_unknown_weights_are_named():
    theirs = peer()
    weights, config = theirs.state_dict(), theirs.config.to_dict()
    for lost in ("decoder.head.bias", "videomae.encoder.layer.1.output.dense.weight", "mask_token"):
        with pytest.raises(CheckpointError, match=lost.replace(".", r"\.")):
            opened(NAME, {k: v for k, v in weights.items() if k != lost}, config)
    with pytest.raises(CheckpointError, match=r"'decoder\.norm\.bias' holds numbers that are not finite"):
        opened(NAME, weights | {"decoder.norm.bias": torch.full((36,), torch.nan)}, config)
    with pytest.raises(CheckpointError, match=r"'videomae\.pooler\.weight' is none of transformers VideoMAE"):
        opened(NAME, weights | {"videomae.pooler.weight": torch.ones(3)}, config)
    with pytest.raises(CheckpointError, match=r"layernorm_before\.bias' comes to the shape \[47\]; expected \[48\]"):
        opened(NAME, weights | {"videomae.encoder.layer.0.layernorm_before.bias": torch.ones(47)}, config)
