"""Masks: two sorted index tensors with exact counts, drawn by one function, `draw_mask`.

A masker turns a key into scores over the grid; the lowest scores are kept. It knows nothing of batches, ranks or
devices, which is why any number of workers and ranks sees the same masks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, prod
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


def num_keep(num_tokens: int, ratio: float) -> int:
    """floor(N * (1 - ratio) + 1e-6), for everything: MAE, MAE-ST and VideoMAE each round differently by float error.

    ratio: the share that is hidden, 0 <= ratio < 1. Raises ValueError for another, and for one that keeps no token.

    >>> from mae_ext import num_keep
    >>> num_keep(196, 0.75)
    49
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"mask ratio {ratio} is not in [0, 1)")
    keep = floor(num_tokens * (1 - ratio) + 1e-6)
    if keep < 1:
        most = floor(1e4 * (1 - 1 / num_tokens)) / 1e4
        raise ValueError(f"mask ratio {ratio} keeps none of {num_tokens} tokens; it may be at most {most:g}")
    return keep


@dataclass(frozen=True)
class Mask:
    """keep: (B, K) visible tokens. pred: (B, P) hidden tokens the decoder answers. Both int64, ascending, disjoint.

    P may be less than N - K: that is decoder masking (VideoMAE V2's dual masking). Tokens are numbered row by row over
    `grid`, slowest axis first.

    >>> import torch
    >>> from mae_ext import Mask
    >>> mask = Mask(keep=torch.tensor([[0, 3]]), pred=torch.tensor([[1]]), grid=(2, 2))
    >>> mask.hidden()  # hidden, though token 2 is not asked for
    tensor([[1, 2]])
    """

    keep: Tensor
    pred: Tensor
    grid: tuple[int, ...]

    def each(self, move: Callable[[Tensor], Tensor]) -> "Mask":
        """The mask of keep and pred as `move` makes them: on a GPU, say."""
        return Mask(move(self.keep), move(self.pred), self.grid)

    def hidden(self) -> Tensor:
        """(B, N - K): every token that is not kept, ascending, whether it is predicted or not."""
        visible = torch.zeros(len(self.keep), prod(self.grid), dtype=torch.bool, device=self.keep.device)
        visible.scatter_(1, self.keep, True)
        return (~visible).nonzero()[:, 1].view(len(self.keep), -1)


def draw_mask(
    masker: "Masker",
    decode: "Masker | None",
    grid: tuple[int, ...],
    generators: Sequence[torch.Generator],
    valid: Sequence[Tensor | None] | None = None,
    decode_generators: Sequence[torch.Generator] | None = None,
) -> Mask:
    """-> Mask, a row for each generator: every mask of training, of evaluation and of pictures is from here.

    decode: says which hidden tokens are answered; None is all. Its generators, where they are not given, are those of
    the masker, which has drawn first. valid: of each sample the (*grid) share of each patch where the loss counts, or
    None where it counts everywhere.
    """
    shares = valid or [None] * len(generators)

    def scores(which: Masker, generators: Sequence[torch.Generator]) -> Tensor:
        rows = zip(generators, shares, strict=True)
        return torch.stack([which.scores(grid, generator, share) for generator, share in rows])

    visible = scores(masker, generators)
    if decode is None:
        return from_scores(visible, masker.num_keep(grid))
    answered = scores(decode, decode_generators or generators)
    return from_scores(visible, masker.num_keep(grid), answered, num_decoded(masker, decode, grid))


def from_scores(scores: Tensor, keep: int, decode_scores: Tensor | None = None, decoded: int | None = None) -> Mask:
    """(B, *grid) -> Mask. The `keep` lowest scores stay visible; ties go to the lower token number.

    With decode_scores (B, *grid), of the hidden tokens only the `decoded` lowest are predicted; see num_decoded.

    >>> import torch
    >>> from mae_ext import from_scores
    >>> mask = from_scores(torch.tensor([[[0.9, 0.1], [0.5, 0.2]]]), keep=2)
    >>> mask.keep, mask.pred
    (tensor([[1, 3]]), tensor([[0, 2]]))
    """
    grid = tuple(scores.shape[1:])
    order = scores.flatten(1).argsort(dim=1, stable=True)
    visible, hidden = order[:, :keep].sort(dim=1).values, order[:, keep:].sort(dim=1).values
    if decode_scores is not None:
        ranked = decode_scores.flatten(1).gather(1, hidden).argsort(dim=1, stable=True)[:, :decoded]
        hidden = hidden.gather(1, ranked.sort(dim=1).values)
    return Mask(visible, hidden, grid)


