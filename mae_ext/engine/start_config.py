"""A config and what its run starts from, made one: what the origin was is not said twice."""

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mae_ext import plugins
from mae_ext.config import SIZES, Config, ModalityConfig, Statistics, load_values, parse_config
from mae_ext.engine.checkpoint import read_config, steps_of
from mae_ext.engine.start import Known, Named, known_of
from mae_ext.errors import CheckpointError, ConfigError, UserError
from mae_ext.overrides import configured

ARCHITECTURE = ("width", "depth", "heads", "mlp_ratio", "class_token", "norm_eps")
TOKENS = ("patch", "channels", "embed", "position")
MASKED = ("mask", "decode", "target")
"""What pretraining hides and asks."""

FREE = ("cache", "max_bytes", "max_pixels")
"""Arguments of readers that change no sample."""

NONE = "none"
"""Names no start, where a config has one."""


def with_start(values: Mapping[str, Any], where: str, what: str | Path | None, out: str | Path | None = None) -> Config:
    """The config of `values` (as YAML gives them) on what it starts from.

    what: as `--init` has it; "none" starts from nothing; None asks the config's own `init`. out: the run's directory.
    Where that holds a run with the same start, the run itself says what its start was: the start may be gone. Raises
    ConfigError for each key that contradicts the start: its value, the start's, what to do.
    """
    what = values.get("init") if what is None else str(what)
    settings = {k: v for k, v in values.items() if k != "init"}
    if what is None and out is not None:
        _check_no_start(Path(out), where)
    if not isinstance(what, str) or what == NONE:  # what is no text the schema refuses, by name
        return _from_nothing(settings, where) if what == NONE else parse_config(dict(values), where)
    begin = _pretraining if _task_of(settings) == "pretrain" else _task
    start = (None if out is None else _begun(Path(out), what)) or known_of(what)
    return begin(settings, start, (what, where))


def _from_nothing(settings: dict[str, Any], where: str) -> Config:
    """What a recipe leaves to its start, it has to say itself where there is none."""
    try:
        return parse_config(settings, where)
    except ConfigError as error:
        if not (left := _left_to_a_run(settings)):
            raise
        hint = " ".join(f"--set {key}" for key in left)
        raise ConfigError(
            f"{error}; with --init RUN these come from the run, with --init none the config has to have them: {hint}"
        ) from None


def _left_to_a_run(settings: Mapping[str, Any]) -> list[str]:
    model, modalities, left = settings.get("model"), settings.get("modalities"), list[str]()
    if not model or (isinstance(model, dict) and not {"size", "width"} & {*model}):
        left.append("model.size=NAME")
    for name, one in modalities.items() if isinstance(modalities, dict) else ():
        keys = [key for key in ("size", "patch") if isinstance(one, dict) and key not in one]
        left += [f"'modalities.{name}.{key}=[...]'" for key in keys]
    return left


def asked_for(
    config: Config | str | Path, out: Path, data: str | Path | None, test: str | Path | None, steps: int | None,
    sets: Sequence[str], init: str | Path | None,
) -> Config:  # fmt: skip
    """The config that `train` is asked for; arguments are its own. Raises UserError."""
    paths = [None if path is None else str(path) for path in (data, test)]
    if not isinstance(config, Config):
        config, sets = with_start(*load_values(config, sets), init, out), ()
    elif init is not None:
        raise UserError("init is for a config by name or file; a Config in memory says it itself: config.init")
    if sets or steps is not None or any(paths):
        config = configured(config, paths[0], sets, steps, paths[1])
    unset = [name for name, modality in config.modalities.items() if modality.data.path is None]
    if unset:
        raise UserError(f"modalities.{unset[0]}.data.path is not set: give --data PATH, in Python data=PATH")
    return config


def check_task(values: Mapping[str, Any], where: str) -> None:
    """Of a config that is to fine-tune, before anything else of it is looked at."""
    if _task_of(values) == "pretrain":
        known = [name for name in plugins.tasks.sources() if name != "pretrain"]
        raise ConfigError(
            f"{where}: no task to fine-tune for; expected task: {{name: ...}} with one of {', '.join(known)}"
        )


