"""What weights in our names say of their model: widths, depths, positions. And an `Origin` of them that is complete."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from mae_ext.errors import CheckpointError
from mae_ext.interop.format import Foreign, Hints
from mae_ext.interop.mapping import HEADS, Theirs, config_of, heads_of, positions_like, ratio_of, with_statistics
from mae_ext.interop.origin import Origin

DECODER_HEADS = {192: 3, 384: 6, 512: 16, 640: 8}
"""By width, where a format does not have its own: VideoMAE (MCG-NJU/VideoMAE, modeling_pretrain.py), but 512 is MAE's
(facebookresearch/mae, models_mae.py)."""

FIXED = ("sincos", "sequence")
"""Positions that no weight is of."""


def or_else(hints: Hints, **values: Any) -> Hints:
    """The hints, and what a config says of what they leave open. None says nothing."""
    return replace(hints, **{key: value for key, value in values.items() if getattr(hints, key) is None})


def with_axes(theirs: Theirs, name: str, *axes: int) -> Tensor:
    """A weight of theirs. Raises CheckpointError unless it has so many axes (one of `axes`), none of length 0."""
    tensor = theirs.take(name)
    if tensor.ndim not in axes or not tensor.numel():
        raise CheckpointError(
            f"{theirs.where}weight '{name}' has the shape {list(tensor.shape)}; expected "
            f"{' or '.join(map(str, axes))} axes"
        )
    return tensor


def trunk_of(ours: Mapping[str, Tensor], part: str) -> tuple[int, int, int]:
    """(width, depth, numbers between the two layers of an MLP) of "encoder" or "decoder"."""
    first = f"{part}.trunk.blocks.0"
    hidden, width = len(ours[f"{first}.mlp.up.bias"]), len(ours[f"{first}.norm1.weight"])
    depth = sum(name.startswith(f"{part}.trunk.blocks.") and name.endswith(".norm1.weight") for name in ours)
    return width, depth, hidden


def model_of(
    ours: Mapping[str, Tensor], hints: Hints, where: str, eps: float, decoder_heads: Mapping[int, int] = DECODER_HEADS
) -> dict[str, Any]:
    """`model` of our config. eps: of norms, where no hint says another. decoder_heads: of the format, by width.

    Raises CheckpointError for heads that nothing says.
    """
    width, depth, hidden = trunk_of(ours, "encoder")
    ratio = ratio_of(hidden, width)
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
            "mlp_ratio": None if int(wide * ratio) == hidden else ratio_of(hidden, wide),
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


def one_class_token(origin: Origin, title: str) -> bool:
    """Whether there is one. Raises CheckpointError for several, which no program here has."""
    count = int(origin.config.model.class_token)
    if count > 1:
        raise CheckpointError(f"{origin.where}: {title} has one class token at most, and this model has {count}")
    return bool(count)


def origin_of(
    theirs: Theirs,
    file: Foreign,
    kind: str,
    config: tuple[str, Mapping[str, Any], Mapping[str, Any]],
    left: Mapping[str, str],
    notes: tuple[str, ...],
) -> Origin:
    """kind: of the format. config: the modality's name, its section, and `model`. left: as `Theirs.left` says.

    Raises CheckpointError unless these are all weights of such a model, each of its shape.
    """
    made, decodes = config_of(*config, f"{file.where}, as a model"), "decoder.project.weight" in theirs.ours
    weights = with_statistics(theirs.checked(made, decodes), made)
    return Origin(weights, made, file.where, kind, decodes, left, notes)
