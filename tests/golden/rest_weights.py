"""Weights of other programs in our names, and back in theirs, of files of numbers."""

from types import SimpleNamespace
from typing import Any

import torch
from golden.rest import Note, area, digest
from golden.rest_model import numbers

from mae_ext.interop import mapping
from mae_ext.interop.format import FORMATS, Foreign, Hints, format_of, recognise
from mae_ext.interop.hf import _plain


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
    half = {k: v for k, v in theirs.weights.items() if k != "v.bias"}
    note("half a bias", lambda: mapping.Theirs(half, "kind").put_qkv("here", ("q", "k", "v")))
    note("formats", list(FORMATS))
    old = (
        "vit.encoder.layer.0.attention.attention.query.weight", "vit.encoder.layer.3.attention.output.dense.bias",
        "decoder.decoder_layers.1.output.dense.weight", "decoder.decoder_layers.1.intermediate.dense.weight",
        "vit.layernorm.weight",
    )  # fmt: skip
    note("renamed", list(_plain(Foreign({name: numbers(1) for name in old}, "here"))[0].weights))
    files = pictures()
    for kind, (file, hints) in files.items():

        def read(file: Foreign = file, hints: Hints = hints) -> Any:
            one = recognise(file)
            origin = one.read(file, hints)
            back = one.write(origin, next(iter(origin.config.modalities))).weights
            config = origin.config.model_dump(mode="json")
            config.pop("train")
            norms = {name: float(weight.double().norm()) for name, weight in origin.weights.items()}
            return [one.name, digest(config), norms, digest(list(back)), dict(origin.left), list(origin.notes)]

        note(kind, read)
        lacking = Foreign({k: weight for k, weight in file.weights.items() if "norm1.weight" not in k}, "here")
        note(f"{kind} without a norm", lambda file=lacking: format_of("timm").read(file, Hints(heads=2)))


def pictures() -> dict[str, tuple[Foreign, Hints]]:
    """Files in timm's names: bare, with registers and layer scale, with a decoder, and with a head."""
    held = SimpleNamespace(seed=0)

    def drawn(*shape: int) -> torch.Tensor:
        held.seed += 1
        return numbers(*shape, seed=held.seed)

    def linear(name: str, rows: int, columns: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": drawn(rows, columns), f"{name}.bias": drawn(rows)}

    def trunk(block: str, norm: str, width: int, depth: int, scaled: bool = False) -> dict[str, torch.Tensor]:
        made = {f"{norm}.weight": drawn(width), f"{norm}.bias": drawn(width)}
        for i in range(depth):
            at = f"{block}.{i}"
            for part in ("norm1", "norm2"):
                made |= {f"{at}.{part}.weight": drawn(width), f"{at}.{part}.bias": drawn(width)}
            made |= linear(f"{at}.attn.qkv", 3 * width, width) | linear(f"{at}.attn.proj", width, width)
            made |= linear(f"{at}.mlp.fc1", 2 * width, width) | linear(f"{at}.mlp.fc2", width, 2 * width)
            made |= {f"{at}.{part}.gamma": drawn(width) for part in ("ls1", "ls2") if scaled}
        return made

    def encoder(scaled: bool = False) -> dict[str, torch.Tensor]:
        made = {"cls_token": drawn(1, 1, 8), "pos_embed": drawn(1, 5, 8), "patch_embed.proj.bias": drawn(8)}
        return made | {"patch_embed.proj.weight": drawn(8, 3, 4, 4)} | trunk("blocks", "norm", 8, 2, scaled)

    decoder = {"mask_token": drawn(1, 1, 4), "decoder_pos_embed": drawn(1, 5, 4)} | linear("decoder_embed", 4, 8)
    decoder["decoder_pos_embed"][:, :1] = 0
    decoder |= trunk("decoder_blocks", "decoder_norm", 4, 1) | linear("decoder_pred", 48, 4)
    files = {
        "bare": encoder(),
        "registers and scales": encoder(scaled=True) | {"register_tokens": drawn(1, 2, 8)},
        "a decoder": encoder() | decoder,
        "a head": encoder() | linear("head", 3, 8),
    }
    return {kind: (Foreign(each, "here"), Hints(heads=2, decoder_heads=2)) for kind, each in files.items()}
