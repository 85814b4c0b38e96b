"""Weights of VideoMAE: as transformers names them (`hf-videomae`), and as its authors do (`videomae`).

What differs from ours and how it is met: keys have no bias, which changes nothing in a softmax (ours is set to 0);
neither has the map into the decoder (ours is set to 0); positions are one fixed sequence over all tokens (our
`sequence`), kept in no file; targets are normalised per channel (our `channel`). Encoders that pool have no norm after
their blocks but one after the mean (`fc_norm`): ours norms each token with it. The last decoder norm of transformers
has an epsilon of 1e-5 whatever its config says, so predictions agree to rounding only where layer_norm_eps is 1e-5 as
well, and to about 1e-5 otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from math import prod
from typing import Any

import torch
from torch import Tensor

from mae_ext.errors import CheckpointError
from mae_ext.interop.clips import (
    DECODER_HEADS,
    NAME,
    NO_KEY_BIAS,
    POOLED,
    clips,
    depths_of,
    give_biases,
    give_ends,
    kept_decoder,
    put_ends,
    put_norm,
    unplaced,
)
from mae_ext.interop.deduced import model_of, or_else, origin_of, with_axes
from mae_ext.interop.format import Foreign, Hints, Written
from mae_ext.interop.mapping import TIMM, Ours, Theirs, Trunk, positions_like
from mae_ext.interop.origin import Origin

HF_PROJECTION = "videomae.embeddings.patch_embeddings.projection"
HF_ROLES = ("attention.attention.query", "attention.attention.key", "attention.attention.value")
HF_PARTS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attention.out": "attention.output.dense",
    "mlp.up": "intermediate.dense",
    "mlp.down": "output.dense",
}
HF_TRUNKS = {
    "encoder": Trunk("videomae.encoder.layer.{}", None, HF_ROLES, HF_PARTS),
    "decoder": Trunk("decoder.decoder_layers.{}", "decoder.norm", HF_ROLES, HF_PARTS),
}
VERSION_4 = {".attention.q_bias": ".attention.query.bias", ".attention.v_bias": ".attention.value.bias"}
"""Names of transformers 4, which files on its hub still carry, to those of transformers 5."""


class Transformers:
    """transformers' VideoMAEForPreTraining, VideoMAEModel and VideoMAEForVideoClassification.

    Names and sizes: transformers 5, models/videomae/modeling_videomae.py.
    """

    name = "hf-videomae"
    title = "transformers VideoMAE"
    package: str | None = "transformers"

    EPS = 1e-12
    """Of VideoMAEConfig, where no config is beside the weights."""

    def recognises(self, file: Foreign) -> bool:
        names = (HF_PROJECTION, HF_PROJECTION.removeprefix("videomae."))
        kernels = [file.weights[f"{name}.weight"] for name in names if f"{name}.weight" in file.weights]
        return any(kernel.ndim == 5 for kernel in kernels)

    def read(self, file: Foreign, hints: Hints) -> Origin:
        theirs, config = Theirs(self._renamed(file.weights), self.title, file.where), file.config
        notes: list[str] = []
        decodes = any(name.startswith(("decoder.", "encoder_to_decoder.")) for name in theirs.weights)
        self._refuse(config, decodes, theirs.has("videomae.layernorm.weight"), file.where)
        for part in ("encoder", *["decoder"] * decodes):
            theirs.put_trunk(part, HF_TRUNKS[part])
        convolution = put_ends(theirs, NAME, HF_PROJECTION, "decoder.head" if decodes else None)
        put_norm(theirs, {"videomae.layernorm": "", "fc_norm": POOLED}, notes)
        left = theirs.left({"classifier.": "a head for classes", "fc_norm.": "a norm of pooled features"})
        size = [config[key] for key in ("num_frames", "image_size") if key in config]
        hints = or_else(
            hints,
            heads=config.get("num_attention_heads"),
            decoder_heads=config.get("decoder_num_attention_heads"),
            size=(size[0], *_pair(size[1])) if len(size) == 2 and hints.grid is None else None,
        )
        modality = clips(file, hints, convolution)
        model = model_of(theirs.ours, hints, file.where, config.get("layer_norm_eps", self.EPS), DECODER_HEADS)
        self._compare(config, model, theirs.ours, file.where)
        return origin_of(theirs, file, self.name, (NAME, modality, model), left, tuple(notes))

    def write(self, origin: Origin, name: str) -> Written:
        modality, ours, notes = unplaced(origin, name, self.title), Ours(origin.weights), list[str]()
        decodes = kept_decoder(origin, modality, notes)
        frames, *patch = modality.patch
        if patch[0] != patch[1] and decodes:
            decodes, notes = (
                False,
                [*notes, f"the encoder alone: its decoder has no patches of {patch}, that are not square"],
            )
        model = origin.config.model
        config = {
            "model_type": "videomae",
            "architectures": ["VideoMAEForPreTraining" if decodes else "VideoMAEModel"],
            "num_frames": modality.size[0],
            "image_size": _one(modality.size[1:]),
            "tubelet_size": frames,
            "patch_size": _one(patch),
            "num_channels": modality.channels,
            "hidden_size": model.width,
            "num_hidden_layers": model.depth,
            "num_attention_heads": model.heads,
            "layer_norm_eps": model.norm_eps,
            "use_mean_pooling": False,
            "norm_pix_loss": True,
        }
        lost, parts = False, depths_of(origin, decodes)
        for part, depth in parts.items():
            trunk = HF_TRUNKS[part]
            ours.give_trunk(part, trunk, depth)
            for i in range(depth):
                block, (query, key, value) = trunk.block.format(i), HF_ROLES
                del ours.theirs[f"{block}.{key}.bias"]
                lost |= give_biases(ours, block, part, i, (f"{query}.bias", f"{value}.bias"))
            config[f"{part}_intermediate_size".removeprefix("encoder_")] = len(
                ours.weights[f"{part}.trunk.blocks.0.mlp.up.weight"]
            )
        ours.give("encoder.trunk.norm", "videomae.layernorm")
        give_ends(ours, name, modality, HF_PROJECTION, "decoder.head" if decodes else None)
        biases = [key for key in ours.theirs if key.endswith((f"{HF_ROLES[0]}.bias", f"{HF_ROLES[2]}.bias"))]
        config["qv_bias"] = any(ours.theirs[key].any() for key in biases)
        weights = {key: tensor for key, tensor in ours.theirs.items() if config["qv_bias"] or key not in biases}
        if decodes:
            wide = model.decoder
            config |= {"decoder_hidden_size": wide.width, "decoder_num_hidden_layers": wide.depth}
            config |= {"decoder_num_attention_heads": wide.heads}
        else:
            weights = {key.removeprefix("videomae."): tensor for key, tensor in weights.items()}
        return Written(weights, config, (*notes, *[NO_KEY_BIAS] * lost))

    def peer(self, written: Written) -> Callable[[Tensor], Tensor] | None:
        if find_spec("transformers") is None:
            return None
        from transformers import VideoMAEConfig, VideoMAEModel

        model = VideoMAEModel(VideoMAEConfig(**{k: v for k, v in written.config.items() if k != "model_type"}))
        model.train(False)
        own = model.state_dict()
        named = {key.removeprefix("videomae."): tensor for key, tensor in written.weights.items()}
        model.load_state_dict({key: tensor for key, tensor in named.items() if key in own})

        def features(x: Tensor) -> Tensor:
            """(B, C, T, H, W) -> (B, N, D)."""
            out: Tensor = model(x.transpose(1, 2)).last_hidden_state
            return out

        return features

    def _renamed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As version 5 names them, and a bare VideoMAEModel's as part of the others'."""
        bare = f"{HF_PROJECTION}.weight" not in weights
        named = {}
        for theirs, tensor in weights.items():
            name = theirs
            for old, new in VERSION_4.items():
                name = name.replace(old, new)
            named["videomae." * (bare and name.startswith(("embeddings.", "encoder.", "layernorm."))) + name] = tensor
        return named

    def _refuse(self, config: Mapping[str, Any], decodes: bool, normed: bool, where: str) -> None:
        """What has no counterpart here: of a decoder, pixels as they are (inputs are normalised and those targets are
        not) and no norm in front of it; other activations."""
        wanted = {"hidden_act": "gelu"} | ({"norm_pix_loss": True, "use_mean_pooling": False} if decodes else {})
        for key, value in wanted.items():
            if config.get(key, value) != value:
                raise CheckpointError(f"{where}: {key}={config[key]}; only {value} can be taken")
        if decodes and not normed:
            raise CheckpointError(
                f"{where}: no weight 'videomae.layernorm.weight': a decoder behind an encoder without a norm "
                f"(use_mean_pooling=True) has no counterpart here"
            )

    def _compare(
        self, config: Mapping[str, Any], model: Mapping[str, Any], ours: Mapping[str, Tensor], where: str
    ) -> None:
        """Raises CheckpointError where a config.json speaks of another model than the weights are."""
        for part, start, sizes in (("encoder", "", model), ("decoder", "decoder_", model.get("decoder"))):
            if sizes is None:
                continue
            hidden = len(ours[f"{part}.trunk.blocks.0.mlp.up.weight"])
            actual = {"hidden_size": sizes["width"], "num_hidden_layers": sizes["depth"], "intermediate_size": hidden}
            for key, value in actual.items():
                if config.get(f"{start}{key}", value) != value:
                    raise CheckpointError(
                        f"{where}: config.json says {start}{key}={config[f'{start}{key}']}, and its weights say {value}"
                    )


