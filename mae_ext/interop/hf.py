"""transformers' `ViTMAEForPreTraining` and its `ViTMAEModel`, `ViTModel`, `ViTForImageClassification` and `PixioModel`.

Names: transformers 5.23, models/vit_mae, models/vit and models/pixio (modeling and configuration), and those of version
4, which files on its hub still carry. Their quirk: query, key and value are three matrices.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mae_ext.errors import CheckpointError
from mae_ext.interop.format import Foreign, Hints, Written
from mae_ext.interop.image import Facts, Names, expect, has_sines, read_image, write_image
from mae_ext.interop.mapping import Trunk
from mae_ext.interop.origin import Origin
from mae_ext.interop.timm import HALVES

ROLES = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
PARTS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attention.out": "attention.o_proj",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}
NAMES = Names(
    patches="embeddings.patch_embeddings.projection",
    places="embeddings.position_embeddings",
    tokens=("embeddings.cls_token",),
    trunk=Trunk("layers.{}", "layernorm", ROLES, PARTS),
    project="decoder.decoder_embed",
    mask="decoder.mask_token",
    decoder_places="decoder.decoder_pos_embed",
    decoder=Trunk("decoder.decoder_layers.{}", "decoder.decoder_norm", ROLES, PARTS),
    predict="decoder.decoder_pred",
)
VERSION_4 = {
    r"^encoder\.layer\.": "layers.",
    r"decoder_encoder\.layer\.": "decoder_layers.",
    r"attention\.attention\.query\.": "attention.q_proj.",
    r"attention\.attention\.key\.": "attention.k_proj.",
    r"attention\.attention\.value\.": "attention.v_proj.",
    r"attention\.output\.dense\.": "attention.o_proj.",
    r"\.intermediate\.dense\.": ".mlp.fc1.",
    r"\.output\.dense\.": ".mlp.fc2.",
    r"(layers\.\d+)\.norm1\.": r"\1.layernorm_before.",
    r"(layers\.\d+)\.norm2\.": r"\1.layernorm_after.",
}
"""Names of transformers 4 to those of transformers 5, tried in this order (its conversion_mapping.py; the norms are
Pixio's and DINOv2's). `save_pretrained` of 5.23 writes the old names, and "decoder_encoder.layer",
which none had before."""

WRAPPED = ("vit.", "pixio.", "encoder.", "dinov2.", "dinov2_with_registers.")
"""What stands before an encoder's names where a head, a decoder or a second norm is beside it."""

REFUSED = {
    ".distillation_token": "a distillation token (DeiT)",
    ".layer_scale": "layer scale (DINOv2); take its own file as dino:PATH",
    ".lambda_": "layer scale (BEiT)",
    ".weights_in.": "a gated MLP (SwiGLU)",
    ".gate_proj.": "a gated MLP (SwiGLU)",
    ".q_norm.": "a norm of queries",
    ".k_norm.": "a norm of keys",
    ".relative_position": "relative positions",
    ".layernorm_pre": "a norm before the blocks",
}
LEFT = {
    "pooler.": "the layer on the class token before a head",
    "vit.pooler.": "the layer on the class token before a head",
    "classifier.": "a head of theirs",
    "embeddings.mask_token": "stands for hidden patches where they pretrain",
    "vit.embeddings.mask_token": "stands for hidden patches where they pretrain",
    "layernorm.": "the norm of PixioBackbone's maps",
    "decoder.": "a decoder of another kind",
}


def _plain(file: Foreign, known: Names = NAMES) -> tuple[Foreign, Names]:
    """Names of transformers 5, and which of them are the encoder's; known: which are, where nothing is before them."""
    start = next((start for start in WRAPPED if f"{start}{NAMES.places}" in file.weights), "")
    weights = {}
    for name, weight in file.weights.items():
        new = name.removeprefix(start)
        for old, now in VERSION_4.items():
            new = re.sub(old, now, new)
        weights[name[: len(name) - len(name.removeprefix(start))] + new] = weight
    names = replace(
        known,
        patches=start + known.patches,
        places=start + known.places,
        tokens=tuple(start + name for name in known.tokens),
        trunk=replace(known.trunk, block=start + known.trunk.block, norm=f"{start}{known.trunk.norm}"),
    )
    return replace(file, weights=weights), names


def _kind(file: Foreign) -> str | None:
    """Which of the four a file is, or None: what config.json says; else a decoder or a table of sines is ViTMAE's,
    layer scale is DINOv2's, and several class tokens are Pixio's."""
    plain, names = _plain(file)
    kernel, table = plain.weights.get(f"{names.patches}.weight"), plain.weights.get(names.places)
    token, first = plain.weights.get(names.tokens[0]), f"{names.trunk.block.format(0)}.{ROLES[0]}.weight"
    if kernel is None or table is None or token is None or first not in plain.weights:
        return None
    if kernel.ndim != 4 or table.ndim != 3:
        return None
    if f"{names.trunk.block.format(0)}.layer_scale1.lambda1" in plain.weights:
        return "hf-dinov2"
    said = {one.model_type: one.name for one in (ViTMAE, ViT, Pixio)}.get(str(file.config.get("model_type")))
    if said is not None:
        return said
    if f"{names.project}.weight" in plain.weights:
        return ViTMAE.name
    if token.ndim == 3 and token.shape[1] > 1:
        return Pixio.name
    return ViTMAE.name if has_sines(table) else ViT.name


