"""What differs between images, clips and volumes, all in one module: `Modality`."""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Self

import torch
from torch import Tensor, nn

from mae_ext import plugins
from mae_ext.config import ModalityConfig, Statistics
from mae_ext.errors import UserError, WrongShape
from mae_ext.model.grid import grid_of, patches, take_patches
from mae_ext.model.mask import Mask, Masker, draw_mask
from mae_ext.model.target import PixelTarget
from mae_ext.model.units import in_units


class Modality(nn.Module):
    """All that differs between images, clips and volumes: embedder, positions, masker, predictor, target.

    decoder_width: None where nothing is decoded; then there is no predictor, nor positions for it.
    """

    mean: Tensor
    std: Tensor
    like: Tensor
    strides: Tensor

    def __init__(self, name: str, config: ModalityConfig, width: int, decoder_width: int | None) -> None:
        super().__init__()
        self.name = name
        self.size, self.patch, self.grid, self.channels = config.size, config.patch, config.grid, config.channels
        where, position = f"modalities.{name}", config.position
        shape = {"patch": self.patch, "channels": self.channels}
        self.embed = plugins.embedders.build(
            config.embed.name, config.embed.arguments, f"{where}.embed", size=self.size, **shape, width=width
        )
        placed = partial(
            plugins.positions.build, position.name, position.arguments, f"{where}.position", grid=self.grid
        )
        self.position = placed(width=width)
        self.decoder_position = None if decoder_width is None else placed(width=decoder_width)
        self.target = plugins.targets.build(config.target.name, config.target.arguments, f"{where}.target", **shape)
        self.predict = None if decoder_width is None else nn.Linear(decoder_width, self.target.pix)
        self.masker, self.decode = build_maskers(config, where)
        self.register_buffer("mean", torch.zeros(self.channels))
        self.register_buffer("std", torch.ones(self.channels))
        self.register_buffer("strides", torch.tensor(self.patch), persistent=False)  # a copy in each step would wait
        # Of the weights' dtype, wherever they are cast to; replicas of DataParallel have no parameters to ask.
        self.register_buffer("like", torch.zeros(()), persistent=False)
        if isinstance(config.data.statistics, Statistics):
            self.set_statistics(config.data.statistics)

    def set_statistics(self, statistics: Statistics) -> None:
        """Raises ValueError unless there is one mean and one std for each channel (or one for all)."""
        if len(statistics.mean) not in (1, self.channels):
            raise ValueError(f"statistics for {len(statistics.mean)} channels, but the model has {self.channels}")
        self.mean.copy_(torch.tensor(statistics.mean).expand(self.channels))
        self.std.copy_(torch.tensor(statistics.std).expand(self.channels))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `.to`, `.half()` and their like do. Statistics stay float32: in half precision 70 000 is infinite."""
        exact = {"mean": self.mean, "std": self.std}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for key, value in exact.items():
            if getattr(self, key).dtype != value.dtype:
                setattr(self, key, value.to(getattr(self, key).device))
        return self

    def grid_of(self, x: Tensor) -> tuple[int, ...]:
        """(B, C, *S) -> the grid of its tokens, which need not be that of training.

        Raises WrongShape for other axes or channels, a size that the patch does not divide, and another size where the
        embedder or the positions are of one grid.
        """
        size, what = tuple(x.shape[2:]), f"modality '{self.name}'"
        if len(size) != len(self.size) or x.shape[1] != self.channels:
            raise WrongShape(
                f"{what}: a tensor of {list(x.shape)}: expected (batch, {self.channels} channels, {len(self.size)} "
                f"axes such as {list(self.size)})"
            )
        if size == self.size:
            return self.grid
        try:
            grid = grid_of(size, self.patch)
        except ValueError as error:
            fits = [max(1, s // p) * p for s, p in zip(size, self.patch, strict=True)]
            raise WrongShape(f"{what}: {error}; crop or pad samples, to {fits} for instance") from None
        for part in (self.embed, self.position, *([] if self.decoder_position is None else [self.decoder_position])):
            if not getattr(part, "any_size", False):
                raise WrongShape(
                    f"{what}: samples of {list(size)}, and {type(part).__name__} is of size {list(self.size)} alone; "
                    f"bring them to that size"
                )
        return grid

    def everything(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, N): every token of x's grid."""
        return torch.arange(prod(self.grid_of(x)), device=x.device).expand(x.shape[0], -1)

    def placed(self, position: nn.Module, index: Tensor, spacing: Tensor | None, grid: tuple[int, ...]) -> Tensor:
        """(B, K) of a grid -> (B, K, D or E): where these tokens are, as `position` says it."""
        at = (index, self.step(spacing))
        places: Tensor = position(*at) if grid == self.grid else position(*at, grid)
        return places

    def _per_channel(self, statistic: Tensor) -> Tensor:
        return statistic.view(-1, *[1] * len(self.size))

    def normalize(self, x: Tensor) -> Tensor:
        """(B, C, *S) in reader units (uint8 counts as 0..1) -> (B, C, *S) float32 with the data's mean 0 and std 1."""
        # One multiply-add, over the largest tensor of the step.
        return torch.addcmul(self._per_channel(-self.mean / self.std), in_units(x), self._per_channel(1 / self.std))

    def counts(self, valid: Tensor, x: Tensor) -> Tensor:
        """(B, 1, *S) bool, (B, C, *S) -> (B, C, *S) of x's dtype: 1 where a value counts, a view over channels.

        x may be maps that are coarser than S: then of each of its values the share of pixels that count.
        """
        share = valid.to(x.dtype)
        if valid.shape[2:] != x.shape[2:]:
            block = tuple(s // m for s, m in zip(valid.shape[2:], x.shape[2:], strict=True))
            share = patches(share, block).flatten(1 + len(block)).mean(-1)[:, None]
        return share.expand(-1, *x.shape[1:])

    def denormalize(self, x: Tensor) -> Tensor:
        """The inverse of normalize, for floats."""
        return x * self._per_channel(self.std) + self._per_channel(self.mean)

    def step(self, spacing: Tensor | None) -> Tensor | None:
        """(B, n) distance between voxels -> (B, n) distance between tokens."""
        return None if spacing is None else spacing * self.strides

    def tokens(self, x: Tensor, keep: Tensor, spacing: Tensor | None) -> Tensor:
        """(B, C, *S) normalised, (B, K) of its grid -> (B, K, D) embedded and placed."""
        embedded: Tensor = self.embed(x.to(self.like.dtype), keep)
        return (embedded + self.placed(self.position, keep, spacing, self.grid_of(x))).to(self.like.dtype)

    def all_tokens(self, x: Tensor, spacing: Tensor | None) -> Tensor:
        """(B, C, *S) in reader units -> (B, N, D): every token of its grid, embedded and placed."""
        everything = self.everything(x)
        return self.tokens(self.normalize(x), everything, spacing)

    def loss(
        self, predicted: Tensor, x: Tensor, pred: Tensor, valid: Tensor | None, spacing: Tensor | None = None
    ) -> Tensor:
        """(B, P, pix) predicted of the patches `pred` (B, P) of (B, C, *S) normalised -> scalar.

        The mean over samples of the mean error over pixels that are valid: valid is (B, 1, *S) bool, or None for all. A
        sample none of whose predicted pixels is valid counts as 0. spacing: (B, n) or None, for a target's `prepare`.
        """
        target, prepare = self.target, getattr(self.target, "prepare", None)
        maps = x if prepare is None else prepare(x, valid, spacing)
        patch = tuple(p * m // s for p, m, s in zip(self.patch, maps.shape[2:], x.shape[2:], strict=True))
        values = take_patches(maps, patch, pred)
        if valid is None:
            error: Tensor = target.error(predicted, target(values))
            return error.mean()
        weight = take_patches(self.counts(valid, maps), patch, pred)
        error = target.error(predicted, target(values, weight))
        return ((error * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)).mean()

    @property
    def pixels(self) -> PixelTarget:
        """The target, from which a picture can be drawn. Raises UserError where it is not about pixels."""
        if not (hasattr(self.target, "statistics") and hasattr(self.target, "spread")):
            raise UserError(
                f"modality '{self.name}': its target, {type(self.target).__name__}, says nothing of pixels, so there "
                f"is no picture of what it predicts; a run with target 'pixel' has one"
            )
        pixels: PixelTarget = self.target
        return pixels

    def draw_mask(
        self,
        generators: Sequence[torch.Generator],
        grid: tuple[int, ...] | None = None,
        valid: Sequence[Tensor | None] | None = None,
    ) -> Mask:
        """A mask row for each generator, for pictures and evaluation; training draws its masks in the loader.

        grid: of samples of another size than that of training. valid: as `model.mask.draw_mask` says.
        """
        return draw_mask(self.masker, self.decode, grid or self.grid, generators, valid)

    def check_mask(self, x: Tensor, mask: Mask) -> None:
        """Raises WrongShape for a mask of another grid than (B, C, *S) has."""
        if self.grid_of(x) != mask.grid:
            raise WrongShape(
                f"modality '{self.name}': samples of {list(x.shape[2:])} have a grid of {list(self.grid_of(x))}, and "
                f"the mask is of {list(mask.grid)}; draw one with draw_mask(generators, grid)"
            )


def build_maskers(config: ModalityConfig, where: str) -> tuple[Masker, Masker | None]:
    """What hides tokens, and what chooses those of them that are answered, or None. where: of messages."""
    mask, decode = config.mask, config.decode
    masker = plugins.maskers.build(mask.name, mask.arguments, f"{where}.mask")
    return masker, None if decode is None else plugins.maskers.build(decode.name, decode.arguments, f"{where}.decode")
