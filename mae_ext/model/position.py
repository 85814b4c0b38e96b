"""Position embeddings of grid tokens, for any number of axes.

A factory `(grid, width, **arguments) -> nn.Module` with `forward(index (B, K), step (B, n) | None) -> (B, K, width)`,
where `step` is the physical distance between neighbouring tokens along each axis (mm, seconds), if samples have one.
With the attribute `any_size = True` it takes a third argument, the grid that `index` counts on, where that is another
than its own: so an encoder serves samples of any size. Without, samples of another size are refused.
"""

from collections.abc import Sequence
from math import inf, prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae_ext.errors import ConfigError
from mae_ext.model.grid import unravel


def sincos(coordinates: Tensor, width: int, base: float = 10000.0) -> Tensor:
    """(..., n) coordinates in tokens -> (..., width) float32.

    Each axis gets the largest equal even share of the width and what is left over stays zero, so that any width serves
    any number of axes (1024 is not divisible by 6). Axes are laid out last first, each as sines then cosines: this is
    the order of MAE's published encoders (facebookresearch/mae, util/pos_embed.py; base 10000 from 1706.03762).
    """
    n = coordinates.shape[-1]
    half = width // n // 2
    if half < 1:
        raise ValueError(f"a width of {width} is too small for the positions of {n} axes; it takes at least {2 * n}")
    # float64 until the end: in float32 the phase of a far token is off in the fourth digit.
    frequency = base ** (-torch.arange(half, dtype=torch.float64, device=coordinates.device) / half)
    phase = coordinates.double().flip(-1)[..., None] * frequency
    table = torch.cat([phase.sin(), phase.cos()], dim=-1).flatten(-2)
    return torch.nn.functional.pad(table, (0, width - table.shape[-1])).float()


def coordinates_of(grid: tuple[int, ...], device: torch.device | None = None) -> Tensor:
    """-> (N, n) float32, row-major."""
    return torch.stack(unravel(torch.arange(prod(grid), device=device), grid), dim=-1).float()


class NoSpacing(ConfigError, ValueError):
    """Positions in mm or seconds, of samples that have none. The first batch shows it, and the user can mend it."""


def resampled(table: Tensor, grid: tuple[int, ...], wanted: tuple[int, ...]) -> Tensor:
    """(N, D) of one grid -> (N', D) of another that spans the same extent: cubic, axis by axis, differentiable.

    Of two axes this is the bicubic interpolation with which ViTs are fine-tuned at another size (2010.11929, section
    3.2; facebookresearch/mae, util/pos_embed.py).
    """
    out: Tensor = table.float().unflatten(0, grid)
    with torch.autocast(table.device.type, enabled=False):
        for axis, (have, want) in enumerate(zip(grid, wanted, strict=True)):
            if have != want:
                rows = torch.eye(have, device=table.device)[None, :, :, None]
                weight = F.interpolate(rows, (want, 1), mode="bicubic", align_corners=False)[0, :, :, 0]
                out = torch.tensordot(out, weight, dims=([axis], [0])).movedim(-1, axis)
    return out.flatten(0, len(grid) - 1).to(table.dtype)


