"""The run's own folder: who holds it, what is cleared from it, and the checkpoints that are written beside training."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from errno import ENOENT
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mae_ext.engine import checkpoint, commit
from mae_ext.engine.commit import Staged, stage
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.failpoint import reach
from mae_ext.engine.log import say, warn
from mae_ext.engine.record import Record
from mae_ext.engine.run import Run
from mae_ext.errors import CheckpointError, UserError, cause_of
from mae_ext.interop.files import FOLDER
from mae_ext.memory import free_memory
from mae_ext.writing import locked

if TYPE_CHECKING:
    from mae_ext.engine.shard_writer import ShardWriter

SHARE = 0.5
"""Of the memory that is free, what the copies of a checkpoint may take at most."""


class Saves:
    """Checkpoints of a run that trains, by rank 0, written by a thread while the steps go on; one at a time.

    Of a model in shares every rank writes its own, each on such a thread (`ShardWriter`).

    Called on all ranks. No rank waits for a save in a step's reduction, which gives up after ten minutes: where rank 0
    has to wait for the disk the others wait in `settle`, as long as it takes. at: the step of the newest that is whole.
    """

    def __init__(self, run: Run, out: Path, record: Record) -> None:
        self.run, self.folder, self.record = run, out / "checkpoints", record
        self.at = self.begun = run.at.step
        self.whole: Path | None = None
        """The newest that this run wrote, and read back."""
        self.copies: Staged | None = None
        self.shards = _shard_writer(run.ranks) if run.parallel.sharded else None
        self.writes = run.ranks.main or self.shards is not None
        self.under_way: Future[Path] | None = None
        self.thread: Thread | None = None
        self.beside, self.agreed, self.behind = True, False, False
        if self.writes and run.ranks.device.type == "cuda":
            run.optimizer.register_step_pre_hook(lambda *_: self.copies.hold() if self.copies else None)

    def __call__(self, step: int, skipped: int) -> None:
        """Begin to save the state after `step` steps, after the save under way. One that fails is a warning: training
        goes on, and the older ones are untouched."""
        if step == self.begun:
            return
        if (
            self.under_way
            and not self.under_way.done()
            and not self.behind
            and step % self.run.config.train.save_every == 0
        ):
            self.behind = True
            self._warn(
                f"step {step} is to be saved and step {self.begun} is still being written: training waits for the "
                f"disk; with a train.save_every above {self.run.config.train.save_every} it waits less"
            )
        self.settle()
        self.begun = step
        if self.writes:
            problem = None
            try:
                self.record.flush()
            except OSError as error:
                problem = error
            self._begin(step, skipped, problem)
        if not self.agreed:  # or one would wait for the others, which go on
            agree = self.shards.agree if self.shards else self.run.ranks.from_main
            self.beside, self.agreed = agree(self.beside), True
        if not self.beside:
            self.settle()

    def due(self, step: int) -> bool:
        """Whether to save after a step; asked after each, and says what became of a save that has ended."""
        if self.under_way and self.under_way.done():
            self._hear()
        return step % self.run.config.train.save_every == 0 or step == self.run.schedule.steps

    def settle(self) -> Path | None:
        """Wait until nothing is being written -> the newest that this run wrote and that is whole. On all ranks."""
        if self.under_way:
            self._hear()
        self.beside, whole = self.run.ranks.from_main((self.beside, self.whole))
        return whole

    def close(self) -> None:
        """At the end, also of a run that failed: what is under way gets to its end.

        Where ranks write it together it does not wait for one that hangs, which has the time that it has in a step, and
        of one that is gone nothing is said: the run has ended with another word of it.
        """
        if self.under_way:
            ended = wait([self.under_way], self.run.config.train.rank_timeout if self.shards else None).done
            if self.shards and (not ended or isinstance(self.under_way.exception(), RuntimeError)):
                self._warn(f"step {self.begun}: its checkpoint was not completed; the older ones are untouched")
                return
            self._hear()
        if self.thread:
            self.thread.join()

    def _begin(self, step: int, skipped: int, problem: OSError | None) -> None:
        tensors, state = self.run.snapshot(skipped)
        if self.shards:
            tensors = self.shards.shares(tensors)
        if not self.agreed:
            free = free_memory()
            room = float("inf") if free is None else free / (_ranks_here(self.run.ranks) if self.shards else 1)
            size = Staged(tensors).bytes
            self.beside = size <= SHARE * room
            if not self.beside and self.run.ranks.main:
                say(
                    f"checkpoints of {size / 1e9:.1f} GB, and {room / 1e9:.1f} GB of memory are free: too few for "
                    f"copies to write from, so training waits while they are written"
                )
        staged = Staged(tensors)
        if self.beside:
            staged = self.copies = stage(self._steady(tensors), self.copies)
        self.under_way, self.thread = begun(lambda: self._write(step, staged, state, problem))

    def _steady(self, tensors: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """On a GPU, copies of what a forward pass may change: the rest changes in the optimiser's step, which holds."""
        if self.run.ranks.device.type != "cuda":
            return tensors
        learning = {name for name, _ in self.run.model.named_parameters()}
        model = {name: t if name in learning else t.clone() for name, t in tensors["model"].items()}
        return tensors | {"model": model}

    def _write(self, step: int, staged: Staged, state: dict[str, Any], problem: OSError | None) -> Path:
        """On the thread. A checkpoint is not ahead of the rows that led to it, and no older one goes before it is
        read back. problem: what kept the rows from being handed to the system; other ranks have to hear of it."""

        def rows() -> None:
            if problem is not None:
                raise problem
            if not self.folder.parent.is_dir():  # made anew, it would be no run: its rows and its config went with it
                raise FileNotFoundError(ENOENT, "the folder of the run is gone", str(self.folder.parent))
            self.record.sync()

        if self.shards:
            path = self.shards.commit(self.folder, step, self.run.config, staged, state, rows)
            if not self.run.ranks.main:
                return path
        else:
            rows()
            path = commit.commit(self.folder, step, self.run.config, staged, state)
        checkpoint.verify(path)
        reach("folder.verified")
        try:
            commit.prune(self.folder, self.run.config.train.keep, path)
        except OSError as error:
            warn(f"step {step} is saved, and an older checkpoint could not be deleted: {cause_of(error)}")
        return path

    def _hear(self) -> None:
        """What became of the save under way, when it has ended."""
        assert self.under_way
        under_way, self.under_way = self.under_way, None
        try:
            self.whole = under_way.result()
            self.at = self.begun
        except (OSError, CheckpointError) as error:
            cause = cause_of(error) if isinstance(error, OSError) else error
            self._warn(
                f"step {self.begun}: could not save a checkpoint: {cause}; training goes on, the older ones are "
                f"untouched"
            )

    def _warn(self, message: str) -> None:
        """Once, where all ranks know it."""
        if self.run.ranks.main:
            warn(message)

    def last_words(self, step: int) -> str:
        """Of a run that a signal stopped after `step` steps."""
        self.settle()
        # Until then a rank that left would have the launcher end the others; and this shows that all were there.
        at = self.run.ranks.gather(self.at, patiently=True)[0]
        if not step:
            return "stopped by a signal before the first step; the same command starts again"
        return f"stopped by a signal after step {step}, saved at step {at}; the same command goes on"


