"""Where samples come from: folders, list files, tar shards and .npz arrays become one table of addresses.

Nothing here decodes anything, and nothing here knows what an image is: the suffixes come from the reader. An address is
a file path, `folder/` for files that are one sample together, `shard.tar::OFFSET+SIZE::member`, or
`file.npz::train_images::17`; `address.py` opens it.
"""

import logging
import re
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.case_names import are_cases, case_of
from mae_ext.data.sources import cases, lmdb_file, remote
from mae_ext.data.sources.dicom import export as dicom
from mae_ext.data.sources.folder import Entry, walk
from mae_ext.data.sources.kinds import vouched
from mae_ext.data.sources.lists import LISTS, is_list, read_list
from mae_ext.data.sources.parquet import list_parquet, of_one_split
from mae_ext.data.sources.passed_over import AS_IT_BEGINS, NAMELESS, PassedOver, suffix_of
from mae_ext.data.sources.path_table import PathTable
from mae_ext.data.sources.rows import Listed
from mae_ext.data.sources.shard_index import index_of, version_of
from mae_ext.data.sources.shard_names import exists, expand, shards_of
from mae_ext.data.sources.shared import Growing, share
from mae_ext.data.sources.within import list_arrays
from mae_ext.errors import BadSample, NothingToRead, UserError, some

READERS = 16
"""Shards that are listed at a time: at an address it is waiting, on a disk the second time it is mapping."""

INTEGER_CLASSES = 100_000
"""Classes whose names are all whole numbers below this are sorted as numbers, all others as text."""

