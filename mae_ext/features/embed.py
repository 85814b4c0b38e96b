"""Features of a whole source as a file that any tool can read: safetensors, and one JSON line for each row."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from mae_ext.data.sources.table import are_numbers
from mae_ext.engine.checkpoint import is_run, read_tensors
from mae_ext.engine.log import warn
from mae_ext.engine.outputs import warn_one_sided
from mae_ext.errors import CheckpointError, UserError, reasons
from mae_ext.features.encoder import Features, FrozenEncoder
from mae_ext.features.map import draw_map
from mae_ext.features.neighbours import draw_neighbours
from mae_ext.features.shares import Pool
from mae_ext.features.sharing import Opened, opened_run
from mae_ext.features.windowed import Windows, place_of, record_type
from mae_ext.progress import Progress
from mae_ext.strict_json import dumps
from mae_ext.writing import blamed_on, staged

MAPS = "maps"
"""Folder of a run whose pictures its report shows."""


def embed(
    run: str | Path | Opened,
    source: str,
    out: str | Path,
    pool: Pool | Windows = "mean",
    name: str | None = None,
    max_bad_fraction: float | None = None,
    progress: Progress | None = None,
    with_map: bool = False,
    neighbours: int | None = None,
) -> Path:
    """Write `features (n, D) float32` to `out` (.safetensors) and, beside it, line i for row i in a .jsonl.

    They are computed in the precision that the run was trained in.

    pool: `Windows` sees all of a sample. Where these are not pooled, a row is a window: beside `features` stand, a row
    for each, `sample` (its number in the source's order), `start` and `stop` (its edges in stored voxels, positions of
    a film or pixels, float64; voxel 0 is from 0 to 1), `place` (what that is says the metadata) and `weight` (`shown`),
    and its line has the sample's path and label.

    A line is {"path", "label", "class"}; label and class are null where the source has none, class is a list where a
    sample can have several, and "patient" is added where the source knows it. label is the class itself where classes
    are numbers, else its place among the sorted names (in the file's metadata). Bytes of a path that are no text stand
    as Python's surrogate escapes, so that the file is found again. with_map: also `<out>.map.png`, features
    as points in a plane. neighbours: also `<out>.neighbours.png` (.gif where samples move), a few samples and so many
    that are nearest to each; of a run directory, both are copied into its maps/, for its report. Samples that could not
    be read go to `<out>.bad.jsonl` and are counted in the file's metadata. Files already there are
    replaced when all is computed. Raises as `FrozenEncoder.features` does, and UserError, before anything is computed,
    when `out` cannot be written.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: features are written as safetensors; name the file {out.name}.safetensors")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder to write {out.name} into")
    each = isinstance(pool, Windows) and pool.pool is None
    if each and (with_map or neighbours is not None):
        raise UserError("pictures show samples, and each window is a row here: give a pool (mean, max or weighted)")
    sidecars = [out.with_suffix(suffix) for suffix in (".jsonl", ".bad.jsonl")]
    if not out.exists() and (strays := [path for path in sidecars if path.exists()]):
        raise UserError(f"{strays[0]}: belongs to no {out.name}, and would be written over; name another file")
    if out.is_file() and not _is_of_features(out):
        raise UserError(f"{out}: holds other tensors than features, and is not written over; name another file")
    with staged(out, *sidecars) as [table, lines, ledger]:
        opened = opened_run(run, name)
        encoder = opened.encoder
        warn_one_sided([encoder.modality], [source])
        features = encoder.features(source, pool, max_bad_fraction=max_bad_fraction, progress=progress)
        metadata = {
            "checkpoint": _as_text(encoder.path),
            "step": str(encoder.step),
            "modality": encoder.name,
            "source": _as_text(source),
            "pool": str(pool),
            **({"place": place_of(encoder.reader())} if each else {}),
            "bad": str(len(features.bad)),
            "classes": dumps(features.classes),
        }
        try:
            with blamed_on(out):
                save_file(_tensors(features), table, metadata)
                _write_lines(lines, _of_windows(features) if each else _rows(features))
                if features.bad:
                    _write_lines(ledger, features.bad)
                else:
                    ledger.unlink()
        except SafetensorError as error:
            raise UserError(f"{out}: cannot be written: {error}") from None
    if not features.bad:
        sidecars[1].unlink(missing_ok=True)
    if with_map or neighbours is not None:
        _draw(encoder, features, out, Path(opened.run), with_map, neighbours)
    if features.bad:
        total = len(features.bad) + len(features.sources)
        warn(
            f"{len(features.bad)} of {total} samples could not be read; they are listed in {sidecars[1]}: "
            f"{reasons(features.bad)}"
        )
    return out


def _is_of_features(file: Path) -> bool:
    """Whether one of ours may take its place; one that cannot be read is nobody's."""
    try:
        tensors = set(read_tensors(file))
        return tensors <= {"features", *(record_type(1, 1, 1).names or ())} and "features" in tensors
    except CheckpointError:
        return True


def _tensors(features: Features) -> dict[str, np.ndarray]:
    table = features.features
    if table.dtype.names is None:
        return {"features": table}
    return {name: np.ascontiguousarray(table[name]) for name in table.dtype.names}


def _of_windows(features: Features) -> Iterable[dict[str, Any]]:
    """The line of its sample for each window."""
    lines = list(_rows(features))
    yield from (lines[number] for number in features.features["sample"])


def _rows(features: Features) -> Iterable[dict[str, Any]]:
    numbers = are_numbers(features.classes)
    for i, path in enumerate(features.sources):
        label = -1 if features.labels is None else int(features.labels[i])
        named = features.classes[label] if label >= 0 else None
        row: dict[str, Any] = {
            "path": path,
            "label": None if named is None else int(named) if numbers else label,
            "class": named,
        }
        if features.marks is not None:
            marks = features.marks[i]
            row["class"] = (
                [c for c, m in zip(features.classes, marks, strict=True) if m == 1] if marks.max() >= 0 else None
            )
        if features.patients is not None:
            row["patient"] = features.patients[i] or None
        yield row


def _draw(
    encoder: FrozenEncoder, features: Features, out: Path, run: Path, with_map: bool, neighbours: int | None
) -> None:
    try:
        written = []
        if with_map:
            kinds = [row["class"] for row in _rows(features)]
            names = ["|".join(k) or "none" if isinstance(k, list) else k for k in kinds]
            title = f"{out.stem} · {len(names)} samples · step {encoder.step}"
            written.append(draw_map(features.features, names, out.with_suffix(".map.png"), title))
        if neighbours is not None:
            written.append(draw_neighbours(encoder, features, neighbours, out.with_suffix(".neighbours")))
    except OSError as error:
        raise UserError(
            f"{out.parent}: pictures of the features cannot be written: {error.strerror or error}"
        ) from None
    if is_run(run):
        try:
            (run / MAPS).mkdir(exist_ok=True)
            for path in written:
                shutil.copyfile(path, run / MAPS / path.name)
        except OSError as error:
            warn(f"{run / MAPS}: {error.strerror or error}; the report will not show the features' pictures")


def _as_text(name: str | Path) -> str:
    """A path as metadata can hold it: bytes of a name that are no text are escaped."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(dumps(row) + "\n" for row in rows)
