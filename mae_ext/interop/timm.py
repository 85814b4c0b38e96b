"""Layouts of timm's `VisionTransformer`: timm itself, MAE of facebookresearch, DINO and DINOv2.

Names: rwightman/timm, models/vision_transformer; facebookresearch/mae, models_mae.py and models_vit.py;
facebookresearch/dino, vision_transformer; facebookresearch/dinov2, models/vision_transformer. Norms have 1e-6 in all
of them.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mae_ext.config import Statistics
from mae_ext.errors import CheckpointError
from mae_ext.interop.format import Foreign, Hints, Written
from mae_ext.interop.image import Facts, Names, expect, has_sines, read_image, write_image
from mae_ext.interop.mapping import TIMM, Trunk
from mae_ext.interop.origin import Origin

EPS = 1e-6
HALVES = Statistics(mean=(0.5,) * 3, std=(0.5,) * 3)
"""timm's default for its ViTs (IMAGENET_INCEPTION_MEAN in its vision_transformer)."""

NAMES = Names(
    patches="patch_embed.proj",
    places="pos_embed",
    tokens=("cls_token", "reg_token", "register_tokens"),
    trunk=Trunk("blocks.{}", "norm", "attn.qkv", TIMM),
    project="decoder_embed",
    mask="mask_token",
    decoder_places="decoder_pos_embed",
    decoder=Trunk("decoder_blocks.{}", "decoder_norm", "attn.qkv", TIMM),
    predict="decoder_pred",
)
SCALES = ("ls1.gamma", "ls2.gamma")

REFUSED = {
    ".dist_token": "a distillation token (DeiT)",
    ".norm_pre.": "a norm before the blocks (CLIP)",
    ".patch_embed.norm.": "a norm of patches",
    ".patch_embed.backbone.": "a convolutional network before the blocks",
    ".attn.q_norm.": "a norm of queries",
    ".attn.k_norm.": "a norm of keys",
    ".attn.norm.": "a norm within attention",
    ".attn.rel_pos": "relative positions",
    ".attn.relative_position": "relative positions",
    ".mlp.w12.": "a gated MLP (SwiGLU)",
    ".mlp.w1.": "a gated MLP (SwiGLU)",
    ".mlp.fc1_g.": "a gated MLP (SwiGLU)",
    ".mlp.norm.": "a norm within the MLP",
}
TANH = "GELU by a tanh"
OTHERS = {
    "_rpn_": "norms after its layers",
    "quickgelu": "GELU by a sigmoid",
    "so400m": TANH,
    "giantopt": TANH,
    "patch32_siglip": TANH,
}
"""Architectures of timm whose weights have a ViT's names and which compute something else (its vision_transformer).
In a bare file nothing tells them."""

LEFT = {
    "head": "a head of theirs",
    "fc_norm.": "the norm before their head",
    "attn_pool.": "the attention that pools before their head",
    "pre_logits.": "a layer before their head",
    "mask_token": "stands for hidden patches where they pretrain",
    "dino_head.": "a head of theirs",
    "ibot_head.": "a head of theirs",
}


def _plain(file: Foreign) -> Foreign:
    """Names without the wrappers of training: DINO's "backbone.", beside heads, and DINOv2's chunks of blocks
    ("blocks.1.6." is block 6)."""
    weights, start = dict(file.weights), "backbone."
    if any(name.startswith(f"{start}blocks.") for name in weights):
        weights = {name.removeprefix(start): weight for name, weight in weights.items()}
    chunk = re.compile(r"^blocks\.\d+\.(\d+)\.")
    return replace(file, weights={chunk.sub(r"blocks.\1.", name): weight for name, weight in weights.items()})


def _kind(file: Foreign) -> str | None:
    """Which of the three a file is, or None: a decoder or a table of sines is MAE's, layer scale and DINO's tokens and
    heads are DINO's, and all others are timm's."""
    weights = _plain(file).weights
    kernel, table = weights.get("patch_embed.proj.weight"), weights.get("pos_embed")
    if kernel is None or kernel.ndim != 4 or table is None or table.ndim != 3 or "blocks.0.norm1.weight" not in weights:
        return None
    if "decoder_embed.weight" in weights or ("cls_token" in weights and has_sines(table)):
        return "mae"
    marks = ("blocks.0.ls1.gamma", "register_tokens", "head.last_layer.weight_v", "dino_head.last_layer.weight_v")
    return "dino" if any(mark in weights for mark in marks) else "timm"


