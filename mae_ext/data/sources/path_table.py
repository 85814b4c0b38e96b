"""Millions of addresses without a Python object for each."""

from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.sources import remote
from mae_ext.data.sources.shared import Growing

BLOCK = 1 << 14
"""Texts that are held as strings at a time."""


class PathTable:
    """Many strings in two arrays: one of bytes, one of offsets; large ones in files that all processes map (shared.py).

    A list of a million strings is a million reference counts, and each worker that touches one copies its page
    (pytorch#13246). Any character is safe, newline and undecodable bytes included.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        joined, ends = Growing(np.uint8), Growing(np.int64)
        ends.append(np.zeros(1, np.int64))
        length, rest = 0, iter(texts)
        while block := [text.encode("utf-8", "surrogateescape") for text in islice(rest, BLOCK)]:
            joined.append(b"".join(block))
            ends.append(length + np.cumsum([len(text) for text in block]))
            length += sum(map(len, block))
        self._bytes: NDArray[np.uint8] = joined.whole()
        self._ends: NDArray[np.int64] = ends.whole()
        self.versions: dict[str, str] = {}
        """What the shards at addresses were when they were listed; told to every process that gets the table."""

    @classmethod
    def joined(cls, parts: Iterable[tuple[NDArray[np.uint8], NDArray[np.int64]]]) -> "PathTable":
        """Of tables as their two arrays: bytes, and where in them each text ends."""
        texts, ends, length = Growing(np.uint8), Growing(np.int64), 0
        ends.append(np.zeros(1, np.int64))
        for content, last in parts:
            texts.append(content)
            ends.append(last + length)
            length += len(content)
        table = cls()
        table._bytes, table._ends = texts.whole(), ends.whole()
        return table

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        remote.expect(self.versions)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        if not -len(self) <= index < len(self):
            raise IndexError(f"address {index} of {len(self)}")
        index %= len(self)
        return self._bytes[self._ends[index] : self._ends[index + 1]].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (text for block in self.blocks() for text in block)

    def blocks(self) -> Iterator[list[str]]:
        """All texts in order, a few thousand at a time."""
        for start in range(0, len(self), BLOCK):
            ends = self._ends[start : start + BLOCK + 1].tolist()
            content = self._bytes[ends[0] : ends[-1]].tobytes()
            spans = [(a - ends[0], b - ends[0]) for a, b in pairwise(ends)]
            if content.isascii():
                text = content.decode("ascii")
                yield [text[a:b] for a, b in spans]
            else:
                yield [content[a:b].decode("utf-8", "surrogateescape") for a, b in spans]
