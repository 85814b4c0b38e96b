"""Voxels in files of their own beside a header: which files these are, and their bytes, one file after the other."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import PurePosixPath, PureWindowsPath

import numpy as np

from mae_ext.data.sources.address import fetch
from mae_ext.data.sources.archive import is_place
from mae_ext.data.volume.inflate import Packing, Source
from mae_ext.data.volume.scan import Array
from mae_ext.errors import BadSample

MAX_FILES = 20_000
"""Of one scan, a slice each: more than any scanner writes into a series."""

TO_THE_END = -1
"""As a number of bytes to skip: the voxels are the last of the file (NRRD's `byte skip`, MetaImage's HeaderSize)."""


@dataclass(frozen=True)
class Beside:
    """files: of equal parts of the voxels, the slowest axis's first ones first. skip: bytes before the voxels of each,
    or TO_THE_END. lines: of text before these."""

    files: tuple[str, ...]
    packing: Packing
    skip: int = 0
    lines: int = 0

    def voxels(self, address: str, shape: tuple[int, ...], dtype: np.dtype[np.generic], max_bytes: int) -> Array:
        """(*reversed(shape)). Raises BadSample of the header's address, in which the file is named."""
        count = prod(shape) * dtype.itemsize
        if count % len(self.files):
            detail = f"{count} bytes of voxels are no whole number for each of {len(self.files)} files"
            raise BadSample(address, "header", detail)
        each = count // len(self.files)
        whole: Array = np.empty(0, np.uint8)
        for number, file in enumerate(self.files):
            try:
                part = self._part(address, file, each, max_bytes)
            except BadSample as error:
                raise BadSample(address, error.kind, f"its data file {file}: {error.detail}") from error
            if len(self.files) == 1:
                whole = part
                break
            if not number:
                whole = np.empty(count, np.uint8)  # after one part was there: a header alone takes no memory
            whole[number * each : (number + 1) * each] = part
        return whole.view(dtype).reshape(shape[::-1])

    def _part(self, address: str, file: str, count: int, max_bytes: int) -> Array:
        content = fetch(file, max_bytes)
        assert isinstance(content, bytes)
        source = Source(address, _after_lines(address, content, self.lines), self.packing)
        if self.skip == TO_THE_END:
            if source.compressed:
                raise BadSample(address, "header", "to skip to the last bytes of packed voxels has no meaning")
            source.expect(count)
            source.at = len(source.content) - count
        else:
            source.read(self.skip)
        part = source.read(count)
        source.finish()
        return part


def _after_lines(address: str, content: bytes, lines: int) -> memoryview:
    at = 0
    for _ in range(lines):
        at = content.find(b"\n", at) + 1
        if not at:
            raise BadSample(address, "truncated", f"it has fewer than {lines} lines before the voxels")
    return memoryview(content)[at:]


def beside(address: str, name: str) -> str:
    """The file that the header at `address` calls `name`: in its own folder, or below it. Raises BadSample "header"."""
    if is_place(address):
        detail = f"its voxels are in another file ({name}), which is not read out of an archive; save it as one file"
        raise BadSample(address, "header", detail)
    name = name.strip()
    plain = name.replace("\\", "/") if "\\" in name else name
    absolute = PurePosixPath(plain).is_absolute() or bool(PureWindowsPath(name).drive)
    if not name or absolute or ".." in PurePosixPath(plain).parts:
        detail = f"its data file '{name}' is not in the folder of the header; put it there, and its bare name in"
        raise BadSample(address, "header", detail)
    return os.path.join(os.path.dirname(address), plain)  # noqa: PTH118, PTH120 the address stays as it is written


def numbered(address: str, pattern: str, first: int, last: int, step: int) -> list[str]:
    """`slice%03d.raw 1 40 1` -> forty files. Raises BadSample "header"."""
    if re.fullmatch(r"[^%]*%0?\d{0,2}[diu][^%]*", pattern) is None:
        raise BadSample(address, "header", f"'{pattern}' is no name with one number in it, such as slice%03d.raw")
    if not step or (last - first) // step < 0:
        raise BadSample(address, "header", f"'{pattern}' from {first} to {last} in steps of {step} names no file")
    if (last - first) // step >= MAX_FILES:
        raise BadSample(address, "too large", f"'{pattern}' names more than {MAX_FILES} files")
    numbers = range(first, last + (1 if step > 0 else -1), step)
    return [pattern.replace("%u", "%d") % n for n in numbers]


def listed(address: str, names: Sequence[str]) -> list[str]:
    """A name a line. Raises BadSample "header" and "too large"."""
    named = [name.strip() for name in names if name.strip()]
    if not named:
        raise BadSample(address, "header", "a list of data files without a name")
    if len(named) > MAX_FILES:
        raise BadSample(address, "too large", f"it names more than {MAX_FILES} files")
    return named
