"""Going on exactly where a run stopped: what is saved beside the weights, and what may not have changed."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from os.path import commonprefix
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mae_ext import plugins
from mae_ext.config import Config, Statistics
from mae_ext.data.loading.batches import ModalityData
from mae_ext.data.loading.examples import Examples
from mae_ext.data.loading.statistics import resolve_statistics
from mae_ext.data.order import order_of
from mae_ext.data.sources.path_table import PathTable
from mae_ext.data.sources.table import Items
from mae_ext.engine.checkpoint import load_weights, read_config, read_state
from mae_ext.engine.parallel import Parallel, Replicated
from mae_ext.engine.task import backbone_of
from mae_ext.errors import CheckpointError

FREE_TO_CHANGE = {
    "train.workers", "train.prefetch", "train.worker_timeout", "train.save_every", "train.keep", "train.keep_best",
    "train.log_every", "train.tensorboard", "train.loggers", "train.observe", "train.device", "train.checkpointing",
    "train.compile", "train.compile_mode", "train.deterministic", "train.matmul", "train.cudnn_benchmark",
    "train.evaluate_every", "train.parallel", "train.accumulate", "train.micro_batch", "train.rank_timeout",
}  # fmt: skip
"""Keys that change no sample, no mask and no update rule. (checkpointing, compile, device, and what says how a GPU
computes, deterministic, matmul and cudnn_benchmark, change the last bits.)"""

MOVABLE = ("data.path", "data.test", "data.reader.cache", "task.masks", "task.test_masks", "task.unlabelled")
"""Where the data lie, and where they lie decoded: samples stay the same, and the list of files is compared."""

_FINGERPRINTS: WeakKeyDictionary[PathTable, dict[tuple[str | None, bytes | None], str]] = WeakKeyDictionary()
"""Those that were computed, by the table, the path it was listed from, and the identity of a task's answers."""


@dataclass(frozen=True)
class Standing:
    """Where a run stands: what its checkpoint says beside the weights, or the start."""

    step: int = 0
    files: dict[str, str] = field(default_factory=dict)
    quarantined: dict[str, dict[str, str]] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    plugins: dict[str, str] = field(default_factory=dict)
    skipped: int = 0
    """Updates in a row that fp16's loss scaler had left out."""
    statistics: dict[str, str] = field(default_factory=dict)
    """What the config of each modality asked for: "measured", "imagenet", "none" or "given" (as numbers)."""
    held_out: dict[str, str] = field(default_factory=dict)
    """As `files`, of data.test, where there is one."""
    orders: dict[str, str] = field(default_factory=dict)
    """How the files of each modality were ordered (data/order.py)."""
    numerics: dict[str, Any] = field(default_factory=dict)
    """What its last bits depended on (engine/numerics.py)."""

    @classmethod
    def read(cls, checkpoint: Path) -> "Standing":
        try:
            state = read_state(checkpoint)
            return cls(
                state["step"], state["files"], state["quarantined"], state["scaler"], state["plugins"],
                state.get("skipped", 0), state.get("statistics", {}), state.get("held_out", {}),
                state.get("orders", {}), state.get("numerics", {}),
            )  # fmt: skip
        except KeyError as error:
            raise CheckpointError(f"{checkpoint}/state.json has no {error}") from None

    def set_aside(self, data: dict[str, ModalityData]) -> None:
        """Files that brought workers down are known by their place in the list; of another list nothing is known."""
        for name, d in data.items():
            if self.files.get(name) == fingerprint(d):
                d.quarantined.update({int(i): kind for i, kind in self.quarantined.get(name, {}).items()})


def fingerprint(data: ModalityData) -> str:
    """Of the file list: names and order, without the folder they are in, which may move; and of a task's answers."""
    return _fingerprint(data.items, data.config.data.path, data.examples)


def held_out_fingerprints(data: Mapping[str, ModalityData]) -> dict[str, str]:
    """The same of what is held out of each modality, where anything is."""
    return {
        name: _fingerprint(d.held_out.listed, d.config.data.test, d.held_out.examples)
        for name, d in data.items()
        if d.held_out is not None
    }


