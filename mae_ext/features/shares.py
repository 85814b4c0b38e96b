"""Features of a source in parts: which blocks of it a rank computes, and how those of all ranks become one table."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, TypeVar

import numpy as np

from mae_ext.errors import BadSample, UserError, check_bad, reasons
from mae_ext.features.windowed import Windows
from mae_ext.model_config import Pooled
from mae_ext.progress import Progress

T = TypeVar("T")

Pool = Literal[Pooled, "tokens"]
"""What becomes of a sample's tokens: their mean, the first class token, means and deviations of the tokens of the last
four blocks side by side (model/moments.py), or all of them as they are."""


@dataclass(frozen=True)
class Wanted:
    """What a rank is asked for a share of. view: which of the encoder's views; None for the samples as they are.

    A block is `batch_size` samples that follow each other in the source, and the same for any number of ranks: in
    another company a sample's last bits may differ.
    """

    source: str
    pool: Pool | Windows
    batch_size: int
    threads: int | None
    max_bad_fraction: float
    view: int | None

    def rows(self, total: int, rank: int, world: int) -> Sequence[int]:
        """The samples of every `world`-th block."""
        if world == 1:
            return range(total)
        return [row for row in range(total) if row // self.batch_size % world == rank]


@dataclass(frozen=True)
class Share:
    """blocks: (samples, ...) by the number of the block, bad samples left out. bad: why, by the place in the source."""

    blocks: dict[int, np.ndarray]
    bad: dict[int, dict[str, Any]]


def share(
    wanted: Wanted,
    outcomes: Iterable[tuple[int, T | BadSample]],
    pooled: Callable[[Sequence[T]], np.ndarray],
    total: int,
    progress: Progress | None = None,
) -> Share:
    """What a rank computes. outcomes: of `wanted.rows`, with their places. Raises RunError once too many are bad."""
    blocks, bad = dict[int, np.ndarray](), dict[int, dict[str, Any]]()
    for number, block in groupby(outcomes, key=lambda outcome: outcome[0] // wanted.batch_size):
        samples: list[T] = []
        for place, outcome in block:
            if isinstance(outcome, BadSample):
                bad[place] = outcome.row
                check_bad(list(bad.values()), total, wanted.max_bad_fraction, wanted.source)
            else:
                samples.append(outcome)
        if samples:
            blocks[number] = pooled(samples)
        if progress is not None:
            progress(min((number + 1) * wanted.batch_size, total), total)
    return Share(blocks, bad)


def together(wanted: Wanted, shares: Sequence[Share], total: int) -> tuple[np.ndarray, dict[int, dict[str, Any]]]:
    """-> the rows of all good samples, and the bad ones by their places, both in the order of the source.

    Raises RunError when too many of all ranks together are bad, and UserError when all are.
    """
    bad = dict(sorted((place, row) for share in shares for place, row in share.bad.items()))
    check_bad(list(bad.values()), total, wanted.max_bad_fraction, wanted.source)
    blocks = dict(sorted((number, rows) for share in shares for number, rows in share.blocks.items()))
    if not blocks:
        why = reasons(list(bad.values()))
        raise UserError(f"{wanted.source}: none of its {total} samples can be read: {why}")
    return np.concatenate(list(blocks.values())), bad
