"""The sandbox: whatever the child does, the parent gets a verdict in time and goes on.

Only functions of libraries are called, so that the child can import them wherever the tests were started from. They do
it for real: the regular expression and the power spin in C with the interpreter's lock held; string_at(0) reads wild.
"""

import ctypes
import operator
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from mae_ext.data.crops import center_sampler
from mae_ext.data.image.reader import ImageReader
from mae_ext.data.loading import sandbox
from mae_ext.data.loading.sandbox import Sandbox
from mae_ext.data.sources.table import list_items
from mae_ext.errors import BadSample, RunError, UserError

GIB = 1 << 30
SPIN = (re.match, "(a+)+$", "a" * 60 + "b")

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(deadline_s=0.4, memory_bytes=GIB) as opened:
        opened.call(os.getpid)  # the start is paid here, once
        yield opened


def verdict(box: Sandbox, function: Any, *args: Any) -> BadSample:
    with pytest.raises(BadSample) as caught:
        box.call(function, *args, name="file.jpg")
    assert caught.value.path == "file.jpg"
    return caught.value


def test_a_result_comes_back_from_another_process_which_stays(box: Sandbox) -> None:
    first, second = box.call(os.getpid), box.call(os.getpid)
    assert first == second != os.getpid()
    assert torch.equal(box.call(torch.arange, 5), torch.arange(5))


def test_what_a_call_waits_for_a_processor_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a good file is no hung one; but one that others keep from running for ever is, by the clock."""
    with Sandbox(deadline_s=0.4) as box:
        box.call(os.getpid)
        assert 0 <= box._waited() < time.monotonic()
        monkeypatch.setattr(Sandbox, "_waited", lambda _: 0.9 * time.monotonic())
        assert box.call(time.sleep, 0.8) is None
        monkeypatch.setattr(Sandbox, "_waited", lambda _: 2 * time.monotonic())
        began = time.monotonic()
        assert verdict(box, time.sleep, 60).kind == "hung"
        assert 0.4 * sandbox.PATIENCE <= time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("function", "args", "kind", "detail"),
    [
        (SPIN[0], SPIN[1:], "hung", "within 0.4 s"),
        (pow, (3, 10**9), "hung", "within 0.4 s"),
        (time.sleep, (60,), "hung", "within 0.4 s"),
        (ctypes.string_at, (0,), "crashed", "SIGSEGV"),
        (signal.raise_signal, (signal.SIGABRT,), "crashed", "SIGABRT"),
        (signal.raise_signal, (signal.SIGKILL,), "crashed", "memory runs out"),
        (os._exit, (3,), "crashed", "exit code 3"),
        pytest.param(bytearray, (8 * GIB,), "out of memory", str(GIB), marks=only_linux),
        pytest.param(torch.zeros, (8 * GIB,), "out of memory", str(GIB), marks=only_linux),
        pytest.param(operator.mul, ([0], GIB), "out of memory", str(GIB), marks=only_linux),
    ],
)
def test_each_way_to_fail_is_a_verdict_in_time_and_the_next_call_works(
    box: Sandbox, function: Any, args: tuple[Any, ...], kind: str, detail: str
) -> None:
    began = time.monotonic()
    error = verdict(box, function, *args)
    assert error.kind == kind and detail in error.detail
    assert time.monotonic() - began < 3
    assert box.call(operator.add, 2, 3) == 5


def test_a_new_child_after_a_kill_does_not_import_again_what_its_parent_had_imported() -> None:
    # Not by the clock, which a busy machine stretches; and in a process of its own: the server that children are forked
    # from is one for a whole process, and other tests may have started this one's under another search path.
    program = """if True:
        import os
        import mae_ext.data.volume.reader
        from mae_ext.data.loading.sandbox import Sandbox
        from mae_ext.errors import BadSample
        with Sandbox(deadline_s=60) as box:
            try:
                box.call(os._exit, 1)
            except BadSample:
                for name in ("torch", "mae_ext.data.volume.reader", "mae_ext.data.image.reader"):
                    print(box.call(eval, f"{name!r} in __import__('sys').modules"))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert done.stdout.split() == ["True", "True", "False"], done.stderr


