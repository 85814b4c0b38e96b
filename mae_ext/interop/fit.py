"""Weights of one model for another: of other sizes, patches, channels and axes. Said once, for every start."""

from collections.abc import Mapping
from math import prod
from typing import Any

from torch import Tensor, nn

from mae_ext import plugins
from mae_ext.config import Config, Statistics
from mae_ext.errors import CheckpointError
from mae_ext.interop import patches
from mae_ext.interop.origin import Origin, Outcome, Report
from mae_ext.interop.places import Places, differing, moved
from mae_ext.modality_config import ModalityConfig
from mae_ext.model.mae import MAE
from mae_ext.model.modality import Modality
from mae_ext.strict_json import dumps

STATISTICS = ("mean", "std")
"""Buffers of a modality that are measured and not learned."""

ENCODER = ("width", "depth", "heads", "mlp_ratio", "norm_eps", "class_token")
DECODER = ("width", "depth", "heads", "fuse")
"""Keys of `model` and of `model.decoder`."""

PIXELS = {"embed.project.weight": 1, "predict.weight": 0, "predict.bias": 0}
"""Tensors of a modality that have an axis of the pixels of a patch, and which it is."""

PLUG_INS = {
    "embed": ("embed", plugins.embedders),
    "target": ("target", plugins.targets),
    "predict": ("target", plugins.targets),
    "masker": ("mask", plugins.maskers),
    "decode": ("decode", plugins.maskers),
}
"""Parts of a modality: the key of the config that names the plug-in, of which it is or for which it is made."""

DECODING = ("decoder_position", "predict")
"""Parts of a modality that belong to the decoder."""


def is_of_decoder(name: str) -> bool:
    """Whether a tensor of an MAE, by its name, is of the decoder or of what a modality has for it."""
    part, *rest = name.split(".")
    return part == "decoder" or (part == "modalities" and rest[1] in DECODING)


def fitted(origin: Origin, model: MAE, config: Config) -> tuple[dict[str, Tensor], Report]:
    """Every tensor of `model`, from the origin as far as it has them, and what became of each.

    config: of `model`, whose init_parts, init_channels and init_inflate say which parts of the origin and how. What is
    new keeps the value that `model` has. A modality is fed by the one of its name, else by the only one that there is.
    Raises CheckpointError for an encoder or a decoder of another architecture, with what to type.
    """
    return _Fit(origin, model, config).made()


