"""Runs of the engine inside a section: configs, the command that users type, and what it wrote."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from gpu.results import Check

from mae_ext.cli import run

Values = Mapping[str, Any]

MODEL = {"width": 192, "depth": 4, "heads": 3, "drop_path": 0.1, "decoder": {"width": 96, "depth": 2, "heads": 3}}
SMALL_MODEL = {"width": 24, "depth": 1, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}


def write(check: Check, name: str, modalities: Values, train: Values, **more: Any) -> Path:
    """A config in the section's folder, of a model of no size."""
    settings = {
        "steps": 20,
        "lr": 1e-3,
        "precision": "bf16",
        "device": check.device,
        "workers": 0,
        "tensorboard": False,
    }
    values = {
        "seed": 5, "modalities": dict(modalities), "model": SMALL_MODEL if check.tiny else MODEL,
        "train": {**settings, "save_every": 1000, **train}, **more,
    }  # fmt: skip
    path = check.out / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def trained(verb: str, config: Path, out: Path, *more: str) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl of a run. Raises RuntimeError where the command failed; its words are in the log."""
    code = run([verb, str(config), "--out", str(out), *more])
    if code:
        raise RuntimeError(f"mae-ext {verb} {config.name} ended with {code}; the section's log says why")
    return rows(out)


def rows(out: Path) -> list[dict[str, Any]]:
    file = out / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def summary(metrics: list[dict[str, Any]], samples: int) -> dict[str, float]:
    """Of a run without its first third: speed, and the share of time for which a batch was awaited."""
    late = metrics[len(metrics) // 3 :]
    seconds = statistics.median(row["seconds"] for row in late)
    waited = sum(row["data_wait"] for row in late) / sum(row["seconds"] for row in late)
    row = {"steps": len(metrics), "ms": round(1e3 * seconds, 2), "samples_per_s": round(samples / seconds, 1)}
    return row | {"data_wait_percent": round(100 * waited, 2), "last_loss": metrics[-1]["loss"]}
