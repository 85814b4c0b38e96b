"""Weights of other programs from a disk, opened so that nothing in them can run."""

import argparse
import contextlib
import json
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor

from mae_ext.errors import CheckpointError, cause_of
from mae_ext.interop.format import Foreign
from mae_ext.writing import is_text

SAFE, PICKLED = (".safetensors",), (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pyth", ".torch")
FOLDER = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
"""What a folder is searched for, the first that is there: safetensors first."""

CONTAINERS = (
    "model", "state_dict", "module", "model_state", "model_state_dict", "teacher", "student", "net", "network", "ema",
    "model_ema", "state_dict_ema",
)  # fmt: skip
"""Keys under which training scripts put weights, beside their optimiser. Tried in this order."""

PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.")
"""What wrappers put before every name, one before the other in any order."""

INSTEAD = {
    b"version https://git-lfs": "a pointer of Git LFS and not the weights; run `git lfs pull` where it was cloned",
    b"<!doctype": "a web page and not the weights; the download was answered with a message, open it to see which",
    b"<html": "a web page and not the weights; the download was answered with a message, open it to see which",
}
"""What often lies where weights should be."""

MAX_JSON = 64 << 20


def read_foreign(path: str | Path) -> Foreign:
    """A file, or a folder as transformers writes them. Raises CheckpointError, by name, for whatever is not plain
    weights: pickles with code in them, damaged and cut files, headers that declare more than there is."""
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder; expected a run, or weights of another program")
    folder, file = (path, _in_folder(path)) if path.is_dir() else (path.parent, path)
    values = _sharded(file) if file.name.endswith(".index.json") else _weights(file)
    # Of a file with a name of its own, among others, it is not known that they belong together.
    together = path.is_dir() or file.name in FOLDER
    config, processor = (
        _json(folder / name) if together else {} for name in ("config.json", "preprocessor_config.json")
    )
    metadata = _metadata(file) if file.suffix.lower() in SAFE else {}
    weights, notes = unwrapped(values, str(path))
    return Foreign(weights, str(path), config, processor, metadata, notes)


def _in_folder(folder: Path) -> Path:
    for name in FOLDER:
        if (folder / name).is_file():
            return folder / name
    others = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in (*SAFE, *PICKLED))
    raise CheckpointError(
        f"{folder} holds no weights; expected one of {', '.join(FOLDER)}, or a run with checkpoints/"
        + f"; of files with names of their own (here {', '.join(others[:3])}) name the one that is meant" * bool(others)
    )


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        if file.stat().st_size > MAX_JSON:
            raise ValueError(f"larger than {MAX_JSON >> 20} MiB")
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{file}: expected an object, found {type(values).__name__}")
    return values


def _sharded(index: Path) -> dict[str, Tensor]:
    """Of an index: name -> file in the same folder, each opened as if it stood alone."""
    shards = _json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise CheckpointError(f"{index}: expected a 'weight_map' from weights to files")
    weights: dict[str, Tensor] = {}
    for name in sorted(set(shards.values())):
        if Path(name).name != name or Path(name).suffix not in (*SAFE, *PICKLED):
            raise CheckpointError(f"{index}: '{name}' is no file of weights in the same folder")
        weights |= _weights(index.parent / name)
    if missing := sorted(set(shards) - set(weights)):
        raise CheckpointError(f"{index} names weights that are in no file: {', '.join(missing[:3])}")
    return weights


def _weights(file: Path) -> Mapping[str, Any]:
    if file.exists() and not file.is_file():  # reading it might never end
        raise CheckpointError(f"{file} is no file, but a folder, a pipe or a device; expected a file of weights")
    try:
        with file.open("rb") as opened:
            start = opened.read(64)
    except OSError as error:
        raise CheckpointError(f"{file}: {cause_of(error)}") from None
    if not start:
        raise CheckpointError(f"{file} is empty: it has 0 bytes; copy or download it again")
    for begins, what in INSTEAD.items():
        if start.lstrip().lower().startswith(begins):
            raise CheckpointError(f"{file} is {what}")
    if file.suffix.lower() in SAFE:
        return _safe(file, start)
    if file.suffix.lower() in PICKLED:
        return _pickled(file, start)
    raise CheckpointError(f"{file}: expected a file of weights ({', '.join((*SAFE, *PICKLED))}) or a folder with one")


