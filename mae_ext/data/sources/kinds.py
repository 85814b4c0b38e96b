"""Which reader takes a file: by its suffix, and by its first bytes where that does not say.

What readers' classes say of themselves (`kind`, see data/kind.py) is all that is known here of any of them.
"""

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mae_ext import plugins
from mae_ext.data.kind import Kind
from mae_ext.data.plan import spread
from mae_ext.data.sources.address import head
from mae_ext.data.sources.dicom.export import files_of, is_series
from mae_ext.data.sources.passed_over import beside, suffix_of
from mae_ext.errors import BadSample, ConfigError

BEGINNING = 1 << 16
"""Bytes of a file that are looked at."""

LOOKED_INTO = 16
"""Files of one suffix, of any number."""

_GZIP = b"\x1f\x8b\x08"


class Taker:
    """A reader that may be meant: its name, its suffixes with and without slash, and its kind."""

    def __init__(self, name: str, reader: Any) -> None:
        suffixes: Sequence[str] = getattr(reader, "suffixes", ())
        kind = getattr(reader, "kind", None)
        self.name, self.kind = name, kind if isinstance(kind, Kind) else Kind(f"{name} file", f"{name} files")
        self.suffixes = tuple(suffixes)
        self.single = tuple(s for s in suffixes if not s.endswith("/"))
        self.joined = tuple(s for s in suffixes if s.endswith("/"))
        self.ending = tuple(s.removesuffix("/") for s in suffixes)

    def __repr__(self) -> str:
        return self.name


class Few:
    """So many or fewer of a stream, evenly spread, whatever its length: the same for the same stream."""

    def __init__(self) -> None:
        self.held: list[str] = []
        self.count, self.every = 0, 1

    def add(self, text: str) -> None:
        if self.count % self.every == 0:
            self.held.append(text)
            if len(self.held) == 8 * LOOKED_INTO:
                self.held, self.every = self.held[::2], 2 * self.every
        self.count += 1

    def spread(self) -> list[str]:
        return [self.held[i] for i in spread(len(self.held), LOOKED_INTO)]


def takers() -> list[Taker]:
    """All readers by name, the built-in ones first; a plug-in that fails is nobody's concern who does not name it."""
    registry, known = plugins.readers, []
    for name in sorted(registry.sources(), key=lambda name: (name not in registry.builtins, name)):
        try:
            known.append(Taker(name, registry.get(name)))
        except ConfigError:
            continue
    return known


def by_suffix(name: str, known: Sequence[Taker]) -> tuple[Taker, ...]:
    """Whose suffix a name ends in. What a built-in reader takes is no plug-in's, unless the plug-in is asked for."""
    low = name.lower()
    taking = tuple(taker for taker in known if low.endswith(taker.ending))
    own = tuple(taker for taker in taking if taker.name in plugins.readers.builtins)
    return own or taking


def by_content(address: str, known: Sequence[Taker]) -> tuple[Taker | None, str]:
    """(whose a file is by its first bytes, or None, and a remark). Raises nothing."""
    beginning = beginning_of(address, known)
    seen = [(*taker.kind.sees(beginning, address), taker) for taker in known] if beginning else []
    certain, remark, taker = max(seen, key=lambda row: row[0], default=(0, "", None))
    if not certain:
        return None, next((why for _, why, _ in seen if why), "")
    return taker, remark


def beginning_of(address: str, known: Sequence[Taker]) -> bytes:
    """The first bytes, unpacked where they are gzip's; of a folder, those of its first file; b"" where there are
    none."""
    try:
        if address.endswith("/") or is_series(address) or exists_as_folder(address):
            joined = tuple(s.removesuffix("/") for taker in known for s in taker.joined)
            address = files_of(address, joined)[0]
        content = head(address, BEGINNING)
    except BadSample:
        return b""
    if not content.startswith(_GZIP):
        return content
    try:
        return zlib.decompressobj(31).decompress(content, BEGINNING)
    except zlib.error:
        return b""


def is_text(address: str) -> bool:
    """Whether a file begins as text."""
    content = beginning_of(address, ())[:4096]
    return bool(content) and b"\0" not in content and content.decode("utf-8", "replace").count("�") < 2


def vouched(addresses: Iterable[str], suffixes: Sequence[str]) -> set[str]:
    """Suffixes that no reader has, of whose files all that are looked into begin as those of one reader: the one with
    `suffixes`. BARE stands for none. Not of a reader whose samples may be many files: those have to be told apart."""
    known = takers()
    wanted = next((taker for taker in known if taker.suffixes == tuple(suffixes)), None)
    if wanted is None or wanted.joined:
        return set()
    groups: dict[str, Few] = {}
    for address in addresses:
        if not by_suffix(address, known) and not beside(address):
            groups.setdefault(suffix_of(address), Few()).add(address)
    return {
        suffix
        for suffix, few in groups.items()
        if all(by_content(address, known)[0] is wanted for address in few.spread())
    }


def exists_as_folder(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False
