"""Files are judged several at a time, and what comes of them is the same, in the order of the list."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from mae_ext.data.loading.sandbox import Sandbox
from mae_ext.data.loading.side_by_side import in_order
from mae_ext.errors import BadSample

LIST = ["a", "dies", "b", "hangs", "c", "d", "dies", "e"]


def fate(name: str) -> str:
    if name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "hangs":
        time.sleep(1000)
    if name == "broken":
        raise ValueError("broken")
    return name.upper()


def judged(sandbox: Sandbox, name: str) -> str:
    try:
        return str(sandbox.call(fate, name, name=name))
    except BadSample as error:
        return f"{error.path}: {error.kind}"


@pytest.mark.parametrize("workers", [1, 3])
def test_files_that_kill_or_hang_their_child_are_named_in_their_place(workers: int) -> None:
    told = list(in_order(LIST, judged, workers, deadline_s=1.0))
    dies, hangs = "dies: crashed", "hangs: hung"
    assert told == ["A", dies, "B", hangs, "C", "D", dies, "E"]


def test_what_the_work_raises_comes_at_its_turn_and_leaves_no_child() -> None:
    before = set(psutil.Process().children(recursive=True))
    told = in_order(["a", "broken", "hangs", "b"], judged, 2, deadline_s=60.0)
    assert next(told) == "A"
    with pytest.raises(ValueError, match="broken"):
        next(told)
    left = [c for c in set(psutil.Process().children(recursive=True)) - before if "sandbox" in " ".join(c.cmdline())]
    assert left == []


def test_no_more_is_taken_from_a_long_list_than_is_worked_on(tmp_path: Path) -> None:
    taken = []

    def names():
        for i in range(1000):
            taken.append(i)
            yield str(i)

    told = in_order(names(), judged, 2, deadline_s=5.0)
    assert [next(told), next(told)] == ["0", "1"]
    assert len(taken) < 20
    told.close()  # type: ignore[attr-defined]
