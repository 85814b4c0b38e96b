"""Which samples, in which order: pure arithmetic. The data state of a run is one integer, the step."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mae_ext.data.order import files_at

STAND_INS = 16
"""Files that may stand in for a bad one, looked up at a time."""


@dataclass(frozen=True)
class Key:
    """One sample of one step. slot: its place in the global batch; index: the file; repeat: which view of that file."""

    epoch: int
    place: int
    index: int
    repeat: int
    slot: int


@dataclass(frozen=True)
class Plan:
    """step -> the keys of this rank. An epoch is every file once (`repeats` samples each); batches run across epochs.

    The order depends on neither the number of workers nor, at a fixed global batch, the number of ranks.
    """

    seed: int
    name: str
    num_files: int
    batch: int
    repeats: int = 1
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch % (self.world * self.repeats):
            raise ValueError(
                f"batch={self.batch} does not split over {self.world} ranks with {self.repeats} samples per file"
            )

    @property
    def samples_per_epoch(self) -> int:
        return self.num_files * self.repeats

    def keys(self, step: int) -> list[Key]:
        """The samples of optimiser step `step` (from 0) that belong to this rank, in order of slot."""
        share = self.batch // self.world
        slots = range(self.rank * share, (self.rank + 1) * share)
        reads = [divmod(step * self.batch + slot, self.repeats) for slot in slots]
        at = [divmod(read, self.num_files) for read, _ in reads]
        files: dict[tuple[int, int], int] = {}
        for epoch in dict.fromkeys(epoch for epoch, _ in at):
            places = list(dict.fromkeys(place for other, place in at if other == epoch))
            files |= {(epoch, place): index for place, index in zip(places, self._indices(epoch, places), strict=True)}
        return [
            Key(*where, files[where], repeat, slot) for slot, (_, repeat), where in zip(slots, reads, at, strict=True)
        ]

    def candidates(self, key: Key) -> Iterator[int]:
        """The key's file, then those that stand in for it if it is bad: the next ones of the same permutation."""
        yield key.index
        for offset in range(1, self.num_files, STAND_INS):
            places = range(key.place + offset, key.place + min(offset + STAND_INS, self.num_files))
            yield from self._indices(key.epoch, [place % self.num_files for place in places])

    def _indices(self, epoch: int, places: list[int]) -> list[int]:
        indices: list[int] = files_at(self.seed, self.name, epoch, self.num_files, np.array(places)).tolist()
        return indices


def spread(total: int, count: int) -> list[int]:
    """`count` different indices (all of them where there are fewer), evenly over 0..total."""
    count = min(total, count)
    return [i * total // count for i in range(count)]
