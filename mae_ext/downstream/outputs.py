"""Where predictions go: under the samples' names, each in a file of its own, and never over a file that is there."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from mae_ext.config import ModalityConfig
from mae_ext.data.doubts import one_sided
from mae_ext.data.labelmap import stem
from mae_ext.data.loader import build_reader
from mae_ext.data.source import list_items
from mae_ext.engine.log import warn
from mae_ext.errors import UserError, some


def addresses_of(sources: Sequence[str], suffixes: tuple[str, ...]) -> list[str]:
    """Every sample of the sources in their order, one that several of them name once."""
    return list(dict.fromkeys(a for source in sources for a in list_items(source, suffixes).addresses))


def warn_one_sided(modalities: Iterable[ModalityConfig], sources: Sequence[str]) -> None:
    """Said once, with counts, before anything is computed: samples whose files say nothing of left and right."""
    for reader in (build_reader(modality, "reader") for modality in modalities):
        if hasattr(reader, "sided") and (unsaid := one_sided(reader, addresses_of(sources, tuple(reader.suffixes)))):
            warn(unsaid)


def check_free(paths: Sequence[Path], out: Path) -> None:
    """Raises UserError, before anything is computed, where a file would be written over: a user's own, or a result."""
    if there := [path for path in paths if path.exists()]:
        raise UserError(f"--out {out}: it holds {some(there)}, and nothing is written over; name another folder")


def result_paths(addresses: Sequence[str], suffixes: tuple[str, ...], out: Path, suffix: str) -> list[Path]:
    """A file in `out` for each sample, under its name, none of which is there.

    Where names repeat, as of s0001/ct.nii.gz and s0002/ct.nii.gz, the samples' own folders are kept from where they
    part (out/s0001/ct.nii.gz); in one folder, as of a.jpg and a.png, their suffixes are (a.jpg.png). addresses: all
    different. suffixes: of samples. suffix: of results. Raises UserError.
    """
    names = [stem(address, suffixes) for address in addresses]
    folders = [out] * len(names)
    if len(set(names)) < len(names):
        parents = [Path(address.partition("::")[0].rstrip("/")).absolute().parent for address in addresses]
        shared = os.path.commonpath(parents)
        folders = [out / os.path.relpath(parent, shared) for parent in parents]
        times = Counter(zip(folders, names, strict=True))
        names = [
            Path(address).name if times[folder, name] > 1 else name
            for address, folder, name in zip(addresses, folders, names, strict=True)
        ]
    paths = [folder / (name + suffix) for folder, name in zip(folders, names, strict=True)]
    if shared_by := [path for path, count in Counter(paths).items() if count > 1]:
        raise UserError(f"--out {out}: several samples would be written as {some(shared_by)}; predict them one by one")
    check_free(paths, out)
    return paths