class _Fit:
    def __init__(self, origin: Origin, model: MAE, config: Config) -> None:
        self.origin, self.model, self.config = origin, model, config
        self.own: Mapping[str, Tensor] = model.state_dict()
        self.weights = dict(self.own)
        self.rows: dict[str, tuple[Outcome, str]] = {}
        self.used: set[str] = set()
        self.why: dict[str, str] = {}
        """Names at the origin -> why nothing is made of them."""
        self.notes = list(origin.notes)
        self.sources = {name: self._source(name) for name in model.modalities}
        self.undecoded = self._undecoded()
        """Why no decoder is taken, or ""."""

    def made(self) -> tuple[dict[str, Tensor], Report]:
        self._check_architecture()
        self._trunk("encoder")
        if self.model.decoder is not None:
            if self.undecoded:
                self._new({key: key for key in self.own if key.startswith("decoder.")}, self.undecoded)
            else:
                self._trunk("decoder")
        for name, source in self.sources.items():
            self._modality(name, source)
        rows = {key: self.rows[key] for key in self.own}
        report = Report(self.origin.where, rows, {**self.origin.left, **self._left()}, tuple(self.notes))
        return {key: self.weights[key] for key in self.own}, report

    def _source(self, name: str) -> str:
        """The origin's modality that feeds ours."""
        names = list(self.origin.config.modalities)
        if name in names:
            return name
        if len(names) > 1:
            raise CheckpointError(
                f"modalities.{name}: {self.origin.where} has no such modality, but {', '.join(names)}; give yours the "
                f"name of the one that it is to start from"
            )
        return names[0]

    def _undecoded(self) -> str:
        if self.model.decoder is None:
            return "this model decodes nothing"
        if not self.origin.decodes:
            if self.config.init_parts == "all":
                raise CheckpointError(
                    f"init_parts=all: {self.origin.where} has no decoder; with init_parts=encoder the decoder is new"
                )
            return "no decoder to start from"
        return "init_parts=encoder" if self.config.init_parts == "encoder" else ""

    def _check_architecture(self) -> None:
        ours, theirs = (_architecture(config, not self.undecoded) for config in (self.config, self.origin.config))
        wrong = [key for key in ours if not self._alike(key, ours[key], theirs[key])]
        if not wrong:
            return
        says = ", ".join(f"{key} is {dumps(ours[key])}, and {dumps(theirs[key])} there" for key in wrong)
        sets = " ".join(f"--set {key}={dumps(theirs[key])}" for key in wrong)
        if all(key.startswith("model.decoder.") for key in wrong):
            part, way = "a decoder", "begin with init_parts=encoder and a new decoder, or take theirs:"
        else:
            part, way = "an encoder", "weights mean something in their own alone:"
        raise CheckpointError(f"{self.origin.where} has {part} of another architecture: {says}; {way} {sets}")

    def _alike(self, key: str, ours: Any, theirs: Any) -> bool:
        if key == "model.mlp_ratio":  # some are quotients of two widths, which is what they are about
            width = self.config.model.width or 0
            ours, theirs = int(width * ours), int(width * theirs)
        return bool(ours == theirs)

    def _trunk(self, part: str) -> None:
        """All of our encoder or decoder, without its modalities: whole or not at all."""
        keys = [key for key in self.own if key.startswith(f"{part}.")]
        wrong = [problem for key in keys if (problem := self._misfit(key, key))]
        if len(wrong) == len(keys):
            raise CheckpointError(
                f"{self.origin.where}: none of the {len(keys)} tensors of this {part} is among its "
                f"{len(self.origin.weights)}; nothing can be taken"
            )
        refuse(self.origin.where, part, {key: self.own[key] for key in keys}, wrong)
        for key in keys:
            self._take(key, key)

    def _misfit(self, ours: str, theirs: str) -> str:
        """What is wrong with a tensor, or ""."""
        if theirs not in self.origin.weights:
            return f"{theirs} is absent"
        have, want = self.origin.weights[theirs].shape, self.own[ours].shape
        return "" if have == want else f"{theirs} is {list(have)}, not {list(want)}"

    def _take(self, ours: str, theirs: str, value: Tensor | None = None, how: str = "") -> None:
        self.used.add(theirs)
        self.weights[ours] = self.origin.weights[theirs] if value is None else value
        self.rows[ours] = ("fitted", how) if how else ("taken", "")

    def _new(self, pairs: Mapping[str, str], why: str) -> None:
        """pairs: of our names and those at the origin that they would have been made of, be they there or not."""
        self.rows |= dict.fromkeys(pairs, ("new", why))
        self.why |= dict.fromkeys(pairs.values(), why)

    def _modality(self, name: str, source: str) -> None:
        modality, prefix = self.model.modality(name), f"modalities.{name}."
        ours, theirs = self.config.modalities[name], self.origin.config.modalities[source]
        parts: dict[str, list[str]] = {}
        for key in self.own:
            if key.startswith(prefix):
                parts.setdefault(key.removeprefix(prefix).partition(".")[0], []).append(key)
        for part, keys in parts.items():
            pairs = {key: f"modalities.{source}.{key.removeprefix(prefix)}" for key in keys}
            if part in STATISTICS:
                self._statistics(pairs, ours)
            elif part in DECODING and self.undecoded:
                self._new(pairs, self.undecoded)
            elif part in ("position", "decoder_position"):
                continue
            elif part == "embed" and ours.embed.name == theirs.embed.name == "patch":
                self._of_a_patch(pairs, ours, theirs)
            elif part == "predict":
                self._predict(pairs, ours, theirs)
            else:
                self._plug_in(part, pairs, ours, theirs)
        for part in ("position", "decoder_position"):
            if getattr(modality, part) is not None and not (part in DECODING and self.undecoded):
                self._position(part, modality, ours, (source, theirs))

    def _statistics(self, pairs: Mapping[str, str], ours: ModalityConfig) -> None:
        """Numbers in the config are its own, of the data that it trains on; where it has none, the origin's."""
        for key, theirs in pairs.items():
            stored, own = self.origin.weights.get(theirs), self.own[key]
            measured = isinstance(ours.data.statistics, Statistics)
            if stored is not None and stored.shape == own.shape and (not measured or stored.equal(own.cpu())):
                self._take(key, theirs)
            else:
                self._new({key: theirs}, "statistics are this config's")

    def _of_a_patch(self, pairs: Mapping[str, str], ours: ModalityConfig, theirs: ModalityConfig) -> None:
        """Of the embedder or the predictor, whose weights are about the pixels of a patch."""
        for key, name in pairs.items():
            stored, width = self.origin.weights.get(name), prod(theirs.patch) * theirs.channels
            pixels = PIXELS.get(key.split(".", 2)[2])
            want = list(self.own[key].shape)
            if pixels is not None:
                want[pixels] = width
            if stored is None or list(stored.shape) != want:
                self._new(
                    {key: name},
                    f"absent at {name}" if stored is None else f"{name} is {list(stored.shape)}, not {want}",
                )
            elif pixels is None:
                self._take(key, name)
            else:
                fit = patches.embedding if pixels else patches.prediction
                self._take(key, name, *fit(stored, theirs, ours, self.config))

    def _predict(self, pairs: Mapping[str, str], ours: ModalityConfig, theirs: ModalityConfig) -> None:
        mine, yours = ours.target, theirs.target
        pixels = mine.name == yours.name == "pixel"
        if pixels and len({plugins.targets.settings(target)["normalize"] for target in (mine, yours)}) == 1:
            self._of_a_patch(pairs, ours, theirs)
        else:
            self._plug_in("predict", pairs, ours, theirs)

    def _plug_in(self, part: str, pairs: Mapping[str, str], ours: ModalityConfig, theirs: ModalityConfig) -> None:
        """Weights of any other part: of the same plug-in, arguments and shapes, or new."""
        key, registry = PLUG_INS[part]
        mine, yours = getattr(ours, key), getattr(theirs, key)
        wrong = [problem for pair in pairs.items() if (problem := self._misfit(*pair))]
        if mine is None or yours is None or not registry.same(mine, yours):
            self._new(pairs, f"{key} {_said(yours)} there, {_said(mine)} here")
        elif wrong or (ours.patch, ours.channels) != (theirs.patch, theirs.channels):
            self._new(pairs, "; ".join(wrong[:1]) or f"{key} {_said(mine)} is of another patch there")
        else:
            for own, name in pairs.items():
                self._take(own, name)

    def _position(
        self, part: str, modality: Modality, ours: ModalityConfig, theirs: tuple[str, ModalityConfig]
    ) -> None:
        source, config = theirs
        prefix, key = f"modalities.{source}.{part}.", f"modalities.{modality.name}.{part}"
        stored = {k.removeprefix(prefix): v for k, v in self.origin.weights.items() if k.startswith(prefix)}
        width = self.config.model.decoder.width if part in DECODING else self.config.model.width
        module: nn.Module = getattr(modality, part)
        assert width is not None
        have, want = Places.of(config, width, stored), Places.of(ours, width, module.state_dict())
        if not want.weights:
            if says := differing(have, want):
                self.notes.append(f"{key}: {says}")
            return
        made = moved(have, want, module)
        if isinstance(made, str):
            self._new({f"{key}.{name}": prefix + name for name in want.weights}, made)
            return
        self.used |= {prefix + name for name in stored}
        for name, value in made[0].items():
            self.weights[f"{key}.{name}"] = value
            self.rows[f"{key}.{name}"] = ("fitted", made[1]) if made[1] else ("taken", "")

    def _left(self) -> dict[str, str]:
        return {name: self._unused(name) for name in self.origin.weights if name not in self.used}

    def _unused(self, name: str) -> str:
        """Why nothing is made of one of the origin's tensors."""
        if name in self.why:
            return self.why[name]
        part, _, rest = name.partition(".")
        source, _, rest = rest.partition(".")
        feature = rest.partition(".")[0]
        if self.undecoded and (part == "decoder" or feature in DECODING):
            return self.undecoded
        mine = [ours for ours, theirs in self.sources.items() if theirs == source]
        if part == "modalities" and not mine:
            return f"no modality here starts from '{source}'"
        if part == "modalities" and feature in ("position", "decoder_position"):
            return f"positions here are {Places.of(self.config.modalities[mine[0]], 0, {})}"
        return "no such tensor here"


