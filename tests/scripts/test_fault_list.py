"""scripts/checks/faults: its counting and going on, that the suite has each row, and rows that only it can show."""

import os
import signal
import time

import pytest
from fault_list import main, rows_pictures, rows_workers
from fault_list.main import ROWS, go, order, read, table
from fault_list.quick_forms import QUICK
from fault_list.trial import Outcome, Row
from fault_tables import missing_tests

from mae_ext.config import builtin_dir

LIST = [*(f"R{n}" for n in range(1, 13)), *(f"D{n}" for n in range(1, 8)), *(f"S{n}" for n in range(1, 5))]


def test_every_row_of_the_list_is_injected_and_held_by_a_test_of_the_suite():
    assert sorted(ROWS, key=order) == sorted(QUICK, key=order) == sorted(LIST, key=order)
    root = builtin_dir("configs").parent
    assert missing_tests(root, [f"tests/{test}" for tests in QUICK.values() for test in tests]) == []
    assert all(row.trials["quick"] <= row.trials["full"] and row.trials["full"] > 0 for row in ROWS.values())


def fate(number, folder, shared):
    assert (shared / "made").read_text() == "once"
    (folder / "left").touch()
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 2:
        time.sleep(60)
    if number == 3:
        raise ValueError("a mistake of the trial")
    return Outcome(5, ("one of five",) if number == 4 else (), {"slowest s": 0.5 + number, "count refused": 2})


def prepare(shared):
    assert not (shared / "made").exists()
    time.sleep(0.2)
    (shared / "made").write_text("once")


def test_trials_that_crash_hang_or_fail_are_lost_are_counted_and_are_not_run_again(tmp_path, monkeypatch, capsys):
    row = Row("R1", "what", {"quick": 5, "full": 6}, fate, 0.5, prepare)
    monkeypatch.setitem(main.ROWS, "R1", row)
    out, work = tmp_path / "out.jsonl", tmp_path / "work"
    go([row], "quick", out, work, jobs=2)
    by = {result["trial"]: result for result in read(out)}
    assert sorted(by) == [0, 1, 2, 3, 4]
    assert [by[n]["injected"] for n in range(5)] == [5, 1, 1, 1, 5]
    ends = [
        "the trial itself ended with -9",
        "no end within 0.5 s",
        "ValueError: a mistake of the trial",
        "one of five",
    ]
    assert [by[n]["lost"] for n in range(1, 5)] == [[end] for end in ends] and by[0]["lost"] == []
    assert (
        not (work / "R1" / "0000").exists() and (work / "R1" / "0004" / "left").exists()
    )  # what lost can be looked at
    assert "| R1 | what | 13 | 9 | 4 | slowest s at most 4.5, refused: 4 |" in table(read(out), ["R1"])
    go([row], "full", out, work, jobs=1)
    assert [result["trial"] for result in read(out)][5:] == [5]


def test_a_row_that_cannot_be_run_here_says_why_in_the_table(tmp_path, monkeypatch):
    row = Row("R7", "what", {"quick": 2, "full": 2}, fate, 1.0, None, lambda: "mounting takes root")
    monkeypatch.setitem(main.ROWS, "R7", row)
    go([row], "quick", tmp_path / "out.jsonl", tmp_path / "work", jobs=1)
    assert table(read(tmp_path / "out.jsonl"), ["R7"]).endswith("| 0 | 0 | 0 | not run: mounting takes root |")


@pytest.mark.parametrize("number", range(len(rows_pictures.PICTURES)), ids=list(rows_pictures.PICTURES))
def test_odd_pictures_are_right_or_named(tmp_path, number):
    outcome = rows_pictures.picture(number, tmp_path, tmp_path)
    assert outcome.injected == rows_pictures.DRAWS and outcome.lost == ()


@pytest.mark.skipif(rows_workers.may_mount() != "", reason=rows_workers.may_mount())
def test_with_little_shared_memory_a_run_says_so_or_does_without(tmp_path):
    assert rows_workers.little_memory(0, tmp_path, tmp_path).lost == ()
