"""A feature for each place of whole samples: maps in their own geometry, blended from the tokens of windows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae_ext.data.loading.blend import Blend
from mae_ext.data.loading.windows import Tiling
from mae_ext.data.plan import spread
from mae_ext.engine.outputs import Results, addresses_of, result_paths
from mae_ext.errors import BadSample, UserError, check_bad, reasons
from mae_ext.features.encoder import FrozenEncoder
from mae_ext.features.windowed import Seeing, Windows
from mae_ext.progress import Progress
from mae_ext.strict_json import dumps
from mae_ext.writing import blamed_on, staged

MAPS, COMPONENTS = "maps.jsonl", "components.npz"
LOOKED_AT = (16, 8)
"""Samples, evenly spread over the source, and windows of each, spread over the sample, whose components are taken."""


@dataclass(frozen=True)
class Components:
    """Tokens less `mean` (D,), along the columns of `basis` (D, n), which have `share` (n,) of their variance.

    Directions are those of the largest variance first; the largest entry of each is above 0. In their file `of` says
    of which model and settings they are, as the manifest does.
    """

    mean: NDArray[np.float32]
    basis: NDArray[np.float32]
    share: NDArray[np.float32]

    def __call__(self, tokens: Tensor) -> Tensor:
        """(..., D) -> (..., n)."""
        return (tokens - torch.from_numpy(self.mean)) @ torch.from_numpy(self.basis)


def embed_dense(
    encoder: FrozenEncoder,
    sources: Sequence[str],
    out: Path,
    windows: Windows,
    components: int | None = None,
    max_bad_fraction: float | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """A map for each sample into the folder `out`, under its name -> their paths, and `maps.jsonl`, a line for each.

    Of a scan a NIfTI of the grid of tokens, with D values a token or, of `components`, so many (`Components`, kept in
    components.npz), in the axis order of the scan and where it lies. Of others an .npz: `features` (*grid, D or n)
    float32, `first` and `step` (where the middle of the first token lies in stored pixels, and from one to the next)
    and, of a film, `seconds` of the tokens along its first axis, whose first and step count the steps of a clip.

    Tokens of overlapping windows are averaged, weighted by a Gaussian about the window's middle (`data.loading.blend`).
    A line says path, file, grid, windows, `halo` (`Tiling.halo`), and overlap. The same command again leaves what is
    there, and does the rest. Raises UserError, and RunError where more of the source is bad than `max_bad_fraction`.
    """
    reader = encoder.reader()
    writes = getattr(reader, "write_map", None)
    suffixes = tuple(reader.suffixes)
    addresses = addresses_of(sources, suffixes)
    paths = result_paths(addresses, suffixes, out, ".npz" if writes is None else reader.map_suffix)  # type: ignore[attr-defined]
    if components is not None and not 1 <= components <= encoder.width:
        raise UserError(f"components={components}: expected 1 to {encoder.width}, the numbers of a token")
    allowed = encoder.modality.data.max_bad_fraction if max_bad_fraction is None else max_bad_fraction
    seeing = encoder.seeing(windows, encoder.tokens)
    depends_on = f", dense, overlap {windows.overlap:g}, {components or encoder.width} numbers, {encoder.precision}"
    if components is not None and out / COMPONENTS in paths:
        raise UserError(f"{COMPONENTS} is kept beside maps, and a sample has that name: leave it out, or rename it")
    where = ", ".join(map(str, sources))
    try:
        with Results(out, encoder.model, encoder.config, depends_on) as results:
            left = results.open(addresses, paths, [out / MAPS])
            basis = None if components is None else _components(seeing, addresses, components, encoder.width, results)
            for done, index in enumerate(left):
                address = addresses[index]
                try:
                    whole = seeing.tiling(address)
                    values = _map(seeing, whole, address, basis, encoder.width, results.unfinished)
                    row = {"grid": whole.grid, "windows": len(whole), "halo": whole.halo, "overlap": windows.overlap}
                    with results.writing(address, paths[index], row) as path:
                        if writes is None:
                            _write(path, values, whole)
                        else:
                            writes(values, *whole.lattice, address, path)
                except BadSample as error:
                    results.leave_out(error)
                    check_bad(results.missing, len(addresses), allowed, where)
                if progress is not None:
                    progress(len(addresses) - len(left) + done + 1, len(addresses))
            if len(results.missing) == len(addresses):
                raise UserError(
                    f"{where}: none of the {len(addresses)} samples can be read: {reasons(results.missing)}"
                )
            results.summary(out / MAPS, "".join(_line(results, a, p) for a, p in zip(addresses, paths, strict=True)))
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from None
    return [path for path in paths if path.exists()]


def _line(results: Results, address: str, path: Path) -> str:
    row: dict[str, Any] | None = results.row(address)
    return "" if row is None else dumps({"path": address, "file": path.name, **row}) + "\n"


def _map(
    seeing: Seeing, whole: Tiling, address: str, basis: Components | None, width: int, scratch: Path
) -> NDArray[np.float32]:
    """(*grid, n)."""
    blend = Blend(whole, width if basis is None else basis.basis.shape[1], scratch)
    window = tuple(s // p for s, p in zip(whole.size, whole.patch, strict=True))
    places = whole.tokens()
    for group in seeing.groups(address, whole.boxes):
        for tokens in group.rows if basis is None else basis(group.rows):
            blend.add(next(places), tokens.reshape(*window, -1).numpy())
    return blend.mean()


def _write(path: Path, values: NDArray[np.float32], whole: Tiling) -> None:
    first, step = (np.array(edge) for edge in whole.lattice)
    with path.open("wb") as file:
        if whole.clock is None:
            np.savez(file, features=values, first=first, step=step)
        else:
            np.savez(file, features=values, first=first, step=step, seconds=whole.seconds)


def _components(seeing: Seeing, addresses: Sequence[str], count: int, width: int, results: Results) -> Components:
    """Those of an earlier command of the same model and settings; else of tokens spread over the source, which are
    written there. The manifest does not vouch for them: it goes where a command ends before its first map."""
    file = results.out / COMPONENTS
    if file.exists():
        try:
            with np.load(file) as kept:
                known = Components(kept["mean"], kept["basis"], kept["share"])
                ours = "of" in kept and str(kept["of"]) == results.model
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise UserError(f"{file}: holds no components ({error}); name another folder") from None
        if ours and known.basis.shape == (width, count):
            return known
        raise UserError(
            f"{file}: holds components of another model, or of what was asked otherwise; name another folder"
        )
    total, square, number = np.zeros(width), np.zeros((width, width)), 0
    problems: list[BadSample] = []
    for index in spread(len(addresses), LOOKED_AT[0]):
        try:
            boxes = seeing.tiling(addresses[index]).boxes
            for group in seeing.groups(addresses[index], [boxes[i] for i in spread(len(boxes), LOOKED_AT[1])]):
                tokens = group.rows.flatten(0, 1).double().numpy()
                total += tokens.sum(0)
                square += tokens.T @ tokens
                number += len(tokens)
        except BadSample as error:
            problems.append(error)
    if not number:
        raise UserError(f"none of the {len(problems)} samples that were looked at can be read: {reasons(problems)}")
    mean = total / number
    variance, axes = np.linalg.eigh(square / number - np.outer(mean, mean))
    variance, axes = np.clip(variance[::-1], 0, None), axes[:, ::-1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(width)])
    share = variance[:count] / max(float(variance.sum()), 1e-300)
    made = Components(*(np.ascontiguousarray(a, np.float32) for a in (mean, axes[:, :count], share)))
    with staged(file) as [beside], blamed_on(file), beside.open("wb") as opened:
        np.savez(opened, mean=made.mean, basis=made.basis, share=made.share, of=np.array(results.model))
    return made
