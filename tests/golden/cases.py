"""What the golden cases do, through what a user has: config files, the commands, and the files that they write.

A case is a function of the folder of the process, where `inputs/` is, to a tree of values. Runs are in `runs/`; a case
that needs another's run asks for it by its name. As little as can be is imported of the package, so that these cases
go on while its files move.
"""

import contextlib
import io
import json
import runpy
import sys
from collections.abc import Callable
from math import fsum, sqrt
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml
from golden.values import packed, short_hash
from PIL import Image
from safetensors.numpy import load_file

Values = dict[str, Any]
CASES: dict[str, Callable[[], Values]] = {}
DONE: dict[str, Values] = {}


def case(function: Callable[[], Values]) -> Callable[[], Values]:
    CASES[function.__name__] = function
    return function


def made(name: str) -> Values:
    """The values of a case, worked out once in a process."""
    if name not in DONE:
        DONE[name] = CASES[name]()
    return DONE[name]


def command(*words: Any) -> str:
    """`python -m mae_ext WORDS` in this process -> what it printed. Raises RuntimeError with its complaint."""
    told, complained, kept = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["mae-ext", *map(str, words)]
    try:
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(complained):
            runpy.run_module("mae_ext", run_name="__main__")
    except SystemExit as stop:
        if stop.code not in (0, None):
            said = f"mae-ext {' '.join(sys.argv[1:])}: exit {stop.code}\n{complained.getvalue()}"
            raise RuntimeError(said) from None
    finally:
        sys.argv = kept
    return told.getvalue()


def config(name: str, values: Values) -> Path:
    """A config file of these values; every run is in fp32 on one CPU, and reads in its own process."""
    train = {
        "precision": "fp32", "device": "cpu", "workers": 0, "tensorboard": False, "lr_per": None, "lr": 2e-3,
        "warmup_steps": 3, "save_every": 1000, **values["train"],
    }  # fmt: skip
    path = Path("configs") / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({**values, "train": train}, sort_keys=False))
    return path


def rows(path: Path) -> list[Values]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def run_values(name: str) -> Values:
    """Of a finished run: its curve, statistics, scores, bad files, and the weights by part of the model."""
    run = Path("runs") / name
    curve: dict[str, list[float]] = {}
    for row in rows(run / "metrics.jsonl"):
        for key, value in row.items():
            if key in ("epoch", "loss", "lr", "grad_norm") or key.startswith("loss/"):
                curve.setdefault(key, []).append(value)
    settled = yaml.safe_load((run / "config.yaml").read_text())
    found: Values = {
        "curve": curve,
        "statistics": {n: m["data"]["statistics"] for n, m in settled["modalities"].items()},
        "weights": weights(run),
    }
    if scores := rows(run / "evaluations.jsonl"):
        found["scores"] = scores
    if bad := rows(run / "bad_samples.jsonl"):
        found["bad"] = [[row["path"], row["kind"]] for row in bad]
    return found


def weights(run: Path) -> Values:
    """For each part of the model, over all its tensors in the order of their names: a hash; the norm; and a mark, their
    product with a fixed wave over the norm, which tells a change of order or sign that the norm does not."""
    newest = max((run / "checkpoints").glob("step-*"))
    parts: dict[str, list[np.ndarray]] = {}
    for name, tensor in sorted(load_file(newest / "model.safetensors").items()):
        at = name.removeprefix("backbone.").split(".")[:-1] or [name]
        parts.setdefault(".".join(at[:5]), []).append(tensor)
    found = {}
    for part, tensors in parts.items():
        flat = [float(x) for tensor in tensors for x in tensor.ravel()]
        norm = sqrt(fsum(x * x for x in flat))
        mark = fsum(x * (i * 37 % 101 - 50) for i, x in enumerate(flat)) / (30 * norm or 1)
        found[part] = {"hash": short_hash(b"".join(t.tobytes() for t in tensors)), "norm": norm, "mark": mark}
    return found


