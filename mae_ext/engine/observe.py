"""Who looks at a model while it trains, and changes nothing: the contract of observers, and those of a run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from mae_ext.config import Config
from mae_ext.engine.crew import Crew
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.log import warn
from mae_ext.engine.run import Run
from mae_ext.engine.stop import Interrupted, StopFlag
from mae_ext.errors import RunError, UserError


class Observer(Protocol):
    """Looks at the model before the first step, between steps and at the end: probes, pictures, norms of weights.

    A factory `(**arguments)`, named by `train.observe` in a config; entry points in `mae_ext.observers`. An instance is
    its arguments and nothing more until `open`. On rank 0 alone, while the others wait; only `due` is asked on all.

    One that has the two methods of `Shared` as well looks with the help of all ranks.
    """

    def check(self, config: Config) -> None:
        """Before anything is read or trained. Raises UserError for what can never work: a source, a library, a key."""
        ...

    def due(self, step: int, total: int) -> bool:
        """Whether to look after step `step` of `total`; 0 is the untrained model. A function of the arguments alone."""
        ...

    def open(self, model: nn.Module, config: Config, out: Path, start: int) -> None:
        """Before the first step. model: the task's, whose weights training changes in place; config: settled.

        start: 0, or the step that a run goes on from. Whatever `out` holds of later steps will be made again: an
        `engine.log.Journal` at `start` drops such rows.
        """
        ...

    def __call__(self, step: int) -> Mapping[str, float]:
        """Look, after the step is saved; -> numbers for the loggers, by name.

        Called again for a step when a run goes on from it, so one that was looked at is passed over.

        The model is in eval mode, and torch's global generators are put back afterwards. A signal raises `Interrupted`
        in the midst of it; UserError, RunError and OSError are a warning, and training goes on.
        """
        ...

    def sync(self) -> None:
        """Before a checkpoint is written: what was said of steps until now is on the disk, or OSError."""
        ...

    def close(self) -> None:
        """At the end, also of a run that failed."""
        ...


@runtime_checkable
class Shared(Protocol):
    """What an observer has besides, of whose work all ranks are to do a share."""

    def share(self, crew: Crew) -> None:
        """On rank 0, before `open`: whatever `crew.ask(question, own)` asks while it looks, all ranks answer."""
        ...

    def helper(self, model: nn.Module, config: Config, ranks: Ranks) -> Callable[[Any], Any]:
        """On the other ranks, instead of `open`: what answers a question, with the model in eval mode.

        Questions and answers go from process to process: they are small, or arrays on the CPU. Raises UserError or
        RunError for what cannot be answered, which rank 0 then raises.
        """
        ...


class Observers:
    """Those of a run, by name. due, look: called on all ranks."""

    def __init__(self, run: Run, out: Path, stop: StopFlag) -> None:
        self.run, self.stop = run, stop
        self.opened, self.helpers = dict[str, Observer](), dict[str, Callable[[Any], Any]]()
        shared = {n: o for n, o in run.observers.items() if run.ranks.world > 1 and isinstance(o, Shared)}
        self.helped = bool(shared)
        if not run.observers:
            return
        with run.whole() as model:
            helping = {} if run.ranks.main else shared
            self.helpers = {name: o.helper(model, run.config, run.ranks) for name, o in helping.items()}
            for name, observer in run.observers.items() if run.ranks.main else ():
                try:
                    if name in shared:
                        shared[name].share(Crew(run.ranks, stop, name))
                    observer.open(model, run.config, out, run.at.step)
                except (UserError, RunError, OSError) as error:
                    self.close()
                    raise RunError(f"observer '{name}' cannot begin: {error}; mend it, or take it out") from error
                self.opened[name] = observer

    def due(self, step: int) -> bool:
        return any(observer.due(step, self.run.schedule.steps) for observer in self.run.observers.values())

    def look(self, step: int) -> dict[str, float]:
        """-> numbers as "probe/knn", on rank 0. Raises Interrupted, on all ranks, when a signal reaches rank 0, or one
        that helps it."""
        numbers, left = dict[str, float](), False
        with self.run.whole() as model:
            try:
                for name, observer in self.opened.items():
                    if not observer.due(step, self.run.schedule.steps):
                        continue
                    with self.stop.interrupts(), aside(model):
                        numbers |= {f"{name}/{key}": value for key, value in _looked(name, observer, step).items()}
            except Interrupted:
                left = True
            if self.helped:
                self._help(model)
        # The others wait here, and not in the next step, where a silent rank is a lost one.
        if self.run.ranks.from_main(left):
            raise Interrupted
        return numbers

    def _help(self, model: nn.Module) -> None:
        """The others answer what rank 0 asks, which is done when it comes here."""
        crew = Crew(self.run.ranks, self.stop)
        if self.run.ranks.main:
            crew.done()
        else:
            with aside(model):
                crew.serve(self.helpers)

    def sync(self) -> None:
        for observer in self.opened.values():
            observer.sync()

    def close(self) -> None:
        for observer in self.opened.values():
            observer.close()


def _looked(name: str, observer: Observer, step: int) -> Mapping[str, float]:
    try:
        return observer(step)
    except (UserError, RunError, OSError) as error:
        warn(f"step {step}: no {name} ({error}); training goes on")
        return {}


@contextmanager
def aside(model: nn.Module) -> Iterator[None]:
    """In eval mode, and left as it was, without gradients; and the global generators, which a plug-in may draw from."""
    was, cpu = model.training, torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    model.eval()
    try:
        yield
    finally:
        model.train(was)
        model.zero_grad(set_to_none=True)  # the next step would add its own to what an observer left
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)
