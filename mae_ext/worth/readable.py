"""Which labelled samples can be read. It is asked before anything is trained: arms of one draw learn from the same."""

import contextlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from mae_ext.cores import cores
from mae_ext.data.crops import evaluation_sampler
from mae_ext.data.plan import Key
from mae_ext.engine.checkpoint import write_durably
from mae_ext.errors import BadSample, check_bad
from mae_ext.progress import phase
from mae_ext.strict_json import dumps
from mae_ext.worth.labels import Labels, Level
from mae_ext.writing import blamed_on

KNOWN = "readable.json"
"""Rows that could be read, which no start of the same command reads again. Those that could not are: a file is mended,
a limit raised, a disk back."""


class Readable:
    """Of one source. examples: how a task reads it, labels and all. known: a file for what was found out; `of`: a
    digest of all that decides it."""

    def __init__(self, examples: Any, known: Path, of: str) -> None:
        self.examples, self.path, self.of = examples, known, of
        good = _kept(known).get(of)
        rows = [row for row in good if isinstance(row, int)] if isinstance(good, list) else []
        self.bad: dict[int, dict[str, str] | None] = dict.fromkeys(rows)

    def unreadable(self, rows: Iterable[int]) -> dict[int, dict[str, str]]:
        """Of these rows those that cannot be read, as a ledger has them."""
        rows = sorted(rows)
        if new := [row for row in rows if row not in self.bad]:
            with phase("reading labelled samples") as progress, ThreadPoolExecutor(min(8, cores())) as pool:
                for done, (row, bad) in enumerate(zip(new, pool.map(self._read, new), strict=True), start=1):
                    self.bad[row] = bad
                    progress(done, len(new))
            self._keep()
        return {row: bad for row in rows if (bad := self.bad[row]) is not None}

    def _read(self, row: int) -> dict[str, str] | None:
        modality = self.examples.modality
        crop = evaluation_sampler(modality.data.augment, modality.size)
        try:
            self.examples.read(row, [Key(0, row, row, 0, 0)], [crop])
        except BadSample as error:
            return error.row
        return None

    def _keep(self) -> None:
        good = sorted(row for row, bad in self.bad.items() if bad is None)
        with blamed_on(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self.path, dumps({**_kept(self.path), self.of: good}))


def _kept(path: Path) -> dict[str, Any]:
    """Nothing where there is no such file, or another: then all is read again."""
    with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return {}


def usable(
    labels: Labels, levels: Sequence[Level], seeds: int, chosen_on: bool, whole: bool, source: Readable
) -> Labels:
    """Labels that know which of them cannot be read, of all that some draw would take; another then takes its place.

    chosen_on: whether a part is held back to choose rates on. whole: whether every one is looked at, as arms that
    encode all of them do.
    """
    if whole:
        return replace(labels, bad=frozenset(source.unreadable(range(len(labels.kinds)))))
    looked_at: set[int] = set()
    while rows := _drawn(labels, levels, seeds, chosen_on) - looked_at:
        looked_at |= rows
        labels = replace(labels, bad=labels.bad | source.unreadable(rows).keys())
    return labels


def check_readable(labels: Labels, source: Readable, tested: Readable, config: Any) -> None:
    """Raises NoneUsable where more of the test, or of what is learned from, cannot be read than
    max_bad_fraction allows."""
    total = len(labels.kinds)
    check_bad([source.bad[row] for row in sorted(labels.bad)], total, config.max_bad_fraction, str(config.path))
    rows = range(len(tested.examples.items))
    check_bad(list(tested.unreadable(rows).values()), len(rows), config.max_bad_fraction, str(config.test))


def _drawn(labels: Labels, levels: Sequence[Level], seeds: int, chosen_on: bool) -> set[int]:
    whole = labels.only(range(len(labels.kinds)))
    parts = [whole.drawn(level, seed) for level in levels for seed in range(seeds)]
    if chosen_on and (split := whole.held_back()) is not None:
        parts += [split[1], *(split[0].drawn(level, 0) for level in levels)]
    return {row for part in parts if part is not None for row in part.rows}
