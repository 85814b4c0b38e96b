"""Positions of one model for another: of another kind, on another grid, with more or fewer axes, by millimetres."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae_ext import plugins
from mae_ext.interop.patches import across, along
from mae_ext.modality_config import ModalityConfig
from mae_ext.model.position import NoSpacing, resampled
from mae_ext.sections import PlugIn


@dataclass(frozen=True)
class Places:
    """Positions of a modality in one model. weights: by their names in the module, {} of fixed ones. mm: from one token
    to the next along each axis, where the reader says so."""

    spec: PlugIn
    grid: tuple[int, ...]
    width: int
    mm: tuple[float, ...] | None
    weights: Mapping[str, Tensor]

    @classmethod
    def of(cls, modality: ModalityConfig, width: int, weights: Mapping[str, Tensor]) -> "Places":
        reader = modality.data.reader
        spacing = reader.arguments.get("spacing") if reader.name == "volume" else None
        mm = tuple(float(s) * p for s, p in zip(spacing, modality.patch, strict=True)) if spacing else None
        return cls(modality.position, modality.grid, width, mm, weights)

    def build(self, width: int | None = None) -> nn.Module:
        made: nn.Module = plugins.positions.build(
            self.spec.name, self.spec.arguments, "position", grid=self.grid, width=width or self.width
        )
        return made

    @torch.no_grad()
    def table(self) -> Tensor:
        """-> (N, D): what the module says of every place of its grid.

        Raises NoSpacing for mm that nobody states, and RuntimeError for weights that are not its own.
        """
        module = self.build()
        module.load_state_dict(dict(self.weights))
        return _everywhere(module, self.grid, self.mm)

    def __str__(self) -> str:
        arguments = ", ".join(f"{key}={value}" for key, value in self.spec.arguments.items())
        return f"{self.spec.name}{f' ({arguments})' * bool(arguments)} {across(self.grid)}"


def _everywhere(module: nn.Module, grid: tuple[int, ...], mm: tuple[float, ...] | None) -> Tensor:
    step = None if mm is None else torch.tensor([mm])
    table: Tensor = module(torch.arange(prod(grid))[None], step)[0]
    return table


def alike(theirs: Places, ours: Places) -> bool:
    """Whether it is the same plug-in with the same arguments."""
    return plugins.positions.same(theirs.spec, ours.spec)


def by_mm(theirs: Places, ours: Places) -> bool:
    """Whether places lie elsewhere by what both readers say of millimetres."""
    stated = theirs.mm is not None and ours.mm is not None and len(theirs.grid) == len(ours.grid)
    return stated and (theirs.mm, theirs.grid) != (ours.mm, ours.grid)


def moved(theirs: Places, ours: Places, module: nn.Module) -> tuple[dict[str, Tensor], str] | str:
    """Weights for our position `module`, and how; or why there are none."""
    shapes = {key: value.shape for key, value in module.state_dict().items()}
    known = ours.spec.name in ("learned", "separable")
    stay = theirs.grid == ours.grid and not (known and by_mm(theirs, ours))
    if alike(theirs, ours) and stay and shapes == {key: value.shape for key, value in theirs.weights.items()}:
        return dict(theirs.weights), ""
    own = getattr(module, "fitted", None)
    fits = alike(theirs, ours) and len(theirs.grid) == len(ours.grid) and theirs.weights.keys() == shapes.keys()
    if own is not None and fits and not (known and by_mm(theirs, ours)):
        made = {key: own(key, value, theirs.grid) for key, value in theirs.weights.items()}
        return made, f"positions {across(theirs.grid)} -> {across(ours.grid)}, cubic"
    if not known:
        return f"positions {ours} cannot be made of {theirs}"
    try:
        table = carried(theirs.table(), theirs, ours)
    except NoSpacing:
        return f"positions {theirs} are in mm, and the reader there states no spacing"
    except RuntimeError as error:
        return f"weights there are none of positions {theirs}: {' '.join(str(error).split())}"
    how = _how(theirs, ours)
    if ours.spec.name == "learned":
        return {"table": table}, how
    weights, kept = _least_squares(table, ours, shapes)
    return weights, how if kept > 0.9995 else f"{how}, least squares with {kept:.1%} of their variance"


def differing(theirs: Places, ours: Places) -> str:
    """How our fixed positions are others than theirs, and what would carry them over; "" where they are the same."""
    if alike(theirs, ours) and theirs.grid == ours.grid:
        return ""
    says = f"{ours} here, {theirs} there"
    if ours.spec.name == theirs.spec.name == "sincos" and len(ours.grid) == len(theirs.grid):
        units = [side.spec.arguments.get("unit") for side in (ours, theirs)]
        span, extent = (list(side.spec.arguments.get("span") or side.grid) for side in (ours, theirs))
        if units[0] is not None and units[0] == units[1]:
            return f"{says}; both are places in mm or seconds"
        if units == [None, None]:
            spanning = f"{{name: sincos, span: {extent}}} would span the same"
            return f"{says}; {'both span the same' if span == extent else spanning}"
    return f"{says}; 'learned' would begin with theirs"


def carried(table: Tensor, theirs: Places, ours: Places) -> Tensor:
    """(N, D) -> (N', D): resampled on the axes that both have, which are the last; repeated along a new one, mean over
    one that goes."""
    common = min(len(theirs.grid), len(ours.grid))
    have, want = theirs.grid[-common:], ours.grid[-common:]
    out: Tensor = table.unflatten(0, (-1, *have)).mean(0)
    if by_mm(theirs, ours):
        for axis in range(common):
            out = along(out, axis, _physical(axis, theirs, ours))
        out = out.flatten(0, common - 1)
    else:
        out = resampled(out.flatten(0, common - 1), have, want)
    return out.repeat(prod(ours.grid) // prod(want), 1)


def _physical(axis: int, theirs: Places, ours: Places) -> Tensor:
    """-> (want, have): place i of ours, so many mm from the centre of the grid, reads theirs at as many; beyond their
    border, the border. Cubic, with the kernel of `resampled`."""
    assert theirs.mm is not None and ours.mm is not None
    have, want = theirs.grid[axis], ours.grid[axis]
    distance = (torch.arange(want) - (want - 1) / 2) * ours.mm[axis]
    place = (distance / theirs.mm[axis] + (have - 1) / 2).clamp(0, have - 1)
    down = place * 2 / max(have - 1, 1) - 1
    points = torch.stack([torch.zeros_like(down), down], -1)[None, :, None]
    lines = torch.eye(have)[None, :, :, None]
    rows = F.grid_sample(lines, points, mode="bicubic", padding_mode="border", align_corners=True)
    return rows[0, :, :, 0].T


def _least_squares(table: Tensor, ours: Places, shapes: Mapping[str, Any]) -> tuple[dict[str, Tensor], float]:
    """The weights whose sums are nearest to the table, and how much of its variance they have.

    The design says of every place which weights are its sum: the module itself says so, with rows of the identity for
    weights. Of one weight a coordinate the answer is the decomposition into means.
    """
    rows = [shape[0] for shape in shapes.values()]
    module = ours.build(width=sum(rows))
    ones = torch.eye(sum(rows)).split(rows)
    module.load_state_dict(dict(zip(shapes, ones, strict=True)))
    with torch.no_grad():
        design = _everywhere(module, ours.grid, ours.mm).double()
    wanted = table.double()
    weights = torch.linalg.pinv(design) @ wanted
    spread = (wanted - wanted.mean(0)).square().sum()
    kept = 1 - float((design @ weights - wanted).square().sum() / spread) if spread > 0 else 1.0
    return dict(zip(shapes, weights.to(table.dtype).split(rows), strict=True)), kept


def _how(theirs: Places, ours: Places) -> str:
    common, more = min(len(theirs.grid), len(ours.grid)), len(ours.grid) - len(theirs.grid)
    axes = ", ".join(str(axis) for axis in range(abs(more)))
    if alike(theirs, ours):
        parts = [f"positions {across(theirs.grid)} -> {across(ours.grid)}"]
    else:
        parts = [f"positions, {theirs} -> {ours}"]
    parts += [f"mean over axis {axes}"] if more < 0 else []
    parts += ["by millimetres"] if by_mm(theirs, ours) else []
    resized = by_mm(theirs, ours) or theirs.grid[-common:] != ours.grid[-common:]
    parts += ["cubic"] if resized else []
    parts += [f"repeated along axis {axes}"] if more > 0 else []
    return ", ".join(parts)
