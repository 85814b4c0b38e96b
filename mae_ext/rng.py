"""The one random function: randomness is a function of (seed, key), never of process state."""

import hashlib

import torch


def seed_of(seed: int, *key: str | int) -> int:
    """A 63-bit integer that depends on every part of (seed, key) and on nothing else."""
    # repr keeps 1 and "1" apart; SHA-256 so that neighbouring keys share nothing.
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def rng(seed: int, *key: str | int) -> torch.Generator:
    """A fresh CPU generator for (seed, key), for instance ``rng(0, "mask", step, slot)``.

    Keys in use: ("permutation", name, epoch) and, of large sets, ("permutation", name, epoch, round),
    ("augment", name, epoch, index, repeat), ("mask", name, step, slot),
    ("decode", name, step, slot), ("held-out", name, index), ("drop", name, step), ("init",), ("picture", name, i),
    ("probe", draw, label), ("attentive",), ("attentive", epoch), ("bootstrap",), ("folds", class), ("map",),
    ("neighbours",), ("voxels", row), ("restored", name, window); of tasks ("init", "task"), ("init", "head"),
    ("labels", name, class), ("distort", name, epoch, index, repeat), ("balance", name, epoch, index, repeat) and
    ("mix", name, step, pair).

    >>> import torch
    >>> from mae_ext.rng import rng
    >>> torch.randperm(5, generator=rng(0, "mask", 7)).tolist()  # the same in every process
    [1, 3, 4, 0, 2]
    """
    return torch.Generator().manual_seed(seed_of(seed, *key))
