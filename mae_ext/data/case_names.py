"""Names of the files of one case, by patterns: `{case}_t1.nii.gz` and `{case}_t2.nii.gz`. The first names the sample.

A pattern may name folders, too: `{case}/t1.nii.gz`, or `t1/{case}.nii.gz`.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from mae_ext.errors import UserError

HOLE = "{case}"


def are_cases(suffixes: Sequence[str]) -> bool:
    """Whether these are patterns of the files of a case, and not suffixes."""
    return bool(suffixes) and HOLE in suffixes[0]


def check_patterns(patterns: Sequence[str], suffixes: tuple[str, ...]) -> tuple[str, ...]:
    """The patterns, as they may be. suffixes: of files that can be part of a case. Raises ValueError."""
    single = tuple(s for s in suffixes if not s.endswith("/"))
    for pattern in patterns:
        parts = pattern.split("/")
        if HOLE not in pattern or "" in parts or ".." in parts or "." in parts:
            raise ValueError(f"case: '{pattern}': expected a name with {HOLE} in it, such as {HOLE}_t1.nii.gz")
        if not pattern.lower().endswith(single):
            raise ValueError(f"case: '{pattern}' ends in no suffix of a scan in one file, such as .nii.gz")
    if len(set(patterns)) < len(patterns):
        raise ValueError(f"case: {', '.join(patterns)}: a file is named twice")
    return tuple(patterns)


@lru_cache(maxsize=256)
def _matcher(pattern: str) -> re.Pattern[str]:
    before, *after = (re.escape(part) for part in pattern.split(HOLE))
    repeated = r"(?P=case)".join(after)
    return re.compile(rf"(?s)(?P<place>(?:.*/)?){before}(?P<case>[^/]+){repeated}")


def case_of(address: str, pattern: str) -> tuple[str, str] | None:
    """(what stands before the pattern, the case) of an address that is of the pattern."""
    match = _matcher(pattern).fullmatch(address)
    return (match["place"], match["case"]) if match else None


def files_of(address: str, patterns: Sequence[str]) -> list[str]:
    """The files of a case in the order of the patterns, whether they are there or not. address: of the first."""
    place_case = case_of(address, patterns[0])
    if place_case is None:
        raise UserError(f"{address}: is no first file of a case, which is called '{patterns[0]}'")
    place, case = place_case
    return [place + pattern.replace(HOLE, case) for pattern in patterns]


def names_of(patterns: Sequence[str]) -> tuple[str, ...]:
    """What each file of a case is called beside the case: "t1", "t2" of {case}_t1.nii.gz and {case}_t2.nii.gz.

    Words that all have, at the beginning or the end, are left out: "t1", "t2" of raw/{case}/t1_n4 and raw/{case}/t2_n4.
    """
    words = [[w for w in re.split(r"[/_. -]+", bare(p).replace(HOLE, "/")) if w] for p in patterns]
    first, last = 0, 0
    if len(words) > 1:
        shortest = min(map(len, words))
        while first < shortest - 1 and len({tuple(w[: first + 1]) for w in words}) == 1:
            first += 1
        while last < shortest - 1 - first and len({tuple(w[len(w) - last - 1 :]) for w in words}) == 1:
            last += 1
    return tuple("_".join(w[first : len(w) - last]) for w in words)


def bare(name: str) -> str:
    """A file's name without what says its format: "a.1.nii.gz" -> "a.1"."""
    return re.sub(r"(?i)\.[a-z][a-z0-9]{1,7}(\.(gz|bz2|xz|zst))?$", "", name)
