"""Runs to take away, one of each kind, made once for a file of tests."""

from pathlib import Path

import pytest
from export.tiny_runs import KINDS, saved, tiny


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: saved(tmp_path_factory.mktemp(kind), tiny(kind)) for kind in KINDS}
