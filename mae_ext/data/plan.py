"""Which samples, in which order: pure arithmetic. The data state of a run is one integer, the step."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from mae_ext.rng import rng


@dataclass(frozen=True)
class Key:
    """One sample of one step. slot: its place in the global batch; index: the file; repeat: which view of that file."""

    epoch: int
    place: int
    index: int
    repeat: int
    slot: int


@lru_cache(maxsize=4)
def _permutation(seed: int, name: str, epoch: int, num_files: int) -> np.ndarray:
    return torch.randperm(num_files, generator=rng(seed, "permutation", name, epoch)).numpy()


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
        keys = []
        for slot in range(self.rank * share, (self.rank + 1) * share):
            read, repeat = divmod(step * self.batch + slot, self.repeats)
            epoch, place = divmod(read, self.num_files)
            keys.append(Key(epoch, place, self._index(epoch, place), repeat, slot))
        return keys

    def candidates(self, key: Key) -> Iterator[int]:
        """The key's file, then those that stand in for it if it is bad: the next ones of the same permutation."""
        for offset in range(self.num_files):
            yield self._index(key.epoch, (key.place + offset) % self.num_files)

    def _index(self, epoch: int, place: int) -> int:
        return int(_permutation(self.seed, self.name, epoch, self.num_files)[place])


def spread(total: int, count: int) -> list[int]:
    """`count` different indices (all of them where there are fewer), evenly over 0..total."""
    count = min(total, count)
    return [i * total // count for i in range(count)]