def _safe(file: Path, start: bytes) -> dict[str, Tensor]:
    declared, size = int.from_bytes(start[:8], "little"), file.stat().st_size
    if zipfile.is_zipfile(file):
        raise CheckpointError(f"{file} cannot be read as safetensors: torch.save wrote it; name it {file.stem}.pth")
    if len(start) < 8 or declared + 8 > size:
        raise CheckpointError(f"{file} is damaged: its header declares {declared} bytes and the file has {size}")
    try:
        # The library opens only names that are UTF-8.
        return load_file(file) if is_text(file) else load(file.read_bytes())
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read as safetensors: {error}") from None


def _metadata(file: Path) -> dict[str, str]:
    """What a safetensors file that can be read says of itself."""
    with file.open("rb") as content:
        header = json.loads(content.read(int.from_bytes(content.read(8), "little")))
    return dict(header.get("__metadata__") or {})


def _pickled(file: Path, start: bytes) -> Mapping[str, Any]:
    """What torch.save wrote, tensors and plain containers alone. A file of the settings that a script was called with
    (argparse.Namespace, in facebookresearch's checkpoints) is one of them: making one runs nothing."""
    if zipfile.is_zipfile(file):
        try:
            with zipfile.ZipFile(file) as archive:
                declared = sum(entry.file_size for entry in archive.infolist())
                program = any(name.endswith("/constants.pkl") for name in archive.namelist())
        except (zipfile.BadZipFile, OSError) as error:
            raise CheckpointError(f"{file} is damaged: {error}") from None
        if program:
            raise CheckpointError(f"{file} is a program of TorchScript; expected its weights: save its state_dict()")
        if declared > file.stat().st_size:
            raise CheckpointError(
                f"{file} declares {declared} bytes of tensors and has {file.stat().st_size}: torch.save packs nothing"
            )
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # of pickles of newer protocols, which are refused or read like others
            values = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 torch raises whatever its readers do of a damaged file
        if type(error).__name__ != "UnpicklingError":
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise CheckpointError(f"{file} cannot be read as weights: {first}") from None
        what = re.search(r"(?:GLOBAL|class|function) [`']?([\w.]+)", str(error))
        wants = what[1] if what else _first_global(file)
        if wants is None and not start.startswith((b"PK", b"\x80")):
            other = "; it may be safetensors: name it so" if start[8:9] == b"{" else ""
            raise CheckpointError(
                f"{file} cannot be read as weights: it begins with {start[:8]!r}, as no file of torch.save does{other}"
            ) from None
        raise CheckpointError(
            f"{file} is a pickle that {f'asks for {wants}' if wants else 'is not plain tensors'}, which could run "
            f"anything, and was not opened; ask for the weights as safetensors, or convert them where you trust them"
        ) from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{file}: expected names and tensors, found {type(values).__name__}")
    return values


def _first_global(file: Path) -> str | None:
    """The first name that a pickle asks for, for the message; it is taken apart, and nothing of it is run."""
    words: list[str] = []
    with contextlib.suppress(Exception):
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                content = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
        else:
            content = file.read_bytes()[:MAX_JSON]
        for code, argument, _ in pickletools.genops(content):
            if code.name == "GLOBAL":
                return str(argument).replace(" ", ".")
            if code.name == "STACK_GLOBAL":
                return ".".join(words[-2:])
            if isinstance(argument, str):
                words.append(argument)
    return None


def unwrapped(values: Mapping[str, Any], where: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Names -> tensors, out of the containers of training scripts; and which of several was taken, for the user.

    Raises CheckpointError where there are none, or one that has no numbers of its own for each of its places."""
    notes: list[str] = []
    for _ in range(3):
        kinds = [key for key in CONTAINERS if isinstance(values.get(key), Mapping)]
        if not kinds or any(isinstance(value, Tensor) for value in values.values()):
            break
        if others := [key for key in kinds[1:] if any(isinstance(v, Tensor) for v in values[key].values())]:
            notes.append(f"the weights under '{kinds[0]}' are taken, and those under '{', '.join(others)}' are not")
        values = values[kinds[0]]
    weights = {str(name): value for name, value in values.items() if isinstance(value, Tensor)}
    if not weights:
        raise CheckpointError(f"{where} holds no tensors, but {', '.join(map(str, list(values)[:4])) or 'nothing'}")
    for name, value in weights.items():
        if value.is_meta or value.layout != torch.strided:
            kind = "a name and a shape without numbers" if value.is_meta else f"of the layout {value.layout}"
            raise CheckpointError(f"{where}: weight '{name}' is {kind}; expected a plain tensor: save it as one")
    while prefix := next((one for one in PREFIXES if all(name.startswith(one) for name in weights)), ""):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights, tuple(notes)
