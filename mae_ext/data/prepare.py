"""Decode everything once: fill the cache that readers train from, with every file in a child that may die of it."""

import json
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

from mae_ext import plugins
from mae_ext.config import Config, ModalityConfig
from mae_ext.cores import cores
from mae_ext.data.cache import Cache, require_writable
from mae_ext.data.sandbox import Sandbox
from mae_ext.data.source import list_items
from mae_ext.errors import BadSample, ConfigError, UserError

DEADLINE_S = 600.0
"""For one file: a whole file is decoded, where training would take a clip of it."""


@dataclass(frozen=True)
class Prepared:
    """bad: {"modality", "path", "kind", "detail"} for each file that is. size_bytes: of all that the folder holds."""

    out: Path
    files: int
    bad: list[dict[str, str]]
    size_bytes: int

    def __str__(self) -> str:
        kinds = Counter(row["kind"] for row in self.bad)
        what = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        bad = f", {len(self.bad)} bad ({what}; see {self.out / 'bad_samples.jsonl'})" if self.bad else ""
        return f"{self.files} files{bad}, {self.size_bytes / 2**30:.2f} GiB in {self.out}"


def prepare(
    config: Config,
    out: str | Path,
    workers: int | None = None,
    deadline_s: float = DEADLINE_S,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Fill the folder `out` for every modality of a config. What is there already, and still good, is left alone.

    workers: files at a time, by default one per core. Bad files are listed in `out`/bad_samples.jsonl. Train from it
    with `modalities.<name>.data.reader.cache=<out>`: samples are the same, bit for bit. Raises ConfigError for a reader
    that keeps no cache, UserError for data that are missing, or a folder that cannot be written to.
    """
    out = require_writable(out)
    Cache(out).sweep()
    work = [(name, address, reader) for name, m in config.modalities.items() for address, reader in _work(name, m, out)]
    bad: list[dict[str, str]] = []
    for done, (name, outcome) in enumerate(_outcomes(work, workers or cores(), deadline_s), start=1):
        if outcome is not None:
            bad.append({"modality": name, "path": outcome.path, "kind": outcome.kind, "detail": outcome.detail})
        if progress is not None:
            progress(done, len(work))
    (out / "bad_samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad), encoding="utf-8")
    size = sum(file.stat().st_size for file in out.rglob("*.array"))
    return Prepared(out, len(work), bad, size)


def _work(name: str, modality: ModalityConfig, out: Path) -> list[tuple[str, str]]:
    """(address, recipe of the reader) for every file."""
    where, spec = f"modalities.{name}", modality.data.reader
    if modality.data.path is None:
        raise UserError(f"{where}.data.path is not set: give --data PATH")
    if not hasattr(plugins.readers.get(spec.name, f"{where}.data.reader"), "prepared"):
        raise ConfigError(f"{where}.data.reader: reader '{spec.name}' keeps no cache; there is nothing to prepare")
    arguments = spec.arguments | {"cache": str(out), "size": modality.size, "channels": modality.channels}
    recipe = json.dumps([spec.name, arguments])
    items = list_items(modality.data.path, tuple(_reader(recipe).suffixes))
    return [(address, recipe) for address in items.addresses]


def _outcomes(
    work: list[tuple[str, str, str]], workers: int, deadline_s: float
) -> Iterator[tuple[str, BadSample | None]]:
    """(modality, what is wrong or None), in order."""
    mine = threading.local()
    open_ones: list[Sandbox] = []

    def one(name: str, address: str, recipe: str) -> tuple[str, BadSample | None]:
        if not hasattr(mine, "sandbox"):
            mine.sandbox = Sandbox(deadline_s)
            open_ones.append(mine.sandbox)
        try:
            mine.sandbox.call(_prepare_one, recipe, address, name=address)
        except BadSample as error:
            return name, error
        return name, None

    with ThreadPoolExecutor(workers, thread_name_prefix="prepare") as pool:
        todo = iter(work)
        ahead: deque[Future[tuple[str, BadSample | None]]] = deque()
        try:
            for row in islice(todo, 4 * workers):
                ahead.append(pool.submit(partial(one, *row)))
            while ahead:
                yield ahead.popleft().result()
                ahead.extend(pool.submit(partial(one, *row)) for row in islice(todo, 1))
        finally:
            for future in ahead:
                future.cancel()
            for sandbox in open_ones:
                sandbox.close()


@lru_cache(maxsize=8)
def _reader(recipe: str) -> Any:
    """One for each process, so that what a reader starts lives as long."""
    name, arguments = json.loads(recipe)
    return plugins.readers.build(name, arguments, "prepare")


def _prepare_one(recipe: str, address: str) -> None:
    _reader(recipe).prepared(address)
