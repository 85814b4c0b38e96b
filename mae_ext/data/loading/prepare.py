"""Decode everything once: fill the cache that readers train from, with every file in a child that may die of it."""

import json
import logging
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mae_ext import plugins
from mae_ext.config import Config, ModalityConfig, one_modality
from mae_ext.cores import cores
from mae_ext.data.loading.sandbox import Sandbox
from mae_ext.data.loading.side_by_side import in_order
from mae_ext.data.sample import held
from mae_ext.data.sources.cache import Cache, keeping
from mae_ext.data.sources.meant import one_sided
from mae_ext.data.sources.table import list_items
from mae_ext.errors import BadSample, ConfigError, UserError, reasons
from mae_ext.progress import Progress
from mae_ext.strict_json import dumps
from mae_ext.writing import blamed_on, folder_for, staged

log = logging.getLogger(__name__)

LEDGER = "bad_samples.jsonl"
DEADLINE_S = 600.0
"""For one file: a whole file is decoded, where training would take a clip of it."""


@dataclass(frozen=True)
class Prepared:
    """bad: {"modality", "path", "kind", "detail"} for each file that is. size_bytes: of all that the folder holds.

    modalities: those whose files were decoded; without: those whose reader keeps no cache. unkept: a sentence for each
    modality with files that are good and not kept.
    """

    out: Path
    files: int
    bad: list[dict[str, str]]
    size_bytes: int
    modalities: tuple[str, ...]
    without: tuple[str, ...] = ()
    unkept: tuple[str, ...] = ()

    def __str__(self) -> str:
        kinds = Counter(row["kind"] for row in self.bad)
        what = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        if self.bad and len(self.bad) == self.files:
            what = reasons(self.bad)
        bad = f", {len(self.bad)} bad ({what}; see {self.out / LEDGER})" if self.bad else ""
        return "\n".join([f"{self.files} files{bad}, {self.size_bytes / 2**30:.2f} GiB in {self.out}", *self.unkept])


def prepare(
    config: Config,
    out: str | Path,
    workers: int | None = None,
    deadline_s: float = DEADLINE_S,
    progress: Progress | None = None,
    modality: str | None = None,
) -> Prepared:
    """Fill the folder `out` for every modality of a config whose reader keeps a cache, or for the one that is named.

    What is there already, and still good, is left alone. workers: files at a time, by default one per core. Bad files
    are listed in `out`/bad_samples.jsonl. Train from it with `modalities.<name>.data.reader.cache=<out>`: samples are
    the same, bit for bit. Raises ConfigError where no reader keeps a cache, UserError for data that are missing, or a
    folder that cannot be written to, also when the disk is full in the midst of it, RunError for a bug of the reader.
    """
    names, without = _chosen(config, modality)
    with folder_for(out) as out:
        Cache(out).sweep()
        work = [(name, *row) for name in names for row in _work(name, config.modalities[name], out)]
        bad: list[dict[str, str]] = []
        large: dict[tuple[str, str], list[str]] = {}
        with staged(out / LEDGER) as [ledger]:
            outcomes = zip(work, in_order(work, _outcome, workers or cores(), deadline_s), strict=True)
            for done, ((name, address, recipe), outcome) in enumerate(outcomes, start=1):
                if isinstance(outcome, BadSample):
                    bad.append({"modality": name, **outcome.row})
                elif not outcome:
                    large.setdefault((name, recipe), []).append(address)
                if progress is not None:
                    progress(done, len(work))
            with blamed_on(out / LEDGER):
                ledger.write_text("".join(dumps(row) + "\n" for row in bad), encoding="utf-8")
        size = sum(file.stat().st_size for file in out.rglob("*.array"))
    unkept = tuple(
        _reader(recipe).unkept(addresses, f"modalities.{name}.data.reader")
        for (name, recipe), addresses in large.items()
    )
    return Prepared(out, len(work), bad, size, names, without, unkept)


def _chosen(config: Config, modality: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of all modalities, or of one that is named: those that can be prepared, and the others. Raises ConfigError."""
    names = list(config.modalities) if modality is None else [one_modality(modality, config, "--modality")]
    able = tuple(name for name in names if hasattr(_factory(config, name), "prepared"))
    if not able:
        readers = ", ".join(f"'{config.modalities[name].data.reader.name}'" for name in names)
        where = f"modalities.{names[0]}.data.reader" if len(names) == 1 else "modalities"
        raise ConfigError(f"{where}: reader {readers} keeps no cache; there is nothing to prepare")
    return able, tuple(name for name in names if name not in able)


def _factory(config: Config, name: str) -> Any:
    return plugins.readers.get(config.modalities[name].data.reader.name, f"modalities.{name}.data.reader")


def _work(name: str, modality: ModalityConfig, out: Path) -> list[tuple[str, str]]:
    """(address, recipe of the reader) for every file."""
    where, spec = f"modalities.{name}", modality.data.reader
    if modality.data.path is None:
        raise UserError(
            f"{where}.data.path is not set: give --data PATH, of several modalities --data NAME=PATH, or --modality "
            "NAME to prepare another alone"
        )
    arguments = spec.arguments | {"cache": str(out), "size": modality.size, "channels": modality.channels}
    recipe = json.dumps([spec.name, arguments])
    items = list_items(modality.data.path, tuple(_reader(recipe).suffixes))
    if unsaid := one_sided(_reader(recipe), items.addresses):
        log.warning("%s: %s", name, unsaid)
    return [(address, recipe) for address in items.addresses]


def _outcome(sandbox: Sandbox, row: tuple[str, str, str]) -> BadSample | bool:
    """What is wrong, or whether the file is kept now."""
    _, address, recipe = row
    try:
        return bool(sandbox.call(_prepare_one, recipe, address, name=address))
    except BadSample as error:
        return error


@lru_cache(maxsize=8)
def _reader(recipe: str) -> Any:
    """One for each process, so that what a reader starts lives as long."""
    name, arguments = json.loads(recipe)
    return keeping(plugins.readers.build(name, arguments, "prepare"), "always")


def _prepare_one(recipe: str, address: str) -> bool:
    reader = _reader(recipe)
    with held(reader, address):
        return reader.prepared(address) is not None
