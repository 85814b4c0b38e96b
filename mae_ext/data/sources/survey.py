"""What kinds of samples a source holds, and how many of each, before it is known which reader is to read it.

Suffixes say most of it, in one walk that the listing which follows does not make again. Where a suffix says nothing, or
two readers have it, the first bytes of a bounded number of files do: the same files every time.
"""

import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath

from mae_ext.data.plan import spread
from mae_ext.data.sources import archive, hdf5, lmdb_file
from mae_ext.data.sources.dicom.export import is_series
from mae_ext.data.sources.folder import ZARR, walk
from mae_ext.data.sources.kinds import Few, Taker, by_content, by_suffix, exists_as_folder, is_text, takers
from mae_ext.data.sources.lists import LISTS, is_list
from mae_ext.data.sources.passed_over import PassedOver, beside, suffix_of
from mae_ext.data.sources.shard_names import shards_of
from mae_ext.data.sources.table import list_items
from mae_ext.errors import UserError, some

MOST_GROUPS = 32
"""Suffixes whose files are looked into, the most frequent ones."""

SHARDS, MEMBERS = 4, 256
"""Shards whose first members are looked at, by their names."""

CODE = (".ts", ".mts")
"""Suffixes of films that program text has, too."""


@dataclass
class Held:
    """Samples of one kind. by: how many of each suffix; about: whether that is an estimate. unlisted: how many of them
    have no suffix of the reader's, and are of the kind by their first bytes."""

    taker: Taker
    by: Counter[str] = field(default_factory=Counter)
    example: str = ""
    about: bool = False
    unlisted: int = 0

    @property
    def count(self) -> int:
        return self.by.total()

    def __str__(self) -> str:
        """ "12 images (10 .jpg, 2 .png)"."""
        named = self.by.most_common()
        suffixes = some([suffix if len(named) == 1 else f"{count} {suffix}" for suffix, count in named])
        if self.unlisted == self.count:
            return f"{'about ' * self.about}{self.count} files that begin as {self.taker.kind.many} ({suffixes})"
        return f"{'about ' * self.about}{self.taker.kind.counted(self.count)} ({suffixes})"


@dataclass
class Survey:
    """path: of the source. kinds: the most frequent first. remarks: what may mislead. refused: what no reader takes
    although it looks so, and how many. passed: what else is there."""

    path: str
    kinds: list[Held] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    passed: PassedOver = field(default_factory=PassedOver)

    def __str__(self) -> str:
        return ", ".join(map(str, self.kinds[:-1])) + " and " * (len(self.kinds) > 1) + str(self.kinds[-1])


def survey(path: str) -> Survey:
    """path: whatever `list_items` takes. Raises UserError where it is missing or cannot be read; a source in which
    nothing is known has no kinds."""
    known, where = takers(), f"data path '{path}'"
    made = _Groups(known)
    if npz := re.fullmatch(r"(?s)(.*\.npz)(?:::(\w+))?", path):
        return _of_rows(path, npz[1], npz[2] or "train", known)
    if inside := archive.ARRAY.fullmatch(path):
        return _of_array(path, inside["file"], inside["key"], inside["row"], known)
    if is_series(path) or (path.rstrip("/").endswith(ZARR) and exists_as_folder(path)):
        made.add(path.rstrip("/"))
    elif _is_table(path):
        return _of_table(path, known)
    elif exists_as_folder(path):
        for entry in walk(Path(path), ("", *(s for t in known for s in t.joined)), where, made.passed, ahead=True):
            made.add(entry.path if entry.version is None else f"{Path(entry.path).parent}/")
        if not made.known and (shards := sorted(str(p) for p in Path(path).glob("*.tar"))):
            return _of_shards(path, shards, known)
        if not made.known and any(_is_table(str(p)) for p in (*Path(path).rglob("*.parquet"), *Path(path).iterdir())):
            return _of_table(path, known)
    elif shards := shards_of(re.sub(r"\.tar::[\w.-]+$", ".tar", path)):
        return _of_shards(path, shards, known)
    elif is_list(path) or Path(path).suffix in LISTS:
        for address in _of_list(path, known):
            made.add(address)
    elif Path(path).is_file():
        made.add(path)
    else:
        list_items(path, known[0].suffixes)  # which says what is wrong with it
    return made.survey(path)


@dataclass
class _Looked:
    """What some files of one suffix turned out to be. by: whose, None for nobody's."""

    files: list[str]
    by: Counter[Taker | None] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    why: Counter[str] = field(default_factory=Counter)

    def share(self, taker: Taker, count: int) -> int:
        return max(1, round(count * self.by[taker] / len(self.files))) if self.by[taker] else 0