class SinCos(nn.Module):
    """Fixed. With `unit` (mm or seconds) coordinates are physical: token distance / unit instead of token number.

    span: how many tokens long the grid counts along each axis, whatever it has: token i of g stands at
    (i + 0.5) * span / g - 0.5. So an encoder that was trained on 14 x 14 tokens serves 28 x 28 of the same picture with
    [14, 14]: exactly, nothing is interpolated. None is the grid's own length. Raises ValueError for span with unit.
    """

    any_size = True
    table: Tensor

    def __init__(
        self, grid: tuple[int, ...], width: int, unit: float | None = None, span: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if unit is not None and not unit > 0:
            raise ValueError(f"unit={unit} must be positive (mm or seconds for each step of the position table)")
        if span is not None and unit is not None:
            raise ValueError(f"span={span} and unit={unit}: a place has one measure; give one of them")
        if span is not None and (
            not isinstance(span, list | tuple) or len(span) != len(grid) or not all(0 < one < inf for one in span)
        ):
            raise ValueError(f"span={span} must be a positive number of tokens for each of the {len(grid)} axes")
        self.grid, self.width, self.unit, self.span = grid, width, unit, span
        self.register_buffer("table", self._of(grid), persistent=False)

    def forward(self, index: Tensor, step: Tensor | None = None, grid: tuple[int, ...] | None = None) -> Tensor:
        """(B, K), (B, n) | None -> (B, K, D). Raises ValueError for physical positions without a spacing."""
        if self.unit is not None:
            if step is None:
                raise NoSpacing("position 'sincos' with a unit needs samples with a spacing; this reader gives none")
            place = torch.stack(unravel(index, grid or self.grid), dim=-1) * (step / self.unit)[:, None]
            return sincos(place, self.width)
        if grid is None:
            return self.table[index]
        return self._of(grid, index.device)[index]

    def _of(self, grid: tuple[int, ...], device: torch.device | None = None) -> Tensor:
        """-> (N, D) of all places of a grid."""
        places = coordinates_of(grid, device)
        if self.span is not None:
            scale = torch.tensor([s / g for s, g in zip(self.span, grid, strict=True)], device=device).double()
            places = (places.double() + 0.5) * scale - 0.5
        return sincos(places, self.width)


class SequenceSinCos(nn.Module):
    """Fixed, and blind to the grid: tokens numbered row by row, as words are (1706.03762; VideoMAE's table).

    Sine and cosine of one frequency lie beside each other. `sincos` tells neighbours on every axis, this one does not;
    it is here for weights that were trained with it (MCG-NJU/VideoMAE, modeling_finetune.py).
    """

    any_size = True
    table: Tensor

    def __init__(self, grid: tuple[int, ...], width: int) -> None:
        super().__init__()
        if width < 2:
            raise ValueError(f"a width of {width} is too small for positions; it takes at least 2")
        self.width = width
        self.register_buffer("table", self._of(torch.arange(prod(grid))), persistent=False)

    def forward(self, index: Tensor, step: Tensor | None = None, grid: tuple[int, ...] | None = None) -> Tensor:
        """(B, K) -> (B, K, D). On another grid tokens have other numbers, as in a model that is built for it."""
        return self.table[index] if grid is None else self._of(torch.arange(prod(grid), device=index.device))[index]

    def _of(self, number: Tensor) -> Tensor:
        """(N,) int64 -> (N, D) float32."""
        even = torch.arange(0, self.width, 2, dtype=torch.float64, device=number.device)
        phase = number.double()[:, None] / 10000.0 ** (even / self.width)
        return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(1)[:, : self.width].float()


class Learned(nn.Module):
    """One free vector for each token (ViT, 2010.11929; std .02). Another grid has them in between: `resampled`."""

    any_size = True

    def __init__(self, grid: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.grid = grid
        self.table = nn.Parameter(torch.empty(len(coordinates_of(grid)), width))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, index: Tensor, step: Tensor | None = None, grid: tuple[int, ...] | None = None) -> Tensor:
        """(B, K) -> (B, K, D)."""
        return self.table[index] if grid is None else resampled(self.table, self.grid, grid)[index]

    def fitted(self, key: str, theirs: Tensor, grid: tuple[int, ...]) -> Tensor:
        """A weight of the same module on another grid, for this one's. key: its name in the state dict."""
        return resampled(theirs, grid, self.grid)


class Separable(nn.Module):
    """The sum of one free vector for each coordinate of each axis (MAE-ST, 2205.09113; std .02).

    groups: of axes that share a table, which then has a vector for each of their common places: [[0], [1, 2]] is one
    table for time and one for height and width together. None is a table for each axis. Another grid has vectors in
    between, table by table: `resampled`. Raises ValueError for groups that do not name each axis once.
    """

    any_size = True

    def __init__(self, grid: tuple[int, ...], width: int, groups: Sequence[Sequence[int]] | None = None) -> None:
        super().__init__()
        self.grid = grid
        self.groups = [[axis] for axis in range(len(grid))] if groups is None else [list(group) for group in groups]
        if not all(self.groups) or sorted(axis for group in self.groups for axis in group) != list(range(len(grid))):
            raise ValueError(f"groups={groups} must name each of the axes 0 to {len(grid) - 1} once")
        self.tables = nn.ParameterList(nn.Parameter(torch.empty(prod(size), width)) for size in self._sizes(grid))
        for table in self.tables:
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self, index: Tensor, step: Tensor | None = None, grid: tuple[int, ...] | None = None) -> Tensor:
        """(B, K) -> (B, K, D)."""
        tables, sizes = list(self.tables), self._sizes(grid or self.grid)
        if grid is not None:
            tables = [resampled(t, *each) for t, *each in zip(tables, self._sizes(self.grid), sizes, strict=True)]
        places, parts = unravel(index, grid or self.grid), []
        for table, group, size in zip(tables, self.groups, sizes, strict=True):
            row = places[group[0]]
            for axis, extent in zip(group[1:], size[1:], strict=True):
                row = row * extent + places[axis]
            parts.append(table[row])
        return torch.stack(parts).sum(0)

    def fitted(self, key: str, theirs: Tensor, grid: tuple[int, ...]) -> Tensor:
        """As of Learned."""
        number = int(key.rpartition(".")[2])
        return resampled(theirs, self._sizes(grid)[number], self._sizes(self.grid)[number])

    def _sizes(self, grid: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The extents of each group."""
        return [tuple(grid[axis] for axis in group) for group in self.groups]