def _beside(file: Foreign) -> tuple[Foreign, Mapping[str, Any]]:
    """timm's config.json (its models/_hub), where there is one: statistics as a processor says them, and arguments."""
    if "architecture" not in file.config:
        return file, {}
    data = file.config.get("pretrained_cfg", file.config)
    arguments = file.config.get("model_args", {})
    known = {"image_mean": data.get("mean"), "image_std": data.get("std")} if isinstance(data, Mapping) else {}
    name = str(file.config["architecture"])
    if (other := next((what for part, what in OTHERS.items() if part in name), None)) is not None:
        raise CheckpointError(
            f"{file.where}: config.json has the architecture '{name}', with {other}; blocks here differ"
        )
    return replace(file, processor={**known, **file.processor}), arguments if isinstance(arguments, Mapping) else {}


def _read(file: Foreign, hints: Hints, facts: Facts) -> Origin:
    file, arguments = _beside(_plain(file))
    weights, trunk, notes = file.weights, NAMES.trunk, facts.notes
    up, down = (weights.get(f"blocks.0.mlp.{layer}.weight", torch.empty(0, 0)) for layer in ("fc1", "fc2"))
    if up.ndim == down.ndim == 2 and len(up) == 2 * down.shape[1] > 0:
        raise CheckpointError(
            f"{file.where}: 'blocks.0.mlp.fc1.weight' is of a gated MLP (SwiGLU), which no block here has"
        )
    if "norm.weight" not in weights and "fc_norm.weight" in weights:
        trunk = replace(trunk, norm="fc_norm")
        notes = (*notes, "their last norm is of the mean over tokens (fc_norm); here each token is normed by it")
    if "blocks.0.ls1.gamma" in weights:
        trunk = replace(trunk, scales=SCALES)
    left = dict(LEFT)
    if (head := weights.get("head.weight")) is not None:
        left["head"] = f"a head for {len(head)} classes"
    if not facts.decodes:
        left["decoder_"] = "a decoder; mae:PATH takes it"
        # timm's registers go with a table of patches alone (no_embed_class), DINOv2's with a row for the class token.
        facts = replace(facts, rows=(0, None) if "reg_token" in weights else (1, 0))
    elif "decoder_embed.weight" in weights:
        notes = (*notes, "its decoder's target is taken to be normalised patches (--norm_pix_loss), which no file says")
    heads = arguments.get("num_heads")
    facts = replace(facts, heads=heads if isinstance(heads, int) else None, refused=REFUSED, left=left, notes=notes)
    return read_image(file, hints, replace(NAMES, trunk=trunk), facts)


def _notes(origin: Origin) -> tuple[str, ...]:
    eps = origin.config.model.norm_eps
    return () if eps == EPS else (f"norms here add {eps:g}, theirs {EPS:g}: build theirs with that eps",)


class MAE:
    """facebookresearch/mae, `.pth`: what it pretrained with its decoder or without, and what it fine-tuned."""

    name, title, package = "mae", "facebookresearch's MAE", None

    def recognises(self, file: Foreign) -> bool:
        return _kind(file) == self.name

    def read(self, file: Foreign, hints: Hints) -> Origin:
        """Tables of sines (w before h, as our own) are not kept; fine-tuned ones are learned positions."""
        return _read(file, hints, Facts(self.name, self.title, EPS, decodes=True))

    def write(self, origin: Origin, name: str) -> Written:
        """Strictly `models_mae`'s with a decoder, `models_vit`'s (num_classes=0) without."""
        expect(origin, name, self.title, tokens=1)
        return Written(write_image(origin, name, NAMES, 1, (1,)), notes=_notes(origin))

    def peer(self, written: Written) -> None:
        """There is no package."""
        del written


