"""What a run starts from, by one name: a run, a checkpoint of one, or weights of another program."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from mae_ext import plugins
from mae_ext.config import Config, parse_config
from mae_ext.engine.checkpoint import encoder_of, find, load_weights, read_config, read_state, read_tensors
from mae_ext.engine.optim import BACKBONE
from mae_ext.errors import CheckpointError
from mae_ext.interop.files import read_foreign
from mae_ext.interop.fit import fitted
from mae_ext.interop.format import Hints, format_of, parse_hints, recognise
from mae_ext.interop.origin import Origin, Report
from mae_ext.model.mae import MAE


@dataclass(frozen=True)
class Named:
    """ "mae:weights.pth::heads=12" in its parts. format: None where it is to be recognised. hints: as it stands."""

    path: Path
    format: str | None = None
    hints: str = ""

    @classmethod
    def of(cls, what: str | Path) -> "Named":
        """A path that is there is a path, whatever it looks like. Raises CheckpointError for an empty name."""
        if not str(what):
            raise CheckpointError(
                "the start has an empty name; expected a run, or weights of another program, or 'none'"
            )
        if Path(what).exists():
            return cls(Path(what))
        rest, _, hints = str(what).partition("::")
        head, colon, tail = rest.partition(":")
        if colon and head in plugins.formats.sources():
            return cls(Path(tail), head, hints)
        return cls(Path(rest), None, hints)

    def __str__(self) -> str:
        return f"{self.format}:" * bool(self.format) + str(self.path) + f"::{self.hints}" * bool(self.hints)

    @property
    def ours(self) -> bool:
        """Whether it is a run of ours or a checkpoint of one."""
        folder = self.path
        return self.format is None and folder.is_dir() and (
            (folder / "checkpoints").is_dir() or (folder / "manifest.json").is_file()
        )  # fmt: skip

    def absolute(self) -> "Named":
        return Named(self.path.absolute(), self.format, self.hints)


def opened(what: str | Path) -> Origin:
    """Raises CheckpointError: nothing there, damaged, dangerous, of no known format, or of a kind that is not ours."""
    named = Named.of(what)
    if named.ours:
        return _of_a_run(_checkpoint(named))
    if not named.path.exists() and (unknown := _no_format(str(named.path))):
        raise CheckpointError(f"{what}: {unknown}")
    hints, file = parse_hints(named.hints, str(named.path)), read_foreign(named.path)
    one = recognise(file) if named.format is None else format_of(named.format)
    origin = one.read(file, hints)
    _check_hints(origin, hints)
    return resized(replace(origin, notes=(*file.notes, *origin.notes)), hints.at)


def _no_format(path: str) -> str:
    """What to say of "tim:weights.pth", where there is weights.pth; or ""."""
    name, colon, rest = path.partition(":")
    if not colon or not Path(rest).exists():
        return ""
    known = list(plugins.formats.sources())
    return f"'{name}' is no format that is read{plugins.nearest(name, known)} (there are: {', '.join(known)})"


def _check_hints(origin: Origin, hints: Hints) -> None:
    """Raises CheckpointError for a hint that was not followed, since the weights say otherwise."""
    config = origin.config
    facts: dict[str, Any] = {"heads": config.model.heads, "eps": config.model.norm_eps}
    if origin.decodes:
        facts["decoder_heads"] = config.model.decoder.heads
    if len(config.modalities) == 1:
        (only,) = config.modalities.values()
        facts |= {"grid": only.grid, "size": only.size, "patch": only.patch}
    for key, fact in facts.items():
        hint = getattr(hints, key)
        if hint is not None and hint != fact:
            says, is_ = ("x".join(map(str, v)) if isinstance(v, tuple) else f"{v:g}" for v in (hint, fact))
            raise CheckpointError(f"{origin.where}: {key}={says} after '::', and the weights say {is_}; remove it")


@dataclass(frozen=True)
class Known:
    """What a config needs of a start. init: for config.init, absolute; of a run, the checkpoint that it is now."""

    config: Config
    init: str
    decodes: bool = True


def known_of(what: str) -> Known:
    """Raises as `opened` does."""
    named = Named.of(what)
    if named.ours:
        path = _checkpoint(named)
        config = read_config(path)
        return Known(config, str(path.absolute()), config.task.name == "pretrain")
    origin = opened(what)
    return Known(origin.config, str(named.absolute()), origin.decodes)


def _checkpoint(named: Named) -> Path:
    """Of a run, the newest, or with `RUN::best` the one that was best on held-out data."""
    if named.hints not in ("", "best"):
        raise CheckpointError(f"{named.path}: a run says all of itself; remove '::{named.hints}', or write '::best'")
    return find(str(named))


def resized(origin: Origin, size: tuple[int, ...] | None) -> Origin:
    """The same weights for samples of another size (all of its axes), whose grid spans what the grid of before did."""
    (name, modality), *others = origin.config.modalities.items()
    if size is None or size == modality.size or others:
        return origin
    values = origin.config.model_dump(mode="json")
    own = values["modalities"][name]
    if len(size) != len(modality.size):
        raise CheckpointError(f"{origin.where}: at={'x'.join(map(str, size))}: it has {len(modality.size)} axes")
    own["size"] = list(size)
    if modality.position.name == "sincos" and "unit" not in own["position"]:
        own["position"] = {"span": list(modality.grid), **own["position"]}
    config = parse_config(values, origin.where)
    weights, report = fitted(origin, MAE(config, decodes=origin.decodes), config)
    return replace(origin, config=config, weights=weights, notes=(*origin.notes, *report.notes))


def _of_a_run(path: Path) -> Origin:
    """Of a task's run, the encoder that it began with and went on training."""
    weights = read_tensors(path / "model.safetensors")
    backbone = encoder_of(weights)
    step = read_state(path)["step"]
    left = {k: "the head of a task" for k in weights if backbone and k.removeprefix(BACKBONE) not in backbone}
    return Origin(backbone or weights, read_config(path), str(path), decodes=not backbone, left=left, step=step)


def model_of(origin: Origin) -> MAE:
    """In eval mode, on the CPU, with every weight of the origin and no other."""
    model = MAE(origin.config, decodes=origin.decodes)
    load_weights(model, origin.weights, origin.where)
    return model.eval()


def load_start(model: nn.Module, config: Config) -> Report:
    """Weights of config.init into an MAE, in place, as far as they fit it; see `interop.fit`."""
    assert isinstance(model, MAE) and config.init is not None
    weights, report = fitted(opened(config.init), model, config)
    model.load_state_dict(weights)
    return report
