"""`reconstruct --as nifti | mp4 | png`: what a run makes of whole samples, as files of the samples' own kind."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from mae_ext.errors import UserError
from mae_ext.features.encoder import load_encoder
from mae_ext.progress import Progress
from mae_ext.restored.files import IN_ONE, Parts, write_films, write_pictures, write_scans
from mae_ext.restored.places import Inputs, Row, place_for
from mae_ext.restored.restorer import Masking, Restorer
from mae_ext.restored.rows import Rows
from mae_ext.restored.source import Source

LISTED = "reconstructed.json"
"""In the folder of results: what they depend on, and of each its source, its files and the units of their numbers."""

Kind = Literal["nifti", "mp4", "png"]
KINDS: dict[str, tuple[Kind, str]] = {
    "volume": ("nifti", ".nii.gz"),
    "clip": ("mp4", ".mp4"),
    "image": ("png", ".png"),
}
"""By the way that a reader's samples are drawn."""


def reconstruct_data(
    run: str | Path, inputs: Sequence[str | Path], out: str | Path, kind: Kind, masking: Masking,
    limit: int | None = None, with_input: bool = False, name: str | None = None, progress: Progress | None = None,
) -> list[Path]:  # fmt: skip
    """Reconstructions of whole inputs, in their own geometry, size and length; the list of them is last.

    Every voxel is what the run says of it from masks in which it was hidden, `Masking.masks` of them, each voxel in
    equally many; no pixel of the input is copied. with_input: what the model was shown goes through the same steps
    into files of its own, NAME_input. Inputs that cannot be read are left out with a warning. Raises UserError.
    """
    encoder = load_encoder(run, name)
    restorer, entries = Restorer(encoder, masking), Inputs(encoder, inputs, limit)
    wanted, suffix = KINDS.get(entries.display, (None, ""))
    if kind != wanted or (kind == "nifti" and not entries.of_scans):
        instead = f"--as {wanted}" if wanted else "pictures, without --as"
        raise UserError(f"--as {kind}: the samples of {run} are of kind '{entries.display}'; ask for {instead}")
    files = 1 if kind == "mp4" or (kind == "png" and restorer.channels in IN_ONE) else restorer.channels
    several = [""] if files == 1 else [f"_{channel:04d}" for channel in range(files)]
    with place_for(out, LISTED, entries) as place:
        names = ["", *(["_input"] if with_input else [])]
        made = [[place.paths(f"{what}{channel}{suffix}") for channel in several] for what in names]
        written: list[Path] = []
        rows: list[Row] = []

        def work(source: Source, index: int) -> Row:
            place.begin([of for whole in made for of in whole])
            paths = [[each[index] for each in of] for of in made]
            units = _write(source, restorer, kind, paths, place.out)
            every = [path for of in paths for path in of]
            written.extend(every)
            return {"source": source.address, "files": place.named(every), "units": units}

        rows.extend(row for _, row in entries.each(work, progress))
        place.write({"run": str(run), **restorer.said}, rows)
    return [*written, place.listed]


def _write(source: Source, restorer: Restorer, kind: Kind, paths: list[list[Path]], scratch: Path) -> str:
    """What is restored and, of two lists of paths, the input. -> the units of what is written. Raises BadSample."""
    mean, std = restorer.modality.mean.cpu(), restorer.modality.std.cpu()
    scan = source.scan

    def in_units(answers: Tensor) -> Tensor:
        rows = Rows.of(answers)
        wanted = [x * std + mean for x in (rows.x + rows.off, rows.x)[: len(paths)]]
        return torch.cat(wanted if scan is None else [scan.in_its_units(x) for x in wanted], -1)

    with torch.inference_mode():
        parts: Parts = (in_units(answers) for answers in source.answers(restorer, scratch))
        if kind == "mp4":
            return f"8-bit colours, {write_films(source, parts, [path for (path,) in paths])}"
        if kind == "png":
            return write_pictures(source, parts, paths)
        assert scan is not None
        write_scans(source, parts, [path for of in paths for path in of], scratch)
        return scan.units[0]