class ViT:
    """timm's `VisionTransformer`, class and register tokens included, in a bare file or in a folder of its hub."""

    name, title, package = "timm", "timm's VisionTransformer", "timm"

    def recognises(self, file: Foreign) -> bool:
        return _kind(file) == self.name

    def read(self, file: Foreign, hints: Hints) -> Origin:
        facts = Facts(self.name, self.title, EPS, bare=True, statistics=HALVES)
        return _read(file, hints, facts)

    def write(self, origin: Origin, name: str) -> Written:
        """With a config.json for `timm.create_model("local-dir:FOLDER")`. Several class tokens are one, and registers;
        then, or with none, the table is of patches alone (no_embed_class)."""
        expect(origin, name, self.title, square=False, tokens=None)
        model, modality = origin.config.model, origin.config.modalities[name]
        count = int(model.class_token)
        weights = write_image(replace(origin, decodes=False), name, NAMES, int(count == 1), (1, count - 1)[:count])
        arguments = {
            "img_size": list(modality.size), "patch_size": list(modality.patch), "in_chans": modality.channels,
            "embed_dim": model.width, "depth": model.depth, "num_heads": model.heads, "mlp_ratio": model.mlp_ratio,
            "class_token": count > 0, "reg_tokens": max(0, count - 1), "no_embed_class": count != 1,
            "global_pool": "token" if count else "avg", "fc_norm": False,
        }  # fmt: skip
        data: dict[str, Any] = {
            "input_size": [modality.channels, *modality.size], "fixed_input_size": True, "crop_pct": 1.0,
            "num_classes": 0, "first_conv": "patch_embed.proj", "classifier": "head",
        }  # fmt: skip
        said = modality.data.statistics
        for key in ("mean", "std"):  # those that were measured are beside the weights
            measured = origin.weights[f"modalities.{name}.{key}"].tolist()
            data[key] = list(getattr(said, key)) if isinstance(said, Statistics) else measured
        config = {
            "architecture": "vit_base_patch16_224", "num_classes": 0, "num_features": model.width,
            "global_pool": arguments["global_pool"], "model_args": arguments, "pretrained_cfg": data,
        }  # fmt: skip
        return Written(weights, config, _notes(origin))

    def peer(self, written: Written) -> Callable[[Tensor], Tensor] | None:
        try:
            from timm.models.vision_transformer import VisionTransformer  # optional
        except ImportError:
            return None
        model = VisionTransformer(num_classes=0, **written.config["model_args"])
        model.load_state_dict(dict(written.weights))
        features: Callable[[Tensor], Tensor] = model.eval().forward_features
        return torch.no_grad()(features)


class DINO:
    """facebookresearch's DINO and DINOv2: layer scale and registers, bare or as their training keeps them."""

    name, title, package = "dino", "facebookresearch's DINO", None

    def recognises(self, file: Foreign) -> bool:
        return _kind(file) == self.name

    def read(self, file: Foreign, hints: Hints) -> Origin:
        """Registers stand between the class token and the patches."""
        facts = Facts(self.name, self.title, EPS, bare=True)
        return _read(file, hints, facts)

    def write(self, origin: Origin, name: str) -> Written:
        """Strictly DINOv2's (block_chunks=0): layer scale of ones, and a mask token of zeros: nothing here has one."""
        expect(origin, name, self.title, tokens=None)
        model = origin.config.model
        count, width = int(model.class_token), model.width or 0
        if not count:
            raise CheckpointError(f"{origin.where}: {self.title} has a class token; model.class_token is false")
        names = replace(NAMES, tokens=("cls_token", "register_tokens"), trunk=replace(NAMES.trunk, scales=SCALES))
        weights = write_image(replace(origin, decodes=False), name, names, 1, (1, count - 1)[:count])
        notes = (*_notes(origin), "layer scale is one everywhere, and their mask token zero: nothing here has one")
        return Written(weights | {"mask_token": torch.zeros(1, width)}, notes=notes)

    def peer(self, written: Written) -> None:
        """There is no package."""
        del written