class _Groups:
    """Files by (who may have them, suffix)."""

    def __init__(self, known: list[Taker]) -> None:
        self.all, self.passed = known, PassedOver()
        self.groups: dict[tuple[tuple[Taker, ...], str], Few] = {}
        self._plain: dict[str, Few] = {}
        self.folders: set[str] = set()

    @property
    def known(self) -> bool:
        return any(taking for taking, _ in self.groups)

    def add(self, address: str) -> None:
        name = "" if is_series(address) else address.rpartition("/")[2]
        if not name:
            if address in self.folders:
                return
            self.folders.add(address)
        ending = name.rpartition(".")[2] if name.count(".") == 1 else ""
        if ending in self._plain:  # all but a few of a large folder
            self._plain[ending].add(address)
        elif not name:
            self._group(tuple(taker for taker in self.all if taker.joined), "folders").add(address)
        elif (taking := by_suffix(name, self.all)) or not beside(name):
            few = self._group(taking, suffix_of(name))
            few.add(address)
            if taking and ending:
                self._plain[ending] = few
        else:
            self.passed.other(address)

    def _group(self, taking: tuple[Taker, ...], suffix: str) -> Few:
        return self.groups.setdefault((taking, suffix), Few())

    def survey(self, path: str) -> Survey:
        made, held = Survey(path, passed=self.passed), dict[str, Held]()
        order = sorted(self.groups.items(), key=lambda item: (len(item[0][0]) != 1, -item[1].count, item[0][1]))
        shared = []
        for number, ((taking, suffix), sample) in enumerate(order):
            looked = self._look(sample.spread() if number < MOST_GROUPS else [])
            if len(taking) > 1:
                shared.append((taking, suffix, sample, looked))
            elif taking:
                self._own(made, held, taking[0], suffix, sample, looked)
            else:
                self._unknown(made, held, suffix, sample, looked)
        for taking, suffix, sample, looked in shared:
            self._shared(made, held, taking, suffix, sample, looked)
        made.kinds = sorted(held.values(), key=lambda one: -one.count)
        return made

    def _look(self, files: list[str]) -> _Looked:
        looked = _Looked(files)
        for file in files:
            taker, remark = by_content(file, self.all)
            looked.by[taker] += 1
            if remark:
                (looked.remarks if taker else looked.why)[remark] += 1
        return looked

    def _own(
        self, made: Survey, held: dict[str, Held], taker: Taker, suffix: str, sample: Few, looked: _Looked
    ) -> None:
        """Of files whose suffix is one reader's."""
        nobodys = looked.by[None] == len(looked.files) > 0
        if nobodys and looked.why.total() == len(looked.files):
            made.refused.update({next(iter(looked.why)): sample.count})
        elif nobodys and suffix in CODE and all(map(is_text, looked.files)):
            self.passed.suffixes[suffix] += sample.count
        else:
            _hold(held, taker, suffix, sample.count, sample.held[0])
            made.remarks += _remarks(suffix, looked, looked.remarks + looked.why)
            for pattern, remark in taker.kind.names.items():
                alike = sum(bool(re.fullmatch(pattern, PurePosixPath(file).stem)) for file in sample.held)
                if 2 * alike > len(sample.held) > 2:
                    made.remarks.append(f"{suffix} files such as {sample.held[0]} {remark}")

    def _unknown(self, made: Survey, held: dict[str, Held], suffix: str, sample: Few, looked: _Looked) -> None:
        """Of files whose suffix is nobody's."""
        for taker in [taker for taker in looked.by if taker is not None]:
            count = looked.share(taker, sample.count)
            one = _hold(held, taker, suffix, count, sample.held[0], len(looked.files) < sample.count)
            one.unlisted += count
        if looked.why and looked.why.total() * 2 >= len(looked.files):
            made.refused.update({looked.why.most_common(1)[0][0]: sample.count})
        elif looked.by[None] == len(looked.files):
            self.passed.suffixes[suffix] += sample.count
            self.passed.add(suffix, sample.held[0], sample.count)

    def _shared(
        self, made: Survey, held: dict[str, Held], taking: tuple[Taker, ...], suffix: str, sample: Few,
        looked: _Looked,
    ) -> None:  # fmt: skip
        """Of files whose suffix several readers have: of the kind that is there anyway, else of what they begin as."""
        there_too = [taker for taker in taking if taker.name in held]
        if len(there_too) == 1:
            (taker,) = there_too
            _hold(held, taker, suffix, sample.count, sample.held[0])
            others = {other: count for other, count in looked.by.items() if other in taking and other is not taker}
            for other, count in others.items():
                made.remarks.append(
                    f"{count} of {len(looked.files)} {suffix} looked into would by themselves be read as "
                    f"{other.kind.many if other else ''}: they are taken for {taker.kind.many}, as the rest is"
                )
            return
        seen = [taker for taker in taking if looked.by[taker]] or list(taking[:1])
        if len(seen) == 1:
            self._own(made, held, seen[0], suffix, sample, looked)
            return
        for taker in seen:
            count = looked.share(taker, sample.count)
            _hold(held, taker, suffix, count, sample.held[0], len(looked.files) < sample.count)


