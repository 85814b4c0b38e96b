"""A picture of a sample's maps: input, reconstruction, error, and how unusual that is, where it is most so."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from matplotlib import colormaps
from torch import Tensor

from mae_ext.drawing.panels import Panel, on_a_scale
from mae_ext.drawing.planes import planes_at
from mae_ext.restored.rows import Rows
from mae_ext.restored.source import Source

LONGEST = {"image": (512, 512), "clip": (16, 256, 256)}
"""Voxels along the axes of a picture; of a longer one every second is shown, or every third."""

OTHERS = 160

UNUSUAL = 8.0
"""Standard deviations at which the standardised map is brightest."""


@dataclass
class Thumb:
    """A sample and its maps with fewer voxels, gathered row by row: (rows, *rest, k).

    mean, std: (C,) of the training data, which the model's units are given back.
    """

    source: Source
    display: str
    mean: Tensor
    std: Tensor
    _parts: list[Tensor] = field(default_factory=list)
    _at: int = 0

    @property
    def steps(self) -> tuple[int, ...]:
        most = LONGEST.get(self.display, (OTHERS,) * len(self.source.shape))
        return tuple(max(1, -(-n // m)) for n, m in zip(self.source.shape, most, strict=True))

    def add(self, rows: Rows, standardised: Tensor | None) -> None:
        slow, *rest = self.steps
        which = (slice(-self._at % slow, None, slow), *(slice(None, None, step) for step in rest))
        self._at += len(rows.error)
        last = rows.spread if standardised is None else standardised
        maps = torch.stack([rows.error.where(rows.valid, 0), last.where(rows.valid, 0)], -1)
        both = [x * self.std + self.mean for x in (rows.x, rows.x + rows.off)]
        self._parts.append(torch.cat([*both, maps], -1)[which].clone())

    def panel(self, caption: Sequence[str], unusual: bool) -> Panel:
        """unusual: whether the last map is the standardised one; else it is the spread."""
        whole = torch.cat(self._parts).movedim(-1, 0)
        channels = len(whole) // 2 - 1
        shown = slice(0, 3 if channels == 3 else 1)
        x, filled = (whole[i * channels : (i + 1) * channels][shown] for i in (0, 1))
        both = on_a_scale(torch.stack([x, filled]), torch.stack([x, x]))
        error, last = whole[-2], whole[-1]
        most = max(float(error.flatten().double().quantile(0.999) if error.numel() < 1 << 24 else error.max()), 1e-6)
        titled = [
            ("input", _grey(both[0])), ("reconstruction", _grey(both[1])),
            (f"error, 0 to {most:.2g} sd", _hot(error / most)),
            (f"standardised, 0 to {UNUSUAL:g}", _hot(last / UNUSUAL)) if unusual else ("spread", _hot(last / most)),
        ]  # fmt: skip
        if self.display == "volume":
            mm = self.source.spacing or (1.0,) * 3
            steps = tuple(length * step for length, step in zip(mm, self.steps, strict=True))
            peak = tuple(int(i) for i in np.unravel_index(int(last.flatten().argmax()), tuple(last.shape)))
            titled = [(title, planes_at(one, peak, steps)) for title, one in titled]
            return Panel(tuple(titled), tuple(caption), "image")
        return Panel(tuple(titled), tuple(caption), self.display)


def _grey(x: Tensor) -> Tensor:
    return x.expand(3, *x.shape[1:])


def _hot(x: Tensor) -> Tensor:
    """(*S) in 0..1 -> (3, *S)."""
    return torch.from_numpy(colormaps["magma"](x.clamp(0, 1).numpy())[..., :3]).float().movedim(-1, 0)
