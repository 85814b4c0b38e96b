"""Checkpoints of a run in shares: every rank writes its own, and rank 0 what makes one checkpoint of them."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement

from mae_ext.config import Config
from mae_ext.engine.checkpoint import sha256
from mae_ext.engine.commit import Staged, begun, described, finish, thrown_away
from mae_ext.engine.distributed import PATIENCE, Ranks
from mae_ext.engine.failpoint import reach

T = TypeVar("T")


@dataclass(frozen=True)
class Layout:
    """Of a tensor in shares: its whole shape and stride, and along which axis it is shared."""

    shape: torch.Size
    stride: tuple[int, ...]
    placements: tuple[Placement, ...]


class ShardWriter:
    """One for a run, made on all ranks. It may work on a thread: ranks meet in a group of its own, over CPUs, that
    waits as long as disks take. What goes wrong on one rank is an OSError on all of them, and no checkpoint."""

    def __init__(self, ranks: Ranks) -> None:
        self.rank, self.world, self.waiting = ranks.rank, ranks.world, ranks.waiting
        self.group = dist.new_group(backend="gloo", timeout=PATIENCE)
        self.mesh = DeviceMesh.from_group(self.group, "cpu")
        self.layouts: dict[tuple[str, str], Layout] = {}

    def agree(self, beside: bool) -> bool:
        """Whether all ranks say so, in a meeting beside those of the thread, that waits as long."""
        box: list[Any] = [None] * self.world
        dist.all_gather_object(box, beside, group=self.waiting)
        return all(box)

    def shares(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """Of each tensor the part that this rank has: what is staged."""
        own: dict[str, dict[str, Tensor]] = {}
        for part, named in tensors.items():
            own[part] = {}
            for name, tensor in named.items():
                if isinstance(tensor, DTensor):
                    self.layouts[part, name] = Layout(tensor.shape, tensor.stride(), tuple(tensor.placements))
                    own[part][name] = tensor.to_local()
                else:
                    own[part][name] = tensor
        return own

    def commit(
        self, directory: Path, step: int, config: Config, staged: Staged, state: Mapping[str, Any],
        before: Callable[[], None],
    ) -> Path:  # fmt: skip
        """As `commit.commit`, on all ranks. before: on rank 0, what has to be on the disk first. Raises OSError."""

        def begin() -> tuple[Path, Path | None]:
            before()
            return begun(directory, step)

        final, building = self._on_main(begin)
        if building is not None:
            with thrown_away(building):
                self._write(building, staged)
                written = self._together(lambda: self._written(building))
                files = {name: entry for one in written for name, entry in one.items()}
                self._on_main(lambda: finish(building, final, described(step, config, state), files, step))
        return final

    def _write(self, building: Path, staged: Staged) -> None:
        """Ranks meet in here, so an error must be one of all of them: nothing else may raise one."""
        staged.wait()
        for part, named in staged.tensors.items():
            tensors = {name: self._laid(part, name, tensor) for name, tensor in named.items()}
            writer = HuggingFaceStorageWriter(os.fspath(building / part), save_distributed=True)
            try:
                save(tensors, storage_writer=writer, process_group=self.group)
            except CheckpointException as error:
                causes = [cause for cause, _ in error.failures.values()]
                raise next((c for c in causes if isinstance(c, OSError)), OSError(str(causes[0]))) from error

    def _written(self, building: Path) -> dict[str, dict[str, int | str]]:
        """What the manifest says of this rank's files."""
        reach("file.fsynced")
        files = sorted(building.glob(f"*/shard-{self.rank + 1:05d}-*.safetensors"))
        return {
            file.relative_to(building).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256(file)}
            for file in files
        }

    def _laid(self, part: str, name: str, tensor: Tensor) -> Tensor:
        """A staged share, as the part of the whole that it is."""
        layout = self.layouts.get((part, name))
        if layout is None:
            return tensor
        return DTensor.from_local(
            tensor, self.mesh, layout.placements, run_check=False, shape=layout.shape, stride=layout.stride
        )

    def _on_main(self, work: Callable[[], T]) -> T:
        """What rank 0's work gives, on every rank."""
        return self._together(lambda: work() if self.rank == 0 else None)[0]  # type: ignore[return-value]

    def _together(self, work: Callable[[], T]) -> list[T]:
        """What each rank's work gives, on every rank. Raises the OSError of the first that had one."""
        outcome: T | OSError
        try:
            outcome = work()
        except OSError as error:
            outcome = error
        box: list[Any] = [None] * self.world
        dist.all_gather_object(box, outcome, group=self.group)
        for one in box:
            if isinstance(one, OSError):
                raise one
        return box
