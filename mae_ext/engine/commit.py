"""Writing checkpoints in two parts: `stage` copies what a step changes, while training waits; `commit` puts the copies
on the disk, beside the training.

A checkpoint is built beside its place under a `.tmp-` name, each file fsynced, the manifest last, then renamed and the
parent fsynced. Nothing is ever overwritten, and nothing older goes before the new one was read back and is right.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae_ext.config import Config
from mae_ext.engine.checkpoint import FORMAT, SHARDED, fsync, noted_best, sealed, steps_of, verify
from mae_ext.engine.failpoint import reach
from mae_ext.errors import CheckpointError
from mae_ext.strict_json import dumps
from mae_ext.version import __version__

PIECE = 1 << 28
"""Bytes of memory that are taken at once for copies. PyTorch takes page-locked memory in powers of two."""

ALIGNED = 64
"""Bytes: where a copy may begin. A line of a processor's cache, and more than any number is long."""

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
    torch.complex64: "C64", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
"""What safetensors calls them (https://github.com/huggingface/safetensors#format)."""


@dataclass
class Staged:
    """{"model": {name: tensor}, "optimizer": ...}: what is written, one safetensors file for each group.

    ready: of a GPU, when the copies are complete. sources: what is copied from, which has to stay until then.
    """

    tensors: dict[str, dict[str, Tensor]]
    ready: torch.cuda.Event | None = None
    sources: list[Tensor] = field(default_factory=list)

    def hold(self) -> None:
        """What the device is given from now on begins when it has made the copies; nobody waits for the device."""
        if self.ready is not None:
            torch.cuda.current_stream().wait_event(self.ready)

    def wait(self) -> None:
        """Until the copies are complete."""
        if self.ready is not None:
            self.ready.synchronize()
        self.sources = []

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for group in self.tensors.values() for tensor in group.values())


def stage(tensors: Mapping[str, Mapping[str, Tensor]], into: Staged | None = None) -> Staged:
    """Copies in the host's memory: in that of `into`, which nobody may be writing, where the same tensors are in it.

    Of tensors on a GPU the copies are under way when it returns, on a stream of their own, into page-locked memory:
    whoever changes the tensors calls `hold` first.
    """
    reach("stage.copy")
    sources = [tensor.detach() for group in tensors.values() for tensor in group.values()]
    cuda = any(tensor.is_cuda for tensor in sources)
    if into is None or _layout(into.tensors) != _layout(tensors):
        memory = _memory(sources, cuda)
        into = Staged({group: {name: next(memory) for name in named} for group, named in tensors.items()})
    targets = [tensor for group in into.tensors.values() for tensor in group.values()]
    if cuda:
        into.ready, into.sources = into.ready or torch.cuda.Event(), sources
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            torch._foreach_copy_(targets, sources, non_blocking=True)
            into.ready.record()
    elif sources:
        torch._foreach_copy_(targets, sources)
    reach("stage.copied")
    return into


def _layout(tensors: Mapping[str, Mapping[str, Tensor]]) -> list[tuple[str, str, torch.Size, torch.dtype]]:
    return [(group, name, t.shape, t.dtype) for group, named in tensors.items() for name, t in named.items()]