def begun(work: Callable[[], Path]) -> tuple[Future[Path], Thread]:
    """-> what will come of it. No end of the process waits for the thread: a rank may not come to a meeting of it."""
    future = Future[Path]()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised again where the answer is heard
            future.set_exception(error)

    thread = Thread(target=run, name="saves", daemon=True)
    thread.start()
    return future, thread


def _shard_writer(ranks: Ranks) -> "ShardWriter":
    from mae_ext.engine.shard_writer import ShardWriter  # distributed checkpoints take seconds to load

    return ShardWriter(ranks)


def _ranks_here(ranks: Ranks) -> int:
    """Ranks on this machine, which share its memory, as torchrun says it; else all of them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world))


@contextmanager
def own(out: Path, ranks: Ranks) -> Iterator[None]:
    """Only one process group trains into a run directory at a time. The lock dies with its holder."""
    if not ranks.main:
        yield
        return
    held = next((name for name in FOLDER if (out / name).is_file()), None)
    if held is not None and not (out / "checkpoints").is_dir():  # a folder with both would be taken for the run
        raise UserError(f"{out}: holds weights of another program ({held}), which a run there would hide; name another")
    with locked(out, "training"):
        yield


def clear(out: Path, run: Run) -> None:
    """Out of the way: checkpoints too damaged to go on from, and what a run killed while writing left behind."""
    for path in checkpoint.steps_of(out / "checkpoints"):
        if run.checkpoint is not None and path.name > run.checkpoint.name:
            commit.set_aside(path)
    commit.sweep(out / "checkpoints")
    for leftover in out.glob("*.tmp-*"):
        leftover.unlink(missing_ok=True)
