"""What a source will be trained on, in words, before anything is; and what of it can hardly be meant."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mae_ext.data.plan import spread
from mae_ext.data.sources.path_table import PathTable
from mae_ext.data.sources.table import Items
from mae_ext.errors import UserError, some

SIDE = r"train|training|trn|test|testing|tst|val|valid|validation|dev|eval"
SPLIT = re.compile(rf"(?:{SIDE})(?:[ _-]?(?:set|data|images?|split|\d+))?|(?:fold|split)[ _-]?\d+")
AFFIXED = re.compile(rf"(?P<before>.*[ _.-])?(?P<side>{SIDE})(?P<behind>[ _.-].*|\d+)?")
"""As stage1_train and stage1_test: sides of a split where the same stands around different sides."""

MAPS = re.compile(
    r"(?:masks?|labels?|annotations?|ann_dir|gt|gtfine|gtcoarse|ground[ _-]?truths?|1st_manual|segmentation\w*)"
    r"(?:tr|ts|[ _-]?\d+)?"
)
IMAGES = re.compile(r"(?:images?|imgs?|img_dir|photos?|pictures?|jpegimages|leftimg8bit|inputs?)(?:tr|ts|[ _-]?\d+)?")
"""Folders by their names in lower case; imagesTr and labelsTr are the Decathlon's, SegmentationClass VOC's, gtFine and
leftImg8bit those of Cityscapes, img_dir and ann_dir mmsegmentation's, 1st_manual DRIVE's."""

MAP_OF = re.compile(
    r"(?i)(?P<image>.+?)[ _.-](?:masks?|seg|segmentation|gt|label|labels|groundtruth|annotation)(?:[ _-]?\d+)?"
)
"""The name of a label map that lies beside its image, without suffix: "benign (1)_mask_1" of "benign (1)"."""

LOOKED_AT = 4096
"""Samples whose second folder is looked at, spread over the source."""


def opening(items: Items, path: str, name: str, use: str = "") -> str:
    """ "image: 12 files of photos: cat 6, dog 6; first photos/cat/0.png". use: what for, if not to be trained on."""
    counts = class_counts(items)
    parts = []
    if counts:
        parts.append(_counted(counts))
    if items.patients is not None:
        own = sum(items.patients[i] == items.addresses[i] for i in range(len(items)))
        patients = len({items.patients[i] for i in range(len(items))} - {""}) - own
        besides = f" and {own} that name none" if own else ""
        parts.append(f"of {patients} patient{'s' * (patients != 1)}{besides}")
    first = [items.addresses[i] for i in range(min(2, len(items)))]
    held = ": " + ", ".join(parts) if parts else ""
    files = "file" if len(items) == 1 else "files"
    return f"{name}: {len(items)} {files} of {path}{use}{held}; first {', '.join(first)}"


def class_counts(items: Items) -> dict[str, int]:
    """Samples of each class, in the order of the classes, then of those without one; {} where nothing is labelled."""
    if items.marks is not None:
        counts = {c: int((items.marks[:, i] == 1).sum()) for i, c in enumerate(items.classes)}
        left = int((items.marks < 0).all(1).sum())
    elif items.labels is not None:
        numbers = np.bincount(items.labels[items.labels >= 0], minlength=len(items.classes))
        counts = dict(zip(items.classes, numbers.tolist(), strict=True))
        left = int((items.labels < 0).sum())
    else:
        return {}
    return {**counts, **({"no class": left} if left else {})}


def _counted(counts: dict[str, int]) -> str:
    named = some([f"{name} {count}" for name, count in counts.items()])
    if len(counts) <= 5:
        return named
    return f"{len(counts)} classes of {min(counts.values())} to {max(counts.values())} each ({named})"


def odd(items: Items, path: str) -> list[str]:
    """What of a source can hardly be meant, as warnings that say what to give instead."""
    remarks = []
    if splits := _splits(items.classes):
        remarks.append(
            f"{path}: {_sides(splits)} of a split, and all of it is used: to keep one apart, give "
            f"{_below(path, _to_train_on(splits))}"
        )
    elif items.classes and (inner := _splits_below(items.addresses, path)):
        remarks.append(
            f"{path}: each of its folders holds {_and(inner)}, which look like the sides of a split, and all of it is "
            f"used: to keep the other apart, give a list (.txt, a path a line)"
        )
    if maps := _maps_beside_images(items.classes):
        images = next(c for c in items.classes if IMAGES.fullmatch(c.lower()))
        remarks.append(
            f"{path}: {_and(maps)} look like label maps or annotations, and are read as samples: give "
            f"{_below(path, images)}, and label maps by task.masks"
        )
    if beside := _maps_beside_files(items.addresses):
        remarks.append(
            f"{path}: {len(beside)} files are called as label maps of others beside them, such as {beside[0]}, and are "
            f"read as samples: move them to a folder of their own, or give a list (.txt, a path a line) without them"
        )
    same = defaultdict(list)
    for name in items.classes:
        same[unicodedata.normalize("NFC", name).strip().casefold()].append(name)
    alike = [names for names in same.values() if len(names) > 1]
    return remarks + [
        f"{path}: {_and(names)} differ in capitals, spaces or coded accents alone, and are two classes"
        for names in alike
    ]


def one_sided(reader: object, addresses: PathTable | Sequence[str]) -> str | None:
    """A warning that counts the samples whose files say nothing of left and right, or None: what the reader's own
    method of this name says. One that has none cannot tell."""
    ask: Callable[[PathTable | Sequence[str]], str | None] | None = getattr(reader, "one_sided", None)
    return None if ask is None else ask(addresses)


def check_classes(classes: Sequence[str], addresses: Sequence[str] | PathTable, path: str) -> None:
    """Raises UserError where what would be told apart are no classes: sides of a split, or images and their maps."""
    if splits := _splits(classes):
        test = [name for name in splits if name != _to_train_on(splits)]
        to_test = f" and {_below(path, test[0])} to be tested on" if test else ""
        raise UserError(
            f"{path}: {_sides(splits)} of a split, and not like classes; give "
            f"{_below(path, _to_train_on(splits))} to be trained on{to_test}"
        )
    if maps := _maps_beside_images(classes):
        raise UserError(
            f"{path}: {_and(maps)} look like label maps or annotations, and {_and(classes)} not like classes; label "
            f"maps are for a config with task: segment, by task.masks={_below(path, maps[0])}"
        )
    if inner := _splits_below(addresses, path):
        raise UserError(
            f"{path}: its classes hold {_and(inner)}, which look like the sides of a split; give each side as a list "
            f"(.txt with path, tab and label, or .csv with the columns path, label and split)"
        )


def one_class(items: Items, path: str) -> str:
    """For a source whose samples are all of one class: which folder to give instead, where one can be seen; or ""."""
    name = items.classes[0] if items.classes else ""
    inside = Path(path, name)
    try:
        below = sorted(p.name for p in inside.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:
        return ""
    if not name or len(below) < 2:
        return ""
    return f"; the folders in it ({some(below)}) may be the classes: give {inside}"


def _splits(classes: Sequence[str]) -> list[str]:
    """Classes that are called as the sides of a split, where two are or there is nothing else."""
    sides = [name for name in classes if SPLIT.fullmatch(name.lower())]
    if len(sides) > 1 or (sides and len(sides) == len(classes)):
        return sides
    alike = defaultdict(list)
    for name in classes:
        if affixed := AFFIXED.fullmatch(name.lower()):
            alike[affixed["before"], affixed["behind"]].append((affixed["side"], name))
    return [name for pairs in alike.values() if len(dict(pairs)) > 1 for _, name in pairs]


def _splits_below(addresses: Sequence[str] | PathTable, path: str) -> list[str]:
    """The names of second folders, where all of them are the sides of a split."""
    if not Path(path).is_dir():
        return []
    root, count = len(Path(path).parts), len(addresses)
    parts = [Path(addresses[i]).parts[root:] for i in spread(count, LOOKED_AT)]
    names = {p[1] if len(p) > 2 else "" for p in parts}
    return sorted(names) if len(names) > 1 and all(SPLIT.fullmatch(name.lower()) for name in names) else []


def _maps_beside_images(classes: Sequence[str]) -> list[str]:
    images = [name for name in classes if IMAGES.fullmatch(name.lower())]
    maps = [name for name in classes if MAPS.fullmatch(name.lower())]
    return maps if images and len(images) + len(maps) == len(classes) else []


def _maps_beside_files(addresses: Sequence[str] | PathTable) -> list[str]:
    """Of the first files, those that are called as another one with a word for label maps behind."""
    shown = [addresses[i] for i in range(min(len(addresses), LOOKED_AT))]
    stems = {str(Path(address).with_suffix("")) for address in shown}
    named = ((address, MAP_OF.fullmatch(str(Path(address).with_suffix("")))) for address in shown)
    return [address for address, match in named if match and match["image"] in stems]


def _to_train_on(splits: Sequence[str]) -> str:
    sides = {name: AFFIXED.fullmatch(name.lower()) for name in splits}
    starts = {name: affixed["side"] if affixed else name.lower() for name, affixed in sides.items()}
    return next((name for name, side in starts.items() if side.startswith("tr")), splits[0])


def _below(path: str, name: str) -> str:
    return str(Path(path, name)) if Path(path).is_dir() else f"'{name}' alone"


def _sides(splits: Sequence[str]) -> str:
    return f"{_and(splits)} " + ("looks like a side" if len(splits) == 1 else "look like the sides")


def _and(names: Sequence[str]) -> str:
    return " and ".join(f"'{name}'" for name in names[:4]) + (" and more" if len(names) > 4 else "")
