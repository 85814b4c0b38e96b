"""R2, R4, R5, R10: saves that are killed, that the disk refuses, that are damaged, or that belong to another run."""

import errno
import importlib
import importlib.util
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from fault_list.inputs import make_photos, write_config
from fault_list.trial import Outcome, Row
from faults import failpoints
from faults.kills import command, environment, finish, rows, trajectory

import mae_ext.data.image.reader
import mae_ext.engine.train  # noqa: F401 so that forks need not
from mae_ext.cli import run
from mae_ext.engine.checkpoint import latest, steps_of, verify

INTERVAL = 4
PLACES, TIMES = 60, 5

_SPEC = importlib.util.find_spec("mae_ext.engine.failpoint")
NAMED: tuple[str, ...] = importlib.import_module("mae_ext.engine.failpoint").POINTS if _SPEC else ()
"""Failpoints of the saving code itself."""


def in_fork(work: Callable[[], int]) -> int:
    """Its exit code; what it says is in the log of the trial."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = work()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(config: Path, photos: Path, out: Path, *more: str) -> int:
    return run(["pretrain", str(config), "--data", str(photos), "--out", str(out), *more])


def prepare_places(shared: Path) -> None:
    photos = make_photos(shared / "photos")
    config = write_config(shared, {"train.steps": 12, "train.save_every": INTERVAL})
    code, operations = failpoints.train(str(config), str(photos), shared / "whole", None)
    assert code == 0 and operations >= PLACES, (code, operations)
    (shared / "operations").write_text(str(operations))


def went_on(folder: Path, shared: Path) -> list[str]:
    """What is wrong with a run that was killed while it saved, and with what became of it."""
    config, photos, out = shared / "config.yaml", shared / "photos", folder / "run"
    whole, logged = trajectory(shared / "whole"), trajectory(out)
    newest = latest(out)
    gone = len(logged) - (int(newest.name[-8:]) if newest else 0)
    lost = [] if logged == whole[: len(logged)] else ["other losses before the kill"]
    lost += [] if gone <= INTERVAL else [f"{gone} steps lost"]
    code = in_fork(lambda: train(config, photos, out))
    lost += [] if code == 0 and trajectory(out) == whole else [f"going on ended with {code}, or with other losses"]
    left = [path.name for path in out.rglob("*.tmp-*")]
    return lost + ([f"left behind: {left}"] if left else [])


def place_killed(number: int, folder: Path, shared: Path) -> Outcome:
    """Before one of the operations on the disk; from PLACES on, at a named place of the saving code."""
    config, photos, out = shared / "config.yaml", shared / "photos", folder / "run"
    if number < PLACES:
        fatal = number * int((shared / "operations").read_text()) // PLACES
        code, _ = failpoints.train(str(config), str(photos), out, fatal)
        lost = [] if code == 9 else [f"operation {fatal}: ended with {code}"]
        return Outcome(1, tuple(f"operation {fatal}: {line}" for line in lost + went_on(folder, shared)))
    name, nth = NAMED[(number - PLACES) % len(NAMED)], 1 + 2 * ((number - PLACES) // len(NAMED))
    done = finish(command(config, photos, out), environment(MAE_EXT_FAILPOINT=f"{name}:{nth}"))
    if done.returncode == 0:
        return Outcome(0, (), {"count not reached": 1})
    return Outcome(1, tuple(f"{name}:{nth}: {line}" for line in went_on(folder, shared)))


CODES = (errno.ENOSPC, errno.EROFS, errno.EIO)


class Refuses:
    """The disk refuses operation number `which` on a checkpoint's folder, once."""

    def __init__(self, word: str, which: int, code: int) -> None:
        self.word, self.left, self.code = word, which, code

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in failpoints.EVENTS and any(self.word in str(argument) for argument in arguments[:2]):
            self.hit()

    def hit(self) -> None:
        self.left -= 1
        if self.left == -1:
            raise OSError(self.code, os.strerror(self.code), f"the {self.word} of a trial")

    def install(self) -> None:
        real = os.fsync

        def fsync(descriptor: int) -> None:
            if self.word in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
                self.hit()
            real(descriptor)

        os.fsync = fsync
        sys.addaudithook(self)