def _hold(
    held: dict[str, Held], taker: Taker, suffix: str, count: int, example: str, about: bool = False
) -> Held:  # fmt: skip
    one = held.setdefault(taker.name, Held(taker, example=example))
    one.by[suffix] += count
    one.about |= about
    return one


def _remarks(suffix: str, looked: _Looked, remarks: Counter[str]) -> Iterator[str]:
    for remark, count in remarks.most_common():
        yield f"{count} of {len(looked.files)} {suffix} looked into: {remark}"


def _of_list(path: str, known: list[Taker]) -> Iterable[str]:
    """The addresses of a list, as the first reader that can make something of it has them."""
    first: UserError | None = None
    for taker in known:
        try:
            return list_items(path, taker.suffixes).addresses
        except UserError as error:
            first = first or error
    assert first is not None
    raise first


def _of_rows(path: str, file: str, split: str, known: list[Taker]) -> Survey:
    row = archive.row_of(file, split) if Path(file).is_file() else None
    if row is None and (path == file or archive.holds(file, split)) and zipfile.is_zipfile(file):
        made = _Groups(known)
        made.add(file)
        return made.survey(path)
    if row is None:
        list_items(path, known[0].suffixes)  # which says what is wrong with it
        return Survey(path)
    count, shape, dtype = row
    scores = {taker: taker.kind.rows(shape, dtype) for taker in known if taker.kind.rows is not None}
    best = max(scores.values(), default=0)
    held = [
        Held(taker, Counter({f"rows of {[*shape]} {dtype}": count}), path) for taker in scores if scores[taker] == best
    ]
    others = [taker.kind.many for taker in scores if 0 < scores[taker] < best]
    remarks = [
        f"rows of {[*shape]} {dtype} are taken for {held[0].taker.kind.many}, and could be {' or '.join(others)}"
    ]
    return Survey(path, held if best else [], remarks if others and len(held) == 1 else [])


def _is_table(path: str) -> bool:
    """Whether a path names samples that are cells of Parquet files, or values of an LMDB."""
    return bool(re.fullmatch(r"(?s).*\.parquet(?:::.+)?", path)) or lmdb_file.file_of(Path(path)) is not None


def _of_table(path: str, known: list[Taker]) -> Survey:
    """By the names of the samples, where they have any, else by what some of them begin as."""
    made, suffixes = _Groups(known), dict.fromkeys(suffix for taker in known for suffix in taker.suffixes)
    for address in list_items(path, tuple(suffixes)).addresses:
        made.add(address)
    return made.survey(path)


def _of_array(path: str, file: str, key: str, row: str | None, known: list[Taker]) -> Survey:
    """By the shape of what each reader would have of an HDF5 dataset: the whole, or its rows; Zarr is of scans."""
    own = [taker for taker in known if file.lower().endswith(taker.single)]
    if not file.lower().endswith(hdf5.SUFFIXES):
        return Survey(path, [Held(taker, Counter({suffix_of(file): 1}), path) for taker in own])
    shape, dtype = hdf5.shape_of(file, key, f"data path '{path}'")
    held, surest = [], 0
    for taker in known:
        whole = taker in own and len(shape) <= 3 and row is None
        one, count = (shape, 1) if whole else (shape[1:], 1 if row is not None else shape[0])
        sure = 0 if taker.kind.rows is None else taker.kind.rows(one, dtype)
        if sure and (whole or sure > surest):
            what = f"{'an array' if whole else 'rows'} of {[*one]} {dtype}"
            held.append(Held(taker, Counter({what: count}), path))
            surest = surest if whole else sure
    return Survey(path, held)


def _of_shards(path: str, shards: list[str], known: list[Taker]) -> Survey:
    """By the names of the first members of some shards."""
    made, held = Survey(path), dict[str, Held]()
    for shard in (shards[i] for i in spread(len(shards), SHARDS)):
        for name in _members(shard):
            taking = by_suffix(name, known)
            if not taking:
                made.passed.other(name)
            for taker in taking[:1]:
                _hold(held, taker, suffix_of(name), 1, name, about=True)
    made.kinds = sorted(held.values(), key=lambda one: -one.count)
    return made


def _members(shard: str) -> list[str]:
    try:
        with archive.opened(shard) as stream, tarfile.open(shard, "r:", stream) as tar:
            return [member.name for member in islice(tar, MEMBERS) if member.isreg()]
    except (tarfile.TarError, OSError, EOFError, ValueError):
        return []  # what is wrong with it is said where it is listed
