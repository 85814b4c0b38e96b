"""One writer of JSON, and what it writes every reader takes."""

import ast
import json
from pathlib import Path

import pytest

from mae_ext.strict_json import dumps

PACKAGE = Path(__file__).parent.parent / "mae_ext"
BETWEEN_PROCESSES = {
    "data/video/decoder.py",
    "data/video/child.py",
    "data/sources/dicom/child.py",
    "data/sources/dicom/index.py",
}
KEYS_AND_SCHEMAS = {
    "config.py",
    "data/sources/cache.py",
    "data/loading/prepare.py",
    "tasks/classify/task.py",
    "strict_json.py",
}


def strict(text):
    def refuse(name):
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


def test_a_number_that_is_none_is_null_wherever_it_stands_and_the_others_keep_their_bits():
    row = {"step": 3, "loss": float("nan"), "scores": [0.1 + 0.2, float("inf"), {"a": float("-inf")}], "pair": (1.5, 2)}
    assert strict(dumps(row)) == {"step": 3, "loss": None, "scores": [0.1 + 0.2, None, {"a": None}], "pair": [1.5, 2]}
    assert dumps(row).count("\n") == 0 and strict(dumps(row, indent=1)) == strict(dumps(row))


def test_what_is_no_json_at_all_is_still_an_error():
    with pytest.raises(TypeError, match="set"):
        dumps({"a": {1}})


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_what_a_run_says_of_itself_is_written_in_one_place(path):
    if path.relative_to(PACKAGE).as_posix() in BETWEEN_PROCESSES | KEYS_AND_SCHEMAS:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.dumps", "json.dump"):
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert given.get("allow_nan") == "False", f"{path}:{node.lineno}: use mae_ext.strict_json.dumps"
