"""What mapping weights onto ours and back takes, whatever the library: said once, for all formats."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isqrt, nextafter, prod
from typing import Any

import torch
from torch import Tensor

from mae_ext.config import Config, Statistics, parse_config
from mae_ext.data.loading.statistics import IMAGENET
from mae_ext.errors import CheckpointError
from mae_ext.interop.format import Foreign, Hints
from mae_ext.interop.origin import Origin
from mae_ext.model.grid import grid_of
from mae_ext.model.mae import MAE
from mae_ext.model.position import SequenceSinCos, coordinates_of, sincos

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}
"""Of encoders by width: DeiT (2012.12877), ViT (2010.11929), ViT-g of VideoMAE V2 (2303.16727, table 8), ViT-G of
DINOv2's kind (2106.04560)."""

READERS = {2: "image", 3: "volume"}
"""By axes, where the format does not say."""


@dataclass(frozen=True)
class Trunk:
    """Their names of a stack of blocks. block: with {} for its number. norm: after the last, or None.

    qkv: one matrix, or three. parts: ours -> theirs, the other layers of a block. scales: their names of layer scale,
    after attention and after the MLP, or ().
    """

    block: str
    norm: str | None
    qkv: str | tuple[str, str, str]
    parts: Mapping[str, str]
    scales: tuple[str, ...] = ()