def features(run: str, source: str, *more: str) -> Values:
    """What `embed` writes: an array, and a line for each row of it."""
    out = Path("features") / f"{run}{'-'.join(more)}.safetensors"
    out.parent.mkdir(exist_ok=True)
    command("embed", f"runs/{run}", source, "--out", out, *more)
    return {"features": packed(load_file(out)["features"]), "rows": rows(out.with_suffix(".jsonl"))}


def rebuilt(run: str, source: str, name: str) -> Values:
    """Reconstructions of a source, hidden patches with statistics from the visible ones and with their own; and the
    pictures that `reconstruct` draws."""
    import torch

    import mae_ext

    encoder = mae_ext.load_encoder(f"runs/{run}", name, "cpu")
    modality = encoder.model.modality(name)
    lattice = torch.arange(2 * modality.channels * int(np.prod(modality.size))) * 37 % 101
    x = (lattice.float() / 101 * modality.std.mean() + modality.mean.mean()).view(2, modality.channels, *modality.size)
    mask = modality.draw_mask([torch.Generator().manual_seed(i) for i in range(2)])
    step = torch.tensor([[1.5] * len(modality.size)] * 2)
    found: Values = {"keep": mask.keep.tolist(), "pred": packed(mask.pred.numpy())}
    for own in (False, True):
        filled = encoder.model.reconstruct(x, mask, name, step, own_statistics=own)
        found["own" if own else "interpolated"] = sampled(filled.numpy())
    out = Path("pictures") / run
    more = ["--modality", name] if len(encoder.model.modalities) > 1 else []
    written = command("reconstruct", f"runs/{run}", source, "--out", out, "--limit", 3, *more).split()
    return found | {"pictures": [drawn(Path(path)) for path in written]}


