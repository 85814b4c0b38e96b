"""`python -m golden.rest_child OUT AREA...`: the values of the areas, written to OUT as JSON."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from golden import rest
from golden.make import _environment


def run(areas: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{area: values} from a process of a fixed environment. Raises RuntimeError, its words."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "golden.rest_child", "out.json", *areas]
        done = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the net ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        found: dict[str, dict[str, Any]] = json.loads((Path(folder) / "out.json").read_text())
    return found


def main(out: str, *areas: str) -> None:
    rest.load()
    found = {}
    for name in areas:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            found[name] = rest.found(name)
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
