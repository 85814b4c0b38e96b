"""The one schema. YAML or Python in, a frozen `Config` out; whatever cannot mean anything is refused by name."""

import inspect
import json
from collections.abc import Sequence
from os.path import isfile  # Path.is_file raises for a name that is too long, this does not
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from mae_ext import plugins
from mae_ext.errors import ConfigError, UserError
from mae_ext.modality_config import AugmentConfig, DataConfig, ModalityConfig, Statistics
from mae_ext.model_config import SIZES, DecoderConfig, ModelConfig
from mae_ext.sections import Named, PlugIn, Section
from mae_ext.strict_yaml import read_yaml, write_yaml
from mae_ext.train_config import NAMED, ONE, TrainConfig

__all__ = [
    "SIZES",
    "AugmentConfig",
    "Config",
    "DataConfig",
    "DecoderConfig",
    "ModalityConfig",
    "ModelConfig",
    "PlugIn",
    "Section",
    "Statistics",
    "TrainConfig",
    "builtin_dir",
    "find_config",
    "json_schema",
    "load_config",
    "load_values",
    "one_modality",
    "parse_config",
    "set_value",
    "uncached",
]


class Config(Section):
    """All that a run is told, frozen. `load_config` and `parse_config` make one; keys are attributes of the same names.

    >>> import mae_ext
    >>> config = mae_ext.load_config("image_folder", ["modalities.image.batch=64"])
    >>> config.samples_per_step, config.model.width, config.modalities["image"].mask.arguments
    (64, 384, {'ratio': 0.75})
    """

    seed: int = 0
    """Of all chance. Another one is another run."""
    task: Named = PlugIn(name="pretrain")
    """What is trained: pretraining, or something with labels."""
    init: str | None = None
    """What weights are from: a run, a checkpoint, a file or folder of another program's weights, FORMAT:PATH
    (docs/weights.md). null is a model that has learned nothing."""
    init_parts: Literal["all", "encoder"] | None = None
    """Of what pretraining starts from: encoder and decoder, or the encoder alone. null is all that there is."""
    init_fit: bool = False
    """Of what a task starts from: whether patches, channels and axes may be others than the config's, and weights are
    fitted; else they are refused. Pretraining always fits."""
    init_channels: Literal["mean", "repeat", "first"] = "mean"
    """Where it has other channels. `mean`: each of ours has the mean of theirs. `repeat`: ours have theirs in turn (R,
    G, B, R, ...), shared where several have the same; of fewer, theirs are added to ours in turn. `first`: ours have
    the first so many of theirs, and zeros for more; of fewer, the rest of theirs is spread over ours. All such that an
    input whose channels are equal has the same tokens. The decoder draws a channel as the mean of those it is of."""
    init_inflate: Literal["centre", "mean"] = "centre"
    """Where it has fewer axes: along a new axis of a patch its weights stand in the middle alone (of an even patch of n
    in plane n / 2, counted from 0), or in equal shares. Where it has more, weights are summed over the first ones."""
    modalities: Annotated[dict[str, ModalityConfig], Field(min_length=1)]
    """By names of your choice: one, or several that share the encoder and the decoder."""
    model: ModelConfig
    """The encoder and the decoder."""
    train: TrainConfig
    """How long, how fast, on what, and what is kept."""

    @model_validator(mode="after")
    def _batches(self) -> "Config":
        for name, m in self.modalities.items():
            if not name.isidentifier():
                raise ValueError(f"modality '{name}': a name is letters, digits and '_'")
            for what, per in (("train.accumulate", self.train.accumulate), ("data.repeats", m.data.repeats)):
                if m.batch % per:
                    raise ValueError(f"modalities.{name}.batch={m.batch} is not a multiple of {what}={per}")
            for key in self.train.comparing if m.batch < 2 * m.data.repeats else ():
                raise ValueError(
                    f"train.{key} compares samples of different files, and modalities.{name}.batch={m.batch} with "
                    f"data.repeats={m.data.repeats} has no two"
                )
        return self

    @property
    def samples_per_step(self) -> int:
        """Of all modalities, over all ranks."""
        return sum(m.batch for m in self.modalities.values())

    def weight_of(self, stream: str) -> float:
        """What the loss of a stream of batches counts: its modality's weight, or 1 of one that a task has beside it."""
        modality = self.modalities.get(stream)
        return 1.0 if modality is None else modality.weight

    def check_plugins(self) -> "Config":
        """Names and arguments of every plug-in, before any work starts; masks must keep and hide something."""
        task = plugins.tasks.build(self.task.name, self.task.arguments, "task")
        for name, m in self.modalities.items():
            where = f"modalities.{name}"
            model = {"size": m.size, "patch": m.patch, "channels": m.channels}
            plugins.embedders.check(m.embed.name, m.embed.arguments, (*model, "width"), f"{where}.embed")
            plugins.positions.check(m.position.name, m.position.arguments, ("grid", "width"), f"{where}.position")
            plugins.targets.check(m.target.name, m.target.arguments, ("patch", "channels"), f"{where}.target")
            _check_reader(m, f"{where}.data")
            for key, spec in (("mask", m.mask), ("decode", m.decode)):
                if spec is not None:
                    _check_masker(spec, m.grid, f"{where}.{key}")
        if hasattr(task, "check"):
            task.check(self)
        return self

    def to_yaml(self) -> str:
        """All keys, defaults included: what a run keeps as config.yaml."""
        return write_yaml(self.model_dump(mode="json"))


