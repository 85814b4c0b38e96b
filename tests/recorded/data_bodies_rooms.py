# ruff: noqa: E501, PLC3002 - tables of inputs, a line for each
"""Intensities, bodies and streams of gzip: what is made of voxels."""

import gzip
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from recorded.record import digest, each, joined, room

from mae_ext.data.volume import foreground, inflate, intensity, scan


@room
def data_intensities(_: Path) -> Iterator[tuple[str, Any]]:
    chance = np.random.default_rng(21)
    x = chance.normal(100, 300, (2, 4, 5, 6)).astype(np.float32)
    x[0, 0, 0, 0] = 5000
    seen = intensity.Foreground((3.5, 100.0), (2.0, 300.0), (x[0].ravel(), x[1].ravel()), ((0.0, 1.0),) * 2)
    flat = intensity.Foreground((3.5, 2.0), (0.0, 1e-9), (np.full(9, 4, np.float32), x[1].ravel()), ((1.0, 6.0),) * 2)
    specs: dict[str, Any] = {
        "zscore": "zscore", "percentile": "percentile", "none": "none", "window": "window", "unknown": "other",
        "clip 2": {"name": "zscore", "clip": 2.0}, "no clip": {"name": "zscore", "clip": None},
        "clip 0": {"name": "zscore", "clip": 0}, "clip below 0": {"name": "zscore", "clip": -1},
        "5 to 90": {"name": "percentile", "low": 5, "high": 90}, "0 to 100": {"name": "percentile", "low": 0, "high": 100},
        "low alone": {"name": "percentile", "low": 30}, "high alone": {"name": "percentile", "high": 70},
        "50 to 50": {"name": "percentile", "low": 50, "high": 50}, "to 100.1": {"name": "percentile", "high": 100.1},
        "from -0.1": {"name": "percentile", "low": -0.1}, "one window": {"name": "window", "windows": [[-175, 250]]},
        "two windows": {"name": "window", "windows": [[-160, 240], [-1350, 150]]}, "no window": {"name": "window", "windows": []},
        "empty window": {"name": "window", "windows": [[5, 5]]}, "turned window": {"name": "window", "windows": [[6, 5]]},
        "unnamed": {"clip": 3}, "other argument": {"name": "zscore", "low": 3},
    }  # fmt: skip
    for label, spec in specs.items():
        for channels in (1, 2, 3):
            yield (
                f"sources of {label} for {channels}",
                lambda s=spec, c=channels: intensity.build_intensity(s).sources(c),
            )
        for what, of in (("some", seen), ("constant", flat)):

            def fitted(spec: Any = spec, of: Any = of) -> Any:
                levels = intensity.build_intensity(spec).fit(2, lambda: of)
                return joined(
                    [
                        levels(x),
                        levels.shift,
                        levels.scale,
                        levels.channel,
                        np.nan_to_num([levels.low, levels.high], posinf=9e9, neginf=-9e9),
                    ]
                )

            yield f"{label} of {what}", fitted
    for body in (None, "otsu", "nonzero", "other", 0, -500, -500.5, True, float("nan"), float("inf"), [1]):
        yield f"body {body!r}", lambda b=body: [intensity.check_body(b)]
    for values in (None, [1, 2, 3], [1, 2], [1, 0, 1], [1, -1, 1], [0.5] * 4, []):
        yield f"lengths {values}", lambda v=values: intensity.check_lengths("spacing", v)
    yield "two lengths", lambda: intensity.check_lengths("size", [1, 2], 2)


