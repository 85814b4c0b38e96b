"""A wide net: what small parts of the package say of many inputs and settings, kept so that any change shows.

An area notes a value under the words that tell the input and the options; what raises is noted as its message. Values
are compact: floats have six digits and are compared to a tolerance, whole numbers of large arrays are a short digest,
and large arrays of floats are a few numbers that a change of order, sign, scale or place moves.
"""

import contextlib
import dataclasses
import inspect
import io
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from math import isfinite
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from golden.values import short_hash

import mae_ext
from mae_ext import plugins

KEPT = Path(__file__).parent / "rest_kept"
ROOT = Path(mae_ext.__file__).parents[1]
LONGEST = 56
"""Of a text that is kept as it is; of longer ones the beginning, and a digest."""
FEW_WHOLE, FEW_FLOATS = 12, 6
"""Elements of an array that are kept one by one."""

Note = Callable[[str, Any], None]


@dataclass(frozen=True)
class Area:
    function: Callable[[Note], None]
    relative: float
    absolute: float
    """How far a number may be from the kept one: of kernels' rounding, and not of a change."""


AREAS: dict[str, Area] = {}


def area(
    relative: float = 5e-5, absolute: float = 1.5e-5
) -> Callable[[Callable[[Note], None]], Callable[[Note], None]]:
    def registered(function: Callable[[Note], None]) -> Callable[[Note], None]:
        AREAS[function.__name__] = Area(function, relative, absolute)
        return function

    return registered


def found(name: str) -> dict[str, Any]:
    """The values of an area: {what was tried: value}. Everything is done in the current folder, by relative paths."""
    values: dict[str, Any] = {}

    def note(words: str, value: Any) -> None:
        words = words.replace("modalities.image.", "image.")
        assert words not in values, f"{name}: {words} is noted twice"
        values[words] = told(outcome(value))

    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(0)
        with mock.patch.object(plugins, "entry_points", cache(entry_points)):  # the slowest part of building anything
            AREAS[name].function(note)
    return json.loads(json.dumps(values))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Neither terminal nor log, and no grad mode or default of one area in the next."""
    before, threads = torch.is_grad_enabled(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        torch.set_grad_enabled(before)
        torch.set_num_threads(threads)
        logging.getLogger("mae_ext").handlers.clear()


def outcome(value: Any) -> Any:
    """A value, that of a function, or what it raises."""
    if not (inspect.isfunction(value) or inspect.ismethod(value)):
        return value
    try:
        result = value()
        return list(result) if inspect.isgenerator(result) else result
    except (Exception, SystemExit) as error:  # noqa: BLE001
        return f"{type(error).__name__}: {' '.join(str(error).split())}"


def told(value: Any) -> Any:
    """A value as JSON, compact."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(f"{value:.5g}") if isfinite(value) else str(value)
    if isinstance(value, str | Path):
        return shortened(str(value))
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return of_array(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: told(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): told(outcome(inner)) for key, inner in value.items()}
    if isinstance(value, set | frozenset):
        return told(sorted(value))
    if isinstance(value, list | tuple):
        plain = all(isinstance(inner, int | float) and not isinstance(inner, bool) for inner in value)
        return of_array(np.array(value)) if plain and len(value) > FEW_WHOLE else [told(outcome(v)) for v in value]
    return shortened(str(value))


def shortened(text: str) -> str:
    for place, name in ((str(ROOT), "ROOT"), (str(Path.cwd()), "HERE"), (str(Path.cwd().resolve()), "HERE")):
        text = text.replace(place, name)
    text = re.sub(r"\b0x[0-9a-f]{6,}", "0x", text)  # where something lies in memory
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 3]}… {short_hash(text.encode(errors='replace'))[:8]}"


def digest(value: Any) -> str:
    """Of whole numbers and words, of which any change says the same."""
    return short_hash(json.dumps(told(outcome(value))).encode())[:8]


def of_array(array: Any) -> Any:
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.dtype in (torch.bfloat16, torch.float16) else array).numpy()
    array = np.asarray(array)
    shape = "x".join(map(str, array.shape))
    if array.dtype.kind not in "f":
        if array.size <= FEW_WHOLE:
            return told(array.tolist())
        return f"{shape} {short_hash(np.ascontiguousarray(array.astype(np.int64)).tobytes())[:8]}"
    if array.size <= FEW_FLOATS:
        return told(array.tolist())
    flat = array.astype(np.float64).ravel()
    good = np.where(np.isfinite(flat), flat, 0)
    size = float(np.sqrt((good**2).mean()))
    places = np.arange(len(flat))
    unit = good / (size or 1)
    marks = [unit.mean(), *((unit * (places * step % 101 - 50)).mean() / 30 for step in (37, 1))]
    strange = [f"{int((~np.isfinite(flat)).sum())} not finite"] if not np.isfinite(flat).all() else []
    return [shape, *strange, told(size), *(round(float(mark), 5) for mark in marks)]


def differences(name: str, kept: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """A line for each value that is another: the words it is noted under, what was, and what is."""
    lines = [f"{words}: {json.dumps(kept[words])} -> gone" for words in kept if words not in values]
    lines += [f"{words}: new, {json.dumps(values[words])}" for words in values if words not in kept]
    for words, old in kept.items():
        if words in values and not same(old, values[words], AREAS[name]):
            lines.append(f"{words}: {json.dumps(old)} -> {json.dumps(values[words])}")
    return lines


def same(kept: Any, value: Any, near: Area) -> bool:
    if isinstance(kept, dict) and isinstance(value, dict):
        return list(kept) == list(value) and all(same(kept[key], value[key], near) for key in kept)
    if isinstance(kept, list) and isinstance(value, list):
        if len(kept) != len(value):
            return False
        floats = [abs(one) for one in kept if isinstance(one, float)]
        if (
            floats and isinstance(kept[0], str) and re.fullmatch(r"[0-9x]*", kept[0])
        ):  # an array: its shape, size and marks
            return kept[0] == value[0] and all(close(a, b, near, 1.0) for a, b in zip(kept[1:], value[1:], strict=True))
        if len(floats) == len(kept):  # what cancels among them is as exact as the largest
            return all(close(a, b, near, max(floats, default=0)) for a, b in zip(kept, value, strict=True))
        return all(same(a, b, near) for a, b in zip(kept, value, strict=True))
    if isinstance(kept, float):
        return close(kept, value, near, abs(kept))
    return type(kept) is type(value) and kept == value


def close(kept: Any, value: Any, near: Area, size: float) -> bool:
    """size: of what stands beside the number."""
    if not isinstance(kept, float):
        return type(kept) is type(value) and bool(kept == value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(kept - value) <= near.relative * abs(kept) + near.absolute * min(size, 1.0) + 1e-12


def kept(name: str, folder: Path = KEPT) -> dict[str, Any] | None:
    path = folder / f"{name}.json"
    values: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return values


def write(name: str, values: Mapping[str, Any], folder: Path = KEPT) -> None:
    """A line for each value, so that a diff shows what changed."""
    folder.mkdir(exist_ok=True)
    lines = (
        f"{json.dumps(w, ensure_ascii=False)}: {json.dumps(v, ensure_ascii=False, separators=(',', ':'))}"
        for w, v in values.items()
    )
    (folder / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def load() -> dict[str, Area]:
    """All areas, from the modules that have them."""
    from golden import rest_areas

    assert rest_areas.LOADED
    return AREAS
