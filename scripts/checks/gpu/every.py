"""Twenty steps of every modality and task on the device, through the commands."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from gpu.results import Check
from gpu.training import summary, trained, write

IMAGE = {"size": [32, 32], "patch": [8, 8], "batch": 8, "mask": {"name": "random", "ratio": 0.75}}
VIDEO = {
    "size": [4, 16, 16], "patch": [2, 4, 4], "batch": 4, "mask": {"name": "tube", "ratio": 0.75},
    "decode": {"name": "running_cell", "ratio": 0.5},
}  # fmt: skip
VOLUME = {
    "size": [16, 16, 16], "patch": [4, 4, 4], "channels": 1, "batch": 4, "mask": {"name": "foreground", "ratio": 0.75},
}  # fmt: skip
SCANS = {
    "reader": {"name": "volume", "spacing": [1.0, 1.0, 1.0], "body": "otsu", "intensity": "percentile"},
    "augment": {"fixed": [0, 1, 2]},
}  # fmt: skip


def cases(small: str) -> dict[str, tuple[str, dict[str, Any], dict[str, Any]]]:
    """By name: the command, modalities, and more of the config."""
    image = IMAGE | {"data": {"path": f"{small}/flat"}}
    arrays, reader = f"{small}/../small_clips/clips.npz", {"name": "video", "stride": 1}
    video = VIDEO | {"data": {"path": arrays, "reader": reader, "augment": {"fixed": [0]}}}
    volume = VOLUME | {"data": SCANS | {"path": f"{small}/scans"}}
    labelled = {k: v for k, v in IMAGE.items() if k != "mask"}
    body = {k: v for k, v in VOLUME.items() if k != "mask"}
    segment = {"name": "segment", "head": "unetr", "features": 8, "distort": 1}
    return {
        "images": ("pretrain", {"image": image}, {}),
        "clips": ("pretrain", {"clip": video}, {}),
        "volumes": ("pretrain", {"volume": volume}, {}),
        "images, clips and volumes": ("pretrain", {"image": image, "clip": video, "volume": volume}, {}),
        "classify": ("finetune", {"image": labelled | {"data": {
            "path": f"{small}/classes", "test": f"{small}/classes_test"}}},
            {"task": {"name": "classify", "mixup": 0.8, "cutmix": 1.0, "distort": 2}}),
        "classify clips": ("finetune", {"clip": {k: v for k, v in video.items() if k not in ("mask", "decode")}},
            {"task": {"name": "classify"}}),
        "segment": ("finetune", {"image": labelled | {"data": {"path": f"{small}/flat", "augment": {"fixed": [0, 1]}}}},
            {"task": segment | {"classes": ["round", "square"], "masks": f"{small}/masks"}}),
        "segment volumes": ("finetune", {"volume": body | {"data": SCANS | {"path": f"{small}/scans"}}},
            {"task": segment | {"classes": ["ball"], "masks": f"{small}/scan_masks"}}),
        "detect": ("finetune", {"image": labelled | {"data": {
            "path": f"{small}/flat", "augment": {"scale": [0.6, 1.0]}}}},
            {"task": {"name": "detect", "labels": f"{small}/boxes.json", "channels": 16, "depth": 1,
                      "strides": [4, 8]}}),
    }  # fmt: skip


def taken(check: Check, name: str, steps: int) -> dict[str, Any]:
    """What 20 steps of a case say of themselves. Raises RuntimeError where it fails or a loss is not finite."""
    verb, modalities, more = cases(str(check.inputs / "small"))[name]
    # Eager: nine starts of a compiler took a GPU more than all the time there is (an H200: three of them 88 s).
    train = {"steps": steps, "precision": "fp32" if check.device == "cpu" else "bf16", "compile": False}
    config = write(check, name.replace(" ", "_"), modalities, train, **more)
    rows = trained(verb, config, check.out / name, *(("--init", "none") if verb == "finetune" else ()))
    if not all(math.isfinite(row["loss"]) for row in rows) or len(rows) != steps:
        raise RuntimeError(f"{name}: {len(rows)} of {steps} steps, last loss {rows[-1]['loss']}")
    return summary(rows, sum(m["batch"] for m in modalities.values()))


def each(check: Check, work: Callable[[str], dict[str, Any]], names: Iterable[str] = ()) -> None:
    """Cases, one after the other, all if none is named; one that fails is a row, and the section fails at its end."""
    failed = []
    for name in names or cases(""):
        if check.left() < 5:
            check.skip(name, f"{check.left():.0f} s were left")
            continue
        try:
            check.row(name, **work(name))
        except Exception as error:  # noqa: BLE001 whatever it was, the next case has its turn
            failed.append(name)
            check.row(name, error=f"{type(error).__name__}: {str(error)[:200]}")
    if failed:
        raise RuntimeError(f"failed: {', '.join(failed)}")


def every(check: Check) -> None:
    steps = 2 if check.tiny else 20
    each(check, lambda name: taken(check, name, steps))
