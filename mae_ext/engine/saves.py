"""The run's own folder: who holds it, what is cleared from it, and the checkpoints that are written into it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mae_ext.engine import checkpoint, commit
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.log import warn
from mae_ext.engine.record import Record
from mae_ext.engine.run import Run
from mae_ext.errors import CheckpointError, UserError, cause_of
from mae_ext.interop.files import FOLDER


class Saves:
    """Checkpoints of a run that trains, by rank 0; the others have nothing to do. at: the step of the newest."""

    def __init__(self, run: Run, out: Path, record: Record) -> None:
        self.run, self.folder, self.record, self.at = run, out / "checkpoints", record, run.at.step

    def __call__(self, step: int, skipped: int) -> None:
        """Save after `step` steps. One that fails is a warning: training goes on, and the older ones are untouched."""
        if not self.run.ranks.main or step == self.at:
            return
        try:
            self.record.sync()
            commit.save(self.folder, step, self.run.config, *self.run.snapshot(skipped))
            commit.prune(self.folder, self.run.config.train.keep)
            self.at = step
        except (OSError, CheckpointError) as error:
            cause = cause_of(error) if isinstance(error, OSError) else error
            warn(f"step {step}: could not save a checkpoint: {cause}; training goes on, the older ones are untouched")

    def due(self, step: int) -> bool:
        return step % self.run.config.train.save_every == 0 or step == self.run.schedule.steps

    def last_words(self, step: int) -> str:
        """Of a run that a signal stopped after `step` steps."""
        at = self.run.ranks.from_main(self.at)  # a rank that left now would have the launcher end the others
        if not step:
            return "stopped by a signal before the first step; the same command starts again"
        return f"stopped by a signal after step {step}, saved at step {at}; the same command goes on"


@contextmanager
def own(out: Path, ranks: Ranks) -> Iterator[None]:
    """Only one process group trains into a run directory at a time. The lock dies with its holder."""
    if not ranks.main:
        yield
        return
    held = next((name for name in FOLDER if (out / name).is_file()), None)
    if held is not None and not (out / "checkpoints").is_dir():  # a folder with both would be taken for the run
        raise UserError(f"{out}: holds weights of another program ({held}), which a run there would hide; name another")
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / ".lock").open("w")
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written to: {cause_of(error)}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"--out {out}: another process is training there; wait, or choose another") from None
        yield


def clear(out: Path, run: Run) -> None:
    """Out of the way: checkpoints too damaged to go on from, and what a run killed while writing left behind."""
    for path in checkpoint.steps_of(out / "checkpoints"):
        if run.checkpoint is not None and path.name > run.checkpoint.name:
            commit.set_aside(path)
    commit.sweep(out / "checkpoints")
    for leftover in out.glob("*.tmp-*"):
        leftover.unlink(missing_ok=True)
