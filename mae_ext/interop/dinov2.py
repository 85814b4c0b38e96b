"""transformers' `Dinov2Model` and `Dinov2WithRegistersModel` (5.23, models/dinov2 and models/dinov2_with_registers).

Their quirk beside those of transformers' ViT is layer scale, which is multiplied into the layers here; the gated MLP of
the largest is refused by name.
"""

from dataclasses import replace

import torch

from mae_ext.errors import CheckpointError
from mae_ext.interop.format import Foreign, Written
from mae_ext.interop.hf import NAMES, REFUSED, Transformers
from mae_ext.interop.image import Facts, Names, expect, write_image
from mae_ext.interop.mapping import Trunk
from mae_ext.interop.origin import Origin

SCALES = ("layer_scale1.lambda1", "layer_scale2.lambda1")
PARTS = {"norm1": "norm1", "norm2": "norm2", "attention.out": "attention.o_proj", "mlp.up": "mlp.fc1"}
PARTS |= {"mlp.down": "mlp.fc2"}
TOKENS = ("embeddings.cls_token", "embeddings.register_tokens")


class DINOv2(Transformers):
    """Registers become further class tokens: they have no place in the table, and stand before the patches."""

    name, title, model_type, eps = "hf-dinov2", "transformers' DINOv2", "dinov2", 1e-6
    names: Names = replace(NAMES, tokens=TOKENS, trunk=replace(NAMES.trunk, scales=SCALES))

    def settled(self, facts: Facts, file: Foreign) -> Facts:
        if file.config.get("use_swiglu_ffn"):
            raise CheckpointError(f"{file.where}: config.json has use_swiglu_ffn, a gated MLP, which no block here has")
        refused = {part: what for part, what in REFUSED.items() if part != ".layer_scale"}
        return replace(facts, rows=(1, None), refused=refused)

    def write(self, origin: Origin, name: str) -> Written:
        """Strictly theirs: layer scale of ones, and a mask token of zeros."""
        expect(origin, name, self.title, tokens=None)
        model = origin.config.model
        count, width = int(model.class_token), model.width or 0
        if not count or model.mlp_ratio != int(model.mlp_ratio):
            key = "mlp_ratio" if count else "class_token"
            raise CheckpointError(
                f"{origin.where}: {self.title} has a class token and a whole mlp_ratio; model.{key} is "
                f"{getattr(model, key)}"
            )
        trunk = Trunk("encoder.layer.{}", "layernorm", self.names.trunk.qkv, PARTS, SCALES)
        weights = write_image(
            replace(origin, decodes=False), name, replace(self.names, trunk=trunk), 1, (1, count - 1)[:count]
        )
        weights["embeddings.mask_token"] = torch.zeros(1, width)
        config = self.common(origin, name, "Dinov2WithRegistersModel" if count > 1 else "Dinov2Model")
        config |= {"mlp_ratio": int(model.mlp_ratio), "layerscale_value": 1.0, "use_swiglu_ffn": False}
        if count > 1:
            config |= {"model_type": "dinov2_with_registers", "num_register_tokens": count - 1}
        notes = ("layer scale is one everywhere, and their mask token zero: nothing here has one",)
        return Written(weights, config, notes)
