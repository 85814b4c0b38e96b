"""Vision transformers for pictures, whatever their names: what one is made of is the same in all of these programs.

Two quirks are kept here, not by our model. A class token may have a place in their table: ours has none, and is the sum
of both. Layer scale is multiplied into the layer before it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isqrt, prod
from typing import Any

import torch
from torch import Tensor

from mae_ext.config import Statistics
from mae_ext.data.loading.statistics import IMAGENET
from mae_ext.errors import CheckpointError
from mae_ext.interop.format import Foreign, Hints
from mae_ext.interop.mapping import (
    HEADS,
    Ours,
    Theirs,
    Trunk,
    config_of,
    grid_from,
    heads_of,
    only_modality,
    patches_in,
    patches_out,
    positions_like,
    ratio_of,
    statistics_of,
    with_statistics,
)
from mae_ext.interop.origin import Origin
from mae_ext.interop.tables import table_of
from mae_ext.model_config import MOST_CLASS_TOKENS

DECODER_HEADS = {512: 16}
"""Of MAE's decoder (2111.06377), by width."""


@dataclass(frozen=True)
class Names:
    """Their names. patches: of the convolution that embeds. places: of the table. tokens: of class tokens, in the order
    in which they stand before the patches. The others: of a decoder, where there is one."""

    patches: str
    places: str
    tokens: tuple[str, ...]
    trunk: Trunk
    project: str
    mask: str
    decoder_places: str
    decoder: Trunk
    predict: str


@dataclass(frozen=True)
class Facts:
    """What is in no weight, or not for sure.

    kind: the format's name, title: for messages. eps: of norms. heads, decoder_heads: None where nobody says.
    size: of pictures, (height, width), or None where the table is of a square. rows: how many class tokens may have a
    row in the table, in order of preference; None is all of them. bare: whether there may be no class token.
    refused: a part of a name -> what it is of. left: the beginning of a name -> why nothing is made of it. statistics:
    of pixels, where no file beside the weights says them. decodes: whether a decoder is taken, if there is one, and
    normalize, ratio: its target and masks.
    """

    kind: str
    title: str
    eps: float
    heads: int | None = None
    decoder_heads: int | None = None
    size: tuple[int, int] | None = None
    rows: tuple[int | None, ...] = (None,)
    bare: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)
    statistics: Statistics = IMAGENET
    decodes: bool = False
    normalize: str = "mae"
    ratio: float = 0.75
    notes: tuple[str, ...] = ()


def has_sines(table: Tensor) -> bool:
    """Whether (1, 1 + N, D), a class token's row first, is MAE's table of a square grid."""
    if table.is_meta or not table.is_floating_point() or isqrt(count := table.shape[1] - 1) ** 2 != count or not count:
        return False
    return positions_like(table[0, 1:], (isqrt(count),) * 2) == "sincos"


def read_image(file: Foreign, hints: Hints, names: Names, facts: Facts) -> Origin:
    """Raises CheckpointError as `Format.read` does."""
    theirs = Theirs(file.weights, facts.title, file.where)
    theirs.refuse(facts.refused)
    depth, kernel = theirs.put_trunk("encoder", names.trunk), theirs.take(f"{names.patches}.weight")
    if kernel.ndim != 4:
        raise CheckpointError(
            f"{file.where}: weight '{names.patches}.weight' has the shape {list(kernel.shape)}; expected four axes: "
            f"width, channels, height and width of a patch"
        )
    width, channels, *patch = kernel.shape
    theirs.ours["modalities.image.embed.project.weight"] = patches_in(kernel)
    theirs.ours["modalities.image.embed.project.bias"] = theirs.take(f"{names.patches}.bias")
    heads = heads_of(width, hints.heads or facts.heads, file.where, known=HEADS)
    decodes = facts.decodes and theirs.has(f"{names.project}.weight")
    decoder = _read_decoder(theirs, names, hints, facts) if decodes else {}
    tokens, table = _tokens(theirs, names, width, facts), _table(theirs, names.places, width)
    places = [table]
    if decodes:
        places.append(_table(theirs, names.decoder_places, len(theirs.ours["decoder.mask_token"])))
    left = theirs.left(facts.left)
    placed, grid = _grid(table, len(tokens), patch, hints, facts, f"{file.where}: '{names.places}'")
    position, notes = _put_places(theirs, tokens, places, placed, grid)
    hidden = len(theirs.ours["encoder.trunk.blocks.0.mlp.up.weight"])
    config = config_of(
        "image",
        {
            "size": [n * p for n, p in zip(grid, patch, strict=True)],
            "patch": patch,
            "channels": channels,
            "position": position,
            "mask": {"name": "random", "ratio": facts.ratio},
            "target": {"name": "pixel", "normalize": facts.normalize},
            "data": {"reader": "image", "statistics": statistics_of(file, channels, facts.statistics)},
        },
        {
            "width": width,
            "depth": depth,
            "heads": heads,
            "mlp_ratio": ratio_of(hidden, width),
            "class_token": len(tokens),
            "norm_eps": hints.eps or facts.eps,
            **decoder,
        },
        file.where,
    )
    weights = with_statistics(theirs.checked(config, decodes), config)
    return Origin(weights, config, file.where, facts.kind, decodes, left, (*facts.notes, *notes))


