"""What a run directory says about itself, read while the run may still be writing to it. Trusts no line."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mae_ext.config import Config, parse_config
from mae_ext.errors import ConfigError, UserError
from mae_ext.interop.files import FOLDER
from mae_ext.strict_yaml import read_yaml

TENSOR_HEADER_BYTES = 16 << 20
OVERVIEW = "overview"
"""Of a sheet with the first reconstructions; overview_NAME where a run has several modalities."""


@dataclass(frozen=True)
class Checkpoint:
    name: str
    step: int
    megabytes: float
    manifest: dict[str, Any]


@dataclass(frozen=True)
class Best:
    """The checkpoint that best.json names, and its score on held-out data by name."""

    step: int
    checkpoint: str
    score: str
    value: float


@dataclass(frozen=True)
class History:
    """metrics: column -> (n,) float64, NaN where a line lacks it; evaluations: the same, of scores on held-out data.

    problems: sentences about what was unreadable.
    """

    run: Path
    config: Config | None
    config_text: str
    metrics: dict[str, np.ndarray]
    bad: list[dict[str, Any]]
    probes: list[dict[str, Any]]
    checkpoints: list[Checkpoint]
    evaluations: dict[str, np.ndarray] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    best: Best | None = None

    def column(self, name: str) -> np.ndarray:
        column: np.ndarray = self.metrics.get(name, np.empty(0))
        return column

    def finite(self, name: str) -> np.ndarray:
        values: np.ndarray = self.column(name)
        finite: np.ndarray = values[np.isfinite(values)]
        return finite

    def waited(self) -> np.ndarray:
        """(n,) share of each step that was spent waiting for data, in 0..1."""
        if not {"data_wait", "seconds"} <= self.metrics.keys():
            return np.empty(0)
        share: np.ndarray = self.metrics["data_wait"] / np.maximum(self.metrics["seconds"], 1e-9)
        return share

    def use(self) -> list[tuple[str, str]]:
        """What the hardware did, in words: arithmetic, its share of what the device can do, and memory."""
        words = {"tflops": "TFLOP/s of a device: median", "mfu": "MFU: median"}
        rows = [(says, f"{np.median(self.finite(name)):.3g}") for name, says in words.items() if len(self.finite(name))]
        memory = self.finite("memory")
        return [*rows, *([("memory of rank 0, at most", f"{memory.max():.2f} GiB")] if len(memory) else [])]

    def stages(self) -> dict[str, float]:
        """Seconds that making batches took rank 0's workers, over all steps, by stage: "read", "decode", and so on."""
        columns = {name.removeprefix("loader/"): name for name in self.metrics if name.startswith("loader/")}
        return {stage: float(self.finite(name).sum()) for stage, name in columns.items()}


def read_history(run: Path) -> History:
    """Raises UserError when `run` is not a run directory: one with a config.yaml or a metrics.jsonl."""
    if not run.is_dir():
        raise UserError(f"{run}: no such run directory")
    if not any((run / name).is_file() for name in ("config.yaml", "metrics.jsonl")):
        raise UserError(f"{run}: not a run directory: it has neither config.yaml nor metrics.jsonl")
    held = next((name for name in FOLDER if (run / name).is_file()), None)
    if held is not None and not any((run / name).exists() for name in ("checkpoints", "metrics.jsonl")):
        raise UserError(
            f"{run}: not a run directory, but weights of another program ({held}), of which no run is known"
        )
    problems: list[str] = []
    text, config = _config(run / "config.yaml", problems)
    metrics, probes = _lines(run / "metrics.jsonl", problems), _lines(run / "probes.jsonl", problems)
    evaluations = columns(_lines(run / "evaluations.jsonl", problems))
    # One ledger for each rank that met a bad file.
    bad = [line for file in sorted(run.glob("bad_samples*.jsonl")) for line in _lines(file, problems)]
    checkpoints = _checkpoints(run / "checkpoints", problems)
    problems += [
        f"The run was stopped by a non-finite loss: see {path.parent.name}/record.json"
        for path in sorted(run.glob("failure-*/record.json"))
    ]
    best = _best(run / "best.json", problems)
    return History(run, config, text, columns(metrics), bad, probes, checkpoints, evaluations, problems, best)


def _best(path: Path, problems: list[str]) -> Best | None:
    """{"step", "checkpoint", SCORE}, as engine/best.py writes it."""
    if not path.exists():
        return None
    try:
        row = json.loads(path.read_bytes())
        step, checkpoint = row.pop("step"), row.pop("checkpoint")
        (score, value), *_ = row.items()
        return Best(int(step), str(checkpoint), score, float(value))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problems.append(f"{path.name} cannot be read: {error!r}")
        return None


def _config(path: Path, problems: list[str]) -> tuple[str, Config | None]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        return text, parse_config(read_yaml(text, path.name), path.name)
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror or error}")
        return "", None
    except ConfigError as error:
        # For instance a plug-in that is not installed here. All the rest can still be shown.
        problems.append(f"{error}")
        return text, None


def _lines(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """The objects in a JSONL file. A last line without its newline is still being written: left out in silence."""
    if not path.exists():
        return []
    try:
        complete, _, _ = path.read_bytes().rpartition(b"\n")
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror or error}")
        return []
    objects, broken = [], 0
    for line in complete.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            objects.append(value)
        else:
            broken += bool(line.strip())
    if broken:
        problems.append(f"{path.name}: {broken} {'line is' if broken == 1 else 'lines are'} not JSON objects, left out")
    return objects


def columns(lines: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Metrics by name, ascending in step; of two lines for one step the later counts."""
    by_step = {line["step"]: line for line in lines if _is_number(line.get("step"))}
    ordered = [by_step[step] for step in sorted(by_step)]
    names = dict.fromkeys(name for line in ordered for name, value in line.items() if _is_number(value))
    return {n: np.array([v if _is_number(v := line.get(n)) else np.nan for line in ordered], float) for n in names}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _checkpoints(folder: Path, problems: list[str]) -> list[Checkpoint]:
    checkpoints = []
    for path in sorted(folder.glob("step-*/manifest.json")) if folder.is_dir() else ():
        try:
            manifest = json.loads(path.read_bytes())
            size = sum(file.stat().st_size for file in path.parent.iterdir() if file.is_file())
        except (OSError, ValueError) as error:
            # Also when the run deletes an old checkpoint while this reads it.
            problems.append(f"checkpoint {path.parent.name} cannot be read: {error}")
            continue
        if isinstance(manifest, dict):
            step = manifest.get("step")
            number = step if isinstance(step, int) else -1
            checkpoints.append(Checkpoint(path.parent.name, number, size / 1e6, manifest))
    return sorted(checkpoints, key=lambda c: c.step)


def parameters(checkpoint: Path) -> dict[str, int]:
    """First part of the name -> number of weights, from the headers of a checkpoint's safetensors; {} if unreadable."""
    counts: dict[str, int] = {}
    for file in sorted(checkpoint.glob("model*.safetensors")):
        try:
            with file.open("rb") as opened:
                length = int.from_bytes(opened.read(8), "little")
                header = json.loads(opened.read(length)) if length <= TENSOR_HEADER_BYTES else {}
        except (OSError, ValueError):
            return {}
        for name, tensor in header.items():
            if name != "__metadata__":
                part = name.split(".")[0]
                counts[part] = counts.get(part, 0) + int(np.prod(tensor["shape"], dtype=np.int64))
    return counts
