"""Features of a whole source as a file that any tool can read: safetensors, and one JSON line for each row."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import save_file

from mae_ext.downstream.encoder import Features, Pool, Progress, load_encoder
from mae_ext.engine.log import warn
from mae_ext.errors import UserError


def embed(
    run: str | Path,
    source: str,
    out: str | Path,
    pool: Pool = "mean",
    name: str | None = None,
    batch_size: int = 64,
    max_bad_fraction: float | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write `features (n, D) float32` to `out` (.safetensors) and, beside it, line i for row i in a .jsonl.

    A line is {"path", "label", "class"}; label and class are null where the source has none. Samples that could not be
    read go to `<out>.bad.jsonl` and are counted in the file's metadata. A file already at `out` is replaced in one
    step, when all is computed. Raises as `FrozenEncoder.features` does, and UserError when `out` cannot be written.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: features are written as safetensors; name the file {out.name}.safetensors")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder to write {out.name} into")
    encoder = load_encoder(run, name)
    features = encoder.features(source, pool, batch_size, max_bad_fraction=max_bad_fraction, progress=progress)
    metadata = {
        "checkpoint": str(encoder.path),
        "step": str(encoder.step),
        "modality": encoder.name,
        "source": str(source).encode("utf-8", "replace").decode(),
        "pool": pool,
        "bad": str(len(features.bad)),
        "classes": json.dumps(features.classes),
    }
    ledger = out.with_suffix(".bad.jsonl")
    try:
        partial = _partial(out)
        save_file({"features": features.features}, partial, metadata)
        _write_lines(out.with_suffix(".jsonl"), _rows(features))
        partial.replace(out)
        if features.bad:
            _write_lines(ledger, features.bad)
        else:
            ledger.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        _partial(out).unlink(missing_ok=True)
        raise UserError(f"{out}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
    if features.bad:
        total = len(features.bad) + len(features.sources)
        warn(f"{len(features.bad)} of {total} samples could not be read; they are listed in {ledger}")
    return out


def _rows(features: Features) -> Iterable[dict[str, Any]]:
    for i, path in enumerate(features.sources):
        label = -1 if features.labels is None else int(features.labels[i])
        named = 0 <= label < len(features.classes)
        yield {
            "path": path,
            "label": label if label >= 0 else None,
            "class": features.classes[label] if named else None,
        }


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp-{os.getpid()}")


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    partial = _partial(path)
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    partial.replace(path)
