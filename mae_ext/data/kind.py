"""What tells one reader's files from another's. A reader's class says it by its attribute `kind`; none needs one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Seen = tuple[int, str]
"""How certain it is, 0 for not at all, and a remark: what may mislead of a file that is taken, or why one is not."""


@dataclass(frozen=True)
class Kind:
    """one, many: what a sample is called. begins: (offset, bytes) by which a file begins that the reader takes.

    recognise: instead of `begins`, (first bytes, address) -> how certain, and a remark; the first bytes are up to
    64 KiB, and of a gzipped file those inside. Where readers share a suffix, or a suffix says nothing, the most certain
    has the file. rows: (shape, type) of a row of an archive -> how certain. names: remarks on names of files, by a
    pattern of the name without suffix. recipe, tuning: the recipes for a folder of one's own, to pretrain and to
    fine-tune; "" where there is none.
    """

    one: str
    many: str
    begins: tuple[tuple[int, bytes], ...] = ()
    recognise: Callable[[bytes, str], Seen] | None = None
    rows: Callable[[tuple[int, ...], str], int] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    recipe: str = ""
    tuning: str = ""

    def sees(self, beginning: bytes, address: str) -> Seen:
        """How certain a file is the reader's by its first bytes, and a remark."""
        if self.recognise is not None:
            return self.recognise(beginning, address)
        return begins_as(self.begins, beginning), ""

    def counted(self, count: int) -> str:
        """ "1 scan", "2 scans"."""
        return f"{count} {self.one if count == 1 else self.many}"


def begins_as(begins: tuple[tuple[int, bytes], ...], beginning: bytes) -> int:
    """Bytes of the longest of `begins` that is there; 0 where none is."""
    return max((len(mark) for at, mark in begins if beginning[at : at + len(mark)] == mark), default=0)