TIMM = {"norm1": "norm1", "norm2": "norm2", "attention.out": "attn.proj", "mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}
"""Parts of a block as timm names them (rwightman/timm, vision_transformer), and all research code built on it."""


class Theirs:
    """weights: their state dict. kind: what it is expected to be, where: its path, for messages.

    ours: what has been mapped so far. names: ours -> theirs, of layers.
    """

    def __init__(self, weights: Mapping[str, Tensor], kind: str, where: str = "") -> None:
        self.weights, self.kind, self.where = weights, kind, f"{where}: " * bool(where)
        self.ours, self.used, self.names = dict[str, Tensor](), set[str](), dict[str, str]()

    def has(self, name: str) -> bool:
        return name in self.weights

    def take(self, name: str) -> Tensor:
        """In float32. Raises CheckpointError for a weight that is not there, or not finite."""
        if name not in self.weights:
            raise CheckpointError(f"{self.where}no weight '{name}'; expected those of {self.kind}")
        self.used.add(name)
        weight = self.weights[name]
        if not weight.is_floating_point():
            raise CheckpointError(f"{self.where}weight '{name}' holds {weight.dtype}; expected floating point numbers")
        if not weight.ndim or not weight.numel():
            raise CheckpointError(f"{self.where}weight '{name}' has the shape {list(weight.shape)}: nothing is in it")
        weight = weight.float()  # of 8 bits nothing else can be asked
        if not weight.isfinite().all():
            raise CheckpointError(
                f"{self.where}weight '{name}' holds numbers that are not finite: these weights are damaged"
            )
        return weight

    def put(self, mine: str, yours: str) -> None:
        """A layer's weight and bias, from their name for it to ours."""
        for kind in ("weight", "bias"):
            self.ours[f"{mine}.{kind}"] = self.take(f"{yours}.{kind}")
            self.names[f"{mine}.{kind}"] = f"{yours}.{kind}"

    def put_qkv(self, mine: str, names: str | tuple[str, str, str]) -> None:
        """One map or three as one. A key's bias changes nothing in a softmax, and some have none at all: absent, it is
        0."""
        first = names if isinstance(names, str) else names[0]
        self.names |= {f"{mine}.{kind}": f"{first}.{kind}" for kind in ("weight", "bias")}
        if isinstance(names, str):
            self.ours[f"{mine}.weight"] = self.take(f"{names}.weight")
            rows = len(self.ours[f"{mine}.weight"])
            bias = self.take(f"{names}.bias") if self.has(f"{names}.bias") else torch.zeros(rows)
            self.ours[f"{mine}.bias"] = bias
            return
        weights = [self.take(f"{role}.weight") for role in names]
        biases = [f"{role}.bias" for role in names]
        missing = [name for name in biases if not self.has(name)]
        if missing not in ([], [biases[1]], biases):
            self.take(next(name for name in missing if name != biases[1]))
        width = len(weights[0])
        for role, weight in zip(names, weights, strict=True):
            if weight.shape != weights[0].shape:
                raise CheckpointError(
                    f"{self.where}weight '{role}.weight' has the shape {list(weight.shape)}; expected "
                    f"{list(weights[0].shape)}, as '{first}.weight' has it"
                )
        parts = [torch.zeros(width) if name in missing else self.take(name) for name in biases]
        for name, bias in zip(biases, parts, strict=True):
            if bias.shape != (width,):
                raise CheckpointError(
                    f"{self.where}weight '{name}' has the shape {list(bias.shape)}; expected [{width}]"
                )
        self.ours[f"{mine}.weight"], self.ours[f"{mine}.bias"] = torch.cat(weights), torch.cat(parts)

    def put_trunk(self, part: str, trunk: Trunk) -> int:
        """All blocks of our "encoder" or "decoder", and the norm after them -> how many there are.

        Layer scale, which multiplies what a layer says, is multiplied into that layer.
        """
        depth = self.depth(trunk)
        for i in range(depth):
            block, theirs = f"{part}.trunk.blocks.{i}", trunk.block.format(i)
            names = trunk.qkv
            full = f"{theirs}.{names}" if isinstance(names, str) else tuple(f"{theirs}.{name}" for name in names)
            self.put_qkv(f"{block}.attention.qkv", full)  # type: ignore[arg-type]
            for mine, yours in trunk.parts.items():
                self.put(f"{block}.{mine}", f"{theirs}.{yours}")
            for mine, yours in zip(("attention.out", "mlp.down"), trunk.scales, strict=False):
                scale, rows = self.take(f"{theirs}.{yours}"), len(self.ours[f"{block}.{mine}.bias"])
                if scale.shape != (rows,):
                    raise CheckpointError(
                        f"{self.where}weight '{theirs}.{yours}' has the shape {list(scale.shape)}; expected [{rows}]"
                    )
                self.ours[f"{block}.{mine}.weight"] = scale[:, None] * self.ours[f"{block}.{mine}.weight"]
                self.ours[f"{block}.{mine}.bias"] = scale * self.ours[f"{block}.{mine}.bias"]
        if trunk.norm is not None:
            self.put(f"{part}.trunk.norm", trunk.norm)
        return depth

    def depth(self, trunk: Trunk) -> int:
        """Blocks that there are, counted from 0 without a gap. Raises CheckpointError for none."""
        before, _, after = trunk.block.partition("{}")
        numbers = {
            int(number)
            for name in self.weights
            if name.startswith(before)
            and (number := (rest := name[len(before) :].partition(after or "."))[0]).isdigit()
            and "." in rest[2]  # of layers: MONAI's norm after the last block is one more number in the same row
        }
        depth = max(numbers, default=-1) + 1
        if numbers != set(range(depth)) or not depth:
            missing = min(set(range(depth)) - numbers, default=0)
            self.take(f"{trunk.block.format(missing)}.{trunk.parts['norm1']}.weight")
        return depth

    def refuse(self, kinds: Mapping[str, str]) -> None:
        """Raises CheckpointError for a weight whose name has one of the keys in it. kinds: a part of a name -> what it
        is of."""
        for name in self.weights:
            what = next((what for part, what in kinds.items() if part in f".{name}"), None)
            if what is not None:
                raise CheckpointError(
                    f"{self.where}weight '{name}' is of {what}, and nothing here does what that does; these weights "
                    f"cannot be taken"
                )

    def checked(self, config: Config, decodes: bool) -> dict[str, Tensor]:
        """Ours, whole but for statistics. Raises CheckpointError for a weight that is not of the shape that a model of
        this config has, which the first block and the embedding have settled."""
        with torch.device("meta"):
            own = MAE(config, decodes).state_dict()
        for mine, tensor in self.ours.items():
            if mine in own and tensor.shape != own[mine].shape:
                raise CheckpointError(
                    f"{self.where}weight '{self.names.get(mine, mine)}' comes to the shape {list(tensor.shape)}; "
                    f"expected {list(own[mine].shape)}, which fits the others"
                )
        assert self.ours.keys() == {mine for mine in own if not mine.endswith((".mean", ".std"))}
        return self.ours

    def left(self, reasons: Mapping[str, str]) -> dict[str, str]:
        """Names that nothing was made of. reasons: the beginning of a name -> why that is right.

        Raises CheckpointError for a name that none of them speaks of: nothing is left out in silence.
        """
        left = {}
        for name in self.weights:
            if name not in self.used:
                why = next((why for start, why in reasons.items() if name.startswith(start)), None)
                if why is None:
                    raise CheckpointError(
                        f"{self.where}weight '{name}' is none of {self.kind}, and nothing here does what it does; "
                        f"these weights cannot be taken"
                    )
                left[name] = why
        return left


class Ours:
    """The way back. weights: ours. theirs: what has been named so far."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights, self.theirs = weights, dict[str, Tensor]()

    def give(self, mine: str, yours: str) -> None:
        """A layer's weight and bias."""
        for kind in ("weight", "bias"):
            self.theirs[f"{yours}.{kind}"] = self.weights[f"{mine}.{kind}"]

    def give_qkv(self, mine: str, names: str | tuple[str, str, str]) -> None:
        weight, bias = self.weights[f"{mine}.weight"], self.weights[f"{mine}.bias"]
        each = (names,) if isinstance(names, str) else names
        for name, w, b in zip(each, weight.chunk(len(each)), bias.chunk(len(each)), strict=True):
            self.theirs[f"{name}.weight"], self.theirs[f"{name}.bias"] = w.clone(), b.clone()

    def give_trunk(self, part: str, trunk: Trunk, depth: int) -> None:
        for i in range(depth):
            block, theirs = f"{part}.trunk.blocks.{i}", trunk.block.format(i)
            names = trunk.qkv
            full = f"{theirs}.{names}" if isinstance(names, str) else tuple(f"{theirs}.{name}" for name in names)
            self.give_qkv(f"{block}.attention.qkv", full)  # type: ignore[arg-type]
            for mine, yours in trunk.parts.items():
                self.give(f"{block}.{mine}", f"{theirs}.{yours}")
            for yours in trunk.scales:
                self.theirs[f"{theirs}.{yours}"] = torch.ones(len(self.weights[f"{block}.norm1.weight"]))
        if trunk.norm is not None:
            self.give(f"{part}.trunk.norm", trunk.norm)


def patches_in(convolution: Tensor) -> Tensor:
    """(D, C, *patch) a strided convolution -> (D, pix), pixels in the order `(p1 .. pn c)`: channels last."""
    return convolution.movedim(1, -1).flatten(1).contiguous()


def patches_out(matrix: Tensor, patch: Sequence[int], channels: int) -> Tensor:
    """The way back: (D, pix) -> (D, C, *patch)."""
    kernel: Tensor = matrix.unflatten(1, (*patch, channels))
    return kernel.movedim(-1, 1).contiguous()


def heads_of(width: int, said: int | None, where: str, key: str = "heads", known: Mapping[int, int] = HEADS) -> int:
    """Heads of attention, which no shape says: what the user or a config says, or those of models of this width.

    Raises CheckpointError where neither is known, or they do not divide the width.
    """
    heads = known.get(width) if said is None else said
    if heads is None:
        raise CheckpointError(f"{where}: how many heads there are is not in the file; say so: PATH::{key}=N")
    if width % heads:
        raise CheckpointError(f"{where}: {key}={heads} does not divide the width, {width}")
    return heads


def ratio_of(hidden: int, width: int) -> float:
    """What `int(width * ratio)` makes `hidden` of, in floating point."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else nextafter(ratio, inf)


def grid_from(count: int, axes: int, hints: Hints, where: str) -> tuple[int, ...]:
    """The grid of so many positions: what the hints say, or a square or cube. Raises CheckpointError for neither."""
    if hints.grid is not None:
        if prod(hints.grid) != count or len(hints.grid) != axes:
            raise CheckpointError(f"{where}: grid={'x'.join(map(str, hints.grid))}, and there are {count} positions")
        return hints.grid
    edge = isqrt(count) if axes == 2 else round(count ** (1 / axes))
    if edge**axes != count:
        raise CheckpointError(
            f"{where}: its {count} positions are no {'square' if axes == 2 else 'cube'}; say the grid, as in "
            f"PATH::grid={'x'.join(['10'] * axes)}"
        )
    return (edge,) * axes


def positions_like(table: Tensor, grid: tuple[int, ...]) -> str:
    """(N, D) of a grid -> which of our positions it is: "sincos", "sequence", or "learned" for any other.

    Sines in float32 are off by 1e-5 at most; of a table all of whose numbers half precision can hold, by what that can:
    1e-3, or 8e-3 in bfloat16. One that was trained on from there, however little, is learned.
    """
    table, width = table.float(), table.shape[1]
    halves = ((torch.bfloat16, 8e-3), (torch.float16, 1e-3))  # the coarser first
    near = next((e for t, e in halves if torch.equal(table, table.to(t).float())), 1e-5)
    fixed: dict[str, Callable[[], Tensor]] = {
        "sincos": lambda: sincos(coordinates_of(grid), width),
        "sequence": lambda: SequenceSinCos(grid, width).table,
    }
    for name, make in fixed.items():
        if width >= 2 * len(grid) and (table - make()).abs().max() < near:
            return name
    return "learned"


def plain(channels: int) -> dict[str, Any]:
    """Statistics that change nothing."""
    return Statistics(mean=(0.0,) * channels, std=(1.0,) * channels).model_dump(mode="json")


def statistics_of(file: Foreign, channels: int, default: Statistics | None = IMAGENET) -> dict[str, Any]:
    """What a preprocessor_config.json beside the weights says; else `default` where it has as many channels."""
    mean, std = file.processor.get("image_mean"), file.processor.get("image_std")
    if isinstance(mean, list | tuple) and isinstance(std, list | tuple) and len(mean) == len(std) == channels:
        return Statistics(mean=tuple(mean), std=tuple(std)).model_dump(mode="json")
    if default is not None and len(default.mean) == channels:
        return default.model_dump(mode="json")
    return plain(channels)


def config_of(name: str, modality: Mapping[str, Any], model: Mapping[str, Any], where: str) -> Config:
    """Our config of a foreign model: one modality, its encoder and, where there is one, its decoder.

    Masks hide what the published recipe hides, or as much as leaves one token of a smaller grid.
    """
    if mask := modality.get("mask"):
        grid = grid_of(tuple(modality["size"]), tuple(modality["patch"]))
        # A tube is rounded to one place at least, by its masker.
        if mask["name"] != "tube" and prod(grid) * (1 - mask["ratio"]) < 1:
            modality = {**modality, "mask": {**mask, "ratio": (prod(grid) - 1) / prod(grid)}}
    return parse_config(
        {
            "modalities": {name: {"batch": 1, **modality}},
            "model": dict(model),
            "train": {"steps": 1, "precision": "fp32"},
        },
        where,
    )


def with_statistics(ours: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Our state dict with the two buffers of each modality, from the config's numbers."""
    for name, m in config.modalities.items():
        assert isinstance(m.data.statistics, Statistics)
        ours[f"modalities.{name}.mean"] = torch.tensor(m.data.statistics.mean)
        ours[f"modalities.{name}.std"] = torch.tensor(m.data.statistics.std)
    return ours


def only_modality(origin: Origin, name: str) -> tuple[Mapping[str, Tensor], Any]:
    """(weights, config of the modality), for `Format.write`. Raises CheckpointError for embedders of other names than
    'patch'."""
    modality = origin.config.modalities[name]
    if modality.embed.name != "patch":
        raise CheckpointError(
            f"{origin.where}: the embedder '{modality.embed.name}' has no counterpart elsewhere; only 'patch' has one"
        )
    return origin.weights, modality
