"""`anomaly`: how far each place of a sample is from what a run expects there, as maps in its geometry and one score."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae_ext.data.sources.cache import on_disk
from mae_ext.drawing.panels import save
from mae_ext.engine.log import warn
from mae_ext.errors import UserError
from mae_ext.features.encoder import load_encoder
from mae_ext.progress import Progress
from mae_ext.restored.files import HELD, as_stored, write_arrays, write_scans
from mae_ext.restored.pictured import Thumb
from mae_ext.restored.places import Inputs, Row, place_for, writing
from mae_ext.restored.reference import REFERENCE, Reference, reference_for
from mae_ext.restored.restorer import Masking, Restorer
from mae_ext.restored.rows import Rows
from mae_ext.restored.scores import TopMean
from mae_ext.restored.source import Source
from mae_ext.writing import staged

SCORES, TABLE = "scores.json", "scores.csv"
MASKS = 16
TOP = 0.01
"""Share of the valid places whose mean is a sample's score."""

FILM_BYTES = 1 << 30
"""Of one map of a film in half precision, up to which it has the size of the film's own frames."""

COLUMNS = ("source", "score", "standardised", "share_below", "mean_error", "mean_spread", "places")


@dataclass(frozen=True)
class Looked:
    """What there is to find out of each sample. top: as TOP. maps: whether they, called `names`, are written, and
    pictures."""

    restorer: Restorer
    reference: Reference | None
    top: float
    maps: bool
    scratch: Path
    names: tuple[str, ...]


def anomaly(
    run: str | Path, inputs: Sequence[str | Path], out: str | Path, masking: Masking,
    reference: str | Path | None = None, top: float = TOP, maps: bool = True, name: str | None = None,
    progress: Progress | None = None,
) -> list[Path]:  # fmt: skip
    """Maps, a picture and a score of each sample; `scores.csv` and `scores.json` are last in the list returned.

    error: of each place, by how much the mean of what is said of it from the masks that hid it differs from the input,
    in standard deviations of the training data, the root of the mean square over channels. spread: the standard
    deviation of what is said over masks. standardised: (error - mean) / sd of the reference, which is training data, or
    a file that an earlier command kept. score: the mean of the highest `top` of the standardised map (of the error,
    without a reference) where places are valid. Maps of scans are NIfTI in their geometry, of others .npz.

    Inputs that cannot be read are left out with a warning. Raises UserError.
    """
    if not 0 < top <= 1:
        raise UserError(f"top={top}: expected the share of places that make the score, above 0 to 1")
    encoder = load_encoder(run, name)
    restorer, entries = Restorer(encoder, masking), Inputs(encoder, inputs)
    off = abs(1 - restorer.show / restorer.masks - restorer.ratio)
    if off > 0.02:
        warn(
            f"{restorer.masks} masks that hide each place equally often hide {1 - restorer.show / restorer.masks:.3g} "
            f"of a sample, and the run was trained with {restorer.ratio:.3g}; --masks 10 or 20 may come nearer"
        )
    with place_for(out, SCORES, entries, [TABLE]) as place:
        names = ("error", "spread", *(["standardised"] if reference is not None else []))
        suffixes = [f"_{one}.nii.gz" for one in names] if entries.of_scans else ["_maps.npz"]
        moving = entries.display == "clip"
        paths = [place.paths(suffix) for suffix in ([*suffixes, ".gif" if moving else ".png"] if maps else [])]
        usual = None if reference is None else reference_for(restorer, reference, place.out, top, progress)
        looked = Looked(restorer, usual, top, maps, place.out, names)
        written: list[Path] = []

        def work(source: Source, index: int) -> Row:
            place.begin(paths)
            files = [of[index] for of in paths]
            row = _look(looked, source, entries.display, files)
            written.extend(files)
            return row | {"files": place.named(files)}

        rows = [row for _, row in entries.each(work, progress)]
        content = {"run": str(run), **restorer.said, "top": top, "unit": "standard deviations of the training data"}
        place.write(content | {"reference": usual.said if usual else None}, rows)
        with staged(place.out / TABLE) as [partial]:
            partial.write_text(_table(rows), encoding="utf-8")
    kept = [place.out / REFERENCE] if usual is not None and (place.out / REFERENCE).exists() else []
    return [*written, *kept, place.out / TABLE, place.listed]