def _fingerprint(items: Items, path: str | None, examples: Examples | None) -> str:
    """Once a run: saves, evaluations and the comparison at the start all ask, and a list may have ten million files."""
    known, key = _FINGERPRINTS.setdefault(items.addresses, {}), (path, None if examples is None else examples.identity)
    if key not in known:
        known[key] = _fingerprinted(items.addresses, str(Path(path or ".")), key[1])
    return known[key]


def _fingerprinted(addresses: PathTable, root: str, identity: bytes | None) -> str:
    if not all(text.startswith(root) for text in addresses):  # a list: of files that are somewhere else
        least, most = (choose(map(choose, addresses.blocks())) for choose in (min, max))
        root = commonprefix([least, most]).rpartition("/")[0]  # noqa: RUF071 absolute or not
    digest = hashlib.sha256()
    for block in addresses.blocks():
        digest.update("".join([f"{text[len(root) :]}\0" for text in block]).encode("utf-8", "surrogateescape"))
    if identity is not None:
        digest.update(identity)
    return f"{len(addresses)} files, {digest.hexdigest()[:16]}"


def plugin_versions(config: Config) -> dict[str, str]:
    """Who provides each plug-in that the config names, with the version; "mae_ext" for our own."""
    used = {f"task {config.task.name}": plugins.tasks.sources()[config.task.name]}
    for name, m in config.modalities.items():
        parts = {"embed": plugins.embedders, "position": plugins.positions, "target": plugins.targets}
        for part, registry in (parts | {"mask": plugins.maskers, "decode": plugins.maskers}).items():
            if (spec := getattr(m, part)) is not None:
                used[f"{name}.{part} {spec.name}"] = registry.sources()[spec.name]
        used[f"{name}.data.reader {m.data.reader.name}"] = plugins.readers.sources()[m.data.reader.name]
    return used


def lasting(data: dict[str, ModalityData], config: Config) -> dict[str, Any]:
    """Of the state of a checkpoint, what is the same for a whole run, and takes as long as its lists of files are."""
    state: dict[str, Any] = {"files": {name: fingerprint(d) for name, d in data.items()}}
    state |= {"plugins": plugin_versions(config), "orders": orders(data)}
    if held_out := held_out_fingerprints(data):
        state["held_out"] = held_out
    return state


def orders(data: Mapping[str, ModalityData]) -> dict[str, str]:
    return {name: order_of(len(d.items)) for name, d in data.items()}