def refused(number: int, folder: Path, shared: Path) -> Outcome:
    """Of three saves the disk refuses the second at its n-th operation."""
    point, out = Refuses("step-00000008", number // 3, CODES[number % 3]), folder / "run"

    def work() -> int:
        point.install()
        code = train(shared / "config.yaml", shared / "photos", out)
        (folder / "left").write_text(str(point.left))
        return code

    code = in_fork(work)
    if int((folder / "left").read_text()) >= 0:
        return Outcome(0, (), {"count not reached": 1})
    said = folder.with_suffix(".log").read_text()
    saved = [path.name for path in steps_of(out / "checkpoints")]
    lost = [] if code == 0 and trajectory(out) == trajectory(shared / "whole") else [f"the run ended with {code}"]
    warned = said.count("could not save a checkpoint") == 1
    if "step-00000008" not in saved and not (warned and "step-00000004" in saved):
        lost.append(f"saved {saved}, and it {'was' if warned else 'was not'} said")
    for name in saved:
        verify(out / "checkpoints" / name)
    return Outcome(1, tuple(lost))


def prepare_damage(shared: Path) -> None:
    photos = make_photos(shared / "photos")
    config = write_config(shared, {"train.steps": 12, "train.save_every": INTERVAL, "train.keep": 3})
    assert train(config, photos, shared / "whole") == 0


def damaged(number: int, folder: Path, shared: Path) -> Outcome:
    """A byte of the newest checkpoint is another, or all after it is gone: ten times."""
    chance, lost = random.Random(number), []
    for turn in range(10):
        out = folder / f"{turn}"
        shutil.copytree(shared / "whole", out)
        newest = steps_of(out / "checkpoints")[-1]
        file = chance.choice(sorted(newest.iterdir()))
        content = bytearray(file.read_bytes())
        at = chance.randrange(len(content))
        if turn % 2:
            del content[at:]
        else:
            content[at] ^= 1 << chance.randrange(8)
        file.write_bytes(content)
        said: list[str] = []
        taken = latest(out, said.append)
        if taken is None or taken.name != "step-00000008" or newest.name not in "".join(said):
            lost.append(f"{file.name} at {at}: took {taken}, said {said}")
        shutil.rmtree(out)
    return Outcome(10, tuple(lost))


def format_two(folder: Path) -> None:
    for path in steps_of(folder / "run" / "checkpoints"):
        manifest = json.loads((path / "manifest.json").read_text())
        (path / "manifest.json").write_text(json.dumps(manifest | {"format": 2}))


def one_file_less(folder: Path) -> None:
    (folder / "photos" / "003.jpg").unlink()


def as_it_was(_: Path) -> None: ...


CHANGES: dict[str, tuple[list[str], Callable[[Path], None], str]] = {
    "seed": (["--set", "seed=4"], as_it_was, "seed: 3 -> 4"),
    "batch": (["--set", "modalities.image.batch=16"], as_it_was, "batch: 8 -> 16"),
    "files": ([], one_file_less, "files"),
    "masker": (["--set", "modalities.image.mask.ratio=0.5"], as_it_was, "ratio: 0.75 -> 0.5"),
    "precision": (["--set", "train.precision=bf16"], as_it_was, "precision: fp32 -> bf16"),
    "format": ([], format_two, "format"),
}


def changed(number: int, folder: Path, shared: Path) -> Outcome:
    """Another run in the place of the first: refused in words, and nothing is touched."""
    name = list(CHANGES)[number]
    more, spoil, told = CHANGES[name]
    out, photos = folder / "run", folder / "photos"
    shutil.copytree(shared / "whole", out)
    shutil.copytree(shared / "photos", photos)
    shutil.rmtree(out / "checkpoints" / "step-00000012")
    spoil(folder)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != ".lock"}
    code = in_fork(lambda: train(shared / "config.yaml", photos, out, *more))
    said = folder.with_suffix(".log").read_text()
    after = {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != ".lock"}
    fine = code == 2 and told in said and "Traceback" not in said and before == after and rows(out / "metrics.jsonl")
    return Outcome(1, () if fine else (f"{name}: ended with {code}: {said[-200:]}",))


ROWS = (
    Row(
        "R2",
        f"SIGKILL before {PLACES} operations on the disk, and {TIMES} times at each named place of a save: goes on to "
        f"the same losses, at most one interval is lost, nothing is left behind",
        {"quick": 3, "full": PLACES + TIMES * len(NAMED)}, place_killed, 300, prepare_places,
    ),
    Row(
        "R4",
        "one byte of the newest checkpoint flipped, or the rest of a file gone: noticed, said, the one before is taken",
        {"quick": 1, "full": 10}, damaged, 120, prepare_damage,
    ),
    Row(
        "R5",
        "ENOSPC, EROFS, EIO at the first ten operations of a save: warned of, training goes on, older ones intact",
        {"quick": 3, "full": 30}, refused, 120, prepare_places,
    ),
    Row(
        "R10", "gone on with another seed, batch, list of files, masker, precision, format: refused, nothing touched",
        {"quick": 6, "full": 6}, changed, 120, prepare_damage,
    ),
)  # fmt: skip
