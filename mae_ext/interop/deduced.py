"""What weights in our names say of their model: widths, depths, positions. And an `Origin` of them that is complete."""

from collections.abc import Mapping
from dataclasses import replace
from math import nextafter, prod
from typing import Any

import torch
from torch import Tensor

from mae_ext import plugins
from mae_ext.config import Config
from mae_ext.errors import CheckpointError
from mae_ext.interop.format import Foreign, Hints
from mae_ext.interop.mapping import HEADS, config_of, heads_of, positions_like, with_statistics
from mae_ext.interop.origin import Origin
from mae_ext.model.mae import MAE
from mae_ext.model.position import NoSpacing

DECODER_HEADS = {192: 3, 384: 6, 512: 16, 640: 8}
"""By width, where a format does not have its own: VideoMAE (MCG-NJU/VideoMAE, modeling_pretrain.py), but 512 is MAE's
(facebookresearch/mae, models_mae.py)."""

FIXED = ("sincos", "sequence")
"""Positions that no weight is of."""


def or_else(hints: Hints, **values: Any) -> Hints:
    """The hints, and what a config says of what they leave open. None says nothing."""
    return replace(hints, **{key: value for key, value in values.items() if getattr(hints, key) is None})


def ratio_of(width: int, hidden: int) -> float:
    """hidden / width, so that int(width * ratio) is hidden: 6144 of ViT-g's 1408, say."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else nextafter(ratio, hidden)


def trunk_of(ours: Mapping[str, Tensor], part: str) -> tuple[int, int, int]:
    """(width, depth, numbers between the two layers of an MLP) of "encoder" or "decoder"."""
    hidden, width = ours[f"{part}.trunk.blocks.0.mlp.up.weight"].shape
    depth = sum(name.startswith(f"{part}.trunk.blocks.") and name.endswith(".norm1.weight") for name in ours)
    return width, depth, hidden


def model_of(
    ours: Mapping[str, Tensor], hints: Hints, where: str, eps: float, decoder_heads: Mapping[int, int] = DECODER_HEADS
) -> dict[str, Any]:
    """`model` of our config. eps: of norms, where no hint says another. decoder_heads: of the format, by width.

    Raises CheckpointError for heads that nothing says.
    """
    width, depth, hidden = trunk_of(ours, "encoder")
    ratio = ratio_of(width, hidden)
    model: dict[str, Any] = {
        "width": width,
        "depth": depth,
        "heads": heads_of(width, hints.heads, where, known=HEADS),
        "mlp_ratio": ratio,
        "class_token": "encoder.class_token" in ours,
        "norm_eps": eps if hints.eps is None else hints.eps,
    }
    if "decoder.project.weight" in ours:
        wide, depth, hidden = trunk_of(ours, "decoder")
        model["decoder"] = {
            "width": wide,
            "depth": depth,
            "heads": heads_of(wide, hints.decoder_heads, where, "decoder_heads", decoder_heads),
            "mlp_ratio": None if int(wide * ratio) == hidden else ratio_of(wide, hidden),
            "class_token": "decoder.class_token" in ours,
        }
    return model


def put_positions(ours: dict[str, Tensor], name: str, tables: Mapping[str, Tensor], grid: tuple[int, ...]) -> str:
    """Tables (N, width) of "position" and "decoder_position" -> our positions that are so.

    Fixed ones where all tables are those; else the tables are kept, as learned ones.
    """
    kinds = {positions_like(table, grid) for table in tables.values()}
    if len(kinds) == 1 and (kind := next(iter(kinds))) in FIXED:
        return kind
    ours.update({f"modalities.{name}.{part}.table": table.contiguous() for part, table in tables.items()})
    return "learned"


def table_of(origin: Origin, name: str, part: str = "position") -> Tensor:
    """-> (N, width): the "position" or "decoder_position" of every token of the grid, whichever kind they are.

    Raises CheckpointError for positions in mm or seconds, which differ from sample to sample.
    """
    modality, model = origin.config.modalities[name], origin.config.model
    width = model.width if part == "position" else model.decoder.width
    made = plugins.positions.build(
        modality.position.name,
        modality.position.arguments,
        f"modalities.{name}.position",
        grid=modality.grid,
        width=width,
    )
    start = f"modalities.{name}.{part}."
    made.load_state_dict({k.removeprefix(start): v for k, v in origin.weights.items() if k.startswith(start)})
    try:
        with torch.no_grad():
            table: Tensor = made(torch.arange(prod(modality.grid))[None])[0]
    except NoSpacing:
        raise CheckpointError(
            f"{origin.where}: positions in mm or seconds differ from sample to sample; other programs have one table"
        ) from None
    return table.clone()


def origin_of(
    file: Foreign,
    kind: str,
    ours: dict[str, Tensor],
    config: tuple[str, Mapping[str, Any], Mapping[str, Any]],
    left: Mapping[str, str],
    notes: tuple[str, ...],
) -> Origin:
    """kind: of the format. config: the modality's name, its section, and `model`. left: as `Theirs.left` says.

    Raises CheckpointError unless these are all weights of such a model, each of its shape.
    """
    made = config_of(*config, f"{file.where}, as a model")
    decodes = "decoder.project.weight" in ours
    ours = with_statistics(ours, made)
    check_shapes(ours, made, decodes, file.where)
    return Origin(ours, made, file.where, kind, decodes, left, notes)


def check_shapes(ours: Mapping[str, Tensor], config: Config, decodes: bool, where: str) -> None:
    """Raises CheckpointError naming a weight of MAE(config, decodes) that is not there or of another shape."""
    with torch.device("meta"):
        wanted = {key: tuple(tensor.shape) for key, tensor in MAE(config, decodes).state_dict().items()}
    for key, shape in wanted.items():
        if key not in ours or tuple(ours[key].shape) != shape:
            size = list(ours[key].shape) if key in ours else "nothing"
            raise CheckpointError(f"{where}: for {key} expected {list(shape)}, from what else there is, and got {size}")
    if more := sorted(set(ours) - set(wanted)):
        raise CheckpointError(f"{where}: no model has {more[0]} beside the other weights")
