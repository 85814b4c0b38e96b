"""What a reader may have besides `read`: whole samples are seen window by window, and answered in their place."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.sample import CropSampler, Sample

Cut = Callable[[Sequence[CropSampler]], list[Sample]]
"""What an opened source is asked: crop samplers -> a sample for each."""


@dataclass(frozen=True)
class Clock:
    """The first axis of a film, in steps of a clip: (L,) positions of its extent, ascending, and (L,) seconds.

    A clip that begins at step n shows the steps from n on, whatever positions lie between. positions: none of a film
    whose one clip is spread over all of it.
    """

    positions: NDArray[np.int64]
    seconds: NDArray[np.float64]


class Opens(Protocol):
    """A source is opened once, however many groups of windows are cut from it; of other readers each is a `read`."""

    def opened(self, address: str) -> AbstractContextManager[Cut]:
        """Raises BadSample, as what it gives does."""
        ...


class Placed(Protocol):
    """Samples lie somewhere, in mm."""

    map_suffix: str

    def affine(self, address: str) -> NDArray[np.float64]:
        """(4, 4): stored voxels, in the order of the extent's axes, to mm in the patient's space (RAS+).

        Raises BadSample.
        """
        ...

    def write_map(
        self, values: NDArray[np.float32], first: Sequence[float], step: Sequence[float], address: str, path: Path
    ) -> None:
        """(*grid, n): values on a coarser grid than the voxels, where the sample lies.

        first, step: where the middle of the grid's first element lies, in stored voxels, and how many lie between one
        and the next. Raises BadSample, OSError.
        """
        ...


class Films(Protocol):
    """The first axis is time."""

    def clock(self, address: str) -> Clock:
        """Raises BadSample."""
        ...
