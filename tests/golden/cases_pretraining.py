"""Golden cases of pretraining: each modality, all together, and a probe."""

import json
from pathlib import Path

from golden.case import Values, case, command, config, features, made, rebuilt, rows, run_values

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
