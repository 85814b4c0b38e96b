"""Who is told of a run's numbers beside metrics.jsonl: the contract of loggers, and the built-in ones."""

import os
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from mae_ext.config import Config
from mae_ext.engine.checkpoint import write_durably
from mae_ext.engine.log import warn
from mae_ext.engine.resume import flat
from mae_ext.errors import RunError, UserError


class Logger(Protocol):
    """Is told the numbers of a run. metrics.jsonl is written in any case, and is the truth.

    A factory `(**arguments)`, named by `train.loggers` in a config; entry points in `mae_ext.loggers`. An instance is
    its arguments and nothing more until `open`, and imports its library no sooner. All on rank 0.
    """

    def check(self) -> None:
        """Before anything is read or trained. Raises UserError where a library is missing, with how to install it."""
        ...

    def open(self, out: Path, config: Config, start: int) -> None:
        """Before the first step. out: the run's folder; start: 0, or the step that a run goes on from: numbers of later
        steps, which a killed run may have told, come again, to the same bits. Whatever it raises ends the run."""
        ...

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, by name ("loss", "probe/knn"); steps never go down. What it raises ends this logger,
        with a warning, and not the run."""
        ...

    def close(self) -> None:
        """At the end, also of a run that failed."""
        ...


class Loggers:
    """Those of a run, opened, by name."""

    def __init__(self, loggers: Mapping[str, Logger], out: Path, config: Config, start: int) -> None:
        self.opened = dict[str, Logger]()
        for name, logger in loggers.items():
            try:
                logger.open(out, config, start)
            except Exception as error:
                self.close()
                raise RunError(f"logger '{name}' cannot be opened: {_of(error)}; mend it, or take it out") from error
            self.opened[name] = logger

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, logger in list(self.opened.items()) if values else ():
            try:
                logger.write(step, values)
            except Exception as error:  # noqa: BLE001 - of a network, a disk, a library: none is worth a run
                warn(f"logger '{name}' failed ({_of(error)}) and ends here; metrics.jsonl goes on")
                del self.opened[name]

    def close(self) -> None:
        for name, logger in self.opened.items():
            try:
                logger.close()
            except Exception as error:  # noqa: BLE001 - as above
                warn(f"logger '{name}' could not be closed ({_of(error)}); metrics.jsonl is whole")


def _of(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _require(library: str, extra: str | None = None) -> None:
    if find_spec(library) is None:
        remedy = library if extra is None else f"'mae-ext[{extra}]'"
        raise UserError(f"train.loggers: '{library}' is not installed: pip install {remedy}, or take the logger out")


class TensorBoard:
    """Curves in OUT/tensorboard."""

    def check(self) -> None:
        _require("tensorboard")

    def open(self, out: Path, config: Config, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.board = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self.board.add_scalar(key, value, step)

    def close(self) -> None:
        self.board.close()


Mode = Literal["online", "offline", "disabled"]


class WandB:
    """Weights & Biases. mode "offline" writes to OUT/wandb alone, for `wandb sync`; null is as WANDB_MODE says.

    A run that goes on is the same run there (OUT/wandb.id); steps that it had told before a kill are not taken twice.
    """

    def __init__(
        self, project: str = "mae_ext", name: str | None = None, entity: str | None = None, group: str | None = None,
        tags: list[str] | None = None, mode: Mode | None = None,
    ) -> None:  # fmt: skip
        if mode not in (None, *get_args(Mode)):
            raise ValueError(f"mode={mode!r}: expected one of {', '.join(get_args(Mode))}")
        self.name, self.mode = name, mode
        self.place = {"project": project, "entity": entity, "group": group, "tags": tags}

    def check(self) -> None:
        _require("wandb", "wandb")

    def open(self, out: Path, config: Config, start: int) -> None:
        import wandb

        known = out / "wandb.id"
        self.run = wandb.init(
            **self.place, name=self.name or out.absolute().name, mode=self.mode, dir=str(out),
            config=config.model_dump(mode="json"), id=known.read_text() if known.exists() else None, resume="allow",
            settings=wandb.Settings(console="off"),  # the terminal is ours
        )  # fmt: skip
        write_durably(known, self.run.id)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()


class MLflow:
    """MLflow: at `uri`, else where MLFLOW_TRACKING_URI says, else in OUT/mlflow.db.

    Numbers go every 5 seconds, and at the end. A run that goes on is the same run there (OUT/mlflow.id).
    """

    EVERY_S, AT_MOST = 5.0, 1000
    """The second is what MLflow takes at a time (its REST API, runs/log-batch)."""

    def __init__(self, experiment: str = "mae_ext", name: str | None = None, uri: str | None = None) -> None:
        self.experiment, self.name, self.uri = experiment, name, uri

    def check(self) -> None:
        _require("mlflow", "mlflow")

    def open(self, out: Path, config: Config, start: int) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        uri = self.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{out.absolute() / 'mlflow.db'}"
        self.client, known = MlflowClient(uri), out / "mlflow.id"
        self.waiting, self.sent = list[Any](), time.monotonic()
        if known.exists():
            self.id = known.read_text()
            self.client.update_run(self.id, status="RUNNING")
            return
        experiment = self.client.get_experiment_by_name(self.experiment)
        place = self.client.create_experiment(self.experiment) if experiment is None else experiment.experiment_id
        self.id = self.client.create_run(place, run_name=self.name or out.absolute().name).info.run_id
        write_durably(known, self.id)
        settings = [Param(key, str(value)[:6000]) for key, value in flat(config.model_dump(mode="json")).items()]
        for first in range(0, len(settings), 100):  # both limits are MLflow's, of the same page
            self.client.log_batch(self.id, params=settings[first : first + 100])

    def write(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.waiting += [Metric(key, float(value), now, step) for key, value in values.items()]
        if time.monotonic() - self.sent > self.EVERY_S or len(self.waiting) >= self.AT_MOST // 2:
            self._send()

    def close(self) -> None:
        self._send()
        self.client.set_terminated(self.id)

    def _send(self) -> None:
        for first in range(0, len(self.waiting), self.AT_MOST):
            self.client.log_batch(self.id, metrics=self.waiting[first : first + self.AT_MOST])
        self.waiting, self.sent = [], time.monotonic()
