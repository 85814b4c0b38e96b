"""The layers of docs/architecture.md: no import against the arrow, not even inside a function, and no circle."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = (
    "config", "model", "data", "interop", "engine", "drawing", "features", "probing", "tasks", "restored", "export",
    "worth", "report", "cli",
)  # fmt: skip
"""Lowest first. "config" are the modules beside it, at the top of the package."""

DATA = (("contracts",), ("sources",), ("loading",), ("change",), ("image", "video", "volume"))
"""Of data/, lowest first; "contracts" are the modules at its top. Of one row, none imports another; and no reader,
which the loader finds by its name, knows of loading."""

TOP = ("mae_ext", "mae_ext.__main__")
"""The package's own names, which may come from anywhere."""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted((ROOT / "mae_ext").rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """The modules of mae_ext that a file names in an import, wherever that stands."""
    named = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: relative"
            each = {f"{node.module}.{alias.name}" for alias in node.names}
            named |= {name if name in FILES else str(node.module) for name in each}
    return {name for name in named if name.partition(".")[0] == "mae_ext"}


GRAPH = {name: imports(path) for name, path in FILES.items()}


def layer(module: str) -> int:
    parts = module.split(".")
    return LAYERS.index(parts[1]) if len(parts) > 1 and parts[1] in LAYERS else 0


def row(module: str) -> tuple[int, str]:
    """(which row of DATA, the folder) of a module in data/."""
    parts = module.split(".")
    folder = parts[2] if len(parts) > 2 and any(parts[2] in names for names in DATA) else "contracts"
    return next(i for i, names in enumerate(DATA) if folder in names), folder


@pytest.mark.parametrize("module", sorted(set(FILES) - set(TOP)))
def test_a_module_imports_nothing_from_above_its_layer(module: str) -> None:
    above = {name for name in GRAPH[module] if name in TOP or layer(name) > layer(module)}
    assert not above


@pytest.mark.parametrize("module", [name for name in sorted(FILES) if name.startswith("mae_ext.data.")])
def test_in_data_a_reader_knows_no_other_reader_and_nothing_of_loading(module: str) -> None:
    at, folder = row(module)
    for name in GRAPH[module]:
        if name.startswith("mae_ext.data."):
            there, other = row(name)
            assert there < at or other == folder, name
            assert not (other == "loading" and folder in DATA[-1]), name


def test_no_imports_go_round_in_a_circle() -> None:
    inside = {name: {n for n in names if n not in TOP} for name, names in GRAPH.items() if name not in TOP}
    TopologicalSorter(inside).prepare()  # raises CycleError, with the circle


def test_every_folder_of_the_package_has_its_layer() -> None:
    folders = {path.parent.name for path in (ROOT / "mae_ext").glob("*/__init__.py")}
    assert folders == set(LAYERS) - {"config"}
    inner = {path.parent.name for path in (ROOT / "mae_ext" / "data").glob("*/__init__.py")}
    assert inner == {name for names in DATA for name in names} - {"contracts"}


def test_the_page_on_the_architecture_draws_these_layers() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert " < ".join(LAYERS) in page
    assert " < ".join(", ".join(names) for names in DATA) in page


def test_the_rules_see_imports_inside_functions_and_for_types(tmp_path: Path) -> None:
    file = tmp_path / "late.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from mae_ext.report.page import write_report\n\n\n"
        "def late():\n    from mae_ext import plugins\n    import mae_ext.cli.app\n"
    )
    assert imports(file) == {"mae_ext.report.page", "mae_ext.plugins", "mae_ext.cli.app"}
    assert re.fullmatch(r"mae_ext(\.\w+)*", module_of(FILES["mae_ext.cli"]))
