"""Registries: a literal dict of built-ins, plus what third parties publish as Python entry points.

A name is the only thing that YAML can say. Arguments are checked against the signature before any work starts.
"""

import difflib
import inspect
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from mae_ext.errors import ConfigError
from mae_ext.sections import PlugIn


def nearest(word: str, known: list[str]) -> str:
    """The phrase "did you mean 'x'?" for a misspelt word, or nothing."""
    close = difflib.get_close_matches(word, known, n=1)
    return f", did you mean '{close[0]}'?" if close else ""


class Registry:
    """Names to callables of one kind.

    Built-ins are "module:attribute" strings, imported on first use so that a missing optional library hurts nobody who
    does not ask for it. Plug-ins come from the entry-point group; one that fails to import, or takes a built-in's name,
    is an error only for the run that names it. contract: the Protocol whose methods are called of what is built,
    "module:attribute" as well.
    """

    def __init__(self, kind: str, builtins: Mapping[str, str], contract: str | None = None) -> None:
        self.kind = kind
        self.group = f"mae_ext.{kind}s"
        self.builtins = dict(builtins)
        self.contract = contract

    def entry_points(self) -> dict[str, list[EntryPoint]]:
        published: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=self.group):
            published.setdefault(point.name, []).append(point)
        return published

    def sources(self) -> dict[str, str]:
        """Every name and where it comes from, sorted by name."""
        rows = dict.fromkeys(self.builtins, "mae_ext")
        for name, points in self.entry_points().items():
            owners = [f"{p.dist.name} {p.dist.version}" if p.dist else p.value for p in points]
            rows[name] = " and ".join(([rows[name]] if name in rows else []) + owners)
        return dict(sorted(rows.items()))

    def get(self, name: str, where: str = "") -> Any:
        """The callable behind a name. Raises ConfigError: unknown, published twice, or failing at import."""
        points = self.entry_points().get(name, [])
        prefix = f"{where}: " if where else ""
        if len(points) + (name in self.builtins) > 1:
            owners = self.sources()[name]
            raise ConfigError(f"{prefix}{self.kind} '{name}' is published more than once ({owners}); uninstall one")
        if points:
            try:
                return points[0].load()
            except Exception as error:
                raise ConfigError(
                    f"{prefix}{self.kind} '{name}' from {self.sources()[name]} fails at import: {error!r}"
                ) from error
        if name not in self.builtins:
            known = list(self.sources())
            raise ConfigError(
                f"{prefix}unknown {self.kind} '{name}'{nearest(name, known)} (there are: {', '.join(known)})"
            )
        return _imported(self.builtins[name])

    def check(self, name: str, arguments: Mapping[str, Any], supplied: tuple[str, ...] = (), where: str = "") -> Any:
        """The callable, once its signature takes `arguments` and the framework's own keywords, `supplied`."""
        factory = self.get(name, where)
        try:
            signature = inspect.signature(factory)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where}: {self.kind} '{name}' from {self.sources()[name]}: {error}") from None
        known = [p for p in signature.parameters if p not in supplied]
        takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
        for key in arguments:
            if key not in known and not takes_any:
                raise ConfigError(
                    f"{where}: {self.kind} '{name}' takes no '{key}'{nearest(key, known)} "
                    f"(it takes: {', '.join(known) or 'nothing'})"
                )
        try:
            signature.bind(**dict.fromkeys(supplied), **arguments)
        except TypeError as error:
            raise ConfigError(f"{where}: {self.kind} '{name}': {error}") from None
        return factory

    def settings(self, spec: PlugIn) -> dict[str, Any]:
        """All arguments by name, those that are left at their default included."""
        parameters = inspect.signature(self.get(spec.name)).parameters.values()
        stated = {p.name: p.default for p in parameters if p.default is not p.empty} | spec.arguments
        return {key: list(value) if isinstance(value, tuple) else value for key, value in stated.items()}

    def same(self, one: PlugIn, other: PlugIn) -> bool:
        return one.name == other.name and self.settings(one) == self.settings(other)

    def build(self, name: str, arguments: Mapping[str, Any], where: str = "", **supplied: Any) -> Any:
        """Call the factory with the user's arguments and the framework's own keywords."""
        factory = self.check(name, arguments, tuple(supplied), where)
        try:
            made = factory(**supplied, **arguments)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where}: {self.kind} '{name}': {error}") from error
        self._check_methods(made, name, where)
        return made

    def _check_methods(self, made: Any, name: str, where: str) -> None:
        """Raises ConfigError, before any work, where a method would fail to be called: of an older contract, say."""
        contract = _imported(self.contract) if self.contract else object
        for method, wanted in vars(contract).items():
            if not inspect.isfunction(wanted) or (method.startswith("_") and method != "__call__"):
                continue
            _, *arguments = inspect.signature(wanted).parameters
            try:
                inspect.signature(getattr(made, method)).bind(*arguments)
            except (AttributeError, TypeError) as error:
                raise ConfigError(
                    f"{where}: {self.kind} '{name}' from {self.sources()[name]} cannot be called as "
                    f"{method}({', '.join(arguments)}): {error}; {self.contract} is what it has to be"
                ) from None


