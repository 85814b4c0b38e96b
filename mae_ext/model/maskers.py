"""Maskers for grids of any number of axes: which tokens are rather kept. Those along one axis are in mask_axis.py."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from mae_ext.model.mask import num_keep


@dataclass(frozen=True)
class RandomMasker:
    """Every token alike: MAE (2111.06377), MAE-ST's "agnostic" masking (2205.09113)."""

    ratio: float = 0.75

    def num_keep(self, grid: tuple[int, ...]) -> int:
        return num_keep(prod(grid), self.ratio)

    def scores(self, grid: tuple[int, ...], generator: torch.Generator, valid: Tensor | None = None) -> Tensor:
        return torch.rand(grid, generator=generator)


@dataclass(frozen=True)
class BlockMasker:
    """Hides boxes (BEiT's block-wise masking, 2106.08254, for any number of axes) until the ratio is reached.

    Boxes cover `min_share`..`max_share` of the grid; as shares of the grid's axes, no two of their edges differ by more
    than the factor `aspect`. The box that would overshoot is cut to the exact count, at random, so counts never vary.
    """

    ratio: float = 0.5
    min_share: float = 0.05
    max_share: float = 0.3
    aspect: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.min_share <= self.max_share <= 1:
            raise ValueError(
                f"block shares need 0 < min_share <= max_share <= 1, not {self.min_share} and {self.max_share}"
            )
        if not self.aspect >= 1:
            raise ValueError(f"block aspect must be at least 1, not {self.aspect}")

    def num_keep(self, grid: tuple[int, ...]) -> int:
        return num_keep(prod(grid), self.ratio)

    def scores(self, grid: tuple[int, ...], generator: torch.Generator, valid: Tensor | None = None) -> Tensor:
        scores = torch.rand(grid, generator=generator)
        wanted = prod(grid) - self.num_keep(grid)
        covered = torch.zeros(grid, dtype=torch.bool)
        while (left := wanted - int(covered.sum())) > 0:
            box = covered[self._box(grid, generator)]
            fresh = (~box).nonzero()
            if len(fresh) > left:
                fresh = fresh[torch.randperm(len(fresh), generator=generator)[:left]]
            box[fresh.unbind(1)] = True
        return scores + covered

    def _box(self, grid: tuple[int, ...], generator: torch.Generator) -> tuple[slice, ...]:
        n = len(grid)
        draw = torch.rand(1 + 2 * n, generator=generator).tolist()
        share = self.min_share + draw[0] * (self.max_share - self.min_share)
        stretch = [self.aspect ** (d - 0.5) for d in draw[1 : 1 + n]]
        mean = prod(stretch) ** (1 / n)
        edges = [min(g, max(1, round(g * share ** (1 / n) * s / mean))) for g, s in zip(grid, stretch, strict=True)]
        starts = [int(d * (g - e + 1)) for d, g, e in zip(draw[1 + n :], grid, edges, strict=True)]
        return tuple(slice(a, a + e) for a, e in zip(starts, edges, strict=True))


@dataclass(frozen=True)
class GridMasker:
    """Keeps a regular lattice with a random phase (MAE, figure 6: one of every 2x2 cell at ratio .75).

    The lattice's step is round((N / K) ** (1 / axes)) on every axis; chance settles what it keeps too many or too few.
    """

    ratio: float = 0.75

    def num_keep(self, grid: tuple[int, ...]) -> int:
        return num_keep(prod(grid), self.ratio)

    def scores(self, grid: tuple[int, ...], generator: torch.Generator, valid: Tensor | None = None) -> Tensor:
        period = prod(grid) / self.num_keep(grid)
        n = len(grid)
        # The same step on every axis, so that keeping 1 of 4 on a plane keeps one corner of every 2x2 cell.
        step = max(1, round(period ** (1 / n)))
        phase = [int(v) for v in torch.randint(0, step, (n,), generator=generator)]
        on_lattice = torch.ones(grid, dtype=torch.bool)
        for axis, extent in enumerate(grid):
            shape = [1] * n
            shape[axis] = extent
            on_lattice &= ((torch.arange(extent) + phase[axis]) % step == 0).view(shape)
        return torch.rand(grid, generator=generator) + (~on_lattice).float()


@dataclass(frozen=True)
class ForegroundMasker:
    """Spreads the hidden tokens evenly over the part of a sample where the loss counts, in exact counts.

    Of the B tokens whose valid share is above `min_share`, round(body_ratio * B) are hidden, and as many of the others
    as `ratio` then leaves to hide: chance can neither hide a small body whole nor leave it in sight. body_ratio=None is
    `ratio`. As a decode masker, body_ratio=0 has the body answered first. Without `valid` it is the random masker.
    """

    ratio: float = 0.75
    body_ratio: float | None = None
    min_share: float = 0.0

    def __post_init__(self) -> None:
        for name, share in (("body_ratio", self.body_ratio), ("min_share", self.min_share)):
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"foreground {name} must be a share, 0 to 1, not {share}")

    def num_keep(self, grid: tuple[int, ...]) -> int:
        return num_keep(prod(grid), self.ratio)

    def scores(self, grid: tuple[int, ...], generator: torch.Generator, valid: Tensor | None = None) -> Tensor:
        scores = torch.rand(grid, generator=generator)
        if valid is None:
            return scores
        body = (valid > self.min_share).flatten()
        inside = int(body.sum())
        hidden = len(body) - self.num_keep(grid)
        wanted = round((self.ratio if self.body_ratio is None else self.body_ratio) * inside)
        of_body = min(max(wanted, hidden - (len(body) - inside)), inside, hidden)
        order = scores.flatten().argsort(descending=True, stable=True)
        scores.view(-1)[order[body[order]][:of_body]] += 1
        scores.view(-1)[order[~body[order]][: hidden - of_body]] += 2  # last, where this decides what is decoded
        return scores
