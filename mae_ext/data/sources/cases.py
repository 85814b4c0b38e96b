"""Listing the cases of a folder whose samples are in several files each (`data/case_names.py`).

A reader that takes cases has their patterns for its suffixes, and a sample's address is its first file.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mae_ext.data.case_names import HOLE, are_cases, case_of
from mae_ext.data.sources.folder import Entry
from mae_ext.data.sources.passed_over import NO_FIRST, OF_NO_CASE, PassedOver, suffix_of


def endings(suffixes: tuple[str, ...]) -> tuple[str, ...]:
    """What names of files end in: of patterns their formats' suffixes."""
    return tuple(dict.fromkeys(map(suffix_of, suffixes))) if are_cases(suffixes) else suffixes


def of_cases(listed: Iterable[Entry], root: str, patterns: Sequence[str], passed: PassedOver) -> Iterator[Entry]:
    """Of what a folder holds the first file of each case, with its label; a folder that a pattern names is none.

    What has no first file is named, and what is of no case. That another file is missing its reader says.
    """
    depth = patterns[0].count("/")
    for address, label, _ in listed:
        seen = os.path.relpath(address, root)
        if case_of(address, patterns[0]):
            yield Entry(address, label if seen.count("/") > depth else None)
            continue
        others = [place_case for pattern in patterns[1:] if (place_case := case_of(address, pattern))]
        if not others:
            passed.suffixes[suffix_of(seen)] += 1
            passed.add(OF_NO_CASE, seen)
        elif not any(Path(place + patterns[0].replace(HOLE, case)).exists() for place, case in others):
            passed.add(NO_FIRST, seen)