def _read_decoder(theirs: Theirs, names: Names, hints: Hints, facts: Facts) -> dict[str, Any]:
    """-> what a config says of it."""
    depth = theirs.put_trunk("decoder", names.decoder)
    theirs.put("decoder.project", names.project)
    theirs.put("modalities.image.predict", names.predict)
    mask = theirs.take(names.mask)
    theirs.ours["decoder.mask_token"] = mask.flatten()
    theirs.names["decoder.mask_token"] = names.mask
    width = len(theirs.ours["decoder.project.weight"])
    said = hints.decoder_heads or facts.decoder_heads
    heads = heads_of(width, said, theirs.where.removesuffix(": "), "decoder_heads", DECODER_HEADS)
    return {"decoder": {"width": width, "depth": depth, "heads": heads}}


def _tokens(theirs: Theirs, names: Names, width: int, facts: Facts) -> Tensor:
    """-> (c, D)"""
    parts = [torch.empty(0, width)]
    for number, name in enumerate(names.tokens):
        if theirs.has(name) or not (number or facts.bare):
            token = theirs.take(name)
            if token.shape[-1] != width or token.ndim > 3 or token[..., 0].numel() != token.shape[-2]:
                raise CheckpointError(
                    f"{theirs.where}weight '{name}' has the shape {list(token.shape)}; expected [1, tokens, {width}]"
                )
            parts.append(token.reshape(-1, width))
    tokens = torch.cat(parts)
    if len(tokens) > MOST_CLASS_TOKENS:
        raise CheckpointError(
            f"{theirs.where}{len(tokens)} class tokens and registers; expected up to {MOST_CLASS_TOKENS}"
        )
    return tokens


def _table(theirs: Theirs, name: str, width: int) -> Tensor:
    """-> (rows, D)"""
    table = theirs.take(name)
    if table.ndim != 3 or len(table) != 1 or table.shape[-1] != width:
        raise CheckpointError(
            f"{theirs.where}weight '{name}' has the shape {list(table.shape)}; expected [1, places, {width}]"
        )
    return table[0]


