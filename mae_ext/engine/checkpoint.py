"""Checkpoints: a directory that is either whole and verified, or not there.

`step-00001000/` holds model.safetensors, optimizer.safetensors, state.json, config.yaml, and manifest.json with the
sizes and SHA-256 of the others. How they are written, engine/commit.py says.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor, nn

from mae_ext.config import Config, parse_config
from mae_ext.engine.failpoint import reach
from mae_ext.engine.optim import BACKBONE
from mae_ext.errors import CheckpointError
from mae_ext.interop.fit import is_of_decoder
from mae_ext.model.mae import MAE
from mae_ext.strict_json import dumps
from mae_ext.strict_yaml import read_yaml
from mae_ext.writing import is_text

FORMAT, SHARDED = 1, 2
"""Of a checkpoint with a file for each part, and of one with a folder for each, and in it a file from each rank."""

SEAL = "sha256"
"""In a manifest: of the rest of it."""

BEST = "best.json"
"""In a run's directory, beside checkpoints/: which one is best on held-out data; see engine/best.py."""

NAME = re.compile(r"step-[0-9]{8,}")


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, text: str) -> None:
    """Replace a small file in one step: the old or the new content is there at every moment."""
    beside = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        reach("text.write")
        beside.write_text(text, encoding="utf-8")
        reach("text.written")
        fsync(beside)
        reach("text.fsynced")
        beside.replace(path)
        reach("text.replaced")
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    fsync(path.parent)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(manifest: Mapping[str, Any]) -> str:
    """The text of a manifest, with a SHA-256 of itself in the end."""
    rest = {key: value for key, value in manifest.items() if key != SEAL}
    text: str = dumps({**rest, SEAL: hashlib.sha256(dumps(rest, indent=1).encode()).hexdigest()}, indent=1)
    return text


def verify(path: Path) -> dict[str, Any]:
    """The manifest, after every file was found as it says. Raises CheckpointError naming the file at fault."""
    try:
        text = (path / "manifest.json").read_text(encoding="utf-8")
        manifest: dict[str, Any] = json.loads(text)
        version, files = manifest["format"], dict(manifest["files"])
        if version not in (FORMAT, SHARDED):
            raise CheckpointError(f"{path}: format {version}; this version reads formats {FORMAT} and {SHARDED}")
        unsealed = set(manifest) == {"format", "step", "files", "versions"}  # as older versions wrote them
        if not unsealed and text != sealed(manifest):
            raise CheckpointError(f"{path}/manifest.json is damaged: it is not what it says of itself")
        for name, wanted in files.items():
            file = path / name
            if (
                {"..", "/"} & set(Path(name).parts)
                or file.stat().st_size != wanted["bytes"]
                or sha256(file) != wanted["sha256"]
            ):
                raise CheckpointError(f"{file} is damaged: its size or SHA-256 is not what manifest.json says")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a whole checkpoint: {error!r}") from None
    return manifest


def steps_of(directory: Path) -> list[Path]:
    """Finished checkpoints, oldest first, verified or not."""
    steps = [p for p in directory.glob("step-*") if p.name.removeprefix("step-").isdigit() and p.is_dir()]
    return sorted(steps, key=lambda p: int(p.name.removeprefix("step-")))


def is_run(path: str | Path) -> bool:
    """Whether it is the directory of a run, and not of one checkpoint in it, which has a config of its own."""
    path = Path(path)
    if not (path / "checkpoints").is_dir():  # what other programs call config.yaml is no config of ours
        return False
    return (path / "config.yaml").is_file() and not (path / "manifest.json").is_file()


def latest(run: Path, warn: Any = None) -> Path | None:
    """The newest checkpoint of a run that verifies, or None if there has never been one.

    A damaged one is passed over, and said. Raises CheckpointError when there are some and none is whole.
    """
    problems = []
    for path in reversed(steps_of(run / "checkpoints")):
        try:
            verify(path)
        except CheckpointError as error:
            problems.append(str(error))
            if warn:
                warn(f"{error}; falling back to the one before")
            continue
        return path
    if problems:
        raise CheckpointError(f"{run}: no whole checkpoint is left: {'; '.join(problems)}")
    return None


