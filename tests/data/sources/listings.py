"""Files to be listed, and how a listing is asked for them."""

import os
from pathlib import Path

import pytest

from mae_ext.data.sources.address import fetch
from mae_ext.data.sources.table import Items, list_items
from mae_ext.errors import BadSample, UserError

JPG = (".jpg", ".png")
LIMIT = 1 << 20


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode("utf-8", "surrogateescape"))
    return root


def names(items: Items, root: Path) -> list[str]:
    return [os.path.relpath(a, root) for a in items.addresses]


def refusal(path: Path | str, suffixes: tuple[str, ...] = JPG) -> str:
    with pytest.raises(UserError) as caught:
        list_items(str(path), suffixes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def kind(address: str, limit: int = LIMIT) -> str:
    with pytest.raises(BadSample) as caught:
        fetch(address, limit)
    assert caught.value.path == address
    return caught.value.kind
