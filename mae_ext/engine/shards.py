"""A checkpoint's part as several files, one from each rank: a folder of safetensors, as PyTorch's distributed
checkpoints write them (HuggingFaceStorageWriter). Where a shard belongs is in its own header; nothing is a pickle.
"""

import contextlib
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from mae_ext.errors import CheckpointError


def read_whole(folder: Path) -> dict[str, Tensor]:
    """All tensors of a part, put together. Raises CheckpointError."""
    with _opened(folder) as (place, stored):
        tensors = {name: torch.empty(one.size, dtype=one.properties.dtype) for name, one in stored.items()}
        _load(tensors, place)
    return tensors


def read_like(own: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of a part that is one file (`path`) or shards, each laid over ranks as its namesake of `own` is.

    Those that fit none of `own` are of their shape and on no device, for whoever compares. Raises CheckpointError.
    """
    folder = path.with_suffix("")
    with _opened(folder if folder.is_dir() else path) as (place, stored):
        fits = {name: torch.empty_like(own[name]) for name, one in stored.items() if _is_like(own.get(name), one)}
        _load(fits, place)
    others = {n: torch.empty(one.size, device="meta") for n, one in stored.items() if n not in fits}
    return {**fits, **others}


def _is_like(own: Tensor | None, stored: TensorStorageMetadata) -> bool:
    return own is not None and own.shape == stored.size


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A folder with this file or these shards alone, and what is in it. Raises CheckpointError for what goes wrong."""
    with tempfile.TemporaryDirectory() as place:  # under a name that is text, which is all that the library opens
        for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
            (Path(place) / file.name).symlink_to(file.absolute())
        try:
            yield place, dict(HuggingFaceStorageReader(place).read_metadata().state_dict_metadata)
        except (OSError, SafetensorError, ValueError, KeyError, CheckpointException) as error:
            raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from None


def _load(tensors: dict[str, Tensor], place: str) -> None:
    if not tensors:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no rank is asked for its plan: each knows what it needs
        load(dict(tensors), storage_reader=HuggingFaceStorageReader(place), no_dist=True)