def noted_best(run: Path) -> str | None:
    """The name of the checkpoint that best.json names; None where there is no such file. Raises CheckpointError."""
    file = run / BEST
    try:
        name = json.loads(file.read_text(encoding="utf-8"))["checkpoint"]
        if not NAME.fullmatch(name):
            raise ValueError(f"'{name}' is no name of a checkpoint")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read: {error!r}") from None
    return str(name)


def best(run: str | Path) -> Path:
    """The checkpoint of a run that is best on held-out data (`train.keep_best`), verified. Raises CheckpointError."""
    path = Path(run)
    if not path.is_dir():
        raise CheckpointError(f"{run}: no such directory; expected a run (with checkpoints/ and {BEST})")
    name = noted_best(path)
    if name is None:
        raise CheckpointError(
            f"{run}: which of its checkpoints is the best is not known: there is no {BEST}, which a run writes with "
            f"train.keep_best=true when it is judged on data.test; name one of {run}/checkpoints instead"
        )
    checkpoint = path / "checkpoints" / name
    if not checkpoint.is_dir():
        raise CheckpointError(f"{run}: {BEST} names {name}, and there is no {checkpoint}: it was removed or moved")
    verify(checkpoint)
    return checkpoint


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Of a safetensors file; of a part of a checkpoint that lies in shards, of the folder that has its name."""
    if (shards := path.with_suffix("")).is_dir() and not path.exists():
        from mae_ext.engine.shards import read_whole  # distributed checkpoints take seconds to load

        return read_whole(shards)
    try:
        # The library opens only names that are UTF-8; where one is not, all is read through memory.
        return load_file(path) if is_text(path) else load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from None


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Load all of a model's weights. Raises CheckpointError naming what is missing, unknown, or of another shape."""
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [
        f"{k} is {list(weights[k].shape)} there and {list(own[k].shape)} here"
        for k in own.keys() & weights.keys()
        if own[k].shape != weights[k].shape
    ]
    problems = [
        f"{what} {len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("lacks", missing), ("has unknown", unknown), ("differs in", sorted(shapes)))
        if names
    ]
    if problems:
        raise CheckpointError(f"{where} is of another architecture: it {'; it '.join(problems)}")
    model.load_state_dict(dict(weights))


@dataclass(frozen=True)
class LoadedRun:
    """model: in eval mode, on the CPU; of a task, the encoder alone. config: as trained, statistics measured."""

    model: MAE
    config: Config
    step: int
    path: Path


def find(run_or_checkpoint: str | Path) -> Path:
    """A verified checkpoint: of a run the newest, of "RUN::best" the one that was best on held-out data; or
    the one that is named. Raises CheckpointError."""
    path = Path(run_or_checkpoint)
    if not path.exists() and path.name.endswith("::best"):
        return best(str(run_or_checkpoint).removesuffix("::best"))
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such directory; expected a run (with checkpoints/) or one checkpoint in it")
    if (path / "manifest.json").exists():
        verify(path)
        return path
    checkpoint = latest(path)
    if checkpoint is None:
        raise CheckpointError(f"{path} holds no checkpoint; expected {path}/checkpoints/step-XXXXXXXX/manifest.json")
    return checkpoint


def read_config(checkpoint: Path) -> Config:
    file = checkpoint / "config.yaml"
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} cannot be read as text: {error}") from None
    return parse_config(read_yaml(text, str(file)), str(file))


def read_state(checkpoint: Path) -> dict[str, Any]:
    """state.json: at least {"step": int}."""
    try:
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        return {**state, "step": int(state["step"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{checkpoint}/state.json cannot be read: {error!r}") from None


def encoder_of(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a task's weights, by name, those of the encoder that it keeps as `backbone`, by the names that they have in an
    MAE; none where it pretrains. A decoder that its loss had beside it (`task.reconstruct`) is left."""
    backbone = {k.removeprefix(BACKBONE): v for k, v in weights.items() if k.startswith(BACKBONE)}
    return {k: v for k, v in backbone.items() if not is_of_decoder(k)}


def load_run(run_or_checkpoint: str | Path) -> LoadedRun:
    """The newest whole checkpoint of a run, or the one named."""
    path = find(run_or_checkpoint)
    config = read_config(path)
    weights = read_tensors(path / "model.safetensors")
    backbone = encoder_of(weights)
    model = MAE(config, decodes=not backbone)
    load_weights(model, backbone or weights, str(path))
    return LoadedRun(model.eval(), config, read_state(path)["step"], path)
