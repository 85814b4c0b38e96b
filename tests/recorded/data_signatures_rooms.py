"""What modules of data/ offer: signatures and constants."""

import inspect
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from recorded.record import room

import mae_ext.data

INSIDE = "mae_ext.data."
MODULES = sorted(
    m.name.removeprefix(INSIDE) for m in pkgutil.walk_packages(mae_ext.data.__path__, INSIDE) if not m.ispkg
)
OF_THE_MACHINE = ("MAPPED", "_DESCRIPTORS")


@room
def data_signatures(_: Path) -> Iterator[tuple[str, Any]]:
    """Every constant of a module, and the names and defaults of every function's and class' arguments."""
    for name in MODULES:
        module = import_module(INSIDE + name)
        for key, value in vars(module).items():
            if key.strip("_").isupper() and key not in OF_THE_MACHINE and key.strip("_") == key.strip("_").upper():
                if isinstance(value, str | int | float | tuple | list | dict | set | frozenset | range | np.ndarray):
                    yield f"{name}.{key}", plain(value)
                elif isinstance(value, re.Pattern):
                    yield f"{name}.{key}", f"{value.pattern} {value.flags}"
            elif getattr(value, "__module__", "") == module.__name__ and not key.startswith("_"):
                if (inspect.isfunction(value) or inspect.isclass(value)) and (words := defaults(value)):
                    yield f"{name}.{key}", words
                for inner, method in vars(value).items() if inspect.isclass(value) else ():
                    if not inner.startswith("_") and inspect.isfunction(method) and (words := defaults(method)):
                        yield f"{name}.{key}.{inner}", words
            if inspect.isclass(value) and getattr(value, "__module__", "") == module.__name__:
                for inner in ("suffixes", "display", "label_suffix", "example"):
                    if inner in vars(value):
                        yield f"{name}.{key}.{inner}", plain(vars(value)[inner])


ROOT = str(Path(mae_ext.data.__file__).parents[2])


def plain(value: Any) -> Any:
    return value if isinstance(value, np.ndarray) else worded(value)


def worded(value: Any) -> str:
    """repr, without what differs between processes and machines: addresses, places, the order of sets."""
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(map(worded, value))) + "}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{worded(k)}: {worded(v)}" for k, v in value.items()) + "}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value)).replace(ROOT, "~")


def defaults(of: Any) -> str:
    try:
        parameters = inspect.signature(of).parameters.values()
    except (TypeError, ValueError):
        return ""
    return ", ".join(f"{p.name}={worded(p.default)[:60]}" for p in parameters if p.default is not p.empty)