def refuse(where: str, part: str, own: Mapping[str, Tensor], wrong: list[str]) -> None:
    """Raises CheckpointError where anything is wrong with the tensors `own` of a part: it is loaded whole or not."""
    if wrong:
        names = {one.partition(" ")[0] for one in wrong}
        fit = [value for name, value in own.items() if name not in names]
        share = sum(prod(value.shape) for value in fit) / sum(prod(value.shape) for value in own.values())
        raise CheckpointError(
            f"{where} is of another architecture: {len(fit)} of {len(own)} tensors of the {part} ({share:.0%} of its "
            f"numbers) fit; {'; '.join(wrong[:3])}{'; ...' if len(wrong) > 3 else ''}"
        )


def _architecture(config: Config, decoder: bool) -> dict[str, Any]:
    """What weights mean anything in, by key. Heads, for one, change no shape."""
    shape = {f"model.{key}": getattr(config.model, key) for key in ENCODER}
    return shape | ({f"model.decoder.{key}": getattr(config.model.decoder, key) for key in DECODER} if decoder else {})


def _said(spec: Any) -> str:
    """{name: pixel, normalize: none} as a person reads it."""
    if spec is None:
        return "none"
    arguments = ", ".join(f"{key}={value}" for key, value in spec.arguments.items())
    return f"'{spec.name}'" + f" ({arguments})" * bool(arguments)
