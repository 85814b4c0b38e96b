"""What a golden case is: a function of the folder of the process, where `inputs/` is, to a tree of values."""

import contextlib
import io
import json
import runpy
import sys
from collections.abc import Callable
from math import fsum, sqrt
from pathlib import Path
from typing import Any

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
