"""Images that are in a folder more than once: by their SOPInstanceUID, and then by what they show."""

import hashlib
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

import numpy as np

from mae_ext.data.sources.dicom.elements import BrokenOff, NotDicom, pixels_of
from mae_ext.data.sources.dicom.looked_at import LookedAt

MOST = 1 << 28
"""Bytes of a file that is compared; larger ones are the same only if their sizes are."""


def without_copies(root: str, table: LookedAt, rows: list[int]) -> tuple[list[int], int]:
    """The rows less the copies of one, which show the same, and how many these are. The first by name is kept.

    Two images of one SOPInstanceUID whose pixels differ both stay: which of them is right nobody can tell, and who
    reads the series says so.
    """
    rows = sorted(rows, key=table.names.__getitem__)
    instances = table.instances[rows]
    said = instances[instances != 0]
    if len(np.unique(said)) == len(said):
        return rows, 0
    by_instance = defaultdict(list)
    for i in rows:
        by_instance[int(table.instances[i]) or -1 - i].append(i)
    kept: list[int] = []
    copies = 0
    for several in by_instance.values():
        shown = dict[str, int]()
        for i in several:
            picture = "" if len(several) == 1 else _picture(root, table, i)
            shown.setdefault(picture, i)
        kept += shown.values()
        copies += len(several) - len(shown)
    return kept, copies


def _picture(root: str, table: LookedAt, i: int) -> str:
    file = str(Path(root, table.names[i]))
    try:
        return _shown(file, *table.versions[i].tolist())
    except OSError:
        table.unsure = True
        return file


@lru_cache(maxsize=1 << 16)
def _shown(file: str, size: int, changed_ns: int, inode: int) -> str:  # noqa: ARG001 part of the memo's key
    """A digest of what stands behind the tag of the pixels: a header may have been written anew. Raises OSError."""
    if size > MOST:
        return str(size)
    try:
        return hashlib.blake2b(pixels_of(file), digest_size=16).hexdigest()
    except (NotDicom, BrokenOff):
        return file
