"""The one schema. YAML or Python in, a frozen `Config` out; whatever cannot mean anything is refused by name."""

import json
from collections.abc import Sequence
from os.path import isfile  # Path.is_file raises for a name that is too long, this does not
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from mae_ext import plugins
from mae_ext.errors import ConfigError, UserError
from mae_ext.sections import Lengths, Named, PlugIn, Positive, Section, Share
from mae_ext.strict_yaml import read_yaml, write_yaml
from mae_ext.train_config import TrainConfig

SIZES: dict[str, dict[str, int]] = {
    # width, depth, heads: DeiT (2012.12877) for tiny and small, ViT (2010.11929) for the rest.
    "tiny": {"width": 192, "depth": 12, "heads": 3},
    "small": {"width": 384, "depth": 12, "heads": 6},
    "base": {"width": 768, "depth": 12, "heads": 12},
    "large": {"width": 1024, "depth": 24, "heads": 16},
    "huge": {"width": 1280, "depth": 32, "heads": 16},
}


class DecoderConfig(Section):
    width: Positive = 512
    depth: Positive = 8
    heads: Positive = 16


class ModelConfig(Section):
    """`size` names width, depth and heads; each can be given by itself instead."""

    size: Literal["tiny", "small", "base", "large", "huge"] | None = None
    width: Positive | None = None
    depth: Positive | None = None
    heads: Positive | None = None
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    class_token: bool = True
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    decoder: DecoderConfig = DecoderConfig()

    @model_validator(mode="before")
    @classmethod
    def _size(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("size"), str) and values["size"] in SIZES:
            given = {k: v for k, v in values.items() if v is not None}
            values = SIZES[values["size"]] | given
        return values

    @model_validator(mode="after")
    def _heads(self) -> "ModelConfig":
        if None in (self.width, self.depth, self.heads):
            raise ValueError("give `size`, or all of `width`, `depth` and `heads`")
        for name, width, heads in (("", self.width, self.heads), ("decoder.", self.decoder.width, self.decoder.heads)):
            if width % heads:  # type: ignore[operator]
                raise ValueError(f"{name}heads={heads} does not divide {name}width={width}")
            if width * self.mlp_ratio < 1:  # type: ignore[operator]
                raise ValueError(
                    f"mlp_ratio={self.mlp_ratio:g} leaves nothing of {name}width={width} between two layers"
                )
        return self


class Statistics(Section):
    """Per-channel mean and standard deviation in the reader's units (uint8 counts as 0..1)."""

    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]

    @model_validator(mode="after")
    def _same_length(self) -> "Statistics":
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels and std has {len(self.std)}")
        return self


class AugmentConfig(Section):
    """Random resized crop and flip. scale: share of the source's area; null takes the whole source, for evaluation."""

    scale: tuple[Share, Share] | None = (0.2, 1.0)
    aspect: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (3 / 4, 4 / 3)
    fixed: tuple[int, ...] = ()
    """Axes along which a sample is exactly as many of the source's voxels as the model sees, at a random place: time in
    a clip, all three axes of a volume. `scale` and `aspect` are about the last two axes where those are not fixed."""
    flip: tuple[int, ...] = (-1,)
    """Axes flipped with probability 1/2, counted as in Python: -1 is the last (left-right in an image)."""

    @model_validator(mode="after")
    def _ordered(self) -> "AugmentConfig":
        for name, pair in (("scale", self.scale), ("aspect", self.aspect)):
            if pair is not None and not 0 < pair[0] <= pair[1]:
                raise ValueError(f"{name}={list(pair)} must be [low, high] with 0 < low <= high")
        return self


class DataConfig(Section):
    path: str | None = None
    test: str | None = None
    """Held-out data that a task is judged on; pretraining has none."""
    reader: Named = PlugIn(name="image")
    augment: AugmentConfig = AugmentConfig()
    statistics: Literal["measured", "imagenet", "none"] | Statistics = "measured"
    repeats: Positive = 1
    """Samples drawn from one opening of a file (MAE-ST's repeated sampling). They count in batch and epoch."""
    max_bad_fraction: Share = 0.01