def _look(looked: Looked, source: Source, display: str, files: Sequence[Path]) -> Row:
    """Everything about one sample, of one pass over it. Raises BadSample."""
    if looked.reference is not None:
        looked.reference.check(source)
    size = prod(source.shape)
    highest, spreads = TopMean(looked.top, size), TopMean(1 / size, size)
    modality, errors = looked.restorer.modality, TopMean(1 / size, size)
    thumb = Thumb(source, display, modality.mean.cpu(), modality.std.cpu())

    def measured() -> Iterator[Tensor]:
        at = 0
        for answers in source.answers(looked.restorer, looked.scratch):
            rows = Rows.of(answers)
            standard = None
            if looked.reference is not None:
                standard = looked.reference.standardised(rows.error, slice(at, at + len(rows.error)))
            at += len(rows.error)
            highest.add(rows.error if standard is None else standard, rows.valid)
            errors.add(rows.error, rows.valid)
            spreads.add(rows.spread, rows.valid)
            if not looked.maps:
                continue
            thumb.add(rows, standard)
            of = [rows.error, rows.spread, *([] if standard is None else [standard])]
            yield torch.stack([one.where(rows.valid, 0) for one in of], -1)

    with torch.inference_mode():
        if looked.maps:
            _write(looked, source, measured(), files[:-1])
        for _ in measured() if not looked.maps else ():
            pass
    above, below = looked.reference.of_score(highest.score) if looked.reference else (None, None)
    row = {
        "source": source.address, "score": _number(highest.score), "standardised": above, "share_below": below,
        "mean_error": _number(errors.mean), "mean_spread": _number(spreads.mean), "places": highest.count,
    }  # fmt: skip
    if looked.maps:
        said = "" if above is None else f", {above:+.2g} sd of the reference's"
        restorer = looked.restorer
        hidden = f"{restorer.masks} masks, each place hidden in {restorer.masks - restorer.show}"
        caption = [source.address, f"score {highest.score:.3g}{said}", hidden]
        with writing(files[-1]):
            made = save(thumb.panel(caption, looked.reference is not None), files[-1].with_suffix(""))
            if made != files[-1]:  # a film of one frame stands still
                made.replace(files[-1])
    return row


def _write(looked: Looked, source: Source, parts: Iterator[Tensor], files: Sequence[Path]) -> None:
    if source.scan is not None:
        write_scans(source, parts, list(files), looked.scratch)
        return
    film = source.times is not None
    kind = np.float16 if film else np.float32
    large = prod(source.shape) * np.dtype(kind).itemsize > HELD
    maps = [on_disk(source.shape, kind, looked.scratch) if large else np.empty(source.shape, kind)
            for _ in looked.names]  # fmt: skip
    at = 0
    for part in parts:
        for number, one in enumerate(maps):
            one[at : at + len(part)] = part[..., number].clamp(-6e4, 6e4).numpy()
        at += len(part)
    own = not film or 2 * prod(source.stored) <= FILM_BYTES
    if not own:
        warn(f"{source.address}: its maps have the size that the model sees, {source.shape[1:]}, and not its frames'")
    shape = source.stored if own else source.shape
    arrays: dict[str, Any] = {
        name: (shape, kind, _rows(source, one, own)) for name, one in zip(looked.names, maps, strict=True)
    }
    if source.times is not None:
        arrays["times"] = source.times.shape, np.float64, iter([source.times])
    write_arrays(files[0], arrays)


def _rows(source: Source, values: NDArray[np.generic], own: bool) -> Iterator[NDArray[np.generic]]:
    along = max(1, (1 << 22) // prod(source.shape[1:]))
    pieces = (values[at : at + along] for at in range(0, len(values), along))
    if not own:
        yield from pieces
        return
    parts = (torch.from_numpy(piece.astype(np.float32))[..., None] for piece in pieces)
    yield from (part[..., 0].numpy() for part in as_stored(source, parts))


def _number(value: float) -> float | None:
    return value if isfinite(value) else None


def _table(rows: Sequence[Row]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(["" if row[key] is None else row[key] for key in COLUMNS] for row in rows)
    return text.getvalue()