def test_children_can_be_asked_for_while_another_thread_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    class Meanwhile(str):
        __slots__ = ()

        def startswith(self, *_: Any) -> bool:
            monkeypatch.setitem(sys.modules, "imported.meanwhile", sys)
            return False

    monkeypatch.setitem(sys.modules, Meanwhile("imported.first"), sys)
    sandbox.forkserver()
    assert "imported.meanwhile" in sys.modules


def test_a_killed_child_is_gone(box: Sandbox) -> None:
    child = box.call(os.getpid)
    verdict(box, time.sleep, 60)
    assert not psutil.pid_exists(child)


def test_damage_over_and_over_leaves_nothing_behind(box: Sandbox) -> None:
    verdict(box, os._exit, 1)
    box.call(os.getpid)
    me = psutil.Process()
    before = me.num_fds(), me.num_threads()
    for _ in range(10):
        verdict(box, ctypes.string_at, 0)
    box.call(os.getpid)
    assert (me.num_fds(), me.num_threads()) == before


def test_a_bad_sample_travels_back_whole(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"text")
    with Sandbox(deadline_s=60) as box, pytest.raises(BadSample) as caught:
        box.call(ImageReader((8, 8)).read, str(tmp_path / "a.jpg"), [center_sampler((8, 8))], name="other")
    assert caught.value.path == str(tmp_path / "a.jpg") and caught.value.kind == "not an image"
    assert "b'text'" in caught.value.detail


def test_other_exceptions_travel_too_and_the_child_lives_on(box: Sandbox) -> None:
    before = box.call(os.getpid)
    with pytest.raises(ValueError, match="invalid literal"):
        box.call(int, "x")
    with pytest.raises(UserError, match="no such file"):
        box.call(list_items, "/no/such/folder", (".jpg",))
    assert box.call(os.getpid) == before


def test_a_result_that_cannot_travel_says_so(box: Sandbox) -> None:
    with pytest.raises((RunError, TypeError, AttributeError), match="pickle"):
        box.call(open, os.devnull)  # an open file stays where it is
    assert box.call(operator.add, 1, 1) == 2


def test_a_result_may_be_larger_than_a_pipe(box: Sandbox) -> None:
    assert len(box.call(bytes, 5 << 20)) == 5 << 20


@only_linux
def test_what_the_parent_allows_is_counted_from_what_the_child_has(box: Sandbox) -> None:
    for _ in range(5):
        assert len(box.call(bytes, 1 << 20)) == 1 << 20
    roomy = Sandbox(deadline_s=5, memory_bytes=3 * GIB)
    with roomy:
        assert roomy.call(operator.length_hint, bytes(8)) == 8
        assert roomy.call(torch.empty, GIB // 4, 0).shape == (GIB // 4, 0)


def test_the_signal_of_the_keyboard_is_for_the_parent_alone(box: Sandbox) -> None:
    child = box.call(os.getpid)
    os.kill(child, signal.SIGINT)
    assert box.call(os.getpid) == child


def test_closing_ends_the_child_and_the_sandbox_can_be_used_again() -> None:
    with Sandbox(deadline_s=5) as box:
        child = box.call(os.getpid)
    assert not psutil.pid_exists(child)
    assert box.call(os.getpid) != child
    box.close()


def test_children_started_by_several_threads_leave_the_program_as_it_was() -> None:
    program = sys.modules["__main__"]
    boxes = [Sandbox(deadline_s=5.0) for _ in range(6)]
    try:
        with ThreadPoolExecutor(len(boxes)) as pool:
            assert len(set(pool.map(lambda box: box.call(os.getpid), boxes))) == len(boxes)
    finally:
        for box in boxes:
            box.close()
    assert sys.modules["__main__"] is program


@pytest.mark.parametrize("deadline", [0, -1, float("nan")])
def test_a_deadline_that_is_no_time_is_refused(deadline: float) -> None:
    with pytest.raises(ValueError, match="deadline_s"):
        Sandbox(deadline)


@pytest.mark.slow
def test_thirty_of_each_fault_cost_one_verdict_each() -> None:
    faults = {"hung": SPIN, "crashed": (ctypes.string_at, 0), "out of memory": (bytearray, 100 * GIB)}
    with Sandbox(deadline_s=0.1, memory_bytes=GIB) as box:
        for kind, call in faults.items():
            for _ in range(30):
                assert verdict(box, *call).kind == kind
        assert box.call(operator.add, 1, 1) == 2
