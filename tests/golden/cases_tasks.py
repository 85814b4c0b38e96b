"""Golden cases of tasks: fine-tuning, and what it answers."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from golden.case import Values, case, command, config, drawn, made, rows, run_values
from golden.values import packed
from PIL import Image

# Tasks ----------------------------------------------------------------------------------------------------------------


def finetuned(name: str, init: str, data: str, test: str, values: Values) -> Values:
    command("finetune", config(name, values), "--init", init, "--data", data, "--test", test, "--out", f"runs/{name}")
    return run_values(name)


def answers(run: str, source: str) -> list[Path]:
    out = Path("predictions") / run
    return [Path(line) for line in command("predict", f"runs/{run}", source, "--out", out).split()]


@case
def classify() -> Values:
    """Pictures, from the run `images`: mixtures, smoothing, distortions, layer decay, attentive pool, some labels."""
    made("images")
    found = finetuned("classify", "runs/images", "inputs/pictures/train", "inputs/pictures/test", {
        "seed": 21,
        "task": {
            "name": "classify", "pool": "attentive", "labels": 0.75, "smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0,
            "distort": 2, "strength": 0.6, "erase": 0.5,
        },
        "modalities": {"image": {
            "batch": 6, "data": {"augment": {"scale": [0.5, 1.0], "flip": []}, "max_bad_fraction": 0.1},
        }},
        "model": {"drop_path": 0.2},
        "train": {"steps": 14, "layer_decay": 0.6, "clip": 0.7, "evaluate_every": 7, "lr": 5e-3, "betas": [0.9, 0.99]},
    })  # fmt: skip
    (written,) = answers("classify", "inputs/pictures/test")
    return found | {"predict": rows(written)}


@case
def classify_few() -> Values:
    """Pictures from nothing: two labels a class, the class token, all but the last blocks frozen."""
    made("images")
    found = finetuned("classify_few", "runs/images", "inputs/pictures/train", "inputs/pictures/test", {
        "seed": 22,
        "task": {"name": "classify", "pool": "class", "labels": 2},
        "modalities": {"image": {"size": [36, 24], "batch": 4, "data": {"max_bad_fraction": 0.1}}},
        "train": {"steps": 10, "freeze": 2, "accumulate": 2, "lr": 2e-2},
    })  # fmt: skip
    (written,) = answers("classify_few", "inputs/pictures/test")
    return found | {"predict": rows(written)}


@case
def classify_clips() -> Values:
    """Clips, from the run `clips`, the mean of all tokens: which part of a clip is judged."""
    made("clips")
    found = finetuned("classify_clips", "runs/clips", "inputs/clips/train", "inputs/clips/test", {
        "seed": 23,
        "task": {"name": "classify", "pool": "mean", "mixup": 0.5},
        "modalities": {"video": {
            "batch": 4, "data": {"augment": {"fixed": [0], "scale": [0.6, 1.0], "flip": []}, "repeats": 1},
        }},
        "train": {"steps": 12, "layer_decay": 0.8, "lr": 1e-2},
    })  # fmt: skip
    (written,) = answers("classify_clips", "inputs/clips/test")
    return found | {"predict": rows(written)}


def volume_answer(path: Path) -> Values:
    image = nib.load(path)
    header = image.header
    return {
        "file": "/".join(path.parts[2:]),
        "affine": image.affine.ravel().tolist(),
        "codes": [int(header["qform_code"]), int(header["sform_code"])],
        "units": list(header.get_xyzt_units()),
        "dtype": str(header.get_data_dtype()),
        "labels": packed(np.asarray(image.dataobj)),
    }


@case
def segment() -> Values:
    """CT, from the run `volumes`: UNETR, balance, overlapping windows, distances of surfaces, files in place."""
    made("volumes")
    found = finetuned("segment", "runs/volumes", "inputs/scans/train", "inputs/scans/test", {
        "seed": 24,
        "task": {
            "name": "segment", "classes": ["organ", "lesion"], "masks": "inputs/scans/labels", "head": "unetr",
            "features": 6, "balance": 0.85, "overlap": 0.6, "distort": 1, "strength": 0.4, "surface": True,
        },
        "modalities": {"volume": {"batch": 2, "data": {"augment": {"fixed": [0, 1, 2], "flip": [2]}}}},
        "model": {"drop_path": 0.1},
        "train": {"steps": 16, "layer_decay": 0.75, "clip": 1.0, "evaluate_every": 8, "lr": 1e-2},
    })  # fmt: skip
    return found | {"predict": [volume_answer(path) for path in answers("segment", "inputs/scans/test")]}


@case
def segment_linear() -> Values:
    """Pictures from nothing: a linear head, one class of all numbers, windows that overlap by a quarter."""
    found = finetuned("segment_linear", "none", "inputs/cells/train", "inputs/cells/test", {
        "seed": 25,
        "task": {
            "name": "segment", "classes": ["cell"], "masks": "inputs/cells/masks", "foreground": True, "head": "linear",
            "balance": 0.3, "overlap": 0.25, "distort": 2,
        },
        "modalities": {"image": {
            "size": [20, 24], "patch": [4, 4], "channels": 1, "batch": 4,
            "data": {"augment": {"fixed": [0, 1], "flip": [0, 1]}},
        }},
        "model": {"width": 24, "depth": 2, "heads": 2},
        "train": {"steps": 14, "lr": 5e-3},
    })  # fmt: skip
    pictures = answers("segment_linear", "inputs/cells/test")
    read = [{"file": path.name, "labels": packed(np.asarray(Image.open(path)))} for path in pictures]
    return found | {"predict": read}


@case
def detect() -> Values:
    """Boxes in pictures, from nothing: crops, crowds that are ignored, three scales, COCO's scores."""
    found = finetuned("detect", "none", "inputs/objects/train", "inputs/objects/test", {
        "seed": 26,
        "task": {
            "name": "detect", "labels": "inputs/objects/labels.json", "channels": 16, "depth": 1,
            "strides": [4, 8, 16], "distort": 1, "threshold": 0.2, "overlap": 0.45, "shown": 0.35,
        },
        "modalities": {"image": {
            "size": [48, 64], "patch": [8, 8], "batch": 4,
            "data": {"augment": {"scale": [0.1, 1.0], "flip": [-2, -1]}},
        }},
        "model": {"width": 32, "depth": 2, "heads": 2},
        "train": {"steps": 20, "clip": 4.0, "lr": 5e-3, "evaluate_every": 10},
    })  # fmt: skip
    written, *pictures = answers("detect", "inputs/objects/test")
    told = json.loads(written.read_text())
    boxes = [[*row["bbox"], row["score"], row["image_id"], row["category_id"]] for row in told["annotations"]]
    return found | {
        "predict": {"images": told["images"], "categories": told["categories"], "boxes": boxes},
        "pictures": [drawn(path) for path in pictures],
    }