def _grid(
    table: Tensor, tokens: int, patch: Sequence[int], hints: Hints, facts: Facts, where: str
) -> tuple[int, tuple[int, ...]]:
    """-> how many rows of the table are of class tokens, and the grid of the others."""
    ways = list(dict.fromkeys(tokens if rows is None else min(rows, tokens) for rows in facts.rows))
    size = hints.size or facts.size
    grid = hints.grid or (None if size is None else tuple(s // p for s, p in zip(size, patch, strict=True)))
    counts = [len(table) - rows for rows in ways]
    if grid is not None:
        right = [rows for rows, count in zip(ways, counts, strict=True) if count == prod(grid)]
        if not right or len(grid) != 2:
            raise CheckpointError(
                f"{where} has {len(table)} places; expected those of a grid of {'x'.join(map(str, grid))} and "
                f"{' or '.join(map(str, ways))} more"
            )
        return right[0], grid
    square = [rows for rows, count in zip(ways, counts, strict=True) if count > 0 and isqrt(count) ** 2 == count]
    rows = square[0] if square else ways[0]
    return rows, grid_from(len(table) - rows, 2, hints, where)


def _put_places(
    theirs: Theirs, tokens: Tensor, tables: list[Tensor], placed: int, grid: tuple[int, ...]
) -> tuple[str, list[str]]:
    """Class tokens with their places, and the tables where they are learned -> (our position, notes)."""
    tokens, own = tokens.clone(), tables[0][:placed]
    if own.any():  # not by adding zeros, which change the sign of -0
        tokens[:placed] += own
    if len(tokens):
        theirs.ours["encoder.class_token"] = tokens[0] if len(tokens) == 1 else tokens
    if len(tables) > 1 and tables[1][:placed].any():
        raise CheckpointError(
            f"{theirs.where}in the decoder the class token has a place that is not zero, and ours has none; weights of "
            f"the encoder alone can be taken"
        )
    patches = [table[placed:] for table in tables]
    if len(patches) > 1 and len(patches[1]) != len(patches[0]):
        raise CheckpointError(
            f"{theirs.where}the decoder has a table of {len(tables[1])} places; expected {len(tables[0])}, as the other"
        )
    kinds = {positions_like(table, grid) for table in patches}
    notes = [] if all(table.any() for table in patches) else ["a position table is all zero: it was never filled"]
    if len(kinds) == 1 and "learned" not in kinds:
        return kinds.pop(), notes
    for key, table in zip(("position", "decoder_position"), patches, strict=False):
        theirs.ours[f"modalities.image.{key}.table"] = table
    return "learned", notes


def write_image(origin: Origin, name: str, names: Names, rows: int, counts: Sequence[int]) -> dict[str, Tensor]:
    """The modality `name`, and the decoder where there is one, in their names.

    rows: of zeros before the encoder's table, for class tokens; the decoder's gets one. counts: how many class tokens
    go under each of `names.tokens`. Raises CheckpointError for what is no picture, and for positions that are no table.
    """
    weights, modality = only_modality(origin, name)
    model, where = origin.config.model, f"modalities.{name}"
    if len(modality.size) != 2:
        raise CheckpointError(
            f"{origin.where}: modality '{name}' has {len(modality.size)} axes, {list(modality.size)}; expected height "
            f"and width"
        )
    ours, theirs = Ours(weights), {}
    ours.give_trunk("encoder", names.trunk, model.depth or 0)
    kernel = patches_out(weights[f"{where}.embed.project.weight"], modality.patch, modality.channels)
    theirs[f"{names.patches}.weight"] = kernel
    theirs[f"{names.patches}.bias"] = weights[f"{where}.embed.project.bias"]
    if model.class_token:
        tokens = weights["encoder.class_token"].reshape(1, -1, kernel.shape[0])
        for key, part in zip(names.tokens, tokens.split(list(counts), 1), strict=False):
            theirs[key] = part.clone()
    theirs[names.places] = _with_rows(table_of(origin, name), rows)
    if origin.decodes:
        ours.give_trunk("decoder", names.decoder, model.decoder.depth)
        ours.give("decoder.project", names.project)
        ours.give(f"{where}.predict", names.predict)
        theirs[names.mask] = weights["decoder.mask_token"].reshape(1, 1, -1)
        theirs[names.decoder_places] = _with_rows(table_of(origin, name, decoder=True), 1)
    return theirs | ours.theirs


def _with_rows(table: Tensor, rows: int) -> Tensor:
    """(N, D) -> (1, rows + N, D)"""
    return torch.cat([table.new_zeros(rows, table.shape[1]), table])[None]


def expect(origin: Origin, name: str, title: str, square: bool = True, tokens: int | None = 1) -> None:
    """Raises CheckpointError for a picture or patches that are not square, another number of class tokens, and a target
    of other numbers than a patch's, where their model cannot have them."""
    modality, count = origin.config.modalities[name], int(origin.config.model.class_token)
    where = f"{origin.where}: {title}"
    for key, shape in (("size", modality.size), ("patch", modality.patch)):
        if square and len(set(shape)) > 1:
            raise CheckpointError(f"{where} is of squares alone; {key} is {list(shape)}")
    if tokens is not None and count != tokens:
        raise CheckpointError(
            f"{where} has {tokens} class token; model.class_token is {origin.config.model.class_token}"
        )
    weight = origin.weights.get(f"modalities.{name}.predict.weight")
    if weight is not None and len(weight) != prod(modality.patch) * modality.channels:
        raise CheckpointError(
            f"{where} predicts the {prod(modality.patch) * modality.channels} numbers of a patch; the target "
            f"'{modality.target.name}' has {len(weight)}"
        )