def snapshot(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: dict[str, ModalityData], extra: dict[str, Any]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:  # fmt: skip
    """What a checkpoint holds: {"model": ..., "optimizer": ...} tensors by parameter name, and a small JSON state.

    extra: `lasting` of it, and "scaler", "skipped" and "statistics"; see Standing.
    """
    quarantined = {name: {str(i): kind for i, kind in d.quarantined.items()} for name, d in data.items()}
    state = {"quarantined": quarantined, **extra}
    return {"model": dict(model.state_dict()), "optimizer": optimizer_tensors(model, optimizer)}, state


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's own tensors as "exp_avg/encoder.trunk..." and so on, not copies."""
    return {
        f"{key}/{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore(
    checkpoint: Path, config: Config, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler,
    at: Standing, parallel: Parallel | None = None,
) -> None:  # fmt: skip
    """Load weights, moments and the loss scale in place. Statistics are those of the (settled) config."""
    read = (parallel or Replicated()).read
    load_weights(model, read(model.state_dict(), checkpoint / "model.safetensors"), str(checkpoint))
    for name, m in config.modalities.items():
        if isinstance(m.data.statistics, Statistics):
            backbone_of(model).modality(name).set_statistics(m.data.statistics)
    if (before := read_config(checkpoint).train.optimizer) != config.train.optimizer:
        raise CheckpointError(
            f"{checkpoint} has the moments of train.optimizer={before}, which are none of {config.train.optimizer}: "
            f"name that one, or start another run from this one's weights with --init"
        )
    own = optimizer_tensors(model, optimizer)
    moments = read(own, checkpoint / "optimizer.safetensors")
    if own.keys() != moments.keys():
        odd = sorted(own.keys() ^ moments.keys())
        raise CheckpointError(f"{checkpoint}/optimizer.safetensors does not fit this model: {', '.join(odd[:3])}")
    for name, tensor in own.items():
        tensor.copy_(moments[name])
    if at.scaler:
        scaler.load_state_dict(at.scaler)


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(values, dict):
        return {k: v for key, value in values.items() for k, v in flat(value, f"{prefix}{key}.").items()}
    return {prefix.removesuffix("."): values}


def asked_statistics(config: Config) -> dict[str, str]:
    """Of each modality: "measured", "imagenet", "none", or "given" as numbers. Of a config that is not yet settled."""
    chosen = {name: m.data.statistics for name, m in config.modalities.items()}
    return {name: value if isinstance(value, str) else "given" for name, value in chosen.items()}


def to_measure(statistics: dict[str, str], at: Standing) -> list[str]:
    """The modalities whose statistics are to be measured now, and were not when the run began."""
    return [n for n, now in statistics.items() if now == "measured" and at.statistics.get(n, "measured") != "measured"]


def measured_anew(config: Config, names: list[str], data: dict[str, ModalityData]) -> Config:
    modalities = dict(config.modalities)
    for name in names:
        unknown = modalities[name].data.model_copy(update={"statistics": "measured"})
        modalities[name] = modalities[name].model_copy(update={"data": unknown})
    return resolve_statistics(config.model_copy(update={"modalities": modalities}), data)


def kept_statistics(config: Config, checkpoint: Path) -> list[str]:
    """The modalities whose statistics are those of the checkpoint, in a config that is settled."""
    old = read_config(checkpoint).modalities
    return [n for n, m in config.modalities.items() if n in old and m.data.statistics == old[n].data.statistics]


def check_same(
    config: Config, checkpoint: Path, at: Standing, data: dict[str, ModalityData], allow_change: bool,
    statistics: dict[str, str],
) -> None:  # fmt: skip
    """Raises CheckpointError where the checkpoint is another run's than the (settled) config's, with all that differs.

    statistics: as `asked_statistics` has them. Files that were set aside stay so.
    """
    old = read_config(checkpoint)
    before, now = (flat(c.model_dump(mode="json")) for c in (old, config))
    changed = [
        f"{key}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
        and key not in FREE_TO_CHANGE
        and not key.endswith(MOVABLE)
        and not key.startswith(("train.probe", "train.scratch"))  # the one judges, the other has had its effect
    ]
    changed += [f"modalities.{n}.data.statistics: {at.statistics[n]} -> measured" for n in to_measure(statistics, at)]
    changed += [
        f"files of {name}: {at.files.get(name, 'none')} -> {fingerprint(d)}"
        for name, d in data.items()
        if at.files.get(name) != fingerprint(d)
    ]
    changed += [
        f"order of the files of {name}: {at.orders.get(name, 'listed')} -> {order}"  # listed until there was another
        for name, order in orders(data).items()
        if at.orders.get(name, "listed") != order and at.files.get(name) == fingerprint(data[name])
    ]
    changed += [
        f"held-out files of {name}: {at.held_out[name]} -> {now_held}"  # scores before and after could not be compared
        for name, now_held in held_out_fingerprints(data).items()
        if at.held_out.get(name, now_held) != now_held
    ]
    changed += [
        f"plug-in {what}: {at.plugins[what]} -> {source}"
        for what, source in plugin_versions(config).items()
        if at.plugins.get(what, source) != source
    ]
    if changed and not allow_change:
        raise CheckpointError(
            f"{checkpoint} belongs to a run with other settings ({'; '.join(changed)}). "
            f"Choose another --out, or go on with the new ones with --allow-change"
        )
    at.set_aside(data)