def _imported(place: str) -> Any:
    module, attribute = place.split(":")
    return getattr(import_module(module), attribute)


embedders = Registry("embedder", {"patch": "mae_ext.model.embed:PatchEmbed"})
positions = Registry(
    "position",
    {
        "sincos": "mae_ext.model.position:SinCos",
        "learned": "mae_ext.model.position:Learned",
        "separable": "mae_ext.model.position:Separable",
        "sequence": "mae_ext.model.position:SequenceSinCos",
    },
)
maskers = Registry(
    "masker",
    {
        "random": "mae_ext.model.maskers:RandomMasker",
        "block": "mae_ext.model.maskers:BlockMasker",
        "grid": "mae_ext.model.maskers:GridMasker",
        "foreground": "mae_ext.model.maskers:ForegroundMasker",
        "tube": "mae_ext.model.mask_axis:TubeMasker",
        "frame": "mae_ext.model.mask_axis:FrameMasker",
        "causal": "mae_ext.model.mask_axis:CausalMasker",
        "running_cell": "mae_ext.model.mask_axis:RunningCellMasker",
    },
)
readers = Registry(
    "reader",
    {
        "image": "mae_ext.data.image.reader:ImageReader",
        "slide": "mae_ext.data.image.slide:SlideReader",
        "video": "mae_ext.data.video.reader:VideoReader",
        "volume": "mae_ext.data.volume.reader:VolumeReader",
    },
)
targets = Registry("target", {"pixel": "mae_ext.model.target:PixelTarget"})
tasks = Registry(
    "task",
    {
        "pretrain": "mae_ext.engine.pretrain:Pretraining",
        "classify": "mae_ext.tasks.classify.task:Classification",
        "detect": "mae_ext.tasks.detect.task:Detection",
        "segment": "mae_ext.tasks.segment.task:Segmentation",
    },
    contract="mae_ext.engine.task:Task",
)
formats = Registry(
    "format",
    {
        "mae": "mae_ext.interop.timm:MAE",
        "timm": "mae_ext.interop.timm:ViT",
        "dino": "mae_ext.interop.timm:DINO",
        "hf-vitmae": "mae_ext.interop.hf:ViTMAE",
        "hf-vit": "mae_ext.interop.hf:ViT",
        "hf-dinov2": "mae_ext.interop.dinov2:DINOv2",
        "hf-pixio": "mae_ext.interop.hf:Pixio",
        "hf-videomae": "mae_ext.interop.videomae:Transformers",
        "videomae": "mae_ext.interop.videomae:VideoMAE",
        "mae-st": "mae_ext.interop.maest:MAEST",
        "omnimae": "mae_ext.interop.omnimae:OmniMAE",
        "monai-vit": "mae_ext.interop.monai:ViT",
        "monai-unetr": "mae_ext.interop.monai:UNETR",
        "monai-mae": "mae_ext.interop.monai:MAE",
        "selfmedmae": "mae_ext.interop.selfmedmae:SelfMedMAE",
        "safetensors": "mae_ext.interop.card:Card",
    },
    contract="mae_ext.interop.format:Format",
)
observers = Registry(
    "observer", {"probe": "mae_ext.probing.during:ProbesDuring"}, contract="mae_ext.engine.observe:Observer"
)
loggers = Registry(
    "logger",
    {
        "tensorboard": "mae_ext.engine.loggers:TensorBoard",
        "wandb": "mae_ext.engine.loggers:WandB",
        "mlflow": "mae_ext.engine.loggers:MLflow",
    },
    contract="mae_ext.engine.loggers:Logger",
)

ALL = {r.group: r for r in (embedders, positions, maskers, readers, targets, tasks, formats, observers, loggers)}
