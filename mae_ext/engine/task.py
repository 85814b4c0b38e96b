"""What is trained: the contract between the one engine and everything that it trains."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mae_ext import plugins
from mae_ext.config import Config
from mae_ext.data.batch import Batch
from mae_ext.data.loading.batches import ModalityData
from mae_ext.engine.checkpoint import find, load_weights, read_config, read_tensors
from mae_ext.engine.cpu import on_device
from mae_ext.engine.distributed import Ranks
from mae_ext.errors import ConfigError, UserError
from mae_ext.interop.origin import Report
from mae_ext.model.mae import MAE
from mae_ext.progress import Progress
from mae_ext.rng import seed_of


class Task(Protocol):
    """A factory `(**arguments)`, named by `task:` in a config; entry points in `mae_ext.tasks`.

    An instance is its arguments and nothing more: whatever it does is a function of these and of what it is handed, in
    every process that makes one. The engine owns the rest: steps, ranks, precision, signals, checkpoints, logs. It
    learns nothing of a task but this:

    - Randomness comes from rng(config.seed, key...), in data and in loss; a global generator is never drawn from.
    - The model of a task other than pretraining keeps an `MAE(config, decodes=False)` as its attribute `backbone`; so
      `load_encoder`, layer-wise decay and freezing find the encoder in every run.

    >>> from mae_ext import MAE, ModalityData
    >>> class Again:  # pretraining once more, with nothing to judge: the least that a task has
    ...     def data(self, config, rank=0, world=1):
    ...         return {n: ModalityData(config.seed, n, m, rank, world) for n, m in config.modalities.items()}
    ...
    ...     def settle(self, config, data, old):
    ...         return config
    ...
    ...     def model(self, config):
    ...         return MAE(config)
    ...
    ...     def start(self, model, config):
    ...         pass
    ...
    ...     def loss(self, model, name, batch):
    ...         return model(batch.x, batch.mask, name, batch.valid, batch.spacing)
    ...
    ...     def evaluate(self, model, config, data, ranks):
    ...         return {}
    ...
    ...     def predict(self, model, config, sources, out, progress=None):
    ...         return []
    >>> import mae_ext
    >>> model = Again().model(mae_ext.load_config("image_folder", ["model.size=tiny"]))
    >>> model.modality().grid
    (14, 14)
    """

    # A task may also have `check(config)`: called when a config is read, it raises ConfigError for what is not for this
    # task; and `chief`, a pair such as ("accuracy", "most") or ("loss", "least"): the score of `evaluate` that says
    # which checkpoint is the best, and whether most or least of it is (train.keep_best).

    def data(self, config: Config, rank: int = 0, world: int = 1) -> dict[str, ModalityData]:
        """For each modality its files, with the task's own Examples where it is not pretraining, and, as `held_out`,
        what it is judged on. Called once in a run: whatever lists sources or reads tables of labels does it here.

        Raises UserError for data that the task cannot use, by name, before anything is trained.
        """
        ...

    def settle(self, config: Config, data: dict[str, ModalityData], old: Config | None) -> Config:
        """The config with numbers where it leaves them to the data: statistics, classes. Of a resumed run, `old`'s.

        A model is built from the result alone, with no data at hand. Called on rank 0 when `old` is None.
        """
        ...

    def model(self, config: Config) -> nn.Module:
        """The model with the weights that it has by itself. `build_model` has seeded the global generator for it."""
        ...

    def start(self, model: nn.Module, config: Config) -> Report | None:
        """Load what config.init names, in place, and say what became of each tensor. Not called when a run is resumed,
        nor when config.init is None."""
        ...

    def loss(self, model: nn.Module, name: str, batch: Batch) -> Tensor:
        """-> scalar: the mean over samples, so that the parts of a batch average to the whole.

        Drop path is not a task's affair: the encoder has its gates already.
        """
        ...

    def evaluate(
        self, model: nn.Module, config: Config, data: dict[str, ModalityData], ranks: Ranks
    ) -> dict[str, float]:
        """Scores on held-out data, the same on every rank; {} where there are none. Draws nothing, changes nothing.

        data: what `data` returned at the start of the run, on this rank.

        Called on all ranks, in eval mode, under no_grad and the run's precision.
        """
        ...

    def predict(
        self, model: nn.Module, config: Config, sources: Sequence[str], out: Path, progress: Progress | None = None
    ) -> list[Path]:
        """Write what the model says of every sample of the sources into the folder `out`, and return the files.

        The model is in eval mode, under no_grad and the run's precision: the files are what evaluation judges. What
        cannot be read is left out, by name. Raises UserError, where nothing can be read for instance.
        """
        ...


class Chief(NamedTuple):
    """The score of a task that says which checkpoint is the best."""

    score: str
    best: Literal["most", "least"]

    def better(self, one: float, other: float) -> bool:
        """Whether `one` is; NaN is better than nothing."""
        return one > other if self.best == "most" else one < other


def chief_of(config: Config) -> Chief:
    """Raises ConfigError where the task has none, or one that is no such pair."""
    pair = getattr(task_of(config), "chief", None)
    if isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and pair[1] in ("most", "least"):
        return Chief(*pair)
    raise ConfigError(
        f"train.keep_best: task {config.task.name} does not say which of its scores is the chief one (its attribute "
        f"`chief` is {pair!r}; expected a pair such as ('accuracy', 'most')): set it to false"
    )


def task_of(config: Config) -> Task:
    task: Task = plugins.tasks.build(config.task.name, config.task.arguments, "task")
    return task


def backbone_of(model: nn.Module) -> MAE:
    """The part of a task's model that `load_encoder` finds again: all of it where it pretrains."""
    backbone = model if isinstance(model, MAE) else model.backbone
    assert isinstance(backbone, MAE)
    return backbone


def build_model(config: Config) -> nn.Module:
    """The model of a config, before any weights are loaded. A function of the config alone."""
    with torch.random.fork_rng(devices=[]):
        # Heads from libraries initialise themselves with torch's global generator.
        torch.manual_seed(seed_of(config.seed, "init", "task"))
        return task_of(config).model(config)


def device_of(name: str) -> torch.device:
    """ "auto" is a GPU where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def load_task(run: str | Path, device: str = "auto") -> tuple[Task, nn.Module, Config, Path]:
    """The task of a run, its trained model in eval mode, the config, and the checkpoint they are from.

    device: "auto" (a GPU where there is one), "cpu" or "cuda".
    """
    path = find(run)
    config = read_config(path)
    model = build_model(config)
    load_weights(model, read_tensors(path / "model.safetensors"), str(path))
    return task_of(config), on_device(model.eval(), device_of(device)), config, path


def in_windows(config: Config, pool: str | None, overlap: float | None) -> tuple[Task, Config]:
    """The task of a run that judges samples window by window, and the config that says so. None: the run's own, else
    "mean" and the task's default. Raises UserError for a task that has no such argument."""
    if not hasattr(task_of(config), "bags"):
        raise UserError(
            f"--windows: task {config.task.name} does not judge samples in windows on request; classification does "
            "(segmentation always sees whole samples)"
        )
    wanted = {
        "windows": pool or config.task.arguments.get("windows") or "mean",
        **({} if overlap is None else {"overlap": overlap}),
    }
    task = config.task.model_validate({"name": config.task.name, **config.task.arguments, **wanted})
    changed = config.model_copy(update={"task": task})
    return task_of(changed), changed