def _task_of(values: Mapping[str, Any]) -> Any:
    task = values.get("task", "pretrain")
    return task.get("name") if isinstance(task, dict) else task


def _begun(out: Path, what: str) -> Known | None:
    """The config of the newest checkpoint in `out`, where that started from the same: it has all that the start had."""
    named, config = Named.of(what).absolute(), _newest(out)
    if config is None:
        return None
    init = Path(config.init or "")
    same = config.init == str(named) or (named.format is None and init.parent == named.path / "checkpoints")
    return Known(config, str(config.init)) if same else None


def _newest(out: Path) -> Config | None:
    """The config of the newest checkpoint in `out` that has one."""
    for path in reversed(steps_of(out / "checkpoints")):
        with contextlib.suppress(CheckpointError, ConfigError):
            return read_config(path)
    return None


def _check_no_start(out: Path, where: str) -> None:
    """Raises ConfigError where the run in `out` began from a start, and is to go on without one being named."""
    config = _newest(out)
    if config is not None and config.init is not None:
        raise ConfigError(
            f"{where}: names no start, and the run in {out} started from {config.init}; to go on with it give "
            f"--init {config.init} (it may be gone by now), or choose another --out"
        )


def _task(settings: dict[str, Any], start: Known, named: tuple[str, str]) -> Config:
    """Architecture, tokens, reader and statistics are the start's, also where the config leaves them out. size may be
    another where positions serve any grid: all of ours do. Augmentation is the config's, axis for axis the start's
    where it says nothing. With `init_fit` patch, channels and axes may be others, and weights are fitted to them."""
    run, (what, where) = start.config, named
    sections = settings.get("modalities") or {}
    if not isinstance(sections, dict) or len(sections) != 1:
        raise ConfigError(f"{where}: modalities: expected the one that is fine-tuned, of {', '.join(run.modalities)}")
    (name, modality), *_ = sections.items()
    fits = settings.get("init_fit") is True
    only = next(iter(run.modalities.values())) if fits and len(run.modalities) == 1 else None
    source = run.modalities.get(name, only)
    if source is None:
        known = list(run.modalities)
        raise ConfigError(
            f"{where}: modalities.{name}: {what} has no such modality{plugins.nearest(name, known)} "
            f"(there: {', '.join(known)})"
        )
    problems: list[str] = []
    model = _model(_section(settings.get("model"), "model", where), run, problems)
    model["decoder"] = run.model.decoder.model_dump(mode="json")  # which a task has not, and its config keeps
    section = _section(modality, f"modalities.{name}", where)
    merged = _fitted(section, source, name, where) if fits else _modality(section, source, name, problems)
    return _parsed({**settings, "model": model, "modalities": {name: merged}, "init": start.init}, problems, named)


def _pretraining(settings: dict[str, Any], start: Known, named: tuple[str, str]) -> Config:
    """Architecture is the start's. Tokens, reader and the rest are the config's, and the start's where it leaves them
    out: the same axes, patch, channels, positions, target and statistics, as far as they go together."""
    run, (what, where), problems = start.config, named, list[str]()
    model = _model(_section(settings.get("model"), "model", where), run, problems)
    if start.decodes and settings.get("init_parts") != "encoder":
        decoder = _section(model.get("decoder"), "model.decoder", where)
        own = run.model.decoder.model_dump(mode="json")
        for key in own.keys() & decoder.keys():
            _compare(f"model.decoder.{key}", decoder[key], own[key], problems)
        model["decoder"] = {**decoder, **own}
    sections = settings.get("modalities") or {}
    if not isinstance(sections, dict) or not sections:
        raise ConfigError(f"{where}: modalities: expected at least one, for instance {', '.join(run.modalities)}")
    modalities = {}
    for name, section in sections.items():
        source = run.modalities.get(name)
        if source is None and len(run.modalities) > 1:
            known = ", ".join(run.modalities)
            raise ConfigError(
                f"{where}: modalities.{name}: {what} has no such modality and several others (there: {known}); "
                f"name it as the one that it is to start from"
            )
        source = source or next(iter(run.modalities.values()))
        modalities[name] = _fitted(_section(section, f"modalities.{name}", where), source, name, where)
    return _parsed({**settings, "model": model, "modalities": modalities, "init": start.init}, problems, named)