def grid_of(size: tuple[int, ...], patch: tuple[int, ...]) -> tuple[int, ...]:
    """size / patch, axis by axis. Raises ValueError naming the axis that does not divide.

    >>> from mae_ext import grid_of
    >>> grid_of((16, 224, 224), (2, 16, 16))  # a clip of 16 frames
    (8, 14, 14)
    """
    if len(size) != len(patch):
        raise ValueError(f"size {list(size)} has {len(size)} axes and patch {list(patch)} has {len(patch)}")
    for axis, (s, p) in enumerate(zip(size, patch, strict=True)):
        if p < 1 or s < 1 or s % p:
            raise ValueError(f"size {list(size)} is not a multiple of patch {list(patch)} on axis {axis} ({s} / {p})")
    return tuple(s // p for s, p in zip(size, patch, strict=True))


class ModalityConfig(Section):
    size: Lengths
    patch: Lengths
    channels: Positive = 3
    batch: Positive
    """Samples per optimiser step, over all ranks and accumulation steps."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    embed: Named = PlugIn(name="patch")
    position: Named = PlugIn(name="sincos")
    mask: Named = PlugIn(name="random", ratio=0.75)  # type: ignore[call-arg]
    decode: Named | None = None
    """A second masker over the hidden tokens: those it hides are not decoded. null decodes them all."""
    target: Named = PlugIn(name="pixel")
    data: DataConfig = DataConfig()

    @property
    def grid(self) -> tuple[int, ...]:
        return grid_of(self.size, self.patch)

    @model_validator(mode="after")
    def _divides(self) -> "ModalityConfig":
        _ = self.grid
        augment, axes = self.data.augment, len(self.size)
        for key, given in (("flip", augment.flip), ("fixed", augment.fixed)):
            for axis in given:
                if not -axes <= axis < axes:
                    raise ValueError(f"data.augment.{key}: axis {axis} does not exist, size={list(self.size)}")
            if len({axis % axes for axis in given}) < len(given):
                raise ValueError(f"data.augment.{key}={list(given)} names an axis twice, size={list(self.size)}")
        return self


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
    """The checkpoint whose encoder a task starts from; null is an encoder that has learned nothing."""
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
            if self.train.uniformity and m.batch < 2 * m.data.repeats:
                raise ValueError(
                    f"train.uniformity compares samples of different files, and modalities.{name}.batch={m.batch} with "
                    f"data.repeats={m.data.repeats} has no two"
                )
        return self

    @property
    def samples_per_step(self) -> int:
        """Of all modalities, over all ranks."""
        return sum(m.batch for m in self.modalities.values())

    def check_plugins(self) -> "Config":
        """Names and arguments of every plug-in, before any work starts; masks must keep and hide something."""
        task = plugins.tasks.build(self.task.name, self.task.arguments, "task")
        for name, m in self.modalities.items():
            where = f"modalities.{name}"
            model = {"size": m.size, "patch": m.patch, "channels": m.channels}
            plugins.embedders.check(m.embed.name, m.embed.arguments, (*model, "width"), f"{where}.embed")
            plugins.positions.check(m.position.name, m.position.arguments, ("grid", "width"), f"{where}.position")
            plugins.targets.check(m.target.name, m.target.arguments, ("patch", "channels"), f"{where}.target")
            plugins.readers.check(
                m.data.reader.name, m.data.reader.arguments, ("size", "channels"), f"{where}.data.reader"
            )
            for key, spec in (("mask", m.mask), ("decode", m.decode)):
                if spec is not None:
                    _check_masker(spec, m.grid, f"{where}.{key}")
        if hasattr(task, "check"):
            task.check(self)
        return self

    def to_yaml(self) -> str:
        """All keys, defaults included: what a run keeps as config.yaml."""
        return write_yaml(self.model_dump(mode="json"))


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


def set_value(values: dict[str, Any], assignment: str) -> None:
    """Apply "a.b=c" in place; the value is read as YAML. A plug-in's bare name becomes {name: ...}."""
    dotted, equals, raw = assignment.partition("=")
    if not equals or not dotted.strip():
        raise ConfigError(f"--set {assignment}: expected KEY=VALUE, for instance train.steps=100")
    *parents, last = dotted.strip().split(".")
    node = values
    for key in parents:
        if isinstance(node.get(key), str):
            node[key] = {"name": node[key]}
        elif node.get(key) is None:
            node[key] = {}
        node = node[key]
        if not isinstance(node, dict):
            raise ConfigError(f"--set {assignment}: '{key}' is a value, not a section")
    node[last] = read_yaml(f"value: {raw}", f"--set {assignment}")["value"]


def _message(error: ValidationError, where: str) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        text = item["msg"].removeprefix("Value error, ")
        given, shown = item["input"], ""
        if item["type"] == "extra_forbidden":
            text = f"unknown key{_nearest_key(item['loc'])}"
        elif item["type"] != "missing" and isinstance(given, (str, int, float, bool, list, type(None))):
            shown = f" (given: {given!r})"
        lines.append(f"{key}: {text}{shown}" if key else text)
    return f"{where}: " + "; ".join(lines)


def _nearest_key(location: tuple[int | str, ...]) -> str:
    section: Any = Config
    for part in location[:-1]:
        fields = getattr(section, "model_fields", {})
        if part not in fields:
            continue
        section = {"modalities": ModalityConfig}.get(str(part), fields[part].annotation)
    known = list(getattr(section, "model_fields", {}))
    return plugins.nearest(str(location[-1]), known) + (f" (known: {', '.join(known)})" if known else "")


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