class VideoMAE:
    """The files of VideoMAE and VideoMAE V2, of pretraining (`encoder.`, `decoder.`) and fine-tuned.

    Names and sizes: MCG-NJU/VideoMAE and OpenGVLab/VideoMAEv2, modeling_pretrain.py and modeling_finetune.py. Heads of
    ViT-g are 16 of width 88, its MLPs 48/11 as wide as a token.
    """

    name = "videomae"
    title = "VideoMAE"
    package: str | None = None

    EPS = 1e-6

    def recognises(self, file: Foreign) -> bool:
        start = self._start(file.weights)
        kernel = file.weights.get(f"{start}patch_embed.proj.weight")
        return kernel is not None and kernel.ndim == 5 and f"{start}blocks.0.attn.q_bias" in file.weights

    def read(self, file: Foreign, hints: Hints) -> Origin:
        theirs, start, notes = (
            Theirs(file.weights, self.title, file.where),
            self._start(file.weights),
            list[str](),
        )
        decodes = any(name.startswith(("decoder.", "encoder_to_decoder.")) for name in file.weights)
        convolution = put_ends(theirs, NAME, f"{start}patch_embed.proj", "decoder.head" if decodes else None)
        for part in ("encoder", *["decoder"] * decodes):
            trunk = self._trunk(part, start, file.weights)
            for i in range(theirs.put_trunk(part, trunk)):
                q, v = (with_axes(theirs, f"{trunk.block.format(i)}.attn.{role}_bias", 1) for role in "qv")
                theirs.ours[f"{part}.trunk.blocks.{i}.attention.qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])
        put_norm(theirs, {f"{start}norm": "", f"{start}fc_norm": POOLED}, notes)
        modality = clips(file, hints, convolution)
        model = model_of(theirs.ours, hints, file.where, self.EPS, DECODER_HEADS)
        self._placed(theirs, start, modality, file.where, notes)
        left = theirs.left({f"{start}head.": "a head for classes", f"{start}fc_norm.": "a norm of pooled features"})
        return origin_of(theirs, file, self.name, (NAME, modality, model), left, tuple(notes))

    def write(self, origin: Origin, name: str) -> Written:
        modality, ours, notes = unplaced(origin, name, self.title), Ours(origin.weights), list[str]()
        model, lost = origin.config.model, False
        decodes = kept_decoder(origin, modality, notes)
        if decodes and model.decoder.mlp_ratio is not None:
            decodes, notes = (
                False,
                [*notes, "the encoder alone: its decoder has the MLPs of the encoder, in proportion"],
            )
        for part, depth in depths_of(origin, decodes).items():
            trunk = self._trunk(part, "encoder.", {})
            ours.give_trunk(part, trunk, depth)
            for i in range(depth):
                block = trunk.block.format(i)
                del ours.theirs[f"{block}.attn.qkv.bias"]
                lost |= give_biases(ours, block, part, i, ("attn.q_bias", "attn.v_bias"))
        ours.give("encoder.trunk.norm", "encoder.norm")
        give_ends(ours, name, modality, "encoder.patch_embed.proj", "decoder.head" if decodes else None)
        return Written(ours.theirs, notes=(*notes, *[NO_KEY_BIAS] * lost))

    def peer(self, written: Written) -> None:
        return None

    def _start(self, weights: Mapping[str, Tensor]) -> str:
        return "encoder." if any(name.startswith("encoder.") for name in weights) else ""

    def _trunk(self, part: str, start: str, weights: Mapping[str, Tensor]) -> Trunk:
        block = f"{start}blocks.{{}}" if part == "encoder" else "decoder.blocks.{}"
        scales = ("gamma_1", "gamma_2") if f"{block.format(0)}.gamma_1" in weights else ()
        return Trunk(block, "decoder.norm" if part == "decoder" else None, "attn.qkv", TIMM, scales)

    def _placed(self, theirs: Theirs, start: str, modality: dict[str, Any], where: str, notes: list[str]) -> None:
        """Positions that are in the file: theirs are a fixed sequence, and no file need have them."""
        grid = tuple(s // p for s, p in zip(modality["size"], modality["patch"], strict=True))
        for key in (f"{start}pos_embed", "pos_embed" if start else None):
            if key is None or not theirs.has(key):
                continue
            table = with_axes(theirs, key, 3)[0]
            if len(table) != prod(grid):
                raise CheckpointError(
                    f"{where}: {len(table)} positions, and clips of {modality['size']} have {prod(grid)} tokens; say "
                    f"their size: PATH::size=16x224x224"
                )
            if positions_like(table, grid) != "sequence":
                raise CheckpointError(f"{where}: {key} is not VideoMAE's fixed sequence; other positions are not taken")
            notes.append(f"{key} is the fixed sequence, which no weight here is of")


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _one(pair: Sequence[int]) -> int | list[int]:
    return pair[0] if pair[0] == pair[1] else list(pair)