def _parsed(values: dict[str, Any], problems: list[str], named: tuple[str, str]) -> Config:
    what, where = named
    if problems:
        raise ConfigError(
            f"{where}: does not fit --init {what}: {'; '.join(problems)}. Remove the keys, or choose another"
            + "; the encoder alone goes with any decoder: init_parts=encoder" * any(".decoder." in p for p in problems)
        )
    return parse_config(values, where)


def _fitted(values: dict[str, Any], source: ModalityConfig, name: str, where: str) -> dict[str, Any]:
    """A modality whose weights are fitted to what it says; what it does not say is the start's, where that can be."""
    own, data = source.model_dump(mode="json"), _section(values.get("data"), f"modalities.{name}.data", where)
    size = values.get("size", own["size"])
    if isinstance(size, list | tuple) and len(size) != len(own["size"]):
        return {**values, "position": values.get("position", "learned")}  # where new axes have their own, learned
    whole = {key: values.get(key, own[key]) for key in ("size", "patch", "channels", "embed", *MASKED)}
    kept = {"reader": data.get("reader", own["data"]["reader"]), "augment": data.get("augment", own["data"]["augment"])}
    measured = not isinstance(source.data.statistics, Statistics) or whole["channels"] != own["channels"]
    statistics = data.get("statistics", "measured" if measured else own["data"]["statistics"])
    position = values.get("position") or _stretched(own, whole, kept["augment"])
    return {**values, **whole, "position": position, "data": {**data, **kept, "statistics": statistics}}


def _stretched(own: dict[str, Any], values: dict[str, Any], augment: Any) -> dict[str, Any]:
    """The start's positions for a grid of another size. Tokens of a picture that is shown larger lie closer together;
    along the axes of which a sample is always as many voxels as it has (`augment.fixed`), they are as far apart as
    they were."""
    position: dict[str, Any] = dict(own["position"])
    if position["name"] != "sincos" or "unit" in position or "span" in position:
        return position
    try:
        before, now = ([s // p for s, p in zip(of["size"], of["patch"], strict=True)] for of in (own, values))
        fixed = [axis % len(now) for axis in (augment or {}).get("fixed", ())]
    except (TypeError, ValueError, AttributeError, ZeroDivisionError):
        return position  # which the schema refuses, by name
    span = [n if axis in fixed else b for axis, (b, n) in enumerate(zip(before, now, strict=True))]
    return position if span == now else {**position, "span": span}


def _section(values: Any, key: str, where: str) -> dict[str, Any]:
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: {key}: expected keys and values, found {type(values).__name__}")
    return dict(values)


def _model(values: dict[str, Any], run: Config, problems: list[str]) -> dict[str, Any]:
    named = values.pop("size", None)
    size = SIZES.get(str(named), {})
    own = run.model.model_dump(mode="json")
    for key in ARCHITECTURE:
        if values.get(key) is not None:
            _compare(f"model.{key}", values[key], own[key], problems)
        elif key not in values and key in size:
            _compare(f"model.{key}", size[key], own[key], problems, f" (model.size={named} asks for it)")
    kept = {key: own[key] for key in ARCHITECTURE} | {"size": None if size else named}
    return {**{k: v for k, v in values.items() if k not in ARCHITECTURE}, **kept}


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
    tokens = {key: own[key] for key in (*TOKENS, *MASKED)}
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


def _compare(key: str, value: Any, own: Any, problems: list[str], why: str = "") -> None:
    if _plain(value) != _plain(own):
        problems.append(f"{key} is {value}, and {own} there{why}")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
