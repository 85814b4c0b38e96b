"""Where results go: whether they can be written is asked before the work, and a file is whole or not there."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from mae_ext.errors import UserError, cause_of

NAME_BYTES = 255
"""Of the longest name that a file can have, on all file systems but those that keep names encrypted."""


@contextmanager
def folder_for(out: str | Path, what: str = "--out") -> Iterator[Path]:
    """A folder that can be written to, made if it was not there, and gone again if nothing came of the work.

    what: is said before its name. Raises UserError at once when nothing can be written in it.
    """
    out = Path(out)
    made, attempt = list[Path](), out / f".attempt-{os.getpid()}"
    try:
        try:
            made += [folder for folder in (out, *out.parents) if not folder.exists()]
            out.mkdir(parents=True, exist_ok=True)
            attempt.touch()
            attempt.unlink()
        except OSError as error:
            raise UserError(f"{what} {out}: cannot be written to: {error.strerror or error}") from None
        yield out
    except BaseException:
        with contextlib.suppress(OSError):  # one that holds something stays, and so do those above it
            for folder in made:
                folder.rmdir()
        raise


@contextmanager
def locked(out: Path, doing: str) -> Iterator[None]:
    """Makes `out` and holds its lock, the file `.lock`, which dies with the process. doing: what a second one is told.

    Where the work ends before anything else is in the folder, as it does where the data cannot be used, the lock's file
    goes too, and folders that were made for it: nothing is left that looks like a run.
    """
    lock = out / ".lock"
    try:
        made = [folder for folder in (out, *out.parents) if not folder.exists()]
        out.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written to: {cause_of(error)}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(file.fileno()).st_nlink:  # its holder took it away meanwhile: it keeps nobody out
                raise BlockingIOError
        except OSError:
            raise UserError(f"--out {out}: another process is {doing} there; wait, or choose another") from None
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                if [*out.iterdir()] == [lock]:
                    lock.unlink()
                    for folder in made:  # one that holds something else by now stays, and so do those above it
                        folder.rmdir()
            raise


@contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """Around what writes `path`, and nothing else: an OSError becomes a UserError that names it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


@contextmanager
def staged(*paths: Path) -> Iterator[list[Path]]:
    """Empty files beside `paths`, to be filled: they take their places when the block ends well, and go when not.

    One that the block removes leaves its place as it is. Raises UserError at once where one cannot be written.
    """
    partial = [path.with_name(_beside(path.name)) for path in paths]
    try:
        for path, beside in zip(paths, partial, strict=True):
            if path.is_dir():
                raise UserError(f"{path}: is a folder, where a file is to be written; remove it, or name another")
            with blamed_on(path):
                beside.touch()
        yield partial
        for path, beside in zip(paths, partial, strict=True):
            with blamed_on(path):
                if beside.exists():
                    beside.replace(path)
    finally:
        for beside in partial:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)


def _beside(name: str) -> str:
    """A name for what is to be `name`, longer by a few letters where that is no longer than a name can be."""
    whole, hashed = (f"{stem}.tmp-{os.getpid()}" for stem in _stems(name))
    return whole if len(os.fsencode(whole)) <= NAME_BYTES else hashed


def _stems(name: str) -> tuple[str, str]:
    """What stands before `.tmp-` in a name of what is to be `name`, unless that is too long, and where it is."""
    return name, sha256(os.fsencode(name)).hexdigest()


def clear_leftovers(paths: Iterable[Path]) -> None:
    """Removes what killed commands were writing in the places of `paths`; what a process that lives may write stays.

    For whoever holds the folder alone: on another machine a process can live that is not seen here.
    """
    stems: dict[Path, set[str]] = {}
    for path in paths:
        stems.setdefault(path.parent, set()).update(_stems(path.name))
    for folder, ours in stems.items():
        with contextlib.suppress(OSError):
            for path in list(folder.iterdir()):
                stem, _, pid = path.name.rpartition(".tmp-")
                if stem in ours and pid.isdecimal() and not _lives(int(pid)):
                    path.unlink()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's, or no number of a process at all
        pass
    return True


@contextmanager
def assembled(out: Path, as_folder: bool) -> Iterator[Path]:
    """A folder beside `out` to write into. At the end it becomes `out`, or, unless as_folder, its files go where `out`
    is to stand, which is one of them. Nothing is written over, and nothing is left where the work fails.

    Raises UserError at once where `out` is there already, or nothing can be written beside it.
    """
    with folder_for(out.parent, "the folder"):
        _refuse(out)
        beside = out.with_name(f".{out.name}.tmp-{os.getpid()}")
        try:
            with blamed_on(out):
                beside.mkdir()
            yield beside
            files = [] if as_folder else sorted(beside.iterdir())
            for path in [out, *(out.with_name(file.name) for file in files)]:
                _refuse(path)
            with blamed_on(out):
                if as_folder:
                    beside.rename(out)
                for file in files:
                    file.rename(out.with_name(file.name))
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _refuse(path: Path) -> None:
    if os.path.lexists(path):
        raise UserError(f"{path}: is there already, and is not written over; remove it, or name another")


def is_text(path: Path) -> bool:
    """Whether a path's bytes are UTF-8; of others Python keeps each as a sign of its own (PEP 383)."""
    return not any("\udc80" <= sign <= "\udcff" for sign in str(path))
