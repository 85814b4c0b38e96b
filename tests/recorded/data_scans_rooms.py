# ruff: noqa: E501, PLC3002 - tables of inputs, a line for each
"""Scans: intensities, bodies, every reader of volumes, label maps of scans, and what is said of odd headers."""

import gzip
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from data.volume import placed_scans
from recorded.record import digest, each, joined, room

from mae_ext.data.crops import FixedCrop, center_sampler
from mae_ext.data.sample import Crop
from mae_ext.data.sources import meant
from mae_ext.data.volume import doubts, foreground, inflate, intensity, scan
from mae_ext.data.volume import labels as label_volume
from mae_ext.data.volume.reader import VolumeReader


def box(start: tuple[int, ...], stop: tuple[int, ...], flip: tuple[bool, ...] = (False,) * 3) -> Callable[..., Crop]:
    return lambda _: Crop(start, stop, flip)


def whole(extent: tuple[int, ...]) -> Crop:
    return Crop((0,) * len(extent), extent, (False,) * len(extent))


@room
def data_intensities(_: Path) -> Iterator[tuple[str, Any]]:
    chance = np.random.default_rng(21)
    x = chance.normal(100, 300, (2, 4, 5, 6)).astype(np.float32)
    x[0, 0, 0, 0] = 5000
    seen = intensity.Foreground((3.5, 100.0), (2.0, 300.0), (x[0].ravel(), x[1].ravel()))
    flat = intensity.Foreground((3.5, 2.0), (0.0, 1e-9), (np.full(9, 4, np.float32), x[1].ravel()))
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
                found = foreground.measured(v, s, i, valid)
                return [joined([found.mean, found.std]), joined(found.values)]

            yield f"measured {label}, {what}", seen
        yield (
            f"survey of {label}",
            lambda v=voxels, s=slope, i=inter: (lambda r: [r[0], int(r[1].sum())])(
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
                least, good = foreground.survey("a", odd, slope, 3.0, share)
                return [least, int(good.sum()), digest(good)]

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


# Readers --------------------------------------------------------------------------------------------------------------

SHAPE = (7, 6, 5)


def numbers(shape: tuple[int, ...] = SHAPE, dtype: str = "i2", seed: int = 1) -> np.ndarray:
    found = np.random.default_rng(seed).integers(0, 1000, shape)
    return (found % 250 if dtype in ("u1", "i1") else found).astype(dtype)


def field(**values: Any) -> Callable[[Any], None]:
    def fix(header: Any) -> None:
        for key, value in values.items():
            name, _, at = key.partition("__")
            if at:
                header[name][int(at)] = value
            else:
                header[name] = value

    return fix


def niftis(folder: Path) -> Iterator[tuple[str, str]]:
    made = placed_scans.nifti
    place, turn = placed_scans.PLACE, placed_scans.TURN
    flipped = place * [[-1], [-1], [1], [1]]
    shifted = place.copy()
    shifted[1, 3] += 3
    near = place.copy()
    near[1, 3] += 0.06
    far = place.copy()
    far[2, 3] += 0.3
    options: dict[str, dict[str, Any]] = {
        "plain": {}, "version 2": {"version": 2}, "big-endian": {"order": ">"}, "big-endian 2": {"order": ">", "version": 2},
        "flipped": {"sform": flipped, "qform": flipped}, "turned": {"sform": turn @ place, "qform": turn @ place},
        "tilted 0.05": {"sform": placed_scans.tilted(0.05)}, "tilted 12": {"sform": placed_scans.tilted(12)}, "tilted 0.2 alone": {"sform": placed_scans.tilted(0.2), "codes": (1, 0)},
        "tilted 0.004 alone": {"sform": placed_scans.tilted(0.004), "codes": (1, 0)}, "tilted 0.03, code 1": {"sform": placed_scans.tilted(0.03), "qform": shifted},
        **{f"tilted {d} alone": {"sform": placed_scans.tilted(d), "codes": (1, 0)} for d in (0.0056, 0.0058, 0.05, 0.0999, 0.1001)},
        "no codes": {"codes": (0, 0)}, "sform alone": {"codes": (2, 0)}, "qform alone": {"codes": (0, 1)}, "codes 2 and 3": {"codes": (2, 3)},
        "shifted qform": {"qform": shifted}, "shifted qform, code 2": {"qform": shifted, "codes": (2, 1)}, "shifted qform, tilted": {"sform": placed_scans.tilted(5), "qform": shifted}, "near qform": {"qform": near}, "far qform": {"qform": far},
        "qfac": {"codes": (0, 1), "fix": field(pixdim__0=-1)}, "qfac 0": {"codes": (0, 1), "fix": field(pixdim__0=0)}, "qfac 3": {"codes": (0, 1), "fix": field(pixdim__0=3)}, "bad quaternion": {"fix": field(quatern_b=2)},
        "bad quaternion alone": {"codes": (0, 1), "fix": field(quatern_b=2)},
        **{f"units {u}": {"fix": field(xyzt_units=u)} for u in (0, 1, 2, 3, 10, 9, 19, 17, 4)}, "metres, no codes": {"codes": (0, 0), "fix": field(xyzt_units=3)},
        "slope 0": {"fix": field(scl_slope=0, scl_inter=5)}, "slope 2": {"fix": field(scl_slope=2, scl_inter=-1024)}, "slope nan": {"fix": field(scl_slope=np.nan)}, "inter inf": {"fix": field(scl_inter=np.inf)},
        "slope 1e9": {"fix": field(scl_slope=1e9)}, "slope 2e9": {"fix": field(scl_slope=2e9)}, "slope 1e-17": {"fix": field(scl_slope=1e-17)}, "slope 1e-19": {"fix": field(scl_slope=1e-19)}, "inter 1e9": {"fix": field(scl_inter=1e9)}, "inter -2e9": {"fix": field(scl_inter=-2e9)}, "slope -1": {"fix": field(scl_slope=-1)},
        "offset 368": {"fix": field(vox_offset=368)}, "offset 0": {"fix": field(vox_offset=0)}, "offset 300": {"fix": field(vox_offset=300)}, "offset 348": {"fix": field(vox_offset=348)}, "offset 352.5": {"fix": field(vox_offset=352.5)}, "offset -1": {"fix": field(vox_offset=-1)}, "offset 2e8": {"fix": field(vox_offset=2e8)},
        "dim 0": {"fix": field(dim__0=0)}, "dim 8": {"fix": field(dim__0=8)}, "dim 2": {"fix": field(dim__0=2)}, "dim 7": {"fix": field(dim__0=7)}, "no voxels": {"fix": field(dim__2=0)}, "one slice": {"fix": field(dim__3=1)}, "more voxels": {"fix": field(dim__3=6)},
        "pixdim 0": {"fix": field(pixdim__1=0)}, "pixdim nan": {"fix": field(pixdim__2=np.nan)}, "rgb": {"fix": field(datatype=128)}, "rgba": {"fix": field(datatype=2304)}, "complex": {"fix": field(datatype=32)}, "cifti": {"fix": field(intent_code=3001)}, "pair": {"fix": field(magic=b"ni1")}, "no magic": {"fix": field(magic=b"")}, "odd type": {"fix": field(datatype=1536)}, "unknown type": {"fix": field(datatype=77)},
    }  # fmt: skip
    for length in (0.0099, 0.01, 49.99, 50.0, 50.1):
        options[f"voxels of {length} mm"] = {
            "sform": np.diag([length, 1, 1, 1.0]),
            "qform": np.diag([length, 1, 1, 1.0]),
        }
    for solid in (0.049, 0.051):
        sheared = np.eye(4)
        sheared[:2, 1] = np.sqrt(1 - solid**2), solid
        options[f"solidity {solid}"] = {"sform": sheared, "codes": (1, 0)}
    sheared = np.diag([1.0, 1, 0, 1])
    options["singular"] = {"sform": sheared, "codes": (1, 0)}
    options["a place that is not finite"] = {"fix": field(srow_x__0=np.nan)}
    for label, given in options.items():
        path = folder / f"{label}.nii"
        yield label, made(path, **{"data": numbers(), **given})
    for dtype in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"):
        yield f"type {dtype}", made(folder / f"{dtype}.nii.gz", data=numbers(dtype=dtype))
        yield f"type {dtype}, big-endian", made(folder / f"{dtype}b.nii", data=numbers(dtype=dtype), order=">")
    for shape in (
        (7, 6, 5, 1),
        (7, 6, 5, 3),
        (7, 6, 5, 2),
        (7, 6, 5, 1, 2),
        (7, 6, 5, 4, 2),
        (7, 6),
        (2, 2, 2),
        (7, 1, 5),
        (1, 6, 5),
    ):
        yield f"shape {shape}", made(folder / f"{'x'.join(map(str, shape))}.nii", data=numbers(shape))
    good = Path(made(folder / "good.nii.gz", data=numbers(seed=2))).read_bytes()
    plain = gzip.decompress(good)
    odd = {
        "two members": gzip.compress(plain[:300]) + gzip.compress(plain[300:]), "zero padding": good + bytes(100), "rubbish after": good + b"x" * 100,
        "cut": good[:-20], "cut by its checksum": good[:-8], "wrong checksum": good[:-6] + bytes([good[-6] ^ 1]) + good[-5:], "more voxels behind": gzip.compress(plain + bytes(50)), "gzip of nothing": gzip.compress(b""),
        "header alone": gzip.compress(plain[:348]), "half a header": gzip.compress(plain[:100]),
    }  # fmt: skip
    for label, content in odd.items():
        (folder / f"{label}.nii.gz").write_bytes(content)
        yield f"packed: {label}", str(folder / f"{label}.nii.gz")
    for label, content in {
        "cut": plain[:-1],
        "longer": plain + b"12",
        "three bytes": b"abc",
        "empty": b"",
        "text": b"not a scan at all, by any means",
        "called .nii": good,
        "header alone": plain[:348],
    }.items():
        (folder / f"plain {label}.nii").write_bytes(content)
        yield f"plain: {label}", str(folder / f"plain {label}.nii")
    yield from mghs(folder)
    yield from nrrds(folder)


def mghs(folder: Path) -> Iterator[tuple[str, str]]:
    for label, (shape, dtype, affine) in {
        "plain": ((7, 6, 5), "f4", placed_scans.PLACE),
        "turned": ((5, 6, 7), "i2", placed_scans.TURN @ placed_scans.PLACE),
        "time": ((4, 5, 6, 3), "u1", placed_scans.PLACE),
        "int": ((4, 5, 6), "i4", placed_scans.PLACE),
    }.items():
        path = folder / f"mgh {label}.mgz"
        nib.MGHImage(numbers(shape, dtype).astype(dtype), affine.astype(np.float32)).to_filename(path)
        yield f"mgh {label}", str(path)
        content = bytearray(gzip.decompress(path.read_bytes()))
        for name, at, value in (
            ("no sides", 28, b"\0\0"),
            ("sides -1", 28, b"\xff\xff"),
            ("version 2", 0, b"\0\0\0\2"),
            ("type 9", 20, b"\0\0\0\x09"),
        ):
            if label == "plain":
                changed = bytes(content[:at]) + value + bytes(content[at + len(value) :])
                (folder / f"mgh {name}.mgh").write_bytes(changed)
                yield f"mgh {name}", str(folder / f"mgh {name}.mgh")
        (folder / f"mgh {label} cut.mgh").write_bytes(bytes(content[:290]))
        yield f"mgh {label}, cut", str(folder / f"mgh {label} cut.mgh")


def nrrds(folder: Path) -> Iterator[tuple[str, str]]:
    base = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": "7 6 5",
        "space directions": "(0.8,0,0) (0,0.9,0.1) (0,0,2.5)",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(-10,20,30)",
    }
    changes: dict[str, dict[str, Any]] = {
        "plain": {}, "ras": {"space": "RAS"}, "las": {"space": "LAS"}, "lps": {"space": "LPS"}, "long ras": {"space": "right-anterior-superior"}, "long las": {"space": "left-anterior-superior"}, "scanner": {"space": "scanner-xyz"}, "no space": {"space": None}, "no directions": {"space directions": None}, "no origin": {"space origin": None},
        "no endian": {"endian": None}, "no sizes": {"sizes": None}, "dimension 4": {"dimension": "4"}, "bzip2": {"encoding": "bzip2"}, "detached": {"data file": "a.raw"}, "datafile": {"datafile": "a.raw"},
        "line skip 0": {"line skip": "0"}, "line skip 1": {"line skip": "1"}, "byte skip": {"byte skip": "-1"}, "byteskip": {"byteskip": "4"}, "type block": {"type": "block"}, "two numbers": {"space origin": "(1,2)"}, "words": {"space origin": "(a,b,c)"},
        "gzip": {"encoding": "gzip"}, "gz": {"encoding": "gz"}, "big": {"endian": "big"}, "turned": {"space directions": "(0,0,2.5) (-0.8,0,0) (0,0.9,0)"}, "none first": {"dimension": "4", "sizes": "2 7 6 5", "space directions": "none (0.8,0,0) (0,0.9,0) (0,0,2.5)"}, "none last": {"dimension": "4", "sizes": "7 6 5 2", "space directions": "(0.8,0,0) (0,0.9,0) (0,0,2.5) none"}, "two directions": {"space directions": "(0.8,0,0) (0,0.9,0) none"},
        "sizes of 2": {"sizes": "7 6"}, "negative sizes": {"sizes": "7 -6 5"},
        **{f"type {t}": {"type": t} for t in ("int8", "uchar", "unsigned short", "int", "uint32", "longlong", "uint64", "float", "double")},
        **{f"units {u}": {"space units": u} for u in ('"mm" "mm" "mm"', '"um" "um" "um"', '"cm" "cm" "cm"', '"m" "m" "m"', '"mm" "cm" "mm"', '"inch" "inch" "inch"', '"" "" ""', '"???" "???" "???"', '"microns" "microns" "microns"')},
    }  # fmt: skip
    kinds = {
        "short": "i2",
        "int8": "i1",
        "uchar": "u1",
        "unsigned short": "u2",
        "int": "i4",
        "uint32": "u4",
        "longlong": "i8",
        "uint64": "u8",
        "float": "f4",
        "double": "f8",
    }
    for number, (label, change) in enumerate(changes.items()):
        fields = {k: v for k, v in {**base, **change}.items() if v is not None}
        shape = tuple(abs(int(n)) for n in fields.get("sizes", "7 6 5").split())
        data = (
            numbers(shape, kinds.get(fields["type"], "i2"))
            .astype((">" if fields.get("endian") == "big" else "<") + kinds.get(fields["type"], "i2"))
            .tobytes()
        )
        data = gzip.compress(data) if fields["encoding"] in ("gzip", "gz") else data
        ends = "\r\n" if label == "big" else "\n"
        text = ends.join(["NRRD0004", "# made: here", *(f"{k}: {v}" for k, v in fields.items()), "", ""])
        path = folder / f"n{number}.nrrd"
        path.write_bytes(text.encode() + data)
        yield f"nrrd {label}", str(path)
    (folder / "cut.nrrd").write_bytes(b"NRRD0004\ntype: short\n")
    yield "nrrd without end", str(folder / "cut.nrrd")
    (folder / "no.nrrd").write_bytes(b"NRRX0004\n\n")
    yield "nrrd that is none", str(folder / "no.nrrd")


def declared(reader: VolumeReader, address: str) -> Any:
    found = reader._declared(address)
    flags = digest(found.spatial, found.sided, found.code, found.contrast)
    return [
        str(found),
        joined([np.round(found.affine, 5) + 0.0, [found.slope, found.inter]]),
        flags,
        doubts.doubts(found),
    ]


def read(reader: VolumeReader, address: str, *crops: Any) -> Any:
    samples = reader.read(address, list(crops) or [whole])
    return [joined([*(s.x for s in samples), *(s.spacing for s in samples)]), digest([s.valid for s in samples])]


@room
def data_scan_files(folder: Path) -> Iterator[tuple[str, Any]]:
    """Each file as its header, its voxels as they lie in it, and as a label map."""
    plain = VolumeReader((6, 5, 7), 1, None, "none")
    for label, address in niftis(folder):
        yield label, lambda a=address: each(
            lambda: declared(plain, a), lambda: read(plain, a), lambda: plain._sided(a), lambda: digest(plain.label_map(a)),
            lambda: digest(plain.describe(a)),
        )  # fmt: skip


@room
def data_dicom(folder: Path) -> Iterator[tuple[str, Any]]:
    from recorded.dicom_inputs import folders

    plain = VolumeReader((6, 5, 7), 1, None, "none")
    over_time = VolumeReader((6, 5, 7), 1, None, "none", time_axis=-1, time="first")
    channels = VolumeReader((6, 5, 7), 2, None, "none", channel_axis=-1)
    for label, address in folders(folder):

        def opened(address: str = address) -> list[Any]:
            found = each(lambda: declared(plain, address), lambda: read(plain, address))
            several = "axes" in str(found[1])  # of which a config says what the fourth is
            return found + each(*(lambda r=r: read(r, address) for r in (over_time, channels) if several))

        yield label, opened


# Options of the reader ------------------------------------------------------------------------------------------------


def scans(folder: Path) -> dict[str, str]:
    chance = np.random.default_rng(4)
    z, y, x = np.mgrid[:20, :18, :14]
    ct = np.where((y - 9) ** 2 / 40 + (z - 10) ** 2 / 60 < 1, 40, -1000) + chance.integers(-40, 40, z.shape)
    mr = np.where(x > 4, chance.normal(300, 50, z.shape), 0).clip(0)
    holed = mr.copy()
    holed[3, 4, 5] = np.nan
    holed[:2, 0, 0] = np.inf
    turned = (
        placed_scans.TURN
        @ np.diag([-2.0, 1.0, 1.5, 1])
        @ np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    )
    made = {}
    for name, data, affine in (
        ("ct", ct.astype(np.int16), np.diag([-0.8, 0.9, 2.0, 1])), ("mr", mr.astype(np.float32), turned), ("holed", holed.astype(np.float32), np.diag([1.0, 1, 1, 1])),
        ("time", np.stack([mr, mr * 2, mr + 5, mr / 2], -1).astype(np.float32), np.diag([1.0, 2, 1, 1])), ("pair", np.stack([ct, -ct], -1).astype(np.int16), np.diag([1.0, 1, 2, 1])),
        ("flat", np.full((4, 5, 6), 7, np.int16), np.eye(4)), ("small", chance.integers(0, 99, (3, 2, 4)).astype(np.uint8), np.diag([2.0, 2, 3, 1])),
    ):  # fmt: skip
        made[name] = str(folder / f"{name}.nii.gz")
        nib.Nifti1Image(data, affine).to_filename(made[name])
    arrays = {
        "plain": numbers((3, 7, 6, 5), "f4"),
        "flags": numbers((2, 7, 6, 5)) > 500,
        "channels": numbers((2, 7, 6, 5, 2), "u2"),
        "first": numbers((2, 2, 7, 6, 5), "u2"),
        "flat": numbers((2, 7, 6)),
        "five": numbers((2, 7, 6, 5, 2, 2)),
    }
    np.savez(folder / "rows.npz", **arrays)
    made |= {f"rows {key}": f"{folder}/rows.npz::{key}::1" for key in arrays}
    made["rows beyond"], made["rows last"] = f"{folder}/rows.npz::plain::3", f"{folder}/rows.npz::plain::2"
    return made


WINDOW = {"name": "window", "windows": [[-160, 240]]}
OPTIONS: dict[str, dict[str, Any]] = {
    "the default": {}, "as stored": {"intensity": "none"}, "window": {"intensity": WINDOW}, "percentile": {"intensity": "percentile"},
    "1.5 mm": {"spacing": [1.5, 1.5, 1.5], "intensity": "none"}, "3 x 1 x 0.7": {"spacing": [3, 1, 0.7]}, "spacing of its own": {"spacing": [2, 0.9, 0.8], "intensity": "none"},
    "otsu": {"body": "otsu"}, "nonzero": {"body": "nonzero"}, "body -500": {"body": -500, "intensity": WINDOW}, "body 1e6": {"body": 1e6}, "all finite": {"min_finite": 1.0}, "half finite": {"min_finite": 0.5},
    "time mean": {"time_axis": 3}, "time first": {"time_axis": -1, "time": "first", "intensity": "none"}, "time middle": {"time_axis": 3, "time": "middle", "intensity": "none"}, "channels": {"channel_axis": 3, "channels": 2, "intensity": "none"}, "channel axis 0": {"channel_axis": 0, "channels": 2, "intensity": "none"}, "time axis 0": {"time_axis": 0, "time": "middle", "intensity": "none"},
    "channel axis -1": {"channel_axis": -1, "channels": 2}, "two of windows": {"channels": 2, "intensity": {"name": "window", "windows": [[0, 100], [-1000, 500]]}}, "array spacing": {"array_spacing": [3, 2, 1], "intensity": "none"}, "arrays at 1.5 mm": {"array_spacing": [3, 2, 1], "spacing": [1.5] * 3, "intensity": "none"}, "3 channels": {"channels": 3}, "few bytes": {"max_bytes": 5000},
}  # fmt: skip
CROPS: dict[str, Any] = {
    "whole": whole, "middle": center_sampler((5, 6, 4)), "beyond": box((-2, -1, -3), (6, 9, 5)), "flipped": box((1, 0, 2), (6, 6, 6), (True, False, True)), "flipped once": box((0, 1, 0), (5, 7, 4), (False, True, False)), "resized": box((0, 0, 0), (3, 12, 4)),
}  # fmt: skip


@room
def data_scan_options(folder: Path) -> Iterator[tuple[str, Any]]:
    made = scans(folder)
    for (label, options), (name, address) in product(OPTIONS.items(), made.items()):
        of_rows = name.startswith("rows") and label not in ("the default", "as stored", "few bytes")
        if of_rows != bool({"array_spacing", "channel_axis", "time_axis"} & options.keys()) and name not in (
            "time",
            "pair",
        ):
            continue

        def cut(options: Any = options, address: str = address) -> Any:
            reader = VolumeReader(**{"size": (5, 6, 4), **options})
            return read(reader, address, *CROPS.values())

        yield f"{name}: {label}", cut
    for name, options in product(("ct", "mr", "small", "holed"), ({}, {"spacing": [1.5, 1.5, 1.5]}, {"body": "otsu"})):

        def kept(name: str = name, options: Any = options) -> Any:
            reader = VolumeReader((5, 6, 4), cache=str(folder / "cache"), min_finite=0.9, **options)
            found = reader.prepared(made[name])
            again = VolumeReader((5, 6, 4), cache=str(folder / "cache"), min_finite=0.9, **options)
            return [
                read(reader, made[name], *CROPS.values()),
                read(again, made[name], *CROPS.values()),
                joined([found.fill, found.spacing]),
                digest(found.valid),
                str(found.voxels.dtype),
            ]

        yield f"prepared {name}: {options}", kept
    yield (
        "too large to prepare",
        lambda: VolumeReader((4, 4, 4), spacing=[0.1] * 3, cache=str(folder / "c"), max_bytes=20000).prepared(
            made["ct"]
        ),
    )
    for share, size in product((0.0, 0.2, 0.55, 0.9, 1.0), ((6, 5, 4), (12, 13, 15))):

        def fullest(share: float = share, size: tuple[int, int, int] = size) -> Any:
            reader = VolumeReader(size, body="otsu", min_body=share)
            scan_, found = reader._scan(made["ct"]), []
            for seed in range(8):
                places = np.random.default_rng(seed).random((1 + seed, 3)).tolist()
                some = FixedCrop(size, (0, 1, 2), center_sampler(size), tuple(map(tuple, places)))
                found.append(list(reader._box(scan_, some).start))
            return [found, list(reader._box(scan_, center_sampler(size)).start)]

        yield f"at least {share} of body in {size}", fullest
    for label, given in {
        "two axes": {"size": (4, 4)}, "size 0": {"size": (4, 0, 4)}, "time last": {"time": "last"}, "both axes": {"time_axis": 0, "channel_axis": 0}, "min_body 2": {"min_body": 2, "body": 0}, "min_body -1": {"min_body": -1}, "min_body without": {"min_body": 0.1}, "min_finite 1.1": {"min_finite": 1.1}, "no bytes": {"max_bytes": 0}, "spacing 0": {"spacing": [0, 1, 1]}, "array spacing 2": {"array_spacing": [1, 2]}, "array spacing none": {"array_spacing": None},
        "windows and channels": {"channels": 3, "intensity": {"name": "window", "windows": [[0, 1], [1, 2]]}},
    }.items():  # fmt: skip
        yield (
            f"made with {label}",
            lambda g=given: sorted(
                (k, str(v))
                for k, v in vars(VolumeReader(**{"size": (4, 4, 4), **g})).items()
                if not k.startswith("intensity")
            ),
        )
    base = VolumeReader((4, 4, 4))
    rules = {
        "base": {},
        **OPTIONS,
        "array spacing 2": {"array_spacing": [1, 2, 1]},
        "clip": {"intensity": {"name": "zscore", "clip": 3}},
        "size": {"size": (9, 9, 9)},
        "min_body": {"body": 0, "min_body": 0.1},
    }
    for label, given in rules.items():
        yield f"what the cache asks: {label}", str(VolumeReader(**{"size": (4, 4, 4), **given})._rule())
    yield "what the cache asks is what changes", lambda: list(base._rule())
    yield from labels_of_scans(folder, made)


def labels_of_scans(folder: Path, made: dict[str, str]) -> Iterator[tuple[str, Any]]:
    for name, spacing in product(
        ("ct", "mr", "small", "rows plain"), (None, [1.5, 1.5, 1.5], [3, 1, 0.7], [2.0004, 0.9, 0.8])
    ):
        reader = VolumeReader((4, 4, 4), spacing=spacing)
        extent = reader.extent(made[name])
        yield f"stored {name} at {spacing}", [extent.size, joined(extent.places), extent.stored_spacing]
        for most, as_stored in product((255, 256, 70000), (False, True)):

            def there_and_back(
                reader: Any = reader, name: str = name, most: int = most, as_stored: bool = as_stored
            ) -> Any:
                extent = (
                    reader.extent(made[name]).size if not as_stored else VolumeReader((4, 4, 4)).extent(made[name]).size
                )
                labels = (np.random.default_rng(9).integers(0, most + 1, extent)).astype(np.int32)
                labels.flat[0] = most
                path = folder / f"labels-{most}.nii.gz"
                reader.write_labels(labels, made[name], path, as_stored)
                content = path.read_bytes()
                again = reader.label_map(str(path), made[name], as_stored)
                return digest(gzip.decompress(content), content[4:10], again, str(nib.load(path).get_data_dtype()))

            yield f"labels up to {most} of {name} at {spacing}, stored {as_stored}", there_and_back
    shape, place = (6, 7, 8), np.diag([1.0, 1.0, 2.0, 1])
    like = folder / "like.nii.gz"
    nib.Nifti1Image(numbers(shape), place).to_filename(like)
    reader = VolumeReader((4, 4, 4))
    moves: dict[str, np.ndarray] = {}
    for mm in (0.2, 0.24, 0.26, 0.3, 0.49, 0.51):
        moved = place.copy()
        moved[0, 3] = mm
        moves[f"moved {mm}"] = moved
        moves[f"moved back {mm}"] = place - (moved - place)
    for factor in (1.03, 1.06, 1.1, 1.15):
        wider = place.copy()
        wider[0, 0] *= factor
        moves[f"wider {factor}"] = wider
    flipped = place.copy()
    flipped[0, 0], flipped[0, 3] = -1, 5
    moves["flipped about"], moves["turned over"] = flipped, place * [[-1], [1], [1], [1]]
    for label, affine in moves.items():
        path = folder / "moved.nii.gz"

        def fits(affine: Any = affine, path: Path = path) -> Any:
            nib.Nifti1Image(numbers(shape) % 5, affine).to_filename(path)
            return digest(reader.label_map(str(path), str(like)))

        yield f"label map {label}", fits
    for label, other in {"of another shape": (6, 7, 9), "of other axes": (8, 7, 6), "with time": (6, 7, 8, 2)}.items():

        def wrong(other: Any = other) -> Any:
            nib.Nifti1Image(numbers(other) % 5, place).to_filename(folder / "other.nii.gz")
            return digest(reader.label_map(str(folder / "other.nii.gz"), str(like)))

        yield f"label map {label}", wrong
    for label, (dtype, slope, inter, values) in {
        "halves": ("f4", 1, 0, [0, 0.5, 1]), "near": ("f4", 1, 0, [0, 1.0009, 2]), "off": ("f4", 1, 0, [0, 1.0011, 2]), "negative": ("i2", 1, 0, [0, -1, 1]), "nan": ("f4", 1, 0, [0, np.nan, 3]), "large": ("f8", 1, 0, [0, 2.0**31 - 1, 2.0**31]), "largest": ("f8", 1, 0, [0, 1, 2.0**31 - 1]), "many": ("f4", 1, 0, [i + 0.3 for i in range(30)]),
        "steps": ("u1", 2 / 255, 0, [0, 127, 255]), "steps 0.5": ("u1", 0.5, 0, [0, 1, 2]), "steps 0.6": ("u1", 0.6, 0, [0, 1, 2]), "steps of 2": ("u1", 2, 0, [0, 1, 2]), "an intercept": ("i2", 1, 1, [-1, 0, 1]), "a negative slope": ("i2", -1, 0, [0, -1, -2]), "u8": ("u8", 1, 0, [0, 5, 2**40]),
    }.items():  # fmt: skip

        def whole_numbers(dtype: str = dtype, slope: float = slope, inter: float = inter, values: Any = values) -> Any:
            data = np.resize(np.array(values), shape).astype(dtype)
            header = placed_scans.nifti(
                folder / "values.nii", sform=place, qform=place, data=data, fix=field(scl_slope=slope, scl_inter=inter)
            )
            return digest(reader.label_map(header, str(like)))

        yield f"label values {label}", whole_numbers
    for name, kind in product(("ct", "mr", "rows plain", "small"), ("u1", "f4")):

        def headed(name: str = name, kind: str = kind) -> Any:
            header = label_volume.header_like(reader._declared(made[name]), kind)
            return [
                np.round(header.get_best_affine(), 5) + 0.0,
                np.round(header.get_qform(), 4) + 0.0,
                [
                    int(header["sform_code"]),
                    int(header["qform_code"]),
                    int(header["xyzt_units"]),
                    int(header["vox_offset"]),
                ],
                header["pixdim"],
            ]

        yield f"header like {name}, {kind}", headed
    yield (
        "floats written",
        lambda: (
            label_volume.write(
                np.linspace(0, 1, 6 * 7 * 8).reshape(8, 7, 6), reader._declared(str(like)), None, folder / "f.nii.gz"
            ),
            joined([nib.load(folder / "f.nii.gz").get_fdata()]),
        )[1:],
    )
    yield "one-sided sources", lambda: meant.one_sided(reader, [made["ct"], str(folder / "none.nii"), made["mr"]])


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
