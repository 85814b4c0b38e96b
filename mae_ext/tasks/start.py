"""A fine-tuning config and the run that it starts from, made one: what the encoder was is not said twice."""

import inspect
from collections.abc import Mapping
from typing import Any

from mae_ext import plugins
from mae_ext.config import SIZES, Config, ModalityConfig, Statistics, parse_config
from mae_ext.engine.checkpoint import find, read_config
from mae_ext.errors import ConfigError

ARCHITECTURE = ("width", "depth", "heads", "mlp_ratio", "class_token", "norm_eps")
TOKENS = ("patch", "channels", "embed", "position")
FREE = ("cache", "max_bytes", "max_pixels")
"""Arguments of readers that change no sample."""


def from_run(values: Mapping[str, Any], init: str, where: str) -> Config:
    """The config of `values` (as YAML gives them) on the encoder of a run, or of one checkpoint in it.

    Architecture, tokens, reader and statistics are the run's, also where the config leaves them out. size may be
    another where positions serve any grid: all of ours do. Augmentation is the config's, axis for axis the run's where
    it says nothing. Raises ConfigError for each key that contradicts the run: its value, the run's, what to do.
    """
    path = find(init)
    run = read_config(path)
    settings = {k: v for k, v in values.items() if k != "init"}
    named = settings.get("modalities") or {}
    if not isinstance(named, dict) or len(named) != 1:
        raise ConfigError(f"{where}: modalities: expected the one that is fine-tuned, of {', '.join(run.modalities)}")
    (name, modality), *_ = named.items()
    if name not in run.modalities:
        known = list(run.modalities)
        raise ConfigError(
            f"{where}: modalities.{name}: {init} has no such modality{plugins.nearest(name, known)} "
            f"(there: {', '.join(known)})"
        )
    problems: list[str] = []
    model = _model(_section(settings.get("model"), "model", where), run, problems)
    merged = _modality(_section(modality, f"modalities.{name}", where), run.modalities[name], name, problems)
    if problems:
        raise ConfigError(
            f"{where}: does not fit --init {init}: {'; '.join(problems)}. Remove the keys, or choose another"
        )
    return parse_config({**settings, "model": model, "modalities": {name: merged}, "init": str(path.absolute())}, where)


def from_scratch(values: Mapping[str, Any], where: str) -> Config:
    """The config of `values` alone: an encoder that has learned nothing."""
    return parse_config({k: v for k, v in values.items() if k != "init"}, where)


def check_task(config: Config, where: str) -> Config:
    if config.task.name == "pretrain":
        known = [name for name in plugins.tasks.sources() if name != "pretrain"]
        raise ConfigError(
            f"{where}: no task to fine-tune for; expected task: {{name: ...}} with one of {', '.join(known)}"
        )
    return config


def _section(values: Any, key: str, where: str) -> dict[str, Any]:
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: {key}: expected keys and values, found {type(values).__name__}")
    return dict(values)


def _model(values: dict[str, Any], run: Config, problems: list[str]) -> dict[str, Any]:
    size = SIZES.get(str(values.pop("size", None)), {})
    own = run.model.model_dump(mode="json")
    for key in ARCHITECTURE:
        if values.get(key, size.get(key)) is not None:
            _compare(f"model.{key}", values.get(key, size.get(key)), own[key], problems)
    kept = {key: own[key] for key in (*ARCHITECTURE, "decoder")}
    return {**{k: v for k, v in values.items() if k not in ARCHITECTURE}, **kept, "size": None}


def _modality(values: dict[str, Any], run: ModalityConfig, name: str, problems: list[str]) -> dict[str, Any]:
    where, own = f"modalities.{name}", run.model_dump(mode="json")
    for key in TOKENS:
        if key in values:
            value = {"name": values[key]} if isinstance(values[key], str) else values[key]
            _compare(f"{where}.{key}", value, own[key], problems)
    size = values.get("size", own["size"])
    if size != own["size"] and not getattr(plugins.positions.get(run.position.name), "any_size", False):
        problems.append(
            f"{where}.size is {size}, and {own['size']} there: positions of '{run.position.name}' belong to one grid"
        )
    data = _section(values.get("data"), f"{where}.data", "config")
    _reader(data.get("reader"), own["data"]["reader"], where, problems)
    statistics = data.get("statistics", "measured")
    measured = isinstance(run.data.statistics, Statistics)
    if statistics != "measured" and (not measured or statistics != own["data"]["statistics"]):
        _compare(f"{where}.data.statistics", statistics, own["data"]["statistics"], problems)
    augment = {**own["data"]["augment"], **_section(data.get("augment"), f"{where}.data.augment", "config")}
    reader = own["data"]["reader"] | {k: v for k, v in _arguments(data.get("reader")).items() if k in FREE}
    kept = {"reader": reader, "statistics": own["data"]["statistics"], "augment": augment}
    tokens = {key: own[key] for key in (*TOKENS, "mask", "decode", "target")}
    return {**values, **tokens, "size": size, "data": {**data, **kept}}


def _arguments(reader: Any) -> dict[str, Any]:
    return {k: v for k, v in reader.items() if k != "name"} if isinstance(reader, dict) else {}


def _reader(reader: Any, own: dict[str, Any], where: str, problems: list[str]) -> None:
    """A reader's arguments are compared with the run's, or, where that says nothing, with what they are by default."""
    if reader is None:
        return
    name = reader if isinstance(reader, str) else reader.get("name", own["name"])
    _compare(f"{where}.data.reader.name", name, own["name"], problems)
    if name != own["name"]:
        return
    parameters = inspect.signature(plugins.readers.get(name)).parameters
    for key, value in _arguments(reader).items():
        if key not in FREE:
            default = parameters[key].default if key in parameters else None
            _compare(f"{where}.data.reader.{key}", value, own.get(key, default), problems)


def _compare(key: str, value: Any, own: Any, problems: list[str]) -> None:
    if _plain(value) != _plain(own):
        problems.append(f"{key} is {value}, and {own} there")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