def sampled(array: np.ndarray) -> Values:
    """Of a large array: a hash of all, and 400 of its values, or somewhat more."""
    flat = np.ascontiguousarray(array).ravel()
    return {"hash": short_hash(flat.tobytes()), "some": packed(flat[:: max(1, len(flat) // 400) | 1])}


def drawn(path: Path) -> Values:
    """Of a picture: its name and size, a hash of its frames, and how light each sixth of its height and width is."""
    with Image.open(path) as image:
        frames = []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            frames.append(np.asarray(image.convert("RGB")).astype(np.int64))
    whole = np.stack(frames)
    bands = [float(part.mean()) for axis in (1, 2) for part in np.array_split(whole.sum(-1) / 765, 6, axis)]
    return {"name": path.name, "shape": list(whole.shape), "hash": short_hash(whole.tobytes()), "light": bands}


# Pretraining ----------------------------------------------------------------------------------------------------------

IMAGE = {"size": [24, 24], "patch": [6, 6], "channels": 3}
CLIP = {"size": [6, 24, 24], "patch": [2, 6, 6], "channels": 3}
VOLUME = {"size": [24, 24, 24], "patch": [8, 8, 8], "channels": 2}


@case
def images() -> Values:
    """Random masks, MAE's patch statistics, resized crops, drop path, accumulation, a clip that bites, a bad file."""
    written = config("images", {
        "seed": 11,
        "modalities": {"image": {
            **IMAGE, "batch": 8, "mask": {"name": "random", "ratio": 0.75},
            "target": {"name": "pixel", "normalize": "mae"},
            "data": {"augment": {"scale": [0.3, 1.0]}, "max_bad_fraction": 0.1},
        }},
        "model": {
            "width": 32, "depth": 3, "heads": 2, "drop_path": 0.3, "decoder": {"width": 24, "depth": 2, "heads": 3},
        },
        "train": {
            "steps": 14, "clip": 0.5, "accumulate": 2, "weight_decay": 0.3, "min_lr": 2e-4,
            "probe": {"every": 7, "train": "inputs/pictures/train", "test": "inputs/pictures/test", "k": 5},
        },
    })  # fmt: skip
    command("pretrain", written, "--data", "inputs/pictures/train", "--out", "runs/images")
    found = run_values("images")
    assert max(found["curve"]["grad_norm"]) > 0.5, "the clip does not bite"
    return {
        **found,
        "embed": {pool: features("images", "inputs/pictures/test", "--pool", pool) for pool in ("mean", "class")},
        "reconstruct": rebuilt("images", "inputs/pictures/test", "image"),
    }


@case
def probe() -> Values:
    """All probes of frozen features, on a list with patients and a split; and by folds, with mirror images."""
    made("images")
    index = "inputs/pictures/labels.csv"
    split = command(
        "probe", "runs/images", "--train", f"{index}::train", "--test", f"{index}::test", "--k", 5, "--attentive"
    )
    dealt = command("probe", "runs/images", "--train", f"{index}::train", "--folds", 3, "--mirror", "--k", 3)
    untrained = command(
        "probe", "runs/images", "--train", f"{index}::train", "--test", f"{index}::test", "--random-weights"
    )
    alone = {"split": json.loads(split), "folds": json.loads(dealt), "untrained": json.loads(untrained)}
    during = rows(Path("runs/images/probes.jsonl"))
    return {
        **{what: without(told, "seconds", "checkpoint") for what, told in alone.items()},
        "during": [without(row, "seconds", "checkpoint") for row in during[:3]],  # the commands above add their own
    }


def without(row: Values, *keys: str) -> Values:
    return {key: value for key, value in row.items() if key not in keys}


@case
def clips() -> Values:
    """Tubes, a decode mask, two views of a file, VideoMAE's patch statistics and positions, no class token."""
    written = config("clips", {
        "seed": 12,
        "modalities": {"video": {
            **CLIP, "batch": 4, "position": "sequence", "mask": {"name": "tube", "ratio": 0.73},
            "decode": {"name": "running_cell", "ratio": 0.5}, "target": {"name": "pixel", "normalize": "channel"},
            "data": {
                "reader": {"name": "video", "stride": 2, "short_side": 0}, "statistics": "imagenet", "repeats": 2,
                "augment": {"fixed": [0], "scale": [0.4, 0.9], "aspect": [0.8, 1.25], "flip": [0, -1]},
            },
        }},
        "model": {
            "width": 24, "depth": 2, "heads": 2, "class_token": False, "mlp_ratio": 3.0,
            "decoder": {"width": 24, "depth": 1, "heads": 2},
        },
        "train": {"steps": 12, "betas": [0.8, 0.9]},
    })  # fmt: skip
    command("pretrain", written, "--data", "inputs/clips/train", "--out", "runs/clips")
    return {
        **run_values("clips"),
        "embed": features("clips", "inputs/clips/test"),
        "reconstruct": rebuilt("clips", "inputs/clips/test/left", "video"),
    }


@case
def volumes() -> Values:
    """CT: masks and loss over the body, two windows, resampling, biased patch statistics with a floor, flips."""
    written = config("volumes", {
        "seed": 13,
        "modalities": {"volume": {
            **VOLUME, "batch": 4, "mask": {"name": "foreground", "ratio": 0.7, "body_ratio": 0.5, "min_share": 0.7},
            "decode": {"name": "foreground", "ratio": 0.3, "body_ratio": 0.0, "min_share": 0.7},
            "target": {"name": "pixel", "normalize": "layernorm", "floor": 0.3},
            "data": {
                "reader": {
                    "name": "volume", "spacing": [2.0, 1.6, 1.5], "body": -500, "min_body": 0.45,
                    "intensity": {"name": "window", "windows": [[-160, 240], [-1350, 150]]},
                },
                "repeats": 2, "augment": {"fixed": [0, 1, 2], "flip": [0, 1, 2]},
            },
        }},
        "model": {
            "width": 24, "depth": 3, "heads": 2, "class_token": True, "decoder": {"width": 24, "depth": 1, "heads": 2},
        },
        "train": {"steps": 12, "clip": 0.1},
    })  # fmt: skip
    command("pretrain", written, "--data", "inputs/scans/train", "--out", "runs/volumes")
    found = run_values("volumes")
    assert min(found["curve"]["grad_norm"]) < 0.1 < max(found["curve"]["grad_norm"]), "the clip bites always or never"
    return {
        **found,
        "embed": features("volumes", "inputs/scans/test"),
        "reconstruct": rebuilt("volumes", "inputs/scans/test", "volume"),
    }


@case
def scans() -> Values:
    """MR: each scan's own spacing, positions in millimetres, z-scores over Otsu's body, time, blocks, plain pixels."""
    written = config("scans", {
        "seed": 14,
        "modalities": {"volume": {
            "size": [8, 16, 16], "patch": [2, 8, 8], "channels": 1, "batch": 4,
            "position": {"name": "sincos", "unit": 6.0}, "mask": {"name": "block", "ratio": 0.6},
            "target": {"name": "pixel", "normalize": "none", "loss": "l1"},
            "data": {
                "reader": {
                    "name": "volume", "spacing": None, "body": "otsu", "time_axis": -1,
                    "intensity": {"name": "zscore", "clip": 3.0},
                },
                "augment": {"fixed": [0], "scale": [0.5, 1.0], "flip": [2]},
            },
        }},
        "model": {
            "width": 24, "depth": 2, "heads": 2, "class_token": False, "norm_eps": 1e-3,
            "decoder": {"width": 16, "depth": 1, "heads": 2},
        },
        "train": {"steps": 10, "freeze": "none", "weight_decay": 0.0},
    })  # fmt: skip
    command("pretrain", written, "--data", "inputs/scans/mr", "--out", "runs/scans")
    return {**run_values("scans"), "embed": features("scans", "inputs/scans/mr")}


@case
def joint() -> Values:
    """Three modalities with weights in one trunk, uniformity, a clip, learned positions, lattice and frame masks."""
    written = config("joint", {
        "seed": 15,
        "modalities": {
            "image": {
                **IMAGE, "batch": 4, "weight": 1.0, "position": "learned", "mask": {"name": "grid", "ratio": 0.75},
                "data": {"statistics": "none", "augment": {"scale": [0.5, 1.0], "flip": []}},
            },
            "video": {
                **CLIP, "batch": 3, "weight": 0.25, "position": "separable", "mask": {"name": "frame", "ratio": 0.67},
                "data": {"reader": {"name": "video", "stride": 1}, "augment": {"fixed": [0], "scale": [0.5, 1.0]}},
            },
            "volume": {
                **VOLUME, "channels": 1, "batch": 2, "weight": 2.5, "mask": {"name": "causal", "ratio": 0.5, "axis": 1},
                "target": {"name": "pixel", "normalize": "mae", "loss": "l1"},
                "data": {
                    "reader": {
                        "name": "volume", "spacing": None, "intensity": {"name": "percentile", "low": 5, "high": 95},
                    },
                    "augment": {"fixed": [0, 1, 2], "flip": [1]},
                },
            },
        },
        "model": {"width": 24, "depth": 2, "heads": 2, "decoder": {"width": 24, "depth": 1, "heads": 2}},
        "train": {"steps": 12, "clip": 0.6, "uniformity": 0.3, "lr": 0.02, "lr_per": 64},
    })  # fmt: skip
    places = {"image": "pictures.tar", "video": "clips.npz", "volume": "scans"}
    data = ",".join(f"{name}=inputs/together/{place}" for name, place in places.items())
    command("pretrain", written, "--data", data, "--out", "runs/joint")
    found = run_values("joint")
    assert max(found["curve"]["grad_norm"]) > 0.6, "the clip does not bite"
    return found | {"embed": features("joint", "inputs/together/scans", "--modality", "volume")}


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
