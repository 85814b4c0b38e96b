"""What a model says of every voxel of a window from masks in which it was hidden, each voxel in equally many."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from mae_ext.errors import UserError
from mae_ext.features.encoder import FrozenEncoder
from mae_ext.model.filling import statistics_caption, visible_pixels
from mae_ext.model.mask import Mask
from mae_ext.model.partition import fitting, partitions, shown, units_of
from mae_ext.model.units import in_units
from mae_ext.rng import rng

NUMBERS = 1 << 23
"""Values of windows, each under a mask of its own, that are computed at a time."""

DRAWN = 256
"""Windows whose masks are kept at hand."""


@dataclass(frozen=True)
class Masking:
    """masks: of each window, or None for the fewest that hide the run's own share. overlap: of neighbouring windows,
    0 to 0.9. own_statistics: see `MAE.reconstruct`; a leak. Raises UserError for numbers that mean nothing."""

    masks: int | None = None
    overlap: float = 0.25
    seed: int = 0
    own_statistics: bool = False

    def __post_init__(self) -> None:
        if self.masks is not None and self.masks < 2:
            raise UserError(f"masks={self.masks}: expected 2 or more, as no mask hides every place")
        if not 0 <= self.overlap <= 0.9:
            raise UserError(f"overlap={self.overlap}: expected 0 to 0.9, the share that neighbouring windows have")


class Restorer:
    """A frozen run, its masks, and what is said of them in files. Raises UserError for a run that draws no pixels."""

    def __init__(self, encoder: FrozenEncoder, masking: Masking) -> None:
        if encoder.model.decoder is None:
            task = encoder.config.task.name
            raise UserError(
                f"{encoder.path}: these weights have no decoder, which says what is hidden; pretrain from them (--init)"
                if task == "pretrain"
                else f"{encoder.path}: a run of task '{task}' has no decoder; give the run of pretraining it is from"
            )
        self.encoder, self.masking = encoder, masking
        self._drawn: dict[tuple[int, ...], list[Mask]] = {}
        self.modality = encoder.model.modality(encoder.name)
        self.normalised = getattr(self.modality.pixels, "normalize", "none") != "none"
        grid, masker = self.modality.grid, self.modality.masker
        self.units = units_of(masker, grid, getattr(encoder.reader(), "display", "image") == "clip")
        self.ratio, number = 1 - masker.num_keep(grid) / prod(grid), int(self.units.max()) + 1
        try:
            self.masks = masking.masks or fitting(self.ratio, number)
            self.show = shown(self.masks, self.ratio, number)
        except ValueError as error:
            raise UserError(f"masks={masking.masks}: {error}") from None

    @property
    def size(self) -> tuple[int, ...]:
        return self.modality.size

    @property
    def channels(self) -> int:
        return self.modality.channels

    @property
    def said(self) -> dict[str, object]:
        """For files of results: all that their numbers depend on besides the weights."""
        how = statistics_caption(self.normalised, self.masking.own_statistics).partition(": ")[2]
        return {
            "step": self.encoder.step, "masks": self.masks, "hidden_in": self.masks - self.show,
            "hidden_share": round(1 - self.show / self.masks, 4), "trained_share": round(self.ratio, 4),
            "seed": self.masking.seed, "overlap": self.masking.overlap, "patch_statistics": how,
            "blend": "mean over masks, then over windows, weighted by a Gaussian of an eighth of each side (as MONAI)",
        }  # fmt: skip

    def draw(self, key: Sequence[int]) -> list[Mask]:
        """The masks of one window, a function of the seed and the key: where in its sample it begins. So they are the
        same for all samples, whatever else is asked for, and maps of one place are of the same masks."""
        if tuple(key) not in self._drawn:
            generator = rng(self.masking.seed, "restored", self.encoder.name, *key)
            self._drawn[tuple(key)] = partitions(self.units, self.masks, self.show, generator)
            if len(self._drawn) > DRAWN:
                self._drawn.pop(next(iter(self._drawn)))
        return self._drawn[tuple(key)]

    @torch.no_grad()
    def answer(self, x: Tensor, valid: Tensor, spacing: Tensor | None, keys: Sequence[Sequence[int]]) -> Tensor:
        """(W, C, *size) in the reader's units, (W, 1, *size) bool, (W, n) | None, a key for each window
        -> (W, *size, 2C + 2) float32: x in standard deviations of the data, by how much the mean of what is said of
        each voxel differs from it, the mean of the squares of that difference over channels, and whether it is valid.
        """
        normal, whole = self.modality.normalize(x), in_units(x)
        sums = torch.zeros(len(x), self.channels + 1, *self.size, device=x.device)
        drawn = [(row, mask) for row, key in enumerate(keys) for mask in self.draw(key)]
        together = max(1, NUMBERS // (prod(self.size) * self.channels))
        for kept in sorted({mask.keep.shape[1] for _, mask in drawn}):  # masks of one count make a batch
            alike = [(row, mask) for row, mask in drawn if mask.keep.shape[1] == kept]
            for start in range(0, len(alike), together):
                part = alike[start : start + together]
                rows = torch.tensor([row for row, _ in part], device=x.device)
                keep, pred = torch.cat([m.keep for _, m in part]), torch.cat([m.pred for _, m in part])
                mask = Mask(keep.to(x.device), pred.to(x.device), self.modality.grid)
                filled = self.encoder.model.reconstruct(
                    whole[rows], mask, self.encoder.name, None if spacing is None else spacing[rows],
                    self.masking.own_statistics, valid[rows],
                )  # fmt: skip
                off = (self.modality.normalize(filled) - normal[rows]) * ~visible_pixels(mask, self.modality.patch)
                off = torch.cat([off, off.square().mean(1, keepdim=True)], 1)
                sums.index_add_(0, rows, off)
        sums /= self.masks - self.show
        return torch.cat([normal, sums, valid.to(normal.dtype)], 1).movedim(1, -1).contiguous()