def num_decoded(masker: "Masker", decode: "Masker", grid: tuple[int, ...]) -> int:
    """How many hidden tokens are answered: num_keep of them or, where `decode` works in groups, whole groups.

    Raises ValueError where that is none, or where the masker leaves no whole groups to choose from.
    """
    hidden = prod(grid) - masker.num_keep(grid)
    if not isinstance(decode, InGroups):
        return num_keep(hidden, decode.ratio)
    if not isinstance(masker, InGroups) or masker.axis % len(grid) != decode.axis % len(grid):
        raise ValueError(
            f"it answers whole groups of tokens along axis {decode.axis}, and the mask hides others than those: mask "
            f"with 'tube' or 'frame' along the same axis, or decode with single tokens ('random', 'running_cell')"
        )
    out_of_sight = masker.scores(grid, torch.Generator()).flatten().argsort(stable=True)[-hidden:]
    sizes = decode.groups(grid).flatten()[out_of_sight].bincount()
    groups = int((sizes > 0).sum())
    return whole_keep(groups, decode.ratio) * (hidden // groups)


def check_masks(masker: "Masker", decode: "Masker | None", grid: tuple[int, ...]) -> None:
    """Raises ValueError, beginning with the key, for masks under which pretraining has nothing to answer."""
    if masker.num_keep(grid) >= prod(grid):
        raise ValueError(f"mask: ratio {masker.ratio:g} hides none of {prod(grid)} tokens, and nothing can be learned")
    if decode is not None:
        try:
            num_decoded(masker, decode, grid)
        except ValueError as error:
            hidden = prod(grid) - masker.num_keep(grid)
            raise ValueError(f"decode: of the {hidden} hidden tokens: {error}") from None


def whole_keep(num_groups: int, ratio: float) -> int:
    """Groups that stay visible when groups are hidden whole: G - floor(G * ratio + 1e-6), at least 1.

    VideoMAE's count (masking_generator.py hides int(ratio * G)): 20 of 196 tubes at .9, which are 160 of 1568 tokens,
    where masks of single tokens keep 156. `plan` prints what is kept. Raises ValueError for a ratio that hides none.
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"mask ratio {ratio} is not in [0, 1)")
    keep = max(1, num_groups - floor(num_groups * ratio + 1e-6))
    if keep == num_groups and ratio > 0:
        raise ValueError(f"mask ratio {ratio} hides none of {num_groups} whole groups of tokens")
    return keep


@runtime_checkable
class InGroups(Protocol):
    """A masker that hides groups of tokens whole: lines along an axis, or slices across it."""

    axis: int

    def groups(self, grid: tuple[int, ...]) -> Tensor:
        """-> (*grid) int64: the number of each token's group."""
        ...


class Masker(Protocol):
    """Which tokens it would rather keep, for a grid of any number of axes. ratio: share of tokens hidden, in [0, 1).

    A frozen dataclass will do. All chance is from the generator that it is handed. Raises ValueError for arguments and
    grids that it cannot use.

    >>> import torch
    >>> from dataclasses import dataclass
    >>> from mae_ext import from_scores, num_keep
    >>> from mae_ext.rng import rng
    >>> @dataclass(frozen=True)
    ... class LeftFirst:  # keeps the left of an image, the earlier slices of a scan's last axis
    ...     ratio: float = 0.75
    ...
    ...     def num_keep(self, grid):
    ...         return num_keep(torch.Size(grid).numel(), self.ratio)
    ...
    ...     def scores(self, grid, generator, valid=None):
    ...         return torch.arange(grid[-1]) + 0.1 * torch.rand(grid, generator=generator)
    >>> masker = LeftFirst(0.5)
    >>> from_scores(masker.scores((2, 4), rng(0, "mask"))[None], masker.num_keep((2, 4))).keep
    tensor([[0, 1, 4, 5]])
    """

    ratio: float

    def num_keep(self, grid: tuple[int, ...]) -> int:
        """How many tokens stay visible: the same for every sample, so that batches stack."""
        ...

    def scores(self, grid: tuple[int, ...], generator: torch.Generator, valid: Tensor | None = None) -> Tensor:
        """-> (*grid) float32, lowest kept. valid: (*grid), the share of each patch where the loss counts, in [0, 1]."""
        ...
