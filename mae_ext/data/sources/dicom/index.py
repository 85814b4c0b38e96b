"""What is in the files of a folder: looked at once, by several processes, and again only where one is another."""

import fcntl
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path

import numpy as np

from mae_ext.cores import cores
from mae_ext.data.sources.dicom.child import UNREADABLE, look
from mae_ext.data.sources.dicom.glance import Glance
from mae_ext.data.sources.dicom.looked_at import File, LookedAt, kept_for, replace, versions_of

CHILD = Path(__file__).with_name("child.py")
PACKAGES = str(Path(__file__).parents[4])
AT_A_TIME = 256
FEW = 512
"""Files that are looked at here: to start a child takes as long."""

MOST_CHILDREN = 16
SAID_FROM = 5000
"""Files from which it is said that they are looked at: it takes some seconds."""

log = logging.getLogger(__name__)


def looked_at(root: str, files: Sequence[File], secret: bytes) -> LookedAt:
    """What is seen of the files, which are in the folder `root`; kept in the user's cache."""
    path = kept_for(root, secret).with_suffix(".npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        return _unkept(root, files, secret, error)
    with _turn(path):
        before = LookedAt.read(path)
        if before is not None and _same(before, files):
            return before
        table = _brought_up(root, files, secret, before)
        try:
            replace(path, table.write)
        except OSError as error:
            log.warning("%s: what was seen of DICOM files cannot be kept: %s; the next run looks again", path, error)
    return table


def _unkept(root: str, files: Sequence[File], secret: bytes, error: OSError) -> LookedAt:
    log.warning("what is seen of DICOM files cannot be kept (%s): set XDG_CACHE_HOME to a folder that can be", error)
    return _brought_up(root, files, secret, None)


def _same(before: LookedAt, files: Sequence[File]) -> bool:
    if len(before) != len(files) or before.names != [file[0] for file in files]:
        return False
    return np.array_equal(before.versions, versions_of(files)) and is_whole(before)


def is_whole(table: LookedAt) -> bool:
    """Whether all files could be read: others are looked at again, whether they change or not."""
    return not table.unsure and not any(left == UNREADABLE for left, _ in table.kinds)


def _brought_up(root: str, files: Sequence[File], secret: bytes, before: LookedAt | None) -> LookedAt:
    if before is None:
        return LookedAt.of(files, _look(root, [file[0] for file in files], secret))
    bad = {i for i, (left, _) in enumerate(before.kinds) if left == UNREADABLE}
    rows = {
        (name, *version): i
        for i, (name, version, kind) in enumerate(
            zip(before.names, before.versions.tolist(), before.kind.tolist(), strict=True)
        )
        if kind not in bad
    }
    kept = [rows.get(file, -1) for file in files]
    new = [file for file, row in zip(files, kept, strict=True) if row < 0]
    return before.brought_up(files, kept, LookedAt.of(new, _look(root, [file[0] for file in new], secret)))


def _look(root: str, names: Sequence[str], secret: bytes) -> list[Glance]:
    """In as many processes as there are processors."""
    if len(names) >= SAID_FROM:
        log.warning("looking into %d files of %s, once; what is seen is kept", len(names), root)
    few = [list(names[i : i + AT_A_TIME]) for i in range(0, len(names), AT_A_TIME)]
    children = min(cores(), MOST_CHILDREN, len(few))
    if len(names) < FEW or children < 2:
        return look(root, list(names), secret)
    with ThreadPoolExecutor(children) as pool:
        parts = pool.map(lambda k: _by_child(root, few[k::children], secret), range(children))
        answers = [iter(part) for part in parts]
    return list(chain.from_iterable(next(answers[i % children]) for i in range(len(few))))


def _by_child(root: str, few: list[list[str]], secret: bytes) -> list[list[Glance]]:
    """One child, list by list. A child that dies leaves the rest to be done here."""
    answers: list[list[Glance]] = []
    child = subprocess.Popen(  # noqa: S603 our own program
        [sys.executable, "-P", str(CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join([PACKAGES, os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None
    try:
        with child:
            print(json.dumps({"root": root, "secret": secret.decode("utf-8", "surrogateescape")}), file=child.stdin)
            for names in few:
                print(json.dumps(names), file=child.stdin, flush=True)
                reply = json.loads(child.stdout.readline())
                answers.append([Glance(left, of, instance, tuple(n)) for left, of, instance, n in reply])
            child.stdin.close()
    except (OSError, ValueError):
        child.kill()
    return answers + [look(root, names, secret) for names in few[len(answers) :]]


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """One process at a time brings an index up; the others find it done. Where nothing can be locked all do it."""
    with ExitStack() as stack:
        with suppress(OSError):
            lock = stack.enter_context(path.with_suffix(".lock").open("ab"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
