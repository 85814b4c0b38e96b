"""JSON that every reader takes: the one writer of what a run and its commands say of themselves."""

import json
from math import isfinite
from typing import Any


def dumps(value: Any, indent: int | None = None) -> str:
    """One line (or, with `indent`, several) of JSON as RFC 8259 has it, which knows no NaN and no infinity.

    A float that is not finite becomes null, wherever it is, so that the other numbers of its row can still be read.
    """
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