def _number(config: Mapping[str, Any], key: str, where: str) -> int | None:
    value = config.get(key)
    if value is not None and not (type(value) is int and value > 0):
        raise CheckpointError(f"{where}: config.json has {key}={value!r}; expected a whole number above 0")
    return value


def _pair(config: Mapping[str, Any], key: str, where: str) -> tuple[int, int] | None:
    """One number for both, or height and width."""
    value = config.get(key)
    pair: list[Any] = list(value) if isinstance(value, list | tuple) else [value] * 2
    if value is None:
        return None
    if len(pair) != 2 or not all(type(one) is int and one > 0 for one in pair):
        raise CheckpointError(f"{where}: config.json has {key}={value!r}; expected one or two whole numbers above 0")
    return (pair[0], pair[1])


def _one_or_both(pair: tuple[int, ...]) -> int | list[int]:
    return pair[0] if len(set(pair)) == 1 else list(pair)


class Transformers:
    """What the three have in common. model_type: of config.json, which gives sizes, heads and epsilon."""

    name: str
    title: str
    model_type: str
    eps: float
    package = "transformers"
    names = NAMES

    def recognises(self, file: Foreign) -> bool:
        return _kind(file) == self.name

    def read(self, file: Foreign, hints: Hints) -> Origin:
        config, where = file.config, file.where
        if (act := config.get("hidden_act", "gelu")) != "gelu":
            raise CheckpointError(f"{where}: config.json has hidden_act={act!r}; only 'gelu' is what blocks here have")
        eps = config.get("layer_norm_eps", self.eps)
        if not (isinstance(eps, float | int) and eps > 0):
            raise CheckpointError(f"{where}: config.json has layer_norm_eps={eps!r}; expected a number above 0")
        facts = Facts(
            self.name,
            self.title,
            eps,
            heads=_number(config, "num_attention_heads", where),
            decoder_heads=_number(config, "decoder_num_attention_heads", where),
            size=_pair(config, "image_size", where),
            refused=REFUSED,
            left=LEFT,
        )
        plain, names = _plain(file, self.names)
        origin = read_image(plain, hints, names, self.settled(facts, file))
        _agree(file, origin)
        return origin

    def settled(self, facts: Facts, file: Foreign) -> Facts:
        """What this one has besides."""
        del file
        return facts

    def common(self, origin: Origin, name: str, architecture: str) -> dict[str, Any]:
        """Of config.json."""
        model, modality = origin.config.model, origin.config.modalities[name]
        return {
            "architectures": [architecture], "model_type": self.model_type, "hidden_size": model.width,
            "num_hidden_layers": model.depth, "num_attention_heads": model.heads, "hidden_act": "gelu",
            "layer_norm_eps": model.norm_eps, "image_size": _one_or_both(modality.size),
            "patch_size": _one_or_both(modality.patch), "num_channels": modality.channels, "qkv_bias": True,
            "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        }  # fmt: skip

    def built(self, written: Written, **settings: Any) -> Any:
        """Their model in eval mode, or None where transformers is not installed."""
        try:
            import transformers  # optional
        except ImportError:
            return None
        config = {**written.config, **settings}
        architecture = config.pop("architectures")[0]
        made = getattr(transformers, CONFIGS[config.pop("model_type")])(**config)
        extra = {"add_pooling_layer": False} if architecture == "ViTModel" else {}
        model = getattr(transformers, architecture)(made, **extra)
        model.load_state_dict(dict(written.weights))
        return model.eval()

    def peer(self, written: Written) -> Callable[[Tensor], Tensor] | None:
        model = self.built(written)
        return None if model is None else torch.no_grad()(lambda x: model(x).last_hidden_state)


CONFIGS = {"vit_mae": "ViTMAEConfig", "vit": "ViTConfig", "pixio": "PixioConfig"}
CONFIGS |= {"dinov2": "Dinov2Config", "dinov2_with_registers": "Dinov2WithRegistersConfig"}


def _agree(file: Foreign, origin: Origin) -> None:
    """Raises CheckpointError for a config.json that is of other weights than those beside it."""
    model, image = origin.config.model, origin.config.modalities["image"]
    for key, value in {
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_channels": image.channels,
        "n_cls_tokens": int(model.class_token),
        **({"decoder_hidden_size": model.decoder.width} if origin.decodes else {}),
        **({"decoder_num_hidden_layers": model.decoder.depth} if origin.decodes else {}),
    }.items():
        if file.config.get(key, value) != value:
            raise CheckpointError(f"{file.where}: config.json has {key}={file.config[key]}, and the weights {value}")
    if _pair(file.config, "patch_size", file.where) not in (None, image.patch):
        raise CheckpointError(
            f"{file.where}: config.json has patch_size={file.config['patch_size']}, and the weights {list(image.patch)}"
        )


class ViTMAE(Transformers):
    """`ViTMAEForPreTraining`, or its encoder alone, which are also MAE's published weights in another naming."""

    name, title, model_type, eps = "hf-vitmae", "transformers' ViTMAE", "vit_mae", 1e-12

    def settled(self, facts: Facts, file: Foreign) -> Facts:
        """A ratio of 0, with which theirs gives features, is no ratio to train with: then MAE's is taken."""
        normalize = "mae" if file.config.get("norm_pix_loss", False) else "none"
        ratio = file.config.get("mask_ratio", 0.75)
        if not (isinstance(ratio, float | int) and 0 <= ratio < 1):
            raise CheckpointError(
                f"{file.where}: config.json has mask_ratio={ratio!r}; expected a number of at least 0 and below 1"
            )
        return replace(facts, decodes=True, normalize=normalize, ratio=ratio or 0.75)

    def write(self, origin: Origin, name: str) -> Written:
        expect(origin, name, self.title)
        model, modality = origin.config.model, origin.config.modalities[name]
        weights = write_image(origin, name, NAMES, 1, (1,))
        if origin.decodes:
            weights = {k if k.startswith("decoder.") else f"vit.{k}": weight for k, weight in weights.items()}
        assert model.width
        target = modality.target.arguments.get("normalize", "mae")
        config = self.common(origin, name, "ViTMAEForPreTraining" if origin.decodes else "ViTMAEModel") | {
            "intermediate_size": int(model.width * model.mlp_ratio), "decoder_hidden_size": model.decoder.width,
            "decoder_num_hidden_layers": model.decoder.depth, "decoder_num_attention_heads": model.decoder.heads,
            "decoder_intermediate_size": int(model.decoder.width * model.mlp_ratio),
            "mask_ratio": modality.mask.arguments.get("ratio", 0.75), "norm_pix_loss": target != "none",
        }  # fmt: skip
        other = origin.decodes and (modality.target.name != "pixel" or target not in ("none", "mae"))
        notes = (f"its decoder answers {modality.target.model_dump()}, and their loss is of another target",) * other
        return Written(weights, config, notes)

    def peer(self, written: Written) -> Callable[[Tensor], Tensor] | None:
        """Without masks, which theirs draws in eval mode, too."""
        model = self.built(written, mask_ratio=0.0)
        if model is None:
            return None
        encoder = getattr(model, "vit", model)

        def features(x: Tensor) -> Tensor:
            count = encoder.embeddings.patch_embeddings.num_patches
            out: Tensor = encoder(x, noise=torch.arange(count).float().expand(len(x), -1)).last_hidden_state
            return out

        return torch.no_grad()(features)


class ViT(Transformers):
    """`ViTModel`, alone or within `ViTForImageClassification`."""

    name, title, model_type, eps = "hf-vit", "transformers' ViT", "vit", 1e-12

    def settled(self, facts: Facts, file: Foreign) -> Facts:
        del file
        return replace(facts, statistics=HALVES)

    def write(self, origin: Origin, name: str) -> Written:
        """Strictly `ViTModel(config, add_pooling_layer=False)`'s."""
        expect(origin, name, self.title, square=False)
        model = origin.config.model
        assert model.width
        config = self.common(origin, name, "ViTModel") | {"intermediate_size": int(model.width * model.mlp_ratio)}
        weights = write_image(replace(origin, decodes=False), name, NAMES, 1, (1,))
        return Written(weights, config, ("it has no pooling layer (add_pooling_layer=False)",))


class Pixio(Transformers):
    """`PixioModel`: several class tokens, each with a place of its own."""

    name, title, model_type, eps = "hf-pixio", "transformers' Pixio", "pixio", 1e-6

    def write(self, origin: Origin, name: str) -> Written:
        expect(origin, name, self.title, tokens=None)
        model = origin.config.model
        count = int(model.class_token)
        if not count or model.mlp_ratio != int(model.mlp_ratio):
            key = "mlp_ratio" if count else "class_token"
            raise CheckpointError(
                f"{origin.where}: {self.title} has class tokens and a whole mlp_ratio; model.{key} is "
                f"{getattr(model, key)}"
            )
        config = self.common(origin, name, "PixioModel") | {"mlp_ratio": int(model.mlp_ratio), "n_cls_tokens": count}
        return Written(write_image(replace(origin, decodes=False), name, NAMES, count, (count,)), config)
