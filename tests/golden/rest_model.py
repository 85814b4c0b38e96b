"""Model: grids, masks of every kind, positions, targets, the transformer, modalities, losses and reconstructions."""

# ruff: noqa: BLE001, F402

from typing import Any

import torch
from golden.rest import Note, area, digest, told
from torch import Tensor

from mae_ext import plugins
from mae_ext.config import Config, parse_config
from mae_ext.engine.cpu import CpuLinear
from mae_ext.model import grid as g
from mae_ext.model import mask as m
from mae_ext.model import position as p
from mae_ext.model.grid import nearness
from mae_ext.model.target import PixelTarget
from mae_ext.model.transformer import Transformer, drop_path_gates
from mae_ext.model.uniformity import uniformity

GRIDS = ((7,), (8,), (4, 4), (3, 5), (6, 4), (2, 3, 4), (4, 2, 6), (3, 3, 3))
RATIOS = (0, 0.1, 0.25, 0.5, 0.6, 0.75, 0.9, 0.95, 0.99, 1.0, -0.1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers."""
    return torch.randn(shape, generator=generator(seed))


def marks(*arrays: Tensor) -> list[Any]:
    """Of each array all that is kept but its shape."""
    return [told(torch.cat([a.flatten(), a.new_zeros(7)])) for a in arrays]


def config_of(modalities: dict[str, Any], train: dict[str, Any] | None = None, **model: Any) -> Config:
    """A small config of pretraining."""
    shape = {"width": 12, "depth": 2, "heads": 2, "decoder": {"width": 12, "depth": 1, "heads": 2}, **model}
    return parse_config(
        {
            "seed": 3,
            "modalities": {n: {"batch": 4, **v} for n, v in modalities.items()},
            "model": shape,
            "train": {"steps": 4, "precision": "fp32", "device": "cpu", **(train or {})},
        }
    )


IMAGE = {"size": [8, 12], "patch": [4, 4], "channels": 2}
CLIP = {"size": [4, 8, 8], "patch": [2, 4, 4], "channels": 1}


@area()
def grids(note: Note) -> None:
    for size, patch in (
        ((8, 12), (4, 4)),
        ((8, 12), (4, 5)),
        ((8,), (4, 4)),
        ((8, 0), (4, 4)),
        ((8, 8), (0, 4)),
        ((4, 4), (4, 4)),
        ((4, 4), (8, 4)),
        ((4, 6, 8), (2, 3, 4)),
    ):
        note(f"grid_of {size} {patch}", lambda size=size, patch=patch: g.grid_of(size, patch))
    for size, patch, channels in (((4, 6), (2, 3), 2), ((6,), (2,), 1), ((2, 4, 6), (1, 2, 3), 3)):
        x = numbers(2, channels, *size)
        grid = g.grid_of(size, patch)
        index = torch.tensor([[2, 0], [1, 1]])
        note(f"patchify {size} {patch} {channels}", g.patchify(x, patch))
        note(f"take_patches {size} {patch} {channels}", g.take_patches(x, patch, index))
        note(
            f"unpatchify {size} {patch} {channels}",
            float((g.unpatchify(g.patchify(x, patch), grid, patch) - x).abs().max()),
        )
        note(f"take {size}", g.take(g.patchify(x, patch), index))
    for grid in GRIDS:
        total = int(torch.tensor(grid).prod())
        note(f"unravel {grid}", torch.stack(g.unravel(torch.arange(total), grid)))


@area()
def counts(note: Note) -> None:
    for ratio in RATIOS:
        totals = (1, 2, 3, 9, 10, 49, 196, 1568)
        note(f"num_keep {ratio}", {n: lambda n=n, ratio=ratio: m.num_keep(n, ratio) for n in totals})
        note(f"whole_keep {ratio}", {n: lambda n=n, ratio=ratio: m.whole_keep(n, ratio) for n in totals})
    scores = torch.tensor([[[0.5, 0.1, 0.5], [0.1, 0.9, 0.5]], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    other = scores.flip(2)
    for keep in range(1, 6):
        note(f"from_scores keep {keep}", m.from_scores(scores, keep))
        note(f"hidden keep {keep}", m.from_scores(scores, keep).hidden())
        for ratio in (0.0, 0.3, 0.5, 0.9):
            note(
                f"from_scores keep {keep} decode {ratio}",
                lambda k=keep, r=ratio: m.from_scores(scores, k, other, m.num_keep(6 - k, r)),
            )
        for decoded in (0, 1, 3):
            note(f"from_scores keep {keep} decoded {decoded}", m.from_scores(scores, keep, other, decoded))


MASKERS: dict[str, list[dict[str, Any]]] = {
    "random": [{}, {"ratio": 0.5}, {"ratio": 0}],
    "block": [
        {},
        {"ratio": 0.75},
        {"ratio": 0.5, "min_share": 0.3, "max_share": 0.3},
        {"aspect": 1.0},
        {"aspect": 9.0, "ratio": 0.4},
        {"min_share": 0.4},
        {"min_share": 0},
        {"max_share": 1.1},
        {"aspect": 0.9},
        {"max_share": 1.0},
    ],
    "grid": [{}, {"ratio": 0.5}, {"ratio": 0.9}, {"ratio": 0.1}],
    "foreground": [
        {},
        {"ratio": 0.5, "body_ratio": 0.9},
        {"body_ratio": 0.0},
        {"ratio": 0.5, "body_ratio": 1.0},
        {"ratio": 0.5, "min_share": 0.5},
        {"min_share": 1.0},
        {"body_ratio": 1.1},
        {"body_ratio": -0.1},
        {"min_share": 1.5},
    ],
    "tube": [{}, {"ratio": 0.5}, {"ratio": 0.5, "axis": 1}, {"ratio": 0.5, "axis": -1}, {"axis": 3}, {"axis": -4}],
    "frame": [{}, {"ratio": 0.5}, {"ratio": 0.5, "axis": 1}, {"ratio": 0.5, "axis": -1}, {"axis": 2}],
    "causal": [{}, {"ratio": 0.7}, {"ratio": 0.6, "axis": 1}, {"ratio": 0.6, "axis": -1}, {"axis": 2}],
    "running_cell": [{}, {"ratio": 0.75}, {"ratio": 0.5, "axis": 1}, {"ratio": 0.5, "axis": -1}, {"axis": 3}],
}


@area()
def masks(note: Note) -> None:
    for name, arguments in MASKERS.items():
        for given in arguments:
            words = f"{name} {given}"
            try:
                masker = plugins.maskers.build(name, given, "mask")
            except Exception as error:
                note(words, str(error))
                continue
            every: dict[Any, Any] = {}
            for grid in GRIDS[1:]:
                cells = int(torch.tensor(grid).prod())

                def order(seed: int, valid: Any = None, masker: Any = masker, grid: Any = grid) -> Tensor:
                    return masker.scores(grid, generator(seed), valid).flatten().argsort(stable=True)

                values: dict[str, Any] = {"keeps": lambda masker=masker, grid=grid: masker.num_keep(grid)}
                values |= {f"seed {seed}": lambda seed=seed, order=order: order(seed) for seed in (1, 2)}
                if name == "foreground":
                    parts = {
                        "half": (torch.arange(cells) % 3).view(grid) / 2,
                        "none": torch.zeros(grid),
                        "all": torch.ones(grid),
                    }
                    parts["one"] = (torch.arange(cells) == 1).view(grid).float()
                    values |= {f"valid {k}": lambda v=v, order=order: order(4, v) for k, v in parts.items()}
                if hasattr(masker, "groups"):
                    values["groups"] = lambda masker=masker, grid=grid: masker.groups(grid)
                every[grid] = digest(values)
            note(words, every)


@area()
def decoding(note: Note) -> None:
    pairs = [
        (a, b)
        for a in ("random", "tube", "frame", "causal", "foreground")
        for b in ("random", "tube", "frame", "running_cell")
    ]
    for a, b in pairs:
        for ratio, answered in ((0.5, 0.5), (0.75, 0.5), (0.75, 0.9), (0.5, 0.99), (0.0, 0.5), (0.9, 0)):
            for axis in (0, 1):

                def both(
                    a: str = a, b: str = b, ratio: float = ratio, answered: float = answered, axis: int = axis
                ) -> Any:
                    masker = plugins.maskers.build(a, {"ratio": ratio}, "mask")
                    along = {"axis": axis} if b != "random" else {}
                    decode = plugins.maskers.build(b, {"ratio": answered, **along}, "decode")
                    m.check_masks(masker, decode, (4, 3, 2))
                    return m.num_decoded(masker, decode, (4, 3, 2))

                if b == "random" and axis:
                    continue
                note(
                    f"{a} {ratio} decode {b} {answered} axis {axis}",
                    digest(both),
                )


@area()
def positions(note: Note) -> None:
    index = torch.tensor([[0, 3, 5], [1, 2, 4]])
    for coordinates, width in (
        (numbers(5, 1), 6),
        (numbers(5, 2), 8),
        (numbers(4, 3), 16),
        (numbers(4, 3), 5),
        (numbers(2, 2), 10),
    ):
        for base in (10000.0, 100.0):
            note(
                f"sincos {tuple(coordinates.shape)} {width} {base}",
                lambda c=coordinates, w=width, b=base: p.sincos(c * 9, w, b),
            )
    for grid in GRIDS[2:]:
        note(f"coordinates_of {grid}", p.coordinates_of(grid))
    table = numbers(6, 4)
    for wanted in ((2, 3), (4, 6), (1, 3), (3, 3), (2, 2), (5, 7)):
        note(f"resampled {wanted}", p.resampled(table, (2, 3), wanted))
    for name in plugins.positions.builtins:
        for width in (8, 9, 1):
            for grid in ((2, 3), (2, 2, 2), (3, 2)):
                for extra in ({}, {"unit": 2.5}, {"unit": 0}, {"unit": -1.0}) if name == "sincos" else ({},):

                    def placed(name: str = name, width: int = width, grid: Any = grid, extra: Any = extra) -> Any:
                        torch.manual_seed(5)
                        place = plugins.positions.build(name, extra, "position", grid=grid, width=width)
                        step = numbers(2, len(grid)).abs() + 1
                        bigger = tuple(n + 1 for n in grid)
                        return [place(index, step), place(index, step, bigger), place.any_size]

                    note(f"{name} width {width} grid {grid} {extra}", placed)
    note("no spacing", lambda: p.SinCos((2, 3), 8, 1.0)(index))
    torch.manual_seed(2)
    learned, separable = p.Learned((4, 5), 6), p.Separable((4, 5), 6)
    note("learned fitted", learned.fitted("table", numbers(6, 6), (2, 3)))
    note("separable fitted 0", separable.fitted("tables.0", numbers(3, 6), (3, 2)))
    note("separable fitted 1", separable.fitted("tables.1", numbers(2, 6), (3, 2)))
    note("learned std", float(p.Learned((40, 40), 8).table.std()))


@area()
def targets(note: Note) -> None:
    tokens = numbers(2, 3, 12) * torch.tensor([0.001, 1.0, 5.0])[:, None] + 2
    weight = (torch.arange(72).view(2, 3, 12) % 3 > 0).float()
    weight[0, 0], weight[0, 1] = 0, 1
    weight[1, 2] = 0
    weight[1, 2, :2] = 1
    tokens[1, 0] = 4.0
    for normalize in ("none", "mae", "channel", "layernorm", "other"):
        for floor, loss in ((0.0, "mse"), (0.5, "l1"), (-1.0, "mse")):
            for _ in (0,):
                for channels in (1, 2):

                    def made(n: str = normalize, f: float = floor, loss: str = loss, c: int = channels) -> Any:
                        target = PixelTarget((2, 6 // c), c, n, f, loss)
                        mean, divisor = target.statistics(tokens)
                        wm, wd = target.statistics(tokens, weight)
                        wanted = target(tokens, weight)
                        error = target.error(tokens * 0.3, target(tokens))
                        return [
                            target.pix,
                            *marks(mean, divisor, wm, wd, target.spread(divisor), target(tokens), wanted, error),
                        ]

                    note(f"{normalize} floor {floor} {loss} channels {channels}", made)
    note("loss l3", lambda: PixelTarget((2, 2), 1, loss="l3"))


@area()
def pairwise(note: Note) -> None:
    for b in (1, 2, 3, 6):
        for kind, files in (
            ("unknown", None),
            ("one", [0] * b),
            ("own", list(range(b))),
            ("pairs", [i // 2 for i in range(b)]),
        ):
            given = None if files is None else torch.tensor(files)
            note(f"uniformity of {b} files {kind}", lambda b=b, given=given: 1 + uniformity(numbers(b, 3, 4), given))
    hidden, visible = torch.tensor([[0, 5], [2, 3]]), torch.tensor([[1, 4, 6], [0, 7, 8]])
    note("nearness", nearness(hidden, visible, (3, 3)))


@area()
def transformer(note: Note) -> None:
    for rate, depth, batch in ((0.0, 2, 3), (0.3, 1, 4), (0.3, 4, 5), (0.9, 3, 8)):
        note(f"gates {rate} {depth} {batch}", drop_path_gates(rate, depth, batch, generator(3)))
    for ratio, eps, heads in ((4.0, 1e-6, 2), (2.5, 1e-2, 4), (1.0, 1e-6, 1)):
        torch.manual_seed(1)
        trunk = Transformer(8, 3, heads, ratio, eps)
        x = numbers(2, 5, 8).requires_grad_()
        gates = drop_path_gates(0.5, 3, 2, generator(6))
        for told, kind in (("plain", None), ("gates", gates)):
            out = trunk(x, kind)
            grads = torch.autograd.grad((out * numbers(*out.shape, seed=8)).sum(), [x, *trunk.parameters()])
            note(f"trunk {ratio} {eps} {heads} {told}", [out, trunk.layers(x, [1, 2], kind), *grads[:9]])
            trunk.checkpointing = True
            note(f"trunk {ratio} {eps} {heads} {told} checkpointed", trunk(x, kind))
            trunk.checkpointing = False
        with torch.autocast("cpu", torch.bfloat16):
            note(f"trunk {ratio} {eps} {heads} bf16", [round(float(trunk(x).float().square().mean()), 2)])
    for before in (None, torch.nn.functional.gelu, torch.nn.LayerNorm(6, eps=0.1), torch.tanh):
        torch.manual_seed(2)
        layer = CpuLinear(6, 4)
        x = numbers(3, 5, 6).requires_grad_()
        out = layer(x, before)
        extra = list(before.parameters()) if isinstance(before, torch.nn.Module) else []
        note(
            f"linear {getattr(before, '__name__', type(before).__name__)}",
            [out, *torch.autograd.grad(out.square().sum(), [x, *layer.parameters(), *extra])],
        )
