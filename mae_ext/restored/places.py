"""Where results of whole samples go: under the samples' names, beside a list of all, and over nothing else."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from mae_ext.config import ModalityConfig, uncached
from mae_ext.data.loading.batches import build_reader
from mae_ext.data.loading.slabs import within_memory
from mae_ext.data.sample import Reader
from mae_ext.data.video.reader import counted_if_needed
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.engine.log import warn
from mae_ext.engine.outputs import addresses_of, result_paths, warn_one_sided
from mae_ext.errors import BadSample, UserError, reasons, some
from mae_ext.features.encoder import FrozenEncoder
from mae_ext.progress import Progress
from mae_ext.restored.source import Source, opened
from mae_ext.strict_json import dumps
from mae_ext.writing import blamed_on, clear_leftovers, folder_for, staged

T = TypeVar("T")
Row = dict[str, Any]


class Inputs:
    """What is read for one run, whole. reader: without a cache, which is a training's."""

    def __init__(self, encoder: FrozenEncoder, sources: Sequence[str | Path], limit: int | None = None) -> None:
        """Raises UserError for sources that cannot be listed. What a limit leaves out is said."""
        self.modality: ModalityConfig = uncached(encoder.config).modalities[encoder.name]
        self.reader: Reader = build_reader(self.modality, f"modalities.{encoder.name}.data.reader")
        self.suffixes = tuple(self.reader.suffixes)
        self.sources = [str(source) for source in sources]
        self.addresses = addresses_of(self.sources, self.suffixes)
        if limit is not None and (left := len(self.addresses) - limit) > 0:
            warn(f"{left} of {len(self.addresses)} inputs are left out by --limit {limit}; set a larger one")
            self.addresses = self.addresses[:limit]
        self.bad: list[BadSample] = []
        warn_one_sided([self.modality], self.sources)

    @property
    def display(self) -> str:
        return getattr(self.reader, "display", "image")

    @property
    def of_scans(self) -> bool:
        """Whether the samples have a geometry that a NIfTI can have."""
        return isinstance(self.reader, VolumeReader)

    def each(self, work: Callable[[Source, int], T], progress: Progress | None = None) -> Iterator[tuple[int, T]]:
        """(index, what the work makes of a sample) of all that can be read; the others are named. Raises UserError
        where there is none."""
        for index, address in enumerate(self.addresses):
            try:
                with within_memory(address):
                    made = counted_if_needed(
                        lambda counted, address=address, index=index: work(  # type: ignore[misc]
                            opened(self.reader, self.modality, address, counted), index
                        )
                    )
            except BadSample as error:
                warn(f"left out: {error}")
                self.bad.append(error)
            else:
                yield index, made
            if progress is not None:
                progress(index + 1, len(self.addresses))
        if len(self.bad) == len(self.addresses):
            named = ", ".join(self.sources) or "no input"
            raise UserError(f"{named}: none of the {len(self.bad)} inputs can be read: {reasons(self.bad)}")


class Place:
    """A folder of results and the list of them, `listed`, which the next command of the kind may write over."""

    def __init__(self, out: Path, listed: str, inputs: Inputs, beside: Sequence[str] = ()) -> None:
        """beside: names of other files of all samples together. Raises UserError where one of these, or the list, is
        somebody else's."""
        self.out, self.listed, self.inputs, self._begun = out, out / listed, inputs, False
        self._ours, self._beside, self._taken = self._known(), [listed, *beside], set[Path]()
        if foreign := [out / name for name in beside if (out / name).exists() and not self.listed.exists()]:
            raise UserError(f"--out {out}: it holds {some(foreign)}, and nothing is written over; name another")

    def clear(self) -> None:
        """Away with what a killed command was writing here: by its list, and what it would have written anew."""
        names = [*self._beside, *(n for n in self._ours if ".." not in Path(n).parts and not Path(n).is_absolute())]
        clear_leftovers(self.out / name for name in names)

    def paths(self, suffix: str) -> list[Path]:
        """For each input, where its result with this suffix goes. Raises UserError where that would be over a file that
        is none of an earlier command's."""
        paths = result_paths(self.inputs.addresses, self.inputs.suffixes, self.out, suffix)
        if twice := sorted(self._taken.intersection(paths)):
            raise UserError(f"--out {self.out}: {some(twice)} would be of two inputs; rename one, or leave it out")
        self._taken.update(paths)
        theirs = self._inputs()
        if over := [path for path in paths if path.resolve() in theirs]:
            raise UserError(f"--out {self.out}: {some(over)} is an input, and not written over; name another folder")
        foreign = [p for p in paths if p.exists() and p.relative_to(self.out).as_posix() not in self._ours]
        if foreign:
            raise UserError(f"--out {self.out}: it holds {some(foreign)}, and nothing is written over; name another")
        return paths

    def begin(self, paths: Sequence[Sequence[Path]]) -> None:
        """Before the first file is written: a command that is killed leaves a list of what is its own.

        What an earlier command made of the same inputs and this one does not goes: beside new results it would be taken
        for theirs.
        """
        if not self._begun:
            self._begun = True
            rows = [
                {"source": a, "files": self.named(of)} for a, *of in zip(self.inputs.addresses, *paths, strict=True)
            ]
            kept, sources, theirs = {n for row in rows for n in row["files"]}, {*self.inputs.addresses}, self._inputs()
            self.write({"unfinished": True}, rows)
            for name in (n for n, source in self._ours.items() if source in sources and n not in kept):
                path = self.out / name
                if path.resolve().is_relative_to(self.out.resolve()) and path.resolve() not in theirs:
                    with blamed_on(path):
                        path.unlink(missing_ok=True)

    def _inputs(self) -> set[Path]:
        return {Path(address.partition("::")[0].rstrip("/")).resolve() for address in self.inputs.addresses}

    def _known(self) -> dict[str, str]:
        """The files of an earlier command, and the input that each is of. Raises UserError."""
        try:
            rows = json.loads(self.listed.read_text(encoding="utf-8"))["samples"]
            return {name: row["source"] for row in rows for name in row["files"]}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{self.listed}: is no list of results of this command; name another --out") from None

    def named(self, paths: Sequence[Path]) -> list[str]:
        return [path.relative_to(self.out).as_posix() for path in paths]

    def write(self, content: Row, rows: Sequence[Row]) -> None:
        """The list: what all results depend on, a row for each sample, and what was left out."""
        left_out = [error.row for error in self.inputs.bad]
        with staged(self.listed) as [partial]:
            partial.write_text(dumps({**content, "samples": list(rows), "left_out": left_out}) + "\n", encoding="utf-8")


@contextmanager
def place_for(out: str | Path, listed: str, inputs: Inputs, beside: Sequence[str] = ()) -> Iterator[Place]:
    """beside: as of `Place`. Raises UserError where nothing can be written, now or, on a disk that fills, later."""
    # What cannot be read is a BadSample before it comes here.
    with folder_for(out) as folder, blamed_on(folder), _alone_in(folder) as alone:
        place = Place(folder, listed, inputs, beside)
        if alone:
            place.clear()
        yield place


@contextmanager
def _alone_in(folder: Path) -> Iterator[bool]:
    """One command at a time writes there: of two with other settings, each would leave a part of what is there. The
    lock dies with its holder; where a file system has none, there is none, and False comes."""
    opened, locked = os.open(folder, os.O_RDONLY), True
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--out {folder}: another command is writing there; wait, or name another") from None
        except OSError:
            locked = False
        yield locked
    finally:
        os.close(opened)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes a sample's file: its folder is made, and what the disk refuses is the user's to mend."""
    with blamed_on(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