@room
def data_foregrounds(_: Path) -> Iterator[tuple[str, Any]]:
    chance = np.random.default_rng(22)
    z, y, x = np.mgrid[:6, :20, :24]
    ball = ((y - 10) ** 2 / 49 + (x - 12) ** 2 / 64 < 1) & (z > 0)
    lungs = ((y - 10) ** 2 + (x - 9) ** 2 < 5) | ((y - 11) ** 2 + (x - 15) ** 2 < 4)
    ct = np.where(ball, np.where(lungs, -800, 40), -1000) + chance.integers(-30, 30, ball.shape)
    ct[2, 3, :] = 30
    ct[:, 1, 1] = 500
    mr = np.where(ball, chance.normal(200, 40, ball.shape), chance.normal(0, 5, ball.shape)).clip(0)
    zero = np.where(ball, chance.integers(1, 900, ball.shape), 0)
    open_lung = ct.copy()
    open_lung[:, 10, :9] = -1000
    several = np.stack([np.where(x < 12, zero, 0), np.where(y < 10, zero, 0)])
    inputs: dict[str, tuple[np.ndarray, float, float]] = {
        "ct": (ct[None].astype(np.int16), 1, 0), "ct of levels": ((ct[None] + 1024).astype(np.uint16), 1, -1024),
        "ct, doubled": (((ct[None] + 1024) // 2).astype(np.int16), 2, -1024), "opened": (open_lung[None].astype(np.int16), 1, 0),
        "mr": (mr[None].astype(np.float32), 1, 0), "mr, slope 0.1": (mr[None].astype(np.int16), 0.1, 0), "mr, negative": (-mr[None].astype(np.int16), -1, 0),
        "stripped": (zero[None].astype(np.int16), 1, 0), "stripped of 7": ((zero[None] + 7).astype(np.int16), 0.5, -3.5),
        "stripped, floats": ((zero[None] + 0.1).astype(np.float32), 0.3, -0.03), "two channels": (several.astype(np.int16), 1, 0),
        "thirds": ((zero[None] * 3 + 5).astype(np.int16), 1 / 3, -5 / 3), "next level": (np.where(ball, 1, 0)[None].astype(np.uint8) + 3, 0.5, -1.5),
        "off by a third": ((zero[None] > 0).astype(np.int16) + 4, 0.75, -2.75), "steps of 2": (np.where(ball, 4, 3)[None].astype(np.int16), 2, -7.0),
    }  # fmt: skip
    holes = np.zeros(ball.shape, bool)
    holes[2:4, 8:12, 4:9] = True
    for (label, (voxels, slope, inter)), body in product(inputs.items(), ("otsu", "nonzero", -500, 0.0, 100)):
        for what, finite in (("", ~np.zeros(ball.shape, bool)), (", holes", ~holes)):
            yield (
                f"body of {label}{what}, {body}",
                lambda v=voxels, s=slope, i=inter, f=finite, b=body: [
                    int((m := foreground.body_mask(v, s, i, f, b)).sum()),
                    digest(m),
                ],
            )
    for label, (voxels, slope, inter) in inputs.items():
        for what, valid in (
            ("all", np.ones(ball.shape, bool)),
            ("ball", ball),
            ("none", np.zeros(ball.shape, bool)),
            ("one", (z == 3) & (y == 7) & (x == 5)),
        ):

            def seen(v: Any = voxels, s: float = slope, i: float = inter, valid: Any = valid) -> Any:
                found = foreground.measured(v, s, i, valid, np.array([[0, 9]] * len(v), np.float32))
                return [joined([found.mean, found.std]), joined(found.values)]

            yield f"measured {label}, {what}", seen
        yield (
            f"survey of {label}",
            lambda v=voxels, s=slope, i=inter: (lambda r: [r[0][:, 0], int(r[1].sum())])(
                foreground.survey("a", v, s, i, 0.999)
            ),
        )
        yield f"otsu of {label}", lambda v=voxels: foreground.otsu(v.astype(np.float32).ravel())
    odd = np.stack([mr, mr + 1]).astype(np.float64)
    odd[0, 1, 2, 3], odd[1, 4, 5, 6], odd[0, 5, 0, 0], odd[1, 0, 0, :3] = (
        np.nan,
        np.inf,
        -np.inf,
        (1e12, 1.0001e12, -2e12),
    )
    for share in (0.0, 0.99, 1 - 5.0 / mr.size, 1 - 4.9 / mr.size, 1.0):
        for slope in (1, -2.0):

            def surveyed(share: float = share, slope: float = slope) -> Any:
                ends, good = foreground.survey("a", odd, slope, 3.0, share)
                return [ends[:, 0], int(good.sum()), digest(good)]

            yield f"survey with {share:.6f} finite, slope {slope}", surveyed
    yield "survey of one value", lambda: foreground.survey("a", np.full((1, 2, 2, 2), 3), 1, 0, 0.9)
    yield "survey of one value in a channel", lambda: foreground.survey("a", np.stack([zero, zero * 0]), 1, 0, 0.9)
    yield "usable", foreground.usable(np.array([1e12, -1e12, 1.001e12, np.nan, np.inf, 0], np.float32))
    for dtype, slope, inter in product(("i2", "f4", "f8", "u1"), (1, 2.5, 1e30), (0, -7)):
        yield (
            f"scaled {dtype} {slope} {inter}",
            [str((s := foreground.scaled(np.array([1, 2, 200]).astype(dtype), slope, inter)).dtype), s],
        )
    for slope, kind in product((1, -1), ("some", "all", "none", "one channel")):
        mask = np.zeros((2, 2, 3, 4), bool)
        mask[0, 1, 1] = kind == "some"
        mask[0] |= kind == "all"
        mask[1, 0, 0, 2] = kind in ("some", "one channel")
        yield (
            f"padding: {kind}, slope {slope}",
            lambda m=mask, s=slope: [
                *foreground.without_padding("a", np.ma.MaskedArray(np.arange(48).reshape(2, 2, 3, 4), m), s)
            ],
        )
    yield "no padding", lambda: [*foreground.without_padding("a", np.arange(4).reshape(1, 1, 2, 2), 1)]
    for number in range(8):
        above = chance.random((3, 9, 11)) < (0.3, 0.5, 0.7, 0.85)[number % 4]
        yield f"silhouette {number}", digest(foreground.silhouette(above))
    for shape in ((1, 1, 1), (1, 2, 2), (2, 1, 5), (1, 2, 6)):
        yield f"silhouette of {shape}", foreground.silhouette(np.ones(shape, bool))
    for count, most in (
        (1, 1),
        (128, 128),
        (129, 128),
        (256, 128),
        (257, 128),
        (0, 5),
        (1 << 20, 1 << 20),
        ((1 << 20) + 1, 1 << 20),
    ):
        yield (
            f"spread over {count} of {most}",
            [foreground.spread_over(count, most).step, foreground.spread_over(count).step],
        )


@room
def data_inflate(_: Path) -> Iterator[tuple[str, Any]]:
    content = bytes(range(256)) * 9
    packed = gzip.compress(content, mtime=0)
    for label, given in {
        "plain": content,
        "packed": packed,
        "twice": packed * 2,
        "padded": packed + bytes(9),
        "cut": packed[:-9],
        "empty": b"",
        "tail": packed + packed[:12],
        "wrong": packed[:-5] + b"x" + packed[-4:],
        "broken": packed[:30] + b"\xff\xff\xff\xff" + packed[34:],
    }.items():
        for asked in (
            (0,),
            (10, 20),
            (len(content),),
            (len(content) + 1,),
            (len(content) - 1, 1),
            (2 * len(content),),
            (10**9,),
        ):

            def taken(compressed: bool | None, given: bytes = given, asked: tuple[int, ...] = asked) -> Any:
                source = inflate.Source("a", given, compressed)
                found = [digest(source.read(n).tobytes()) for n in asked]
                source.finish()
                return found

            name = f"{label}, {asked}, compressed or not"
            yield name, lambda t=taken: each(*(lambda c=c: t(c) for c in (None, True, False)))
    most = inflate.MAX_TRAILING
    for more in (most - 1, most, most + 1):
        yield (
            f"{more} bytes behind",
            lambda m=more: (
                s := inflate.Source("a", gzip.compress(bytes(10) + bytes(m), 1)),
                s.read(10).sum().item(),
                s.finish(),
            )[1:],
        )
    for left in (0, 1, 2):
        for count in ((left + 64) * 1032, (left + 64) * 1032 + 1):
            yield f"{count} expected of {left}", lambda n=left, c=count: inflate.Source("a", bytes(n), True).expect(c)
    for declared_ in (
        {},
        {"shape": (3, 4)},
        {"shape": (3, 4, 5, 1, 2)},
        {"dtype": np.dtype("f2")},
        {"dtype": np.dtype("c8")},
        {"dtype": np.dtype("f16")},
        {"dtype": np.dtype(">i4")},
        {"shape": (3, 4, 5, 2)},
        {"shape": (3, 4, 5, 2), "contrast": "echoes"},
        {"shape": (2, 3, 4, 5), "spatial": (1, 2, 3)},
        {"shape": (2, 3, 4, 5), "spatial": (1, 2, 3), "slowest_first": True},
        {"shape": (3, 4, 5, 2, 2)},
    ):
        found = scan.Declared(
            **{
                "format": "x",
                "shape": (3, 4, 5),
                "dtype": np.dtype("i2"),
                "affine": np.eye(4),
                "load": lambda: None,
                **declared_,
            }
        )
        label = " ".join(f"{k}={v}" for k, v in declared_.items())
        size = found.size_bytes
        for limit in (size - 1, size):
            yield f"checked {label}, {limit - size}", lambda f=found, b=limit: scan.check("a", f, b)
        asked = ((None, None), (3, None), (-1, None), (None, 0), (0, None), (None, 3), (3, 0))
        yield (
            f"axis of {label}",
            lambda f=found, a=asked: each(*(lambda ct=ct: scan.pick_axis("a", f, *ct) for ct in a)),
        )
