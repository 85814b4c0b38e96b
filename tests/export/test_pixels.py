"""Of a decoder that answers more than pixels, other programs get the pixels; of one that answers none, the encoder."""

import pytest
import torch
from export.tiny_runs import saved, tiny
from safetensors.torch import load_file

from mae_ext.errors import UserError
from mae_ext.export.weights import export
from mae_ext.features.encoder import load_encoder

SQUARE = {"size": [16, 16], "patch": [8, 8]}
TEACHER = {"name": "teacher", "of": "gone", "width": 24}


@pytest.fixture
def run(tmp_path):
    return lambda kind="image", **keys: saved(tmp_path / "run", tiny(kind, **keys))


def test_beside_pixels_something_else_stays_here_and_it_is_said(run, tmp_path):
    own = run(**SQUARE, target={**TEACHER, "pixels": 1, "normalize": "none"})
    exported = export(own, "mae", tmp_path / "mae.safetensors")
    theirs = load_file(exported.path)["decoder_pred.weight"]
    ours = load_encoder(own, device="cpu").model.state_dict()["modalities.image.predict.weight"]
    assert ours.shape[0] == 192 + 24 and torch.equal(theirs, ours[:192])
    assert "its decoder answers 'teacher' beside pixels; the pixels alone go along" in exported.remarks


def test_without_pixels_the_encoder_goes_alone(run, tmp_path):
    exported = export(run(**SQUARE, target=TEACHER), "timm", tmp_path / "vit.safetensors")
    assert exported.proof.holds and not [key for key in load_file(exported.path) if "decoder" in key]
    assert "its decoder answers 'teacher', no pixels, and stays behind" in exported.remarks


def test_a_program_that_is_nothing_without_a_decoder_refuses_one_without_pixels(run, tmp_path):
    with pytest.raises(UserError, match=r"has no decoder, and .* is none without; use monai-vit"):
        export(run("volume", size=[16, 16, 16], target=TEACHER), "monai-mae", tmp_path / "m")


def test_our_own_format_keeps_everything(run, tmp_path):
    own = run(target={**TEACHER, "pixels": 1})
    kept = load_file(export(own, "safetensors", tmp_path / "all.safetensors").path)
    ours = load_encoder(own, device="cpu").model.state_dict()
    assert kept.keys() == ours.keys() and all(torch.equal(kept[key], ours[key]) for key in kept)
