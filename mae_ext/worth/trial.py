"""One trial: an arm, some labels, a seed. It has a folder named after all that decides it, and is made once."""

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mae_ext.config import Config
from mae_ext.engine.checkpoint import write_durably
from mae_ext.engine.resume import FREE_TO_CHANGE, flat
from mae_ext.engine.task import load_task
from mae_ext.engine.train import train
from mae_ext.errors import BadSample, NonFinite, RunError, Stopped, UserError
from mae_ext.strict_json import dumps
from mae_ext.tasks.finetuning import FineTuning
from mae_ext.worth.judged import judge
from mae_ext.worth.outcome import Asked, Judged, Outcome, from_json, to_json
from mae_ext.writing import blamed_on

OUTCOME = "outcome.json"
LOG = "log.txt"
PLACES = ("init", "data.path", "data.test", "data.reader.cache", "data.max_bad_fraction")
"""Where things lie: what they are is in the key by itself. And how many bad files are borne: no sample changes."""


class Diverged(RunError):
    """A trial whose loss or gradients were not finite."""


@dataclass(frozen=True)
class Trial:
    """work: into the trial's folder -> (score, what was judged, minutes); it goes on where it was stopped.

    what: what decides it, besides `cell`. score: the name of what is measured. steps: of training, 0 where there is
    none; judged: how many samples it is judged on.
    """

    cell: Asked
    what: Mapping[str, Any]
    score: str
    work: Callable[[Path], Outcome]
    steps: int = 0
    judged: int = 0

    @property
    def key(self) -> str:
        decisive = {**self.what, "arm": self.cell.arm, "seed": self.cell.seed}
        return hashlib.sha256(dumps(decisive).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        return f"{self.cell.arm}, {self.cell.labels}, seed {self.cell.seed}"

    def done(self, out: Path) -> Outcome | None:
        """What came of it, if it was made before. Raises UserError for a file that says nothing of it."""
        path = self.folder(out) / OUTCOME
        try:
            outcome = from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{path}: is no outcome of a trial, or not all of one ({type(error).__name__}: {error}); remove the "
                f"folder {path.parent}, and the same command makes the trial again"
            ) from None
        return replace(outcome, cell=self.cell)  # which another table may call otherwise

    def folder(self, out: Path) -> Path:
        return out / "trials" / self.key

    def made(self, out: Path) -> Outcome:
        """Raises UserError and RunError with the trial's name, and Stopped, after which the same command goes on."""
        if (outcome := self.done(out)) is not None:
            return outcome
        folder = self.folder(out)
        with blamed_on(folder):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            with logged(folder / LOG):
                outcome = self.work(folder)
        except Stopped as stopped:
            raise Stopped(f"{self.name}: {stopped}", stopped.agreed) from None
        except (UserError, RunError, BadSample) as error:
            kind = UserError if isinstance(error, UserError) else RunError
            if isinstance(error.__context__, NonFinite):
                kind = Diverged
            raise kind(f"{self.name} ({folder}): {error}") from error
        with blamed_on(folder / OUTCOME):
            write_durably(folder / OUTCOME, dumps(to_json(outcome)))
        shutil.rmtree(folder / "run" / "checkpoints", ignore_errors=True)  # of dozens of trials they would fill a disk
        return outcome


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """What is said inside goes to the end of a file."""
    with blamed_on(path):
        log = path.open("a", encoding="utf-8", errors="backslashreplace")
    with log, contextlib.redirect_stderr(log):
        yield


def trained(config: Config, cell: Asked, score: str, examples: Any, folder: Path) -> Outcome:
    """A fine-tuning in folder/run, judged at its end on `examples`, which the training never sees."""
    run, (modality,) = folder / "run", config.modalities.values()
    train(unjudged(config), run)
    seconds = spent(run)
    began = time.perf_counter()
    task, model, own, _ = load_task(run, config.train.device)
    assert isinstance(task, FineTuning)
    value, judged = judge(task, model, own, examples, modality.data)
    return Outcome(cell, score, value, (seconds + time.perf_counter() - began) / 60, judged)


def unjudged(config: Config) -> Config:
    (name, modality), *_ = config.modalities.items()
    data = modality.data.model_copy(update={"test": None})
    return config.model_copy(update={"modalities": {name: modality.model_copy(update={"data": data})}})


def spent(run: Path) -> float:
    """Seconds of the steps of a run, all of its starts together; 0 of one that has written of none."""
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
    return float(sum(json.loads(line)["seconds"] for line in lines))


def measured(work: Callable[[], tuple[float, Judged]], cell: Asked, score: str) -> Outcome:
    """What needs no training, and its time."""
    began = time.perf_counter()
    value, judged = work()
    return Outcome(cell, score, value, (time.perf_counter() - began) / 60, judged)


def decisive(config: Config) -> dict[str, Any]:
    """All keys of a config that decide what comes out, and not where things lie."""
    keys = flat(config.model_dump(mode="json"))
    return {key: value for key, value in keys.items() if key not in FREE_TO_CHANGE and not key.endswith(PLACES)}
