# ruff: noqa: E501 - tables of inputs, a line for each
"""Files of scans, of every format: what each says of its voxels, and where they lie."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from data.volume import placed_scans
from recorded.record import digest, each, room
from recorded.scan_files import declared, field, numbers, read

from mae_ext.data.volume.reader import VolumeReader


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
