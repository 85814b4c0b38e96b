"""Pictures of reconstructions: input, masked, reconstruction, and under them what was and was not given away."""

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from math import prod
from pathlib import Path

import torch

from mae_ext.data.loading.batches import valid_share
from mae_ext.data.sample import Sample, stack, stack_valid
from mae_ext.drawing.panels import Panel, on_a_scale, save, save_sheet
from mae_ext.engine.log import warn
from mae_ext.errors import BadSample, UserError, reasons
from mae_ext.features.encoder import FrozenEncoder, load_encoder
from mae_ext.model.filling import statistics_caption, visible_pixels
from mae_ext.model.units import in_units
from mae_ext.progress import Progress
from mae_ext.report.history import OVERVIEW
from mae_ext.rng import rng
from mae_ext.writing import blamed_on, folder_for

BATCH = 8
SHEET_ROWS = 24
HIDDEN = 0.5
"""Grey level of a hidden patch."""


def reconstruct(
    run: str | Path,
    inputs: Sequence[str | Path],
    out: str | Path,
    own_statistics: bool = False,
    seed: int = 0,
    limit: int = 64,
    name: str | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """One picture for each input, and `overview` with the first of them in one sheet (last in the list returned).

    PNG; GIF for clips. Where the run has several modalities, the name of the one that is drawn is in the files' names.

    inputs: files, folders or any other source; the first `limit` samples are drawn. Masks depend on (seed, position in
    the inputs) alone. own_statistics: undo patch normalisation with the hidden patches' own mean and variance, which
    shows more than the model knows; the caption says so. Inputs that cannot be read are left out with a warning. Writes
    only inside `out`. Raises UserError: an input that is missing, none readable, `out` not writable.
    """
    if limit < 1:
        raise UserError(f"limit={limit}: expected at least 1")
    encoder, out = load_encoder(run, name), Path(out)
    if encoder.model.decoder is None:
        task = encoder.config.task.name
        if task == "pretrain":  # weights of another program, of which no run is known
            raise UserError(
                f"{run}: these weights have no decoder, which draws; pretrain from them (--init) to have one"
            )
        raise UserError(f"{run}: a run of task '{task}' has no decoder; give the run of pretraining it started from")
    _ = encoder.model.modality(encoder.name).pixels  # or the target is of no picture
    if any(Path(source).is_dir() and out.resolve() == Path(source).resolve() for source in inputs):
        raise UserError(f"--out {out}: is a folder of inputs, whose files are not written over; name another")
    # Pictures of another modality of the run may lie there already.
    prefix, suffix = (f"{encoder.name}_", f"_{encoder.name}") if len(encoder.config.modalities) > 1 else ("", "")
    with folder_for(out):
        total = min(limit, sum(len(encoder.items(str(source))) for source in inputs))
        written: list[Path] = []
        panels: list[Panel] = []
        for index, panel in enumerate(panels_of(encoder, inputs, own_statistics, seed, limit)):
            stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(panel.caption[0]).stem)[:60]
            with blamed_on(out):
                written.append(save(panel, out / f"{prefix}{index:04d}_{stem}"))
            if len(panels) < SHEET_ROWS:
                panels.append(panel)
            if progress is not None:
                progress(index + 1, total)
        with blamed_on(out):
            written.append(save_sheet(panels, out / (OVERVIEW + suffix)))
    return written


def panels_of(
    encoder: FrozenEncoder, inputs: Sequence[str | Path], own_statistics: bool = False, seed: int = 0, limit: int = 64
) -> Iterator[Panel]:
    """What `reconstruct` draws, before it is drawn. The caption's first line is the source."""
    bad: list[dict[str, str]] = []
    samples = _readable(encoder, inputs, bad)
    first = 0
    while batch := list(islice(samples, min(BATCH, limit - first))):
        yield from _panels(encoder, batch, own_statistics, seed, first)
        first += len(batch)
    if not first:
        named = ", ".join(map(str, inputs)) or "no input"
        raise UserError(f"{named}: none of the {len(bad)} inputs can be read: {reasons(bad)}")


def _readable(encoder: FrozenEncoder, inputs: Sequence[str | Path], bad: list[dict[str, str]]) -> Iterator[Sample]:
    for source in inputs:
        for outcome in encoder.decode(encoder.items(str(source))):
            if isinstance(outcome, BadSample):
                warn(f"left out: {outcome}")
                bad.append(outcome.row)
            else:
                yield outcome


def _panels(encoder: FrozenEncoder, batch: list[Sample], own: bool, seed: int, first: int) -> Iterator[Panel]:
    modality = encoder.model.modality(encoder.name)
    x, spacing = stack(batch)
    generators = [rng(seed, "picture", encoder.name, first + i) for i in range(len(batch))]
    mask = modality.draw_mask(generators, None, [valid_share(sample, modality.patch) for sample in batch])
    mask = mask.each(lambda index: index.to(encoder.device))
    x, spacing = x.to(encoder.device), spacing if spacing is None else spacing.to(encoder.device)
    valid = stack_valid(batch)
    valid = valid if valid is None else valid.to(encoder.device)
    with torch.inference_mode():
        filled = encoder.model.reconstruct(x, mask, encoder.name, spacing, own, valid)
    original = in_units(x)
    original, filled = on_a_scale(original, original), on_a_scale(filled, original)
    visible = visible_pixels(mask, modality.patch)
    masked = torch.where(visible, original, torch.full_like(original, HIDDEN))
    normalised = getattr(modality.pixels, "normalize", "none") != "none"
    how = statistics_caption(normalised, own)
    display = getattr(encoder.reader(), "display", "image")
    share = 1 - mask.keep.shape[1] / prod(mask.grid)
    rows = zip(batch, original.cpu(), masked.cpu(), filled.cpu(), strict=True)
    for sample, *columns in rows:
        caption = (sample.source, f"mask ratio {share:.3g} · step {encoder.step}", how)
        titled = tuple(zip(("input", "masked", "reconstruction"), columns, strict=True))
        yield Panel(titled, caption, display, (sample.spacing,) * len(titled))
