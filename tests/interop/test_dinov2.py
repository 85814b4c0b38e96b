"""transformers' DINOv2, with registers and without: features of random models agree, in and out."""

import pytest
import torch
from interop import peers
from interop.taken import different, model_of, names_of

from mae_ext.errors import CheckpointError
from mae_ext.interop.format import Foreign, Hints, format_of

transformers = pytest.importorskip("transformers", reason="the peer of this comparison, an optional library")

ONE = format_of("hf-dinov2")
KINDS = ("Dinov2Model", "Dinov2WithRegistersModel")


def read(theirs, **config):
    return ONE.read(Foreign(theirs.state_dict(), "folder", theirs.config.to_dict() | config), Hints())


@pytest.mark.parametrize("kind", KINDS)
def test_features_agree_in_and_out_and_only_what_is_folded_comes_back_as_another_tensor(kind):
    theirs, x = peers.dinov2(transformers, kind), peers.pixels()
    origin = read(theirs)
    with torch.no_grad():
        hidden, ours = theirs(x).last_hidden_state, model_of(origin).encode_all(x)
    assert hidden.std() > 0.2 and (ours - hidden).abs().max() < 1e-5
    assert origin.left.keys() == {"embeddings.mask_token"}
    written = ONE.write(origin, "image")
    assert written.weights.keys() == theirs.state_dict().keys()
    assert (ONE.peer(written)(x) - hidden).abs().max() < 1e-5
    folded = ("cls_token", "position_embeddings", "mask_token", "lambda1", "o_proj.weight", "o_proj.bias", "fc2.weight")
    changed = different(theirs.state_dict(), written.weights)
    assert changed and all(name.endswith((*folded, "fc2.bias")) for name in changed)
    again = ONE.read(Foreign(written.weights, "folder", written.config), Hints())
    assert not different(again.weights, origin.weights) and again.config == origin.config


@pytest.mark.parametrize("kind", KINDS)
def test_a_bare_file_is_recognised_under_the_names_of_both_versions(kind):
    weights = peers.dinov2(transformers, kind).state_dict()

    def older(name):
        for new, role in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
            name = name.replace(f"attention.{new}", f"attention.attention.{role}")
        return name.replace("attention.o_proj", "attention.output.dense")

    old = {older(name): weight for name, weight in weights.items()}
    assert names_of(weights) == names_of(old) == ["hf-dinov2"]
    one, other = (ONE.read(Foreign(each, "file"), Hints(heads=2)) for each in (weights, old))
    assert not different(one.weights, other.weights)


def test_a_gated_mlp_is_refused_by_name():
    with pytest.raises(CheckpointError, match="use_swiglu_ffn"):
        read(peers.dinov2(transformers), use_swiglu_ffn=True)
    gated = peers.dinov2(transformers, use_swiglu_ffn=True).state_dict()
    with pytest.raises(CheckpointError, match="gated MLP"):
        ONE.read(Foreign(gated, "file"), Hints(heads=2))
