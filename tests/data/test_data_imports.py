"""How the modules of data/ lean on each other, read from their syntax, imports inside functions included."""

import ast
from pathlib import Path

import pytest

import mae_ext.data

ROOT = Path(mae_ext.data.__file__).parent
FILES = {path.stem: path for path in sorted(ROOT.rglob("*.py")) if path.stem != "__init__"}
READERS = {"image", "video", "volume"}
LOADING = {"loader", "workers", "sandbox", "prepare", "doctor", "statistics", "meant"}


def imported(path):
    """Stems of the modules of data/ that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mae_ext.data"):
            last = node.module.rpartition(".")[2]
            names |= {last} if last in FILES else {alias.name for alias in node.names}
    return names & FILES.keys()


GRAPH = {name: imported(path) for name, path in FILES.items()}


def reached(name):
    seen, todo = set(), [name]
    while todo:
        new = GRAPH[todo.pop()] - seen
        seen |= new
        todo += new
    return seen


def test_no_module_of_data_imports_itself_by_way_of_others():
    assert [name for name in GRAPH if name in reached(name)] == []


@pytest.mark.parametrize("reader", sorted(READERS))
def test_a_reader_knows_nothing_of_how_it_is_called(reader):
    assert reached(reader) & LOADING == set()
    assert reached(reader) & READERS == set()


@pytest.mark.parametrize("name", sorted(LOADING | {"cache", "sample", "source", "plan", "augment"}))
def test_what_is_the_same_for_all_modalities_names_none(name):
    formats = set().union(*(reached(reader) for reader in READERS)) - {"sample", "source", "cache", "address"}
    general = {"archive", "folder", "folds", "index", "passed_over", "plain_list"}
    assert reached(name) & (READERS | (formats - general)) == set()
