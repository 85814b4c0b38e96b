"""The one training loop. A step: batch -> loss -> update if finite -> record, maybe save, maybe look."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from mae_ext.config import Config
from mae_ext.data.batch import Batch
from mae_ext.data.loading.batches import StepData
from mae_ext.data.loading.loader import Loader
from mae_ext.engine.checkpoint import write_durably
from mae_ext.engine.cpu import settle_in
from mae_ext.engine.distributed import joined
from mae_ext.engine.failure import recorded
from mae_ext.engine.log import say
from mae_ext.engine.numerics import as_promised
from mae_ext.engine.record import Record, say_what_begins
from mae_ext.engine.run import Run, begin
from mae_ext.engine.saves import Saves, clear, own
from mae_ext.engine.start_config import asked_for
from mae_ext.engine.step import Step
from mae_ext.engine.stop import Interrupted, StopFlag
from mae_ext.errors import NoneUsable, NonFinite, Passing, RunError, Stopped, cause_of


def train(
    config: Config | str | Path,
    out: str | Path,
    allow_change: bool = False,
    *,
    data: str | Path | None = None,
    test: str | Path | None = None,
    steps: int | None = None,
    sets: Sequence[str] = (),
    init: str | Path | None = None,
) -> Path:
    """Train, or go on from the newest checkpoint in `out`, and return the run directory.

    config: a Config, a YAML file, or the name of a recipe ("image_folder"). data, test, steps, sets, init: as --data,
    --test, --steps, --set and --init of the commands; several modalities as "image=photos,clip=films". Raises
    UserError, RunError, or Stopped after a signal.

    >>> import mae_ext, numpy
    >>> pixels = numpy.random.default_rng(0).integers(256, size=(8, 16, 16), dtype="uint8")
    >>> numpy.savez("grey.npz", train_images=pixels, train_labels=numpy.arange(8) % 2)
    >>> image = {"size": [16, 16], "patch": [8, 8], "channels": 1, "batch": 4, "data": {"path": "grey.npz"}}
    >>> config = mae_ext.parse_config({
    ...     "modalities": {"image": image},
    ...     "model": {"width": 24, "depth": 1, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}},
    ...     "train": {"steps": 1, "workers": 0, "precision": "fp32"},
    ... })
    >>> run = mae_ext.train(config, "runs/tiny")
    >>> run = mae_ext.train(config, "runs/tiny", steps=2, allow_change=True)  # goes on where it was
    >>> len((run / "metrics.jsonl").read_text().splitlines())
    2
    """
    out = Path(out)
    config = asked_for(config, out, data, test, steps, sets, init)
    settle_in()  # before torch's threads are there, which take it over
    try:
        with (
            joined(config.train.device, config.train.rank_timeout) as ranks,
            StopFlag() as stop,
            own(out, ranks),
            as_promised(config, ranks.device),
        ):
            _train(begin(config, out, ranks, stop, allow_change), out, stop)
    except OSError as error:
        raise Passing(
            f"{cause_of(error)}; then run the same command, which goes on from the last checkpoint"
        ) from error
    return out


def _train(run: Run, out: Path, stop: StopFlag) -> None:
    start, total, done, alone = run.at.step, run.schedule.steps, run.at.step, run.ranks.world == 1
    if run.ranks.main:
        clear(out, run)  # before ranks meet, after which each writes files of its own
        write_durably(out / "config.yaml", run.config.to_yaml())
        say_what_begins(run, out)
    record = Record(run, out, stop)
    take_step, saves = Step(run, record.share), Saves(run, out, record)
    data = StepData(run.data, run.config.train.accumulate)
    loader = Loader(data, run.config, start, total, run.ranks.device, take_step.copies)

    def batch() -> list[dict[str, Batch]]:
        """The next, in its parts. A rank that is alone waits for none after a signal, but saves: data may be slow."""
        try:
            with stop.interrupts() if alone else nullcontext():
                return next(loader)
        except BaseException:
            if alone:
                record.write(take_step.answers(everything=True))
            raise

    try:
        record.look(start, saves.settle)  # untrained, or what a signal left no time for
        while done < total:
            began = time.perf_counter()
            parts = batch()
            take_step(done, parts, bool(stop.received), record.met(done, parts, loader, began))
            done += 1
            stopping = record.write(take_step.answers(everything=alone and bool(stop.received)))
            if stopping or saves.due(done) or record.due(done):
                stopping |= record.write(take_step.answers(everything=True))
                saves(done, take_step.skipped)
            if stopping and done < total:
                raise Interrupted
            record.look(done, saves.settle)
        saves.settle()
    except Interrupted:
        saves(done, take_step.skipped)
        raise Stopped(saves.last_words(done)) from None
    except NonFinite as failure:
        raise RunError(run.ranks.from_main(recorded(failure, run, take_step.skipped, out))) from None
    except NoneUsable as none:
        record.ledger.last_words(done + 1, none.bad)
        raise
    finally:
        loader.close()
        saves.close()  # before the journals, which it puts on the disk
        record.close()
    if run.ranks.main and saves.at < total:
        raise Passing(f"the last checkpoint, of step {total}, could not be saved; make room and run the same command")
    if run.ranks.main and start < total:
        skipped = f"; {record.skipped} updates were skipped by fp16's loss scaler" if record.skipped else ""
        say(f"done: {total} steps{skipped}, run in {out}{record.best or ''}")
