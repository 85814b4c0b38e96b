"""Windows over a whole sample, from its first row to its last, and what is said of it row by row as rows are final."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from mae_ext.data.loading.rows import blended, margins
from mae_ext.restored.restorer import Restorer


class Whole(Protocol):
    """A sample at the scale of training. shape: along its axes, slowest first."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def spacing(self) -> tuple[float, ...] | None: ...

    def window(self, start: Sequence[int], size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """(C, *size) in the reader's units and valid (1, *size) bool; start may lie before the sample, and the window
        end beyond it, where it is padded and not valid. Raises BadSample."""
        ...


@dataclass(frozen=True)
class Rows:
    """Some rows of a sample: (r, *rest, C), in standard deviations of the data as `Modality.normalize` has them.

    x: the input. off: by how much what is said of a voxel differs from it, the mean over masks. error: (r, *rest), the
    root of off's mean square over channels. spread: (r, *rest), the standard deviation over masks, the root of its mean
    square. valid: (r, *rest) bool.
    """

    x: Tensor
    off: Tensor
    error: Tensor
    spread: Tensor
    valid: Tensor

    @staticmethod
    def of(answers: Tensor) -> "Rows":
        """(r, *rest, 2C + 2) as `Restorer.answer` has them."""
        channels = answers.shape[-1] // 2 - 1
        x, off, squares, valid = answers.split([channels, channels, 1, 1], -1)
        error = off.square().mean(-1)
        spread = (squares[..., 0] - error).clamp(min=0).sqrt()
        return Rows(x, off, error.sqrt(), spread, valid[..., 0] > 0.5)


def answers_of(
    restorer: Restorer, whole: Whole, key: Sequence[int], scratch: Path | None = None, aside: bool = False
) -> Iterator[Tensor]:
    """(r, *rest, 2C + 2), a few rows at a time, in order. key: of its masks, before the windows'. Raises BadSample.

    As many rows as a window has are held, in memory or, beyond blend.HELD and where `aside`, in a file in `scratch`.
    """
    size, device = restorer.size, restorer.encoder.device
    margin = margins(whole.shape, size)
    spacing = None if whole.spacing is None else torch.tensor([whole.spacing], device=device)

    def said(corners: list[tuple[int, ...]]) -> Tensor:
        cut = [whole.window(corner, size) for corner in corners]
        x, valid = (torch.stack(parts).to(device) for parts in zip(*cut, strict=True))
        steps = None if spacing is None else spacing.expand(len(corners), -1)
        keys = [(*key, *(c + m for c, m in zip(corner, margin, strict=True))) for corner in corners]
        return restorer.answer(x, valid, steps, keys)

    yield from blended(whole.shape, size, restorer.masking.overlap, said, scratch, aside)
