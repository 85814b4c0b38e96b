"""What an exported encoder expects, in words and numbers that need no mae_ext: preprocessing.json, beside each."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from mae_ext.config import ModalityConfig
from mae_ext.data.crops import FixedCrop, evaluation_sampler
from mae_ext.data.sample import Reader
from mae_ext.export.program import OPSET, SUFFIXES, inputs_of, outputs_of
from mae_ext.export.subject import Subject
from mae_ext.version import __version__

AXES = {
    "image": ("height, from the top", "width, from the left"),
    "clip": ("frames, from the first", "height, from the top", "width, from the left"),
    "volume": ("depth, from the feet to the head", "height, from the back to the front", "width, from left to right"),
}
"""By what readers say that they show (`Reader.display`): which way the axes of a sample run."""

COLOURS = {1: "grey (ITU-R 601-2 luma)", 3: "red, green, blue", 4: "red, green, blue, alpha"}

LEVELS = "levels of 0 to 1: bytes divided by 255"
UNITS = {
    "image": f"{LEVELS}, integers of 16 bits by 65535; floats as they are in the file",
    "clip": LEVELS,
}

DECODED = {
    "image": "decoded upright (EXIF orientation), palettes as colours, alpha on white, colour profiles not applied",
    "clip": "frames upright, scaled to a short side of short_side pixels where larger (null: 8/7 of size; 0: none)",
    "volume": "voxels as value * slope + intercept of the header, axes turned as above, on a lattice of that spacing",
}
"""What readers do before anything is cut out."""

INTENSITY = {
    "window": "of the scan's units (CT: Hounsfield units), channel i: (value - low_i) / (high_i - low_i), clipped "
    "to 0 to 1",
    "zscore": "of the scan's units, channel by channel: (value - mean) / standard deviation, both over the scan's "
    "foreground, clipped to -clip to clip",
    "percentile": "of the scan's units, channel by channel: the low and the high percentile of the scan's foreground "
    "become 0 and 1, clipped; where they are one value, the least and the most of the scan",
    "none": "the scan's own units",
}
"""mae_ext/data/volume/intensity.py, in words."""

OF_LOADING = ("cache", "keep_bytes", "max_bytes", "max_pixels", "memory_bytes", "deadline_s", "decoder")
"""Arguments of readers that change no number of a sample."""


def preprocessing(subject: Subject, to: str, notes: tuple[str, ...] = ()) -> dict[str, Any]:
    """What preprocessing.json holds: numbers that a reader of another program can go by."""
    encoder, modality = subject.encoder, subject.encoder.modality
    part, reader = encoder.model.modality(subject.name), encoder.reader()
    inside, before = to in SUFFIXES, int(encoder.config.model.class_token)
    names = list(AXES.get(_display(reader), ()))
    bands = modality.data.reader.arguments.get("bands")
    channels = COLOURS.get(modality.channels) if _display(reader) in UNITS else None
    channels = channels if bands is None else f"those of the file at {list(bands)}, by number from 0 or by name"
    facts: dict[str, Any] = {
        "written_by": f"mae-ext {__version__}",
        "format": to,
        "modality": subject.name,
        "input": {
            "shape": ["batch", modality.channels, *modality.size],
            "type": "float32",
            "axes": ["sample", f"channel{f': {channels}' if channels else ''}", *names],
            "units": _units(reader, modality),
        },
        "read": _read(modality, reader),
        "normalise": {
            "by": "the model itself: give it the units above" if inside else "you, before the model",
            "rule": "(value - mean) / std, channel by channel",
            "mean": part.mean.tolist(),
            "std": part.std.tolist(),
        },
        "spacing": _spacing(subject, reader),
        "tokens": {
            "patch": list(modality.patch),
            "grid": list(modality.grid),
            "order": "row by row over the grid, the last axis fastest"
            + f"; {before} of no patch before them" * bool(before),
            "class_tokens": before,
            "width": encoder.width,
        },
        "positions": modality.position.model_dump(mode="json"),
    }
    if inside:
        facts["inputs"], facts["outputs"] = list(inputs_of(subject)), list(outputs_of(subject))
        facts["torch"] = torch.__version__
        if to == "onnx":
            facts["opset"] = OPSET
        if subject.classes:
            facts["classes"] = list(subject.classes)
    return {**facts, "notes": list(notes)}


def _display(reader: Reader) -> str:
    """Of a reader of others, what it says of itself, or nothing: of its units and axes nothing is known here."""
    return str(getattr(reader, "display", "")) if type(reader).__module__.startswith("mae_ext.") else ""


def _units(reader: Reader, modality: ModalityConfig) -> str:
    if (described := getattr(reader, "described", None)) is not None:
        return INTENSITY[described if isinstance(described, str) else described["name"]]
    return UNITS.get(_display(reader), f"as the reader '{modality.data.reader.name}' gives them")


def _read(modality: ModalityConfig, reader: Reader) -> dict[str, Any]:
    """Which box of a source, and how it becomes `size`: what the encoder is judged on."""
    size, display = modality.size, _display(reader)
    crop = evaluation_sampler(modality.data.augment, size)
    fixed = crop.axes if isinstance(crop, FixedCrop) else ()
    free = [axis for axis in range(len(size)) if axis not in fixed]
    steps = [] if display not in DECODED else [DECODED[display]]
    if free and free[-2:] == [len(size) - 2, len(size) - 1]:
        h, w = size[-2:]
        steps.append(
            f"of height H and width W, the centred box of round({h} s) x round({w} s) pixels, "
            f"s = min(H / {h}, W / {w}), "
            f"its corner at (H - height of the box) // 2, (W - width of the box) // 2"
        )
    if display == "clip":
        steps.append(_frames(size[0], 0 in fixed, reader))
    elif 0 in free and len(size) > 2:
        steps.append("the first axis whole")
    if spatial := [axis for axis in fixed if display != "clip" or axis > 0]:
        lengths = " x ".join(str(size[axis]) for axis in spatial)
        steps.append(
            f"along the axes {spatial} (from 0) {lengths} of the source's own, from its middle; a shorter one is padded"
        )
    if display == "volume":
        steps.append(f"resampled to {' x '.join(map(str, size))}, linear along each axis")
    elif display:
        steps.append(f"resized to {' x '.join(map(str, size[-2:]))}: bicubic, antialiased, rounded to bytes")
    return {
        "reader": modality.data.reader.name,
        "arguments": _arguments(reader, modality.data.reader.arguments),
        "steps": steps,
    }


def _frames(count: int, fixed: bool, reader: Reader) -> str:
    if not fixed:
        return f"{count} frames, spread evenly over the film, the first and the last among them"
    clips = getattr(reader, "clips", None)
    fps, stride = getattr(clips, "fps", None), getattr(clips, "stride", 1)
    every = f"{fps:g} of each second" if fps else f"one of each {stride}"
    return f"{count} frames, {every}, from the middle of the places where such a clip can begin"


def _arguments(reader: Reader, values: Mapping[str, Any]) -> dict[str, Any]:
    """With what they are by default, so that nothing has to be looked up."""
    known = inspect.signature(type(reader)).parameters.values()
    defaults = {p.name: p.default for p in known if p.default is not inspect.Parameter.empty}
    every = {**defaults, **values}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in every.items() if key not in OF_LOADING}


def _spacing(subject: Subject, reader: Reader) -> dict[str, Any]:
    wanted = getattr(reader, "spacing", None)
    words = "mm between voxels along the axes of a sample" if _display(reader) == "volume" else "none"
    if subject.physical:
        words += "; positions are in these units, so it is the second input of the model: (batch, axes), float32"
    return {"resampled_to": None if wanted is None else list(wanted), "meaning": words, "input": subject.physical}
