"""What `damaged_kinds.py` asks its child of a damaged file: a verdict, what that took, whether values are right."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mae_ext import plugins
from mae_ext.data.crops import center_sampler
from mae_ext.data.sample import Crop, Sample, read_checked, whole
from mae_ext.data.sources.table import list_items
from mae_ext.errors import BadSample, UserError

Array = NDArray[Any]
MOST_VALUES = 4_000_000
"""Of a sample that is compared whole with what the format's own library gives."""


@dataclass(frozen=True)
class Kind:
    """make(folder) writes a good one and gives its address; what it wrote last may be damaged, or `harmed` says what.

    bombs: (folder) -> None, what makes a bomb of the good one. theirs(address): what the format's own library reads of
    it, as the sample has it: (C, *S). arguments: of the reader. channels: that are asked for.
    """

    make: Callable[[Path], Path]
    theirs: Callable[[Path], Array]
    bombs: tuple[Callable[[Path], None], ...] = ()
    reader: str = "image"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    channels: int = 3
    harmed: tuple[str, ...] = ()
    allowed: float = 0.0
    """Largest difference that counts as none, where two decoders may round differently."""
    like: str = ""
    """Of a label map: the folder beside it with the scan on whose voxels it is read, with these classes."""
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """kind "" is read. added: bytes of memory, at the most, beyond what the child had before."""

    kind: str
    detail: str
    added: int
    seconds: float
    addresses: tuple[str, ...] = ()


def status(name: str) -> int:
    """Bytes."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+)", text)[1]) << 10  # type: ignore[index]


def known(name: str) -> Kind:
    from damaged_kinds import KINDS  # which imports this

    return KINDS[name]


def as_doctor(name: str, path: str) -> Outcome:
    """List what is there, and read a crop of the first, the middle and the last of it. Never raises BadSample."""
    kind = known(name)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = status("VmRSS"), time.perf_counter()
    verdict, detail, read = "", "", []
    try:
        size = (8, 8, 8) if kind.reader == "volume" else (64, 64)
        reader = build(kind, size)
        if kind.like:
            label_map(kind, path)
            return Outcome("", "", status("VmHWM") - before, time.perf_counter() - began, (path,))
        table = list_items(path, reader.suffixes).addresses
        for i in sorted({0, len(table) // 2, len(table) - 1}):
            read_checked(reader, table[i], [center_sampler(size)])
            read.append(table[i])
    except BadSample as error:
        verdict, detail = error.kind, f"{error.path}: {error.detail}"
    except UserError as error:
        verdict, detail = "refused when listed", str(error)
    return Outcome(verdict, detail, status("VmHWM") - before, time.perf_counter() - began, tuple(read))


def build(kind: Kind, size: tuple[int, ...]) -> Any:
    return plugins.readers.build(kind.reader, dict(kind.arguments), "check", size=size, channels=kind.channels)


def label_map(kind: Kind, path: str) -> Array:
    """(D, H, W)."""
    reader = build(kind, (8, 8, 8))
    reader.name_classes(kind.classes)
    return reader.label_map(path, f"{Path(path).parent / kind.like}/")  # type: ignore[no-any-return]


def sample_of(kind: Kind, address: str) -> Sample:
    """All of a picture or scan; of a slide a tile."""
    if kind.reader == "slide":
        return build(kind, (64, 64)).read(address, [slide_box])[0]  # type: ignore[no-any-return]
    size = build(kind, (8, 8, 8) if kind.reader == "volume" else (64, 64)).extent(address).size
    if np.prod(size) > MOST_VALUES:
        raise ValueError(f"{size}: too large to compare")
    return build(kind, size).read(address, [whole])[0]  # type: ignore[no-any-return]


def slide_box(_: tuple[int, ...]) -> Crop:
    return Crop((40, 72), (104, 136), (False, False))


def ours(kind: Kind, address: str) -> tuple[Array, Array]:
    """(C, *S) values, or a label map's, and whether they mean anything."""
    if kind.like:
        labels = label_map(kind, address)
        return labels, np.ones(labels.shape[1:], bool)
    sample = sample_of(kind, address)
    x = sample.x.numpy()
    valid = torch.ones(x.shape[1:], dtype=torch.bool) if sample.valid is None else sample.valid[0]
    return x, valid.numpy()


def compared(name: str, addresses: tuple[str, ...], path: str) -> str:
    """What is read is "right", or in which way it is not what the format's own library reads."""
    kind = known(name)
    for address in addresses:
        mine, valid = ours(kind, address)
        theirs = kind.theirs(Path(address if "::" in address else path))
        if mine.shape != theirs.shape:
            return f"{mine.shape}, their reader: {theirs.shape}"
        apart = np.abs(mine.astype(np.float64) - theirs)[:, valid]
        if apart.size and not apart.max() <= kind.allowed:
            return f"differs by up to {apart.max():.4g} in {(apart > kind.allowed).mean():.0%}"
    return "right"
