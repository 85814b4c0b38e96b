# ruff: noqa: E501 - tables of inputs, a line for each
"""Folders of DICOM with one thing odd in each, for the room of DICOM."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from data.volume.dicom import dicom_files

UID = "1.2.826.0.1.3680043.8.498."


def planes(count: int = 4, seed: int = 3, dtype: str = "i2") -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 900, (count, 5, 6)).astype(dtype)


def classic(
    folder: Path, count: int = 4, each: Callable[[int], dict[str, Any]] = lambda _: {}, dtype: str = "i2", **tags: Any
) -> None:
    for z, plane in enumerate(planes(count, dtype=dtype)):
        own = {
            "position": (-100, -90, 30 + 2.5 * z),
            "InstanceNumber": z + 1,
            "SOPInstanceUID": f"{UID}{z + 1}",
            **tags,
            **each(z),
        }
        name = own.pop("name", f"{z:03d}.dcm")
        dicom_files.classic(
            folder / name,
            plane + np.array(own.pop("above", 0), plane.dtype),
            own.pop("position"),
            own.pop("orientation", (1, 0, 0, 0, 1, 0)),
            **own,
        )


def at(z: int, **values: Any) -> Callable[[int], dict[str, Any]]:
    return lambda here: values if here == z else {}


def folders(root: Path) -> Iterator[tuple[str, str]]:
    yield from classics(root)
    yield from enhanceds(root)
    yield from mosaics(root)
    yield from splits(root)


def classics(root: Path) -> Iterator[tuple[str, str]]:
    turned = (0.995, 0.0998, 0, -0.0998, 0.995, 0)
    coronal, sagittal = (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)
    made: dict[str, dict[str, Any]] = {
        "plain": {}, "two slices": {"count": 2}, "one slice": {"count": 1}, "unsigned": {"dtype": "u2"}, "bytes": {"dtype": "u1"}, "turned": {"orientation": turned}, "reversed": {"each": lambda z: {"position": (-100, -90, 30 - 2.5 * z)}},
        "coronal": {"orientation": coronal, "each": lambda z: {"position": (-100, -90 + 2.5 * z, 30)}}, "sagittal": {"orientation": sagittal, "each": lambda z: {"position": (-100 + 2.5 * z, -90, 30)}},
        "mixed names": {"each": lambda z: {"name": f"{(z * 7 + 3) % 4}.dcm"}}, "ima": {"each": lambda z: {"name": f"{z}.IMA"}}, "hidden among": {"each": at(1, name="._1.dcm")}, "one hidden": {"each": at(3, name=".x.dcm")},
        "no rescale": {"RescaleSlope": None, "RescaleIntercept": None}, "slope 0": {"RescaleSlope": 0}, "slope in some": {"each": at(1, RescaleSlope=None)}, "intercept in some": {"each": at(2, RescaleIntercept=None)}, "slopes differ": {"each": lambda z: {"RescaleSlope": 1 + z}}, "intercepts differ": {"each": lambda z: {"RescaleIntercept": -z}}, "no intercept": {"RescaleIntercept": None, "each": lambda z: {"RescaleSlope": 1 + z % 2}}, "slope 1": {"RescaleSlope": 1, "RescaleIntercept": 0},
        "gap": {"each": lambda z: {"position": (-100, -90, 30 + 2.5 * z + 2.5 * (z > 1))}}, "uneven 9 %": {"each": at(1, position=(-100, -90, 32.5 + 0.11))}, "uneven 12 %": {"each": at(1, position=(-100, -90, 32.5 + 0.32))}, "drift": {"count": 8, "each": lambda z: {"position": (-100, -90, 30 + 2.5 * z + 0.02 * z * z)}},
        "aside 0.06": {"each": at(1, position=(-99.94, -90, 32.5))}, "aside 0.2": {"each": at(1, position=(-99.8, -90, 32.5))}, "jump": {"each": lambda z: {"position": (-100 + 3 * (z > 1), -90, 30 + 2.5 * z)}}, "slow turn": {"count": 8, "each": lambda z: {"position": (-100 + 0.012 * z * z, -90, 30 + 2.5 * z)}}, "tilted": {"each": lambda z: {"position": (-100, -90 + 0.4 * z, 30 + 2.5 * z)}},
        "twice": {"each": at(2, position=(-100, -90, 32.5))}, "twice the same": {"each": at(2, position=(-100, -90, 32.5), InstanceNumber=2)}, "near 0.009": {"each": at(1, position=(-100, -90, 30.009))},
        "no position": {"each": at(0, ImagePositionPatient=None)}, "no orientation": {"each": at(0, ImageOrientationPatient=None)}, "no spacing": {"PixelSpacing": None}, "spacing 0.7": {"each": at(2, PixelSpacing=[0.7, 0.802])}, "spacing 0.7005": {"each": at(2, PixelSpacing=[0.7, 0.8005])}, "negative spacing": {"PixelSpacing": [-0.7, 0.8]}, "one spacing": {"PixelSpacing": [0.7]}, "orientations": {"each": at(3, orientation=turned)}, "about rows": {"each": at(3, orientation=(1, 0, 0, 0, 0.995, 0.0998))}, "not at right angles": {"orientation": (1, 0, 0, 0.2, 0.98, 0)}, "nearly at right angles": {"orientation": (1, 0, 0, 0.005, 1, 0)}, "not of unit length": {"orientation": (1.02, 0, 0, 0, 1, 0)},
        "series differ": {"each": at(1, SeriesInstanceUID="1.2.4")}, "patients differ": {"each": at(1, PatientID="b")}, "frames of reference differ": {"each": at(1, FrameOfReferenceUID="1.9")}, "modalities differ": {"each": at(1, Modality="MR")}, "units": {"each": at(1, Units="BQML")}, "image types": {"each": at(1, ImageType=["ORIGINAL", "PRIMARY", "P"])}, "image type alike": {"ImageType": ["ORIGINAL", "PRIMARY", "M"]}, "signs differ": {"each": at(1, PixelRepresentation=0)}, "rescale types": {"each": at(1, RescaleType="HU")}, "bits": {"BitsStored": 12, "HighBit": 11}, "bits 64": {"BitsAllocated": 64},
        "echoes": {"each": lambda z: {"position": (-100, -90, 30 + 2.5 * (z // 2)), "EchoTime": 10 + z % 2 * 20}}, "echo differs": {"each": at(1, EchoTime=7)}, "times": {"each": lambda z: {"position": (-100, -90, 30 + 2.5 * (z // 2)), "TemporalPositionIdentifier": z % 2 + 1}}, "times of others": {"each": lambda z: {"position": (-100, -90, 30 + 2.5 * (z // 2)), "TemporalPositionIdentifier": z + 1}}, "times by number": {"each": lambda z: {"position": (-100, -90, 30 + 2.5 * (z // 2)), "InstanceNumber": z % 2 * 10 + z // 2}}, "times by acquisition": {"InstanceNumber": 1, "each": lambda z: {"position": (-100, -90, 30 + 2.5 * (z // 2)), "InstanceNumber": 1, "AcquisitionNumber": 2 - z % 2}}, "times by trigger": {"each": lambda z: {"position": (-100, -90, 30 + 2.5 * (z // 2)), "InstanceNumber": 1, "TriggerTime": 100 - 50 * (z % 2)}},
        "times by clock": {"each": lambda z: {"position": (-100, -90, 30 + 2.5 * (z // 2)), "InstanceNumber": 1, "AcquisitionTime": f"10000{1 - z % 2}"}}, "b values": {"each": lambda z: {"position": (-100, -90, 30 + 2.5 * (z // 2)), "DiffusionBValue": 1000.0 * (1 - z % 2)}}, "flip angles": {"each": lambda z: {"position": (-100, -90, 30 + 2.5 * (z // 2)), "FlipAngle": 30 - 10 * (z % 2)}}, "inversions": {"each": lambda z: {"position": (-100, -90, 30 + 2.5 * (z // 2)), "InversionTime": 30 - 10 * (z % 2)}}, "one image twice": {"each": lambda z: {"position": (-100, -90, 30 + 2.5 * (z // 2)), "SOPInstanceUID": f"{UID}{z // 2}"}},
        "padding": {"PixelPaddingValue": 5, "each": lambda z: {}}, "padding 62512": {"dtype": "u2", "PixelPaddingValue": 62512}, "padding in the upper half": {"dtype": "u2", "above": 40000, "PixelPaddingValue": 40100, "PixelPaddingRangeLimit": 40500}, "padding below 0": {"above": -500, "PixelPaddingValue": -300, "PixelPaddingRangeLimit": -100}, "padding across 0": {"above": -500, "PixelPaddingValue": -100, "PixelPaddingRangeLimit": 100}, "padding -2000": {"PixelPaddingValue": -2000}, "padding to 300": {"PixelPaddingValue": 100, "PixelPaddingRangeLimit": 300}, "padding from 300": {"PixelPaddingValue": 300, "PixelPaddingRangeLimit": 100}, "padding of all": {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 1000}, "padding, slope -1": {"PixelPaddingValue": 100, "PixelPaddingRangeLimit": 300, "RescaleSlope": -1}, "padding in one": {"each": at(1, PixelPaddingValue=100, PixelPaddingRangeLimit=500)},
        "colours": {"SamplesPerPixel": 3}, "inverse": {"PhotometricInterpretation": "MONOCHROME1"}, "segmentation": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "no rows": {"Rows": None}, "no pixels": {"PixelData": None}, "few pixels": {"PixelData": bytes(20)}, "frames 0": {"NumberOfFrames": 0}, "frames -1": {"NumberOfFrames": -1}, "frames 1": {"NumberOfFrames": 1},
    }  # fmt: skip
    for label, given in made.items():
        folder = root / "c" / f"s {label}" / f"x {label}"
        yield f"classic {label}", _tried(folder, lambda f, g=given: classic(f, **g))
    lone = root / "lone"
    classic(lone / "a")
    yield "a file of a series", str(lone / "a" / "001.dcm")
    (root / "text").mkdir()
    (root / "text" / "a.dcm").write_bytes(b"no DICOM" * 40)
    yield "text", f"{root}/text/"
    (root / "none").mkdir()
    yield "an empty folder", f"{root}/none/"


def _tried(folder: Path, make: Callable[[Path], None]) -> str:
    make(folder)
    return f"{folder}/"


def enhanceds(root: Path) -> Iterator[tuple[str, str]]:
    stored = planes(6)
    frame = dicom_files.frame
    every = [frame(p, z) for z, p in enumerate(stored)]
    ct = dicom_files.ENHANCED_CT
    two = [frame(p, i // 2, index={"position": i // 2 + 1, "time": i % 2 + 1}) for i, p in enumerate(stored)]
    made: dict[str, dict[str, Any]] = {
        "plain": {"frames": every}, "ct": {"frames": every, "sop": ct}, "shared": {"frames": every, "shared": ("PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence")}, "reversed": {"frames": every[::-1]}, "two frames": {"frames": every[:2]}, "one frame": {"frames": every[:1]}, "no scale": {"frames": [f | {"scale": None} for f in every]}, "scales": {"frames": [f | {"scale": (1 + i, -i)} for i, f in enumerate(every)]}, "scale in some": {"frames": [f | {"scale": (2, 1) if i else None} for i, f in enumerate(every)]}, "scale 1": {"frames": [f | {"scale": (1, 0)} for f in every]},
        "time": {"frames": two, "dimensions": ("position", "time")}, "time first": {"frames": two, "dimensions": ("time", "position")}, "time unsaid": {"frames": two}, "time backwards": {"frames": [f | {"index": f["index"] | {"time": 3 - f["index"]["time"]}} for f in two], "dimensions": ("position", "time")},
        "echoes": {"frames": [f | {"echo": 10.0 + 20 * (i % 2)} for i, f in enumerate(two)]}, "echoes backwards": {"frames": [f | {"echo": 30.0 - 20 * (i % 2)} for i, f in enumerate(two)]}, "b": {"frames": [f | {"b": 1000.0 * (i % 2)} for i, f in enumerate(two)]}, "isotropic": {"frames": [f | {"b": 1000.0, "diffusion": {"DiffusionDirectionality": "ISOTROPIC"} if i == 1 else {"DiffusionDirectionality": "DIRECTIONAL"}} for i, f in enumerate(every)]}, "isotropic all": {"frames": [f | {"b": 1000.0, "diffusion": {"DiffusionDirectionality": "ISOTROPIC"}} for f in every]},
        "stacks": {"frames": [f | {"stack": i // 3} for i, f in enumerate(every)]}, "stacks at one place": {"frames": [f | {"stack": i % 2} for i, f in enumerate(two)]}, "kinds": {"frames": [f | {"kind": "M" if i else "P"} for i, f in enumerate(every)]}, "components": {"frames": [f | {"kind": "M", "component": "MAGNITUDE" if i else "PHASE"} for i, f in enumerate(every)]}, "kind": {"frames": [f | {"kind": "M"} for f in every]},
        "orientations": {"frames": [f | {"orientation": (1, 0, 0, 0, 1, 0) if i else (0, 1, 0, 0, 0, -1)} for i, f in enumerate(every)]}, "turned": {"frames": [f | {"orientation": (0.995, 0.0998, 0, -0.0998, 0.995, 0)} for f in every]}, "spacings": {"frames": [f | {"spacing": (0.7, 0.8 + 0.01 * i)} for i, f in enumerate(every)]}, "gap": {"frames": [*every[:3], *every[4:]]}, "jump": {"frames": [f | {"position": (-100 + 2 * (i > 2), -90, 30 + 2.5 * i)} for i, f in enumerate(every)]},
        "padding": {"frames": every, "PixelPaddingValue": 100, "PixelPaddingRangeLimit": 200}, "frames too many": {"frames": every, "NumberOfFrames": 7}, "no groups": {"frames": every, "PerFrameFunctionalGroupsSequence": None, "SharedFunctionalGroupsSequence": None}, "no own groups": {"frames": every, "PerFrameFunctionalGroupsSequence": None}, "unsigned": {"frames": [f | {"stored": f["stored"].astype("u2")} for f in every]}, "temporal": {"frames": every, "TemporalPositionIdentifier": 3}, "a series description": {"frames": every, "ConcatenationUID": "1.5", "InConcatenationTotalNumber": 1},
    }  # fmt: skip
    for label, given in made.items():
        path = root / "e" / f"s {label}" / f"x {label}" / "a.dcm"
        dicom_files.enhanced(
            path, given["frames"], **{k: v for k, v in given.items() if k != "frames"}, SOPInstanceUID=f"{UID}9"
        )
        yield f"enhanced {label}", f"{path.parent}/"
    for label, tags in {
        "parts": [{"ConcatenationUID": "1.5", "InConcatenationTotalNumber": 2}] * 2,
        "parts of three": [{"ConcatenationUID": "1.5", "InConcatenationTotalNumber": 3}] * 2,
        "parts of one": [{"ConcatenationUID": "1.5", "InConcatenationTotalNumber": 1}] * 2,
        "parts without number": [{"ConcatenationUID": "1.5"}] * 2,
        "parts of two": [{"ConcatenationUID": "1.5"}, {"ConcatenationUID": "1.6"}],
        "one part": [{"ConcatenationUID": "1.5"}, {}],
        "halves": [{}, {}],
    }.items():
        folder = root / "p" / f"s {label}" / f"x {label}"
        for part in range(2):
            dicom_files.enhanced(
                folder / f"{part}.dcm",
                every[3 * part : 3 * part + 3],
                **{"InstanceNumber": part + 1, "SOPInstanceUID": f"{UID}{part}", **tags[part]},
            )
        yield f"two files: {label}", f"{folder}/"
    for label, order in {"volumes": (1, 2), "volumes backwards": (2, 1), "volumes of one number": (1, 1)}.items():
        folder = root / "v" / f"s {label}" / f"x {label}"
        for part in range(2):
            frames = [f | {"stored": f["stored"] + 1000 * part} for f in every]
            dicom_files.enhanced(
                folder / f"{part}.dcm", frames, InstanceNumber=order[part], SOPInstanceUID=f"{UID}{part}"
            )
        yield f"two files: {label}", f"{folder}/"


def mosaics(root: Path) -> Iterator[tuple[str, str]]:
    volume = np.random.default_rng(6).integers(0, 900, (5, 4, 6)).astype(np.int16)
    turned = (0.995, 0.0998, 0, -0.0998, 0.995, 0)
    made: dict[str, list[dict[str, Any]]] = {
        "plain": [{}], "turned": [{"orientation": turned}], "times": [{"number": 1}, {"number": 2}], "times backwards": [{"number": 2}, {"number": 1}], "moved 0.005": [{}, {"number": 2, "corner": (-100.005, -90.0, 30.0)}], "moved 0.02": [{}, {"number": 2, "corner": (-100.02, -90.0, 30.0)}], "moved back": [{}, {"number": 2, "corner": (-99.98, -90.0, 30.0)}], "turned later": [{}, {"number": 2, "orientation": (0.9999, 0.0141, 0, -0.0141, 0.9999, 0)}], "series differ": [{}, {"number": 2, "SeriesInstanceUID": "1.7"}], "echoes": [{}, {"number": 2, "EchoTime": 40}], "one image": [{"SOPInstanceUID": f"{UID}5"}, {"number": 2, "SOPInstanceUID": f"{UID}5"}],
    }  # fmt: skip
    for label, files in made.items():
        folder = root / "m" / f"s {label}" / f"x {label}"
        for i, given in enumerate(files):
            dicom_files.mosaic(folder / f"{i}.dcm", volume + i, **{"SOPInstanceUID": f"{UID}{i}", **given})
        yield f"mosaic {label}", f"{folder}/"
    for label, count in {"of one": 1, "of four": 4, "of two": 2}.items():
        folder = root / "m" / f"s {label}" / f"x {label}"
        dicom_files.mosaic(folder / "0.dcm", volume[:count])
        yield f"mosaic {label}", f"{folder}/"
    folder = root / "m" / "s shapes" / "x shapes"
    dicom_files.mosaic(folder / "0.dcm", volume, SOPInstanceUID=f"{UID}0")
    dicom_files.mosaic(folder / "1.dcm", np.concatenate([volume, volume[:1]]), number=2, SOPInstanceUID=f"{UID}1")
    yield "mosaic of two shapes", f"{folder}/"


def splits(root: Path) -> Iterator[tuple[str, str]]:
    def parts(name: str, where: list[str], names: Callable[[int], str] = lambda z: f"{z:03d}.dcm", **tags: Any) -> Path:
        top = root / "split" / name
        for z, plane in enumerate(planes(6)):
            folder = top / where[z]
            dicom_files.classic(
                folder / names(z),
                plane,
                (-100, -90, 30 + 2.5 * z),
                InstanceNumber=z + 1,
                SOPInstanceUID=f"{UID}{z}",
                **tags,
            )
        return top

    yield "split: halves beside", f"{parts('1', ['a/x'] * 3 + ['a/y'] * 3)}/a/x/"
    yield "split: every other", f"{parts('2', ['a/x', 'a/y'] * 3)}/a/x/"
    yield "split: rest above", f"{parts('3', ['a/x'] * 3 + ['a'] * 3)}/a/x/"
    yield "split: rest within", f"{parts('4', ['a'] * 3 + ['a/x'] * 3)}/a/"
    yield "split: cousins", f"{parts('5', ['a/x'] * 3 + ['b/x'] * 3)}/a/x/"
    yield "split: cousins of other names", f"{parts('6', ['a/x'] * 3 + ['b/y'] * 3)}/a/x/"
    yield "split: without suffix", f"{parts('7', ['a'] * 6, lambda z: f'{z}.dcm' if z < 3 else f'IM{z}')}/a/"
    yield "split: of another suffix", f"{parts('8', ['a'] * 6, lambda z: f'{z}.dcm' if z < 3 else f'{z}.txt')}/a/"
    yield "split: hidden", f"{parts('9', ['a'] * 6, lambda z: f'{z}.dcm' if z < 3 else f'.{z}')}/a/"
    yield "split: three", f"{parts('10', ['a/x', 'a/x', 'a/y', 'a/y', 'a/z', 'a/z'])}/a/x/"
    yield "split: no series", f"{parts('11', ['a/x'] * 3 + ['a/y'] * 3, SeriesInstanceUID=None)}/a/x/"
    top = parts("12", ["a/x"] * 6)
    shutil.copytree(top / "a/x", top / "a/y")
    yield "split: the same twice", f"{top}/a/x/"
    top = parts("13", ["a/m"] * 3 + ["a/zz"] * 3)
    for i in range(40):
        (top / "a" / f"n{i:02d}").mkdir()
    yield "split: far away", f"{top}/a/m/"