def _memory(likes: Iterable[Tensor], cuda: bool) -> Iterator[Tensor]:
    """Room for each, one after the other in pieces of memory that are shared; page-locked where that can be had."""
    piece, at = torch.empty(0, dtype=torch.uint8), 0
    for like in likes:
        if at + like.nbytes > len(piece):
            size = max(PIECE if cuda else 0, like.nbytes)
            try:
                piece, at = torch.empty(size, dtype=torch.uint8, pin_memory=cuda), 0
            except RuntimeError:  # the system locks no more; copies into other memory are slower, and as good
                piece, at = torch.empty(size, dtype=torch.uint8), 0
        yield piece[at : at + like.nbytes].view(like.dtype).view(like.shape)
        at += -(-like.nbytes // ALIGNED) * ALIGNED


def commit(directory: Path, step: int, config: Config, staged: Staged, state: Mapping[str, Any]) -> Path:
    """Write `directory/step-XXXXXXXX` and return it. state: goes into state.json. Raises OSError."""
    final, building = begun(directory, step)
    if building is not None:
        with thrown_away(building):
            staged.wait()
            contents = {f"{name}.safetensors": _safetensors(group) for name, group in staged.tensors.items()}
            finish(building, final, described(step, config, state) | contents, {}, step)
    return final


def begun(directory: Path, step: int) -> tuple[Path, Path | None]:
    """-> what a step is saved as, and the new folder that it is built in; None where it is there already, and whole.

    Raises OSError.
    """
    final = directory / f"step-{step:08d}"
    if final.exists():
        try:
            verify(final)
            return final, None
        except CheckpointError:
            set_aside(final)
    directory.mkdir(parents=True, exist_ok=True)
    building = directory / f"{final.name}.tmp-{os.getpid()}"
    shutil.rmtree(building, ignore_errors=True)
    with thrown_away(building):
        reach("folder.make")
        building.mkdir()
    return final, building


@contextmanager
def thrown_away(building: Path) -> Iterator[None]:
    """Where what is inside does not come to its end."""
    try:
        yield
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def described(step: int, config: Config, state: Mapping[str, Any]) -> dict[str, Iterator[bytes | memoryview]]:
    """The files of a checkpoint beside its tensors."""
    return {
        "state.json": iter([dumps({"step": step, **state}, indent=1).encode()]),
        "config.yaml": iter([config.to_yaml().encode()]),
    }


def finish(
    building: Path, final: Path, contents: Mapping[str, Iterator[bytes | memoryview]],
    written: Mapping[str, dict[str, int | str]], step: int,
) -> None:  # fmt: skip
    """Write the contents, then the manifest, then give the folder its name. Raises OSError.

    written: what ranks have written there already, each its shards, as the manifest says it.
    """
    manifest = {
        "format": SHARDED if written else FORMAT,
        "step": step,
        "files": {**written, **{name: _write(building / name, parts) for name, parts in sorted(contents.items())}},
        "versions": {"mae_ext": __version__, "torch": torch.__version__, "python": sys.version.split()[0]},
    }
    _write(building / "manifest.json", iter([sealed(manifest).encode()]), "manifest")
    for folder in sorted({(building / name).parent for name in written}):
        fsync(folder)
    fsync(building)
    reach("folder.fsynced")
    reach("folder.rename")
    building.rename(final)
    reach("folder.renamed")
    fsync(final.parent)
    reach("parent.fsynced")


def save(
    directory: Path, step: int, config: Config, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """`commit` of the tensors as they are, without a copy: for who changes none meanwhile. Raises OSError."""
    return commit(directory, step, config, Staged({name: dict(group) for name, group in tensors.items()}), state)


def _safetensors(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, part by part, so that they can be hashed as they are written.

    The longest numbers come first, as in the library's own files, so that all are aligned.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), str(item[1].dtype), item[0]))
    header, end = {}, 0
    for name, tensor in ordered:
        if tensor.dtype not in NAMES:
            raise TypeError(
                f"'{name}' is of {tensor.dtype}, which no checkpoint can hold; expected {', '.join(map(str, NAMES))}"
            )
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in ordered:
        yield tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().data


def _write(path: Path, parts: Iterable[bytes | memoryview], what: str = "file") -> dict[str, int | str]:
    """What manifest.json says of a file, which is on the disk then. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for part in parts:
            reach(f"{what}.write")
            digest.update(part)
            file.write(part)
            size += len(part)
        reach(f"{what}.written")
        file.flush()
        os.fsync(file.fileno())
    reach(f"{what}.fsynced")
    return {"bytes": size, "sha256": digest.hexdigest()}


def set_aside(path: Path) -> None:
    """Rename a damaged checkpoint to `.damaged`: for a person to look at, and in nobody's way."""
    grave = path.with_name(f"{path.name}.damaged")
    shutil.rmtree(grave, ignore_errors=True)
    path.rename(grave)


def prune(directory: Path, keep: int, verified: Path | None = None) -> None:
    """Delete all but the newest `keep` and the run's best, after the newest was verified; and what killed savers left.

    verified: one that was just read back. Where best.json cannot be read nothing is deleted that may be the best.
    """
    paths = steps_of(directory)
    try:
        spared = noted_best(directory.parent)
        older = [path for path in paths[:-keep] if path.name != spared]
    except CheckpointError:
        older = []
    if older and paths[-1] != verified:
        verify(paths[-1])
    for path in older:
        # Out of sight first: a half-deleted directory must not look like a checkpoint.
        doomed = path.with_name(f"{path.name}.tmp-old")
        reach("older.rename")
        path.rename(doomed)
        reach("older.renamed")
        shutil.rmtree(doomed, ignore_errors=True)
        reach("older.deleted")
    sweep(directory)


def sweep(directory: Path) -> None:
    """Remove what killed savers and killed pruners left behind."""
    for leftover in directory.glob("step-*.tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)
