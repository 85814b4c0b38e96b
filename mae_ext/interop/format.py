"""The contract of a foreign format, and the table of all of them. One module for each family of formats."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from mae_ext import plugins
from mae_ext.errors import CheckpointError
from mae_ext.interop.origin import Origin


@dataclass(frozen=True)
class Foreign:
    """A file or folder of another program, opened safely (interop/files.py) and not yet understood.

    weights: their names -> tensors, taken out of containers ("model", "state_dict", "module." and so on). config,
    processor: of config.json and preprocessor_config.json beside the weights; {} without. where: the path. metadata:
    what a safetensors file says of itself; {} of others. notes: for the user, of how it was read.
    """

    weights: Mapping[str, Tensor]
    where: str
    config: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hints:
    """What a file does not say and a user may: `PATH::heads=12,grid=10x18`.

    heads, decoder_heads: of attention, where the width is not one that is known (`interop.mapping.heads_of`). grid:
    tokens along each axis, where the number of positions is of no square or cube. size, patch: where weights do not
    say them (a patch embedding that is one matrix). eps: what layer norms add to a variance. at: the size to be used
    at, whatever they were trained at: positions are fitted to it.
    """

    heads: int | None = None
    decoder_heads: int | None = None
    grid: tuple[int, ...] | None = None
    size: tuple[int, ...] | None = None
    patch: tuple[int, ...] | None = None
    eps: float | None = None
    at: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Written:
    """A model of ours in their names. weights: as their `load_state_dict` takes them. config: their config.json, or {}.

    notes: what is not as it was (layer scale that is one, tables that were folded), for the user. metadata: of the
    safetensors file; transformers opens none without a "format".
    """

    weights: Mapping[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=lambda: {"format": "pt"})


class Format(Protocol):
    """One foreign format, in both directions. An instance is stateless.

    name: in FORMAT:PATH and `--to`. title: for messages. package: what `peer` imports, or None for research code.
    """

    name: str
    title: str
    package: str | None

    def recognises(self, file: Foreign) -> bool:
        """Whether keys and shapes are this format's. No two formats recognise the same file."""
        ...

    def read(self, file: Foreign, hints: Hints) -> Origin:
        """Raises CheckpointError naming the key that is missing, of another shape, or of a kind that is not ours."""
        ...

    def write(self, origin: Origin, name: str) -> Written:
        """The modality `name` in their names. Raises CheckpointError for what their model cannot be, by name."""
        ...

    def peer(self, written: Written) -> Callable[[Tensor], Tensor] | None:
        """Their own model with these weights, in eval mode: (B, C, *S) normalised -> (B, [c +] N, D), as our
        `encode_all` without normalising. None where there is no package to run."""
        ...


FORMATS = plugins.formats.builtins
"""By name, "module:class", imported on first use."""


def format_of(name: str) -> Format:
    """Raises ConfigError for an unknown name."""
    made: Format = plugins.formats.build(name, {})
    return made


def recognise(file: Foreign) -> Format:
    """The format of a file. Raises CheckpointError, with its first keys, where none or several fit."""
    fitting = [one for one in map(format_of, plugins.formats.sources()) if one.recognises(file)]
    if len(fitting) == 1:
        return fitting[0]
    keys = list(file.weights)
    shown = ", ".join(f"{key} {list(file.weights[key].shape)}" for key in keys[:4]) + (", ..." if keys[4:] else "")
    if fitting:
        ways = " or ".join(f"{one.name}:PATH" for one in fitting)
        raise CheckpointError(f"{file.where}: could be of several formats; say which: {ways}")
    raise CheckpointError(
        f"{file.where}: weights of no format that is known here ({len(keys)} tensors: {shown}); expected a run of "
        f"mae-ext or one of {', '.join(plugins.formats.sources())}"
    )


def parse_hints(text: str, where: str) -> Hints:
    """ "heads=12,grid=10x18" -> Hints. Raises CheckpointError for another key or value."""
    values: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        if key in ("heads", "decoder_heads") and re.fullmatch(r"[1-9]\d*", value):
            values[key] = int(value)
        elif key in ("grid", "size", "patch", "at") and re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", value):
            values[key] = tuple(int(extent) for extent in value.split("x"))
        elif key == "eps" and re.fullmatch(r"\d*\.?\d+(e-?\d+)?", value):
            values[key] = float(value)
        else:
            known = "heads=12, decoder_heads=16, grid=10x18, size=160x288, patch=16x16, eps=1e-6, at=112x112"
            raise CheckpointError(f"{where}: '{part}' after '::': expected some of {known}")
    return Hints(**values)
