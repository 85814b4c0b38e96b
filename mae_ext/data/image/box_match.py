"""Which entry of a label file is whose: images and their boxes, by name."""

import logging
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath

from mae_ext.data.image.box_files import Annotation, Annotations
from mae_ext.errors import UserError, some

log = logging.getLogger("mae_ext.data.sources.table")
"""As what a listing passes over is said."""


def match(annotations: Annotations, sources: Mapping[str, list[str]], path: str) -> dict[str, list[Annotation]]:
    """For each split the annotation of each image: the one whose path agrees with the image's in most parts, counted
    from the end. Where no entry has the very name, one does that differs in its suffix, in capitals or in how accents
    are composed, and is nobody else's.

    Entries of other images are counted in the log: one file for more images than are used is the usual case. Raises
    UserError, by name: images without an entry, several entries that fit equally well or contradict each other, one
    entry for two images.
    """
    images = {split: [(address, _parts(address)) for address in addresses] for split, addresses in sources.items()}
    exact: dict[str, list[Annotation]] = defaultdict(list)
    for row in annotations.images:
        exact[row.parts[-1]].append(row)

    def named(parts: tuple[str, ...]) -> list[Annotation]:
        return exact.get(parts[-1] if annotations.suffixed else PurePosixPath(parts[-1]).stem, [])

    taken = {id(row) for rows in images.values() for _, parts in rows for row in named(parts)}
    alike: dict[str, list[Annotation]] = defaultdict(list)
    for row in annotations.images:
        if id(row) not in taken:
            alike[_folded(row.parts, annotations.suffixed)[-1]].append(row)
    used: dict[int, str] = {}
    faults: dict[str, list[str]] = defaultdict(list)
    matched: dict[str, list[Annotation]] = {}
    for split, rows in images.items():
        matched[split] = []
        for address, parts in rows:
            entry = _best(named(parts), parts if annotations.suffixed else (*parts[:-1], PurePosixPath(parts[-1]).stem))
            if not entry:
                folded = _folded(parts, True)
                entry = _best(alike.get(folded[-1], []), folded, annotations.suffixed)
            if not entry:
                faults["missing"].append(address)
                continue
            if len(entry) > 1 and any(row.parts != entry[0].parts for row in entry):
                faults["ambiguous"].append(f"{address} ({entry[0].where} and {entry[1].where})")
            elif len(entry) > 1 and any(_content(row) != _content(entry[0]) for row in entry):
                numbers = " and ".join(str(len(row.boxes)) for row in entry[:2])
                faults["contradictory"].append(f"{entry[0].where}, with {numbers} boxes")
            if (other := used.setdefault(id(entry[0]), address)) != address:
                faults["shared"].append(f"{other} and {address} ({entry[0].where})")
            matched[split].append(entry[0])
    unused = [row.where for row in annotations.images if id(row) not in used]
    _refuse(faults, path, unused)
    if unused:
        theirs = " and ".join(sources)
        log.warning(
            "labels '%s': %d of its %d images are not in %s, and are not used, such as %s",
            *(path, len(unused), len(annotations.images), theirs, unused[0]),
        )
    return matched


def _refuse(faults: Mapping[str, list[str]], path: str, unused: list[str]) -> None:
    """unused: entries that are no image's, which say how the labels name theirs."""
    folders = "give the names in the labels their folders"
    entries = (
        "an image without objects needs an entry that says so; to train on a part of the images, give a list of them "
        "(.txt, a path a line) as the data"
    )
    if unused:
        entries += f"; {len(unused)} entries are no image's, such as {unused[0]}: if it is one of these, rename either"
    for kind, what, remedy in (
        ("missing", "images have no labels", entries),
        ("contradictory", "images have several entries that differ", "keep the one that is right"),
        ("ambiguous", "images fit several labels equally well", folders),
        ("shared", "pairs of images share their labels", folders),
    ):
        if kind in faults:
            raise UserError(f"labels '{path}': {len(faults[kind])} {what}: {some(faults[kind], '; ')}; {remedy}")


def _parts(address: str) -> tuple[str, ...]:
    return PurePosixPath(address.rpartition("::")[2]).parts


def _folded(parts: tuple[str, ...], suffixed: bool) -> tuple[str, ...]:
    """Without suffix, in lower case, accents composed as Linux and Windows do (macOS takes them apart)."""
    last = PurePosixPath(parts[-1]).stem if suffixed else parts[-1]
    return tuple(unicodedata.normalize("NFC", part).casefold() for part in (*parts[:-1], last))


def _best(rows: list[Annotation], parts: tuple[str, ...], folded: bool | None = None) -> list[Annotation]:
    """Those of the rows that agree best. folded: compare the rows' folded parts, of names with (True) a suffix."""
    ranked = [(_agreement(row.parts if folded is None else _folded(row.parts, folded), parts), row) for row in rows]
    most = max((count for count, _ in ranked), default=0)
    return [row for count, row in ranked if count == most]


def _agreement(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """Trailing parts that two paths have in common."""
    count = 0
    for one, other in zip(reversed(a), reversed(b), strict=False):
        if one != other:
            break
        count += 1
    return count


def _content(row: Annotation) -> tuple[object, ...]:
    return row.size, sorted(zip(row.boxes, row.names, row.ignored, strict=True))
