"""What a step is given: samples of one modality, stacked, with what is hidden of them."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from mae_ext.model.mask import Mask
from mae_ext.model.units import in_units


@dataclass(frozen=True)
class Batch:
    """x: (B, C, *S). valid: (B, 1, *S) bool or None. spacing: (B, n) float32 or None. mask, targets: rows match x.

    mask: None where the task hides nothing. targets: (B, ...) each, by the names that the task's samples gave them.
    files: (B,) int64, the file of the list that a row is a view of. sources: its name. bad: rows of the ledger, for the
    files that were replaced. gates: (B, depth, 2) float32, what each branch of the encoder's blocks counts for a row
    (drop path), or None; of the step, and drawn by it. levels: (B, C, 6) what the numbers of an x that travels as its
    files store it mean (`model.units.in_units`), or None; a task's loss is given x in the reader's units.

    >>> import torch
    >>> from mae_ext import Batch
    >>> batch = Batch(torch.rand(4, 3, 8, 8), targets={"label": torch.tensor([0, 1, 1, 0])})
    >>> batch.rows(1, 3).targets["label"]
    tensor([1, 1])
    """

    x: Tensor
    mask: Mask | None = None
    valid: Tensor | None = None
    spacing: Tensor | None = None
    sources: list[str] = field(default_factory=list)
    bad: list[dict[str, Any]] = field(default_factory=list)
    targets: dict[str, Tensor] = field(default_factory=dict)
    files: Tensor | None = None
    gates: Tensor | None = None
    levels: Tensor | None = None

    def in_units(self) -> "Batch":
        """x in the reader's units, float32, where it came as its files store it; else as it is."""
        if self.levels is None and self.x.dtype != torch.float16:
            return self
        return replace(self, x=in_units(self.x, levels=self.levels), levels=None)

    def _each(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {k: move(v) if isinstance(v, Tensor) else v for k, v in moved.items()}
        moved["mask"] = None if self.mask is None else self.mask.each(move)
        moved["targets"] = {name: move(target) for name, target in self.targets.items()}
        return replace(self, **moved)

    def to(self, device: torch.device) -> "Batch":
        """All tensors on a device, without waiting."""
        return self._each(lambda t: t.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        return self._each(Tensor.pin_memory)

    def rows(self, start: int, stop: int) -> "Batch":
        """The samples start..stop. They share this one's memory."""
        return replace(self._each(lambda t: t[start:stop]), sources=self.sources[start:stop], bad=[])

    def repeated(self, rows: int) -> "Batch":
        """Its samples, over and over, until there are `rows`: as much work as a batch of that size."""
        index = torch.arange(rows, device=self.x.device) % len(self.x)
        return replace(self._each(lambda t: t[index]), sources=[], bad=[])
