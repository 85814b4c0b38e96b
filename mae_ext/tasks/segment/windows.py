"""Labels of whole samples, answered by overlapping windows (`data.loading.rows`).

They are taken on the voxels that the sample is stored in, from probabilities between which lines are drawn, as nnU-Net
does.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae_ext.data.labelmap import Labels
from mae_ext.data.loading.rows import blended, onto
from mae_ext.data.loading.slabs import Slabs
from mae_ext.model.units import in_units

Answer = Callable[[Tensor], Tensor]
"""(B, C, *size) -> (B, *size, classes): windows to probabilities, on the device; a tensor that nobody else holds."""


def segment(
    slabs: Sequence[Tensor], size: tuple[int, ...], overlap: float, answer: Answer,
    places: Sequence[NDArray[np.float64]], device: torch.device, scratch: Path | None = None,
) -> Labels:  # fmt: skip
    """Slabs (C, rows, *rest) of a sample, along its slowest axis -> (len(p) for p in places) int32, the best class.

    places: for each axis, where the wanted voxels lie, in voxels of the sample. scratch: the folder for what does not
    fit into memory, by default the system's. Raises OSError where that has no room, and MemoryError.
    """
    whole = Slabs(slabs)

    def said(corners: list[tuple[int, ...]]) -> Tensor:
        return answer(torch.stack([in_units(whole.window(corner, size)[0]) for corner in corners]).to(device))

    labels = np.zeros([len(p) for p in places], np.int32)
    done = 0
    for values in onto(blended(whole.shape, size, overlap, said, scratch), places, whole.shape):
        labels[done : done + len(values)] = values.argmax(-1).numpy()
        done += len(values)
    return labels
