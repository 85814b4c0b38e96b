"""The order of an epoch: one file after another, without a permutation of them all in memory where they are many."""

from functools import lru_cache

import numpy as np
import torch

from mae_ext.rng import rng, seed_of

LISTED = 1 << 21
"""Sets of up to so many files, ImageNet-1k among them, keep `torch.randperm`'s order, in which runs have begun and go
on: 16 MiB an epoch at most, made in 60 ms. A set beyond has the keyed order, which needs no memory and no time at the
start of an epoch."""

ROUNDS = 10
"""Of the Feistel network. Luby and Rackoff (SIAM J. Comput. 17, 1988): 4 rounds of a random function cannot be told
from a random permutation by few queries. Halves here are short (11 bits and more) and the round function is a hash of
64 bits and no cipher, so it has as many as NIST's FF1 for small domains (SP 800-38G)."""

_MULTIPLIERS = np.array([0xBF58476D1CE4E5B9, 0x94D049BB133111EB], dtype=np.uint64)
"""Of splitmix64's finaliser (Steele, Lea, Flood, OOPSLA 2014; Stafford's variant 13): each bit in moves each bit out in
half of all cases."""


class KeyedOrder:
    """A bijection of 0..num_files onto itself, place -> file, for (seed, name, epoch); a pure function of these.

    A balanced Feistel network of `ROUNDS` rounds on the smallest even number of bits that holds num_files, in which a
    number that falls outside is taken through again until it is inside (cycle walking; Black and Rogaway, CT-RSA 2002):
    less than 4 passes on average. Round keys are the SHA-256 of ("permutation", name, epoch, round), as in rng.py.
    """

    def __init__(self, seed: int, name: str, epoch: int, num_files: int) -> None:
        if not 1 <= num_files <= 1 << 62:
            raise ValueError(f"{num_files} files; expected 1 to 2^62")
        self.num_files = num_files
        self._half = max(1, -(-(num_files - 1).bit_length() // 2))
        keys = [seed_of(seed, "permutation", name, epoch, turn) for turn in range(ROUNDS)]
        self._keys = np.array(keys, dtype=np.uint64)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """(n,) int64 in 0..num_files -> the files at these places, (n,) int64."""
        files = self._mixed(places.astype(np.uint64))
        while (outside := np.flatnonzero(files >= self.num_files)).size:
            files[outside] = self._mixed(files[outside])
        return files.astype(np.int64)

    def _mixed(self, numbers: np.ndarray) -> np.ndarray:
        half, mask = np.uint64(self._half), np.uint64((1 << self._half) - 1)
        left, right = numbers >> half, numbers & mask
        for key in self._keys:
            hashed = right + key  # wraps, as it is meant to
            hashed ^= hashed >> np.uint64(30)
            hashed *= _MULTIPLIERS[0]
            hashed ^= hashed >> np.uint64(27)
            hashed *= _MULTIPLIERS[1]
            hashed ^= hashed >> np.uint64(31)
            left, right = right, left ^ (hashed & mask)
        mixed: np.ndarray = (left << half) | right
        return mixed


@lru_cache(maxsize=4)
def _listed(seed: int, name: str, epoch: int, num_files: int) -> np.ndarray:
    return torch.randperm(num_files, generator=rng(seed, "permutation", name, epoch)).numpy()


@lru_cache(maxsize=4)
def _keyed(seed: int, name: str, epoch: int, num_files: int) -> KeyedOrder:
    return KeyedOrder(seed, name, epoch, num_files)


def order_of(num_files: int) -> str:
    """How a set of so many files is ordered, in a word: a run that goes on has to have the order it began with."""
    return "keyed" if num_files > LISTED else "listed"


def files_at(seed: int, name: str, epoch: int, num_files: int, places: np.ndarray) -> np.ndarray:
    """(n,) int64 -> (n,) int64: which files stand at these places of an epoch's order."""
    if order_of(num_files) == "keyed":
        return _keyed(seed, name, epoch, num_files)(places)
    files: np.ndarray = _listed(seed, name, epoch, num_files)[places]
    return files
