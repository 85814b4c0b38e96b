"""Weights of other libraries, and configs of their models."""

# ruff: noqa: SIM401

from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from golden.rest import Note, area, digest
from golden.rest_model import numbers

from mae_ext.interop import hf, mapping, videomae
from mae_ext.model.position import coordinates_of, sincos


@area()
def weights(note: Note) -> None:
    theirs = mapping.Theirs(
        {
            "q.weight": numbers(2, 2),
            "k.weight": numbers(2, 2, seed=1),
            "v.weight": numbers(2, 2, seed=2),
            "q.bias": numbers(2),
            "v.bias": numbers(2, seed=3),
        },
        "kind",
    )
    theirs.put_qkv("here", ("q", "k", "v"))
    note("qkv", theirs.ours)
    note("absent", lambda: theirs.take("x"))
    note(
        "half a bias",
        lambda: mapping.Theirs({k: v for k, v in theirs.weights.items() if k != "v.bias"}, "kind").put_qkv(
            "here", ("q", "k", "v")
        ),
    )
    shape = {
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 3,
        "mask_ratio": 0.5,
        "norm_pix_loss": True,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 20,
        "layer_norm_eps": 1e-5,
        "decoder_hidden_size": 4,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 10,
        "num_frames": 4,
        "tubelet_size": 2,
        "use_mean_pooling": False,
    }
    for kind, make, roles, trunks, norms, parts in (
        ("image", hf.vitmae_config, hf.ROLES, hf.TRUNKS, hf.NORMS, hf.PARTS),
        ("video", videomae.videomae_config, videomae.ROLES, videomae.TRUNKS, videomae.NORMS, videomae.PARTS),
    ):
        for changes in (
            {},
            {"norm_pix_loss": False},
            {"use_mean_pooling": True},
            {"num_channels": 1},
            {"patch_size": 3},
        ):
            note(
                f"{kind} config {changes}",
                lambda make=make, c=changes: str(make({**shape, **c}, 4).model_dump(mode="json")),
            )

        held: Any = SimpleNamespace()
        held.asked = []

        def weight(name: str, held: Any = held) -> Any:
            held.asked.append(name)
            return numbers(3) if name.endswith("bias") else numbers(3, 3)

        class Weights(dict):
            def __missing__(self, name: str, weight: Any = weight) -> Any:
                return weight(name)

            def __contains__(self, name: object) -> bool:
                return "key.bias" not in str(name)

            def get(self, name: str, default: Any = None) -> Any:
                return self[name] if name in self else default

        def mapped(
            roles: Any = roles,
            trunks: Any = trunks,
            norms: Any = norms,
            parts: Any = parts,
            held: Any = held,
            Weights: Any = Weights,
        ) -> Any:
            table = mapping.Theirs(Weights(), "kind")
            for part, depth in (("encoder", 2), ("decoder", 1)):
                table.put_trunk(part, depth, trunks[part], roles, parts, norms[part])
            return [digest(list(table.ours)), digest(held.asked)]

        note(f"{kind} mapped", mapped)
    for told, shift in (("as they are", 0.0), ("moved", 0.01), ("moved a little", 5e-5), ("moved in one place", None)):
        for statistics in ("none", "imagenet", "measured"):
            config = hf.vitmae_config(shape, 4)
            image = config.modalities["image"]
            config = config.model_copy(
                update={
                    "modalities": {
                        "image": image.model_copy(
                            update={"data": image.data.model_copy(update={"statistics": statistics})}
                        )
                    }
                }
            )

            def taken(self: Any, name: str, shift: Any = shift) -> Any:
                if "pos" in name:
                    width = 4 if "decoder" in name else 8
                    return torch.cat(
                        [
                            torch.zeros(1, width),
                            sincos(coordinates_of((2, 2)), width)
                            + (torch.eye(4, width) * 0.1 if shift is None else shift),
                        ]
                    )[None]
                return (
                    numbers(8, 3, 4, 4)
                    if "projection.weight" in name
                    else numbers(8, seed=len(name))
                    if name.endswith("bias")
                    else numbers(8, 8, seed=len(name))
                )

            def whole(taken: Any = taken, config: Any = config) -> Any:
                with mock.patch.object(mapping.Theirs, "take", taken):
                    ours = hf.from_vitmae({}, config)
                return [
                    digest(list(ours)),
                    ours["modalities.image.embed.project.weight"],
                    ours["modalities.image.mean"],
                    ours["encoder.class_token"],
                    ours["encoder.trunk.blocks.1.attention.qkv.weight"],
                ]

            note(f"weights of ViTMAE {told} {statistics}", whole)
    clip = videomae.videomae_config(shape, 4)

    def cut(self: Any, name: str) -> Any:
        return (
            numbers(8, 3, 2, 4, 4)
            if "projection.weight" in name
            else numbers(8, seed=len(name))
            if name.endswith("bias")
            else numbers(8, 8, seed=len(name))
        )

    def filmed() -> Any:
        with mock.patch.object(mapping.Theirs, "take", cut):
            ours = videomae.from_videomae({}, clip)
        return [
            digest(list(ours)),
            ours["modalities.video.embed.project.weight"],
            ours["modalities.video.std"],
            ours["decoder.project.bias"],
        ]

    note("weights of VideoMAE", filmed)
    for name in (
        "vit.encoder.layer.0.attention.attention.query.weight",
        "vit.encoder.layer.3.attention.output.dense.bias",
        "decoder.decoder_layers.1.output.dense.weight",
        "decoder.decoder_layers.1.intermediate.dense.weight",
        "vit.layernorm.weight",
    ):
        note(f"renamed {name}", hf._renamed(name))