def _check_reader(m: ModalityConfig, where: str) -> None:
    """Signature and arguments; where channels are picked, also whether they are as many as there have to be."""
    spec, supplied = m.data.reader, {"size": m.size, "channels": m.channels}
    needed = getattr(plugins.readers.get(spec.name, f"{where}.reader"), "fixed_axes", ())
    if not {axis % len(m.size) for axis in needed} <= {axis % len(m.size) for axis in m.data.augment.fixed}:
        raise ConfigError(
            f"{where}.augment.fixed: reader '{spec.name}' draws samples at a scale of its own; set it to {list(needed)}"
        )
    if "bands" not in spec.arguments:
        plugins.readers.check(spec.name, spec.arguments, tuple(supplied), f"{where}.reader")
        return
    known = inspect.signature(plugins.readers.get(spec.name, f"{where}.reader")).parameters.values()
    if not any(p.name == "bands" or p.kind is p.VAR_KEYWORD for p in known):
        raise ConfigError(
            f"{where}.channels: reader '{spec.name}' picks none (it has no argument `bands`); leave it out"
        )
    plugins.readers.build(spec.name, spec.arguments, f"{where}.channels", **supplied)


def _check_masker(spec: PlugIn, grid: tuple[int, ...], where: str) -> None:
    masker = plugins.maskers.build(spec.name, spec.arguments, where)
    try:
        masker.num_keep(grid)
    except TypeError as error:
        raise ConfigError(f"{where}: a value of the wrong type in {spec}: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def one_modality(name: str | None, config: Config, where: str, how: str = "--modality {}") -> str:
    """The modality that is meant: `name`, or the only one. Raises UserError, which begins with `where`.

    how: in which words one is chosen, with {} for its name.
    """
    names = list(config.modalities)
    if name is None and len(names) > 1:
        ways = " or ".join(how.format(known) for known in names)
        raise UserError(f"{where}: there are the modalities {', '.join(names)}; say which one: {ways}")
    if name is not None and name not in names:
        raise UserError(f"{where}: no modality '{name}'{plugins.nearest(name, names)} (there are: {', '.join(names)})")
    return name or names[0]


def uncached(config: Config) -> Config:
    """The config with readers that keep no cache: for commands that look at files once, and must add to none."""

    def plain(m: ModalityConfig) -> ModalityConfig:
        spec = m.data.reader
        reader = PlugIn(name=spec.name, **{key: value for key, value in spec.arguments.items() if key != "cache"})
        return m.model_copy(update={"data": m.data.model_copy(update={"reader": reader})})

    return config.model_copy(update={"modalities": {name: plain(m) for name, m in config.modalities.items()}})


def builtin_dir(kind: Literal["configs", "datasets"]) -> Path:
    """Where the recipes or the cards are: inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "_shipped" / kind
    return inside if inside.is_dir() else Path(__file__).parent.parent / kind


def find_config(name: str) -> Path:
    """A path, or the name of a recipe that ships with the package."""
    path = Path(name)
    if isfile(path):  # noqa: PTH113
        return path
    shipped = builtin_dir("configs") / f"{path.name.removesuffix('.yaml')}.yaml"
    if isfile(shipped) and path.parent.name in ("", "configs"):  # noqa: PTH113
        return shipped
    known = sorted(p.stem for p in builtin_dir("configs").glob("*.yaml"))
    raise ConfigError(
        f"config '{name}': no such file, nor a recipe{plugins.nearest(path.stem, known)} (recipes: {', '.join(known)})"
    )


def set_value(values: dict[str, Any], assignment: str, option: str = "--set") -> None:
    """Apply "a.b=c" in place; the value is read as YAML. A plug-in's bare name becomes {name: ...}."""
    dotted, equals, raw = assignment.partition("=")
    if not equals or not dotted.strip():
        raise ConfigError(f"{option} {assignment}: expected KEY=VALUE, for instance train.steps=100")
    *parents, last = dotted.strip().split(".")
    node = values
    for key in parents:
        if isinstance(node.get(key), str):
            node[key] = {"name": node[key]}
        elif node.get(key) is None:
            node[key] = {}
        node = node[key]
        if not isinstance(node, dict):
            raise ConfigError(f"{option} {assignment}: '{key}' is a value, not a section")
    if parents == ["train"] and isinstance(scratch := node.get("scratch"), dict):
        scratch.pop(last, None)  # what is said of this run is meant, whatever it starts from
    node[last] = read_yaml(f"value: {raw}", f"{option} {assignment}")["value"]


def _message(error: ValidationError, where: str) -> str:
    lines = []
    for item in error.errors():
        location = [part for part in item["loc"] if part not in (ONE, NAMED)]
        key = ".".join(str(part) for part in location)
        text = item["msg"].removeprefix("Value error, ")
        value, shown = item["input"], ""
        if item["type"] == "extra_forbidden":
            text = f"unknown key{_nearest_key(location)}"
        elif item["type"] != "missing" and isinstance(value, (str, int, float, bool, list, type(None))):
            shown = f" (given: {value!r})"
        lines.append(f"{key}: {text}{shown}" if key else text)
    return f"{where}: " + "; ".join(lines)


def _nearest_key(location: Sequence[int | str]) -> str:
    section: Any = Config
    for part in location[:-1]:
        if part in (fields := getattr(section, "model_fields", {})):  # or it is a name among others
            section = _section_in(fields[part].annotation)
    known = list(getattr(section, "model_fields", {}))
    name, colon, value = str(location[-1]).partition(":")
    if colon and name in known:
        return f": YAML has a space after a colon; write '{name}: {value}'"
    return plugins.nearest(str(location[-1]), known) + (f" (known: {', '.join(known)})" if known else "")


def _section_in(annotation: Any) -> Any:
    """The section that a key holds, or several of by name, or None."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next((section for part in get_args(annotation) if (section := _section_in(part)) is not None), None)


def parse_config(values: dict[str, Any], where: str = "config") -> Config:
    """Validate everything, plug-ins included. Raises ConfigError: one line, every key at fault.

    >>> import mae_ext
    >>> config = mae_ext.parse_config({
    ...     "modalities": {"scan": {"size": [32, 32, 32], "patch": [16, 16, 16], "channels": 1, "batch": 8}},
    ...     "model": {"size": "tiny"},
    ...     "train": {"steps": 1000},
    ... })
    >>> config.modalities["scan"].grid
    (2, 2, 2)
    """
    try:
        config = Config.model_validate(values)
        if config.init is None and (other := config.train.scratch):
            config = Config.model_validate({**values, "train": {**values["train"], "scratch": {}, **other}})
    except ValidationError as error:
        raise ConfigError(" ".join(_message(error, where).splitlines())) from None  # names may hold line breaks
    try:
        return config.check_plugins()
    except ConfigError as error:
        raise ConfigError(" ".join(f"{where}: {error}".splitlines())) from None


def load_config(path: str | Path, sets: Sequence[str] = ()) -> Config:
    """Read a YAML file (or a shipped recipe by name), apply "a.b=c" overrides, validate. Raises ConfigError.

    >>> import mae_ext
    >>> mae_ext.load_config("image_folder", ["train.epochs=10"]).train.epochs
    10.0
    """
    values, where = load_values(path, sets)
    return parse_config(values, where)


def load_values(path: str | Path, sets: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """What a config says, with the overrides and before any default, and the file that says it."""
    file = find_config(str(path))
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as text: {error}") from None
    values = read_yaml(text, str(file))
    for assignment in sets:
        set_value(values, assignment)
    return values, str(file)


def json_schema() -> str:
    """For editors: completion and checking of config files."""
    return json.dumps(Config.model_json_schema(), indent=2)
