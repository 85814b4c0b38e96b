"""scripts/checks/plant_faults.py, on a checkout of two functions."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from fault_tables import TABLES, Fault, mirrored, read_tables, stale
from plant_faults import failures, judged, main, summary

CODE = """\
import subprocess, sys

def add(a, b):
    return a + b

def spare(a):
    return a * 2

def child():
    words = [sys.executable, "-c", "from mae_ext.sums import add; print(add(1, 2))"]
    return int(subprocess.run(words, capture_output=True, text=True, cwd="/").stdout)
"""
TESTS = """\
from mae_ext.sums import add, child

def test_red():
    assert False

def test_sums():
    assert add(2, 2) == 4

def test_sums_in_a_child():
    assert child() == 3
"""
MOODY = """\
from pathlib import Path

def test_quiet():
    assert True

def test_that_fails_the_second_time():
    count = len(list(Path("times").glob("*")))
    (Path("times") / str(count)).mkdir(parents=True)
    assert count != 1
"""
FAULTS = [
    {"name": "minus", "file": "mae_ext/sums.py", "what": "differs", "old": "a + b", "new": "a - b"},
    {"name": "product", "file": "mae_ext/sums.py", "what": "is right for 2", "old": "a + b", "new": "a * b"},
    {"name": "unused", "file": "mae_ext/sums.py", "what": "nobody calls it", "old": "a * 2", "new": "a * 3"},
]


def checkout(root: Path, faults: list[dict[str, Any]], code: str = CODE) -> Path:
    files = {
        "mae_ext/__init__.py": "",
        "mae_ext/sums.py": code,
        "tests/test_sums.py": TESTS,
        f"{TABLES}/table.yaml": yaml.safe_dump({"faults": faults}),
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    subprocess.run(["git", "add", "."], cwd=root, check=True)
    return root


def results(root: Path) -> list[dict[str, Any]]:
    lines = (root / "runs/planted/results.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "outcome" in row]


def test_a_fault_is_noticed_by_a_test_that_is_green_without_it_and_judged_again_on_a_change(
    tmp_path,
):
    root = checkout(tmp_path, FAULTS)
    assert main([], root) == 2  # a test that is red by itself is told, whatever else was found
    found = {row["name"]: (row["outcome"], row["by"]) for row in results(root)}
    assert found == {
        "minus": ("noticed", "tests/test_sums.py::test_sums"),
        "product": ("noticed", "tests/test_sums.py::test_sums_in_a_child"),
        "unused": ("survived", ""),
    }
    assert (root / "mae_ext/sums.py").read_text() == CODE
    told = (root / "runs/planted/summary.md").read_text()
    assert "| table | 3 | 2 | 67% |" in told and "- `unused` (mae_ext/sums.py): nobody calls it" in told

    assert main([], root) == 1 and len(results(root)) == 3  # nothing is due; one has survived
    more = "from mae_ext.sums import spare\n\ndef test_spare():\n    assert spare(1) == 2\n"
    (root / "tests/test_sums.py").write_text(more)
    assert main(["--only", "unused"], root) == 0
    assert [row["by"] for row in results(root)[3:]] == ["tests/test_sums.py::test_spare"]


def test_a_test_has_to_notice_twice(tmp_path):
    root = checkout(tmp_path, FAULTS[2:])
    (root / "tests/test_sums.py").write_text(MOODY)
    assert main([], root) == 1
    assert [row["outcome"] for row in results(root)] == ["survived"]


def test_a_fault_that_does_not_fit_the_code_is_told_with_the_nearest_line_and_nothing_runs(tmp_path, capsys):
    moved = CODE.replace("    return a + b", "    return b + a")
    root = checkout(tmp_path, FAULTS[:1], moved)
    assert main([], root) == 2
    told = capsys.readouterr().err
    assert (
        "minus: found 0 times in mae_ext/sums.py: 'a + b'" in told
        and "nearest: mae_ext/sums.py:4: return b + a" in told
    )
    assert not (root / "runs").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"old": "a", "new": "b"}, "found 11 times"),
        ({"new": "a + + "}, "no Python"),
        ({"new": "a +  b"}, "changes nothing"),
        ({"tests": ["tests/test_sums.py::test_gone"]}, "no such test: tests/test_sums.py::test_gone"),
    ],
)
def test_a_fault_that_cannot_be_planted_is_told(tmp_path, change, told):
    root = checkout(tmp_path, [FAULTS[0] | change])
    (problem,) = stale(root, read_tables(root))
    assert problem.startswith("table: minus: ") and told in problem


def test_two_faults_of_one_name_are_told(tmp_path):
    root = checkout(tmp_path, [FAULTS[0], FAULTS[0]])
    assert len(stale(root, read_tables(root))) == 2


def test_a_module_is_judged_by_the_tests_that_mirror_it_and_those_that_its_table_names(tmp_path):
    root = checkout(tmp_path, FAULTS[:1])
    assert mirrored(root, "mae_ext/sums.py") == ["tests/test_sums.py"] and mirrored(root, "mae_ext/other.py") == []
    more = {"tests": {"mae_ext/sums.py": ["tests/test_sums.py", "tests/test_more.py"]}, "faults": FAULTS[:1]}
    (root / TABLES / "table.yaml").write_text(yaml.safe_dump(more))
    assert read_tables(root)[0].tests == ("tests/test_sums.py", "tests/test_more.py")
    own = [FAULTS[0] | {"tests": ["tests/test_sums.py::test_sums"]}]
    (root / TABLES / "table.yaml").write_text(yaml.safe_dump(more | {"faults": own}))
    assert read_tables(root)[0].tests == ("tests/test_sums.py::test_sums",)


def test_a_run_is_judged_by_its_exit_code_and_its_summary():
    said = "FAILED tests/a.py::test_x[1] - assert 1 == 2\nERROR tests/b.py - ImportError\n1 failed\n"
    assert failures(said) == ["tests/a.py::test_x[1]", "tests/b.py"]
    assert judged(1, said) == ("noticed", "tests/a.py::test_x[1]")
    assert judged(0, "1 passed") == ("survived", "")
    assert judged(None, "") == ("noticed", "the time limit")
    assert judged(-11, "") == ("noticed", "the end of pytest by signal 11")
    assert judged(1, "FAILED tests/a.py::test_x - Failed: Timeout (>300.0s)\n")[1] == "tests/a.py::test_x (timeout)"
    assert judged(4, "no such option")[0] == "error"


def test_the_summary_counts_by_table():
    row = {"file": "mae_ext/x.py", "what": "wrong", "name": "n"}
    rows = [row | {"table": "a", "outcome": "noticed"}, row | {"table": "b", "outcome": "survived"}]
    lines = summary(rows).splitlines()
    assert lines[2:5] == ["| a | 1 | 1 | 100% |", "| b | 1 | 0 | 0% |", "| all | 2 | 1 | 50% |"]


def test_a_table_a_file_and_a_name_can_be_asked_for():
    fault = Fault("data", "flipped", "mae_ext/data/image/reader.py", "", "a", "b", ())
    assert all(
        fault.is_named(name) for name in ("data", "flipped", "mae_ext/data/image/reader.py", "data/image/reader.py")
    )
    assert not fault.is_named("image.py")