MOST_SUFFIXES = 12
"""Named in one message."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Items:
    """What a data path holds, in a fixed order.

    labels: (n,) int64, -1 where there is none, or None when nothing is labelled; `classes[label]` is its name, and all
    classes occur. Two sources that lack different classes number names differently: match them by name. ignored: what
    was passed over, and how often. marks: (n, classes) int8 where a sample can have several classes, and labels is
    None: 1 has, 0 has not, -1 not known. patients: whose each sample is, where a list or DICOM says so; in a folder
    that holds other files beside DICOM, each of these is its own. `encoder.items(source)` makes one.

    >>> import numpy
    >>> from mae_ext import Items
    >>> items = Items(["a.png", "b.png"], labels=numpy.array([1, -1]), classes=("cat", "dog"))
    >>> [items.classes[label] if label >= 0 else None for label in items.labels]
    ['dog', None]
    """

    addresses: PathTable
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    ignored: Mapping[str, int] = field(default_factory=dict)
    marks: NDArray[np.int8] | None = None
    patients: PathTable | None = None

    def __len__(self) -> int:
        return len(self.addresses)


def list_items(path: str, suffixes: tuple[str, ...]) -> Items:
    """Everything at `path` that ends in one of `suffixes` (lower case, with the dot; case does not matter).

    A suffix with a slash, ".dcm/": all such files of a folder are one sample, whose address is the folder, ending in a
    slash; a single such file can be named too. DICOM is found by content, whatever it is called, and series that are
    not all of their folder's are at FOLDER::series=ID (dicom/).

    path: a folder (recursive, names sorted; the first folder level below it is the label), one file, a list (.txt: a
    path a line, then optionally a tab and a label; .csv with the columns path and label), tar shards in WebDataset
    layout (x.tar, train-{000..009}.tar, train-*.tar, or a folder of them; x.tar::rgb.jpg takes of each key the member
    with that after its first dot), file.npz[::split] in MedMNIST layout, file.h5::dataset, a row a sample, Parquet
    files (x.parquet, train-*.parquet, a folder of one split, x.parquet::label=COLUMN,path=COLUMN), or an LMDB (a file
    or folder, or a folder of them). suffixes may be patterns of the files of a case (cases.py), whose first files are
    then what is listed.
    What is passed over is logged as one warning, by kind and with the remedy, so that every command names it. Raises
    UserError when it is missing, unreadable, or holds nothing of the kind.
    """
    if remote.is_remote(path):
        remote.check_address(path)
    passed = PassedOver()
    items = _list(path, suffixes, passed)
    if passed.read:
        log.warning("data path '%s': each read as a sample: %s", path, passed.doubtful())
    if passed.counts:
        log.warning("data path '%s': passed over: %s", path, passed)
        items = replace(items, ignored=dict(passed.counts))
    return items


def _list(path: str, suffixes: tuple[str, ...], passed: PassedOver) -> Items:
    if not path.strip():
        raise UserError("no data: the path is empty; expected a folder, a list, shards or an .npz")
    where = f"data path '{path}'"
    if "\0" in path:
        raise UserError(f"{where.encode('unicode_escape').decode()}: a path has no NUL character")
    if re.search(r"\.(zip|7z|rar)$", path, re.IGNORECASE):
        raise UserError(f"{where}: archives of this kind are not read; unpack it and give the folder that appears")
    if packed := re.search(r"\.(tar\.\w+|tgz|tbz2|txz)$", path, re.IGNORECASE):
        raise UserError(
            f"{where}: a compressed tar ({packed[0]}) cannot be read at random; unpack it with `tar -xf {path}` and "
            "give the folder that appears"
        )
    if arrays := list_arrays(path, suffixes, where):
        return _items(*arrays)
    if inside := re.fullmatch(r"(?s)(.*\.(?:npz|h5|hdf5|zarr))(?:::[\w./ -]+)?", path):
        _require(Path(inside[1]), where)
    if (table := re.fullmatch(r"(?s)(.*\.parquet)(?:::(.+))?", path)) and not remote.is_remote(path):
        files = expand(table[1], where) if set("*?[{") & set(table[1]) else [table[1]]
        return _of_list(list_parquet(files, table[2], where), passed)
    if dicom.is_series(path):
        try:
            dicom.files_of(path, suffixes)
        except BadSample as error:
            raise UserError(f"{where}: {error.detail}") from error
        return _items([path], None)
    only = None
    if chosen := re.fullmatch(r"(?s)(.*\.tar)::((?:[\w-]+\.)*[\w-]+)", path):
        path, only = chosen[1], f".{chosen[2].lower()}"
        if not only.endswith(suffixes):
            raise UserError(f"{where}: '{chosen[2]}' ends in none of {_join(suffixes)}")
    if are_cases(suffixes):
        return _list_cases(path, suffixes, where, passed)
    if shards := shards_of(path):
        return _list_shards(shards, suffixes, where, passed, only)
    here, choice = Path(path), None
    if (listed := is_list(path)) and not exists(here, where):
        here, choice = Path(listed["file"]), listed["choice"]
    if exists(here, where) and (base := lmdb_file.file_of(here)):
        return _in_order(lmdb_file.list_lmdb(str(base), suffixes, passed), where, passed)
    _require(here, where)
    if here.is_dir():
        return _list_folder(here, suffixes, where, passed)
    if not here.is_file():
        raise UserError(f"{where}: is neither a folder nor a regular file (a pipe, socket or device is never opened)")
    if here.suffix in LISTS:
        return _of_list(read_list(here, choice, suffixes, where), passed)
    if not here.name.lower().endswith(tuple(s.removesuffix("/") for s in suffixes)):
        raise NothingToRead(
            path,
            suffixes,
            f"{where}: is neither data ({_join(suffixes)}) nor a list of it (.txt, .csv) nor an archive "
            "(.tar, .npz, .parquet, .lmdb)",
        )
    return _items([path], None)


def _require(path: Path, where: str) -> None:
    if not exists(path, where):
        parent = next(p for p in (path.absolute(), *path.absolute().parents) if exists(p, where))
        raise UserError(f"{where}: no such file or folder (the path exists up to '{parent}')")


def _items(addresses: Iterable[str], names: Iterable[str | None] | None) -> Items:
    """Names of classes, None for unlabelled, become numbers: places among the names that occur."""
    table = PathTable(addresses)
    return Items(table) if names is None else _labelled(table, names)


def _labelled(table: PathTable, names: Iterable[str | None]) -> Items:
    codes: dict[str | None, int] = {}
    return _numbered(table, codes, np.fromiter((codes.setdefault(name, len(codes)) for name in names), np.int32))


def _numbered(table: PathTable, codes: Iterable[str | None], seen: NDArray[np.int32]) -> Items:
    """codes: the names that occur, of which `seen` (n,) are the places."""
    codes = list(codes)
    known = [name for name in codes if name is not None]
    if not known:
        return Items(table)
    classes = tuple(sorted(known, key=int) if are_numbers(known) else sorted(known))
    numbers = {None: -1} | {name: i for i, name in enumerate(classes)}
    labels: NDArray[np.int64] = np.array([numbers[name] for name in codes], np.int64)[seen]
    return Items(table, share(labels), classes)


def are_numbers(classes: Collection[str]) -> bool:
    """Whether the classes are whole numbers, as in an .npz or a column of 0..9."""
    return all(re.fullmatch(r"0|[1-9]\d{0,8}", name) and int(name) < INTEGER_CLASSES for name in classes)


def _of_list(listed: Listed, passed: PassedOver) -> Items:
    if listed.nameless:
        passed.add(NAMELESS, "an empty field", listed.nameless)
    items = _items(listed.addresses, None if listed.several else listed.labels)
    if listed.several:
        items = replace(items, classes=listed.several, marks=np.array(listed.marks, dtype=np.int8))
    return items if listed.patients is None else replace(items, patients=PathTable(listed.patients))


def _join(suffixes: Sequence[str]) -> str:
    more = f" and {len(suffixes) - MOST_SUFFIXES} others" if len(suffixes) > MOST_SUFFIXES else ""
    return " ".join(suffixes[:MOST_SUFFIXES]) + more


# Folders


def _list_cases(path: str, patterns: tuple[str, ...], where: str, passed: PassedOver) -> Items:
    """suffixes are patterns: of a folder, list or file the first files of the cases. Raises UserError."""
    endings = cases.endings(patterns)
    if Path(path).is_dir():
        return _list_folder(Path(path), endings, where, passed, patterns)
    if remote.is_remote(path) or path.endswith(".tar"):
        raise UserError(
            f"{where}: reader.case is of files in folders; separate files of a case are not read from shards"
        )
    items = _list(path, endings, passed)
    if odd := [address for address in items.addresses if case_of(address, patterns[0]) is None]:
        raise UserError(
            f"{where}: {len(odd)} of {len(items)} are no first files of a case, '{patterns[0]}', by which a case is "
            f"named: {some(odd)}"
        )
    return items


def _list_folder(
    root: Path, suffixes: tuple[str, ...], where: str, passed: PassedOver, patterns: tuple[str, ...] = ()
) -> Items:
    names = array("i")
    codes: dict[str | None, int] = {}
    scans: list[dicom.Scan] = []
    others = 0

    def addresses(entries: Iterable[Entry]) -> Iterator[str]:
        nonlocal others
        for part in dicom.parted(entries):
            if isinstance(part, list):
                scans.extend(dicom.scans_in(str(root), part, passed, dicom.FOURTH_AXIS in suffixes))
            else:
                others += 1
            for one in scans if isinstance(part, list) else [part]:
                names.append(codes.setdefault(one.top, len(codes)))
                yield one.path if isinstance(one, Entry) else one.address

    listed: Iterator[Entry] = walk(root, suffixes, where, passed)
    if len(table := PathTable(addresses(cases.of_cases(listed, str(root), patterns, passed) if patterns else listed))):
        items = _numbered(table, codes, np.frombuffer(names, np.int32))
        # Folders that are whole series stay what they were; of others the patients are said, for splits.
        if not any(dicom.is_series(scan.address) for scan in scans):
            return items
        before = (table[i] for i in range(others))
        return replace(items, patients=PathTable(chain(before, (scan.patient or scan.address for scan in scans))))
    if patterns:
        raise UserError(f"{where}: no file of the pattern '{patterns[0]}', at any depth; {passed.instead()}")
    if known := vouched((entry.path for entry in walk(root, ("",), where, PassedOver(), ahead=True)), suffixes):
        entries = walk(root, ("",), where, PassedOver())
        table = PathTable(addresses(entry for entry in entries if suffix_of(entry.path) in known))
        for suffix in known:
            passed.add_read(f"{AS_IT_BEGINS} ({suffix})", passed.examples.pop(suffix), passed.counts.pop(suffix))
        return _numbered(table, codes, np.frombuffer(names, np.int32))
    if shards := sorted(str(p) for p in root.glob("*.tar")):
        passed.counts.pop(".tar", None)
        return _list_shards(shards, suffixes, where, passed)
    if tables := sorted(map(str, root.rglob("*.parquet"))):
        return _of_list(list_parquet(of_one_split(tables, where), None, where), passed)
    if bases := sorted(root.glob("*.lmdb")):
        pairs = (pair for b in bases for pair in lmdb_file.list_lmdb(str(lmdb_file.file_of(b) or b), suffixes, passed))
        return _in_order(pairs, where, passed)
    text = f"{where}: no file ending in {_join(suffixes)}, at any depth; {passed.instead()}"
    raise NothingToRead(str(root), suffixes, text)


def _in_order(pairs: Iterable[tuple[str, str | None]], where: str, passed: PassedOver) -> Items:
    """Of (address, label or None) as they come."""
    names: list[str | None] = []

    def addresses() -> Iterator[str]:
        for address, name in pairs:
            names.append(name)
            yield address

    if len(table := PathTable(addresses())):
        return _labelled(table, names)
    raise UserError(f"{where}: no sample in it; {passed.instead()}")


# Tar shards


def _list_shards(
    shards: list[str], suffixes: tuple[str, ...], where: str, passed: PassedOver, only: str | None = None
) -> Items:
    with ThreadPoolExecutor(READERS) as pool:
        versions = list(pool.map(version_of, shards))
        names: dict[str | None, int] = {}
        labels = Growing(np.int32)

        def parts() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
            for start in range(0, len(shards), READERS):
                few = range(start, min(start + READERS, len(shards)))
                made = [pool.submit(index_of, shards[i], versions[i], suffixes, only) for i in few]
                for i, index in zip(few, made, strict=True):
                    one = index.result()
                    passed.join(one.passed)
                    codes = [names.setdefault(name, len(names)) for name in (None, *one.names)]
                    labels.append(np.array(codes, np.int32)[one.labels + 1])
                    yield one.addresses(shards[i])

        table = PathTable.joined(parts())
    if not len(table):
        text = f"expected members that end in {only or _join(suffixes)}; {passed.instead()}"
        raise NothingToRead(shards[0], suffixes, f"{where}: no sample in {len(shards)} tar shard(s); {text}")
    table.versions = {s: v for s, v in zip(shards, versions, strict=True) if remote.is_remote(s)}
    remote.expect(table.versions)
    return _numbered(table, list(names), labels.whole())
