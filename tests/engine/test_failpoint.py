"""Failpoints do what a test asks of them, at the time that it asks for, and nothing else."""

import errno
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from faults.kills import environment

from mae_ext.engine import failpoint
from mae_ext.engine.failpoint import POINTS, VARIABLE, reach, read

PACKAGE = Path(failpoint.__file__).parents[1]


@pytest.fixture
def plan(monkeypatch):
    def go(text):
        monkeypatch.setattr(failpoint, "_PLAN", read(text))
        monkeypatch.setattr(failpoint, "_REACHED", Counter())

    return go


def broken(point, times):
    """Which of so many times that a point is reached raise."""
    errors = []
    for nth in range(1, times + 1):
        try:
            reach(point)
        except OSError as error:
            errors.append((nth, error.errno))
    return errors


@pytest.mark.parametrize("code", ["ENOSPC", "EROFS", "EIO"])
def test_an_error_comes_once_at_its_time_or_from_then_on(plan, code):
    plan(f"file.write:3:{code.lower()},file.fsynced:2+:{code.lower()}")
    number = getattr(errno, code)
    assert broken("file.write", 5) == [(3, number)]
    assert broken("file.fsynced", 4) == [(2, number), (3, number), (4, number)]
    assert broken("folder.rename", 3) == []


@pytest.mark.parametrize(
    "text",
    ["file.write", "file.write:", "file.write:0", "file.write:-1", "no.such:1", "file.write:1:explode", "x", "::"],
)
def test_what_no_failpoint_can_do_is_refused_with_what_one_can(text):
    with pytest.raises(ValueError, match="expected NAME:NTH"):
        read(text)


def test_a_process_is_killed_where_its_environment_says():
    program = "from mae_ext.engine.failpoint import reach\nfor n in range(3): print(n, flush=True); reach('file.write')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(**{VARIABLE: "file.write:2"}),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "0\n1\n")


def test_every_point_of_the_table_is_reached_somewhere_and_no_other():
    text = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    reached = set(re.findall(r'\breach\("([^"]+)"\)', text))
    for what in ("file", "manifest"):
        reached |= {f"{what}.{rest}" for rest in re.findall(r'\breach\(f"\{what\}\.([^"]+)"\)', text)}
    assert reached == set(POINTS)
    assert len(POINTS) == len(set(POINTS)) >= 12
