"""What happens to a decoding child costs one file, is named, and leaves neither processes nor memory behind."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from mae_ext.data.video.decoder import CHILD, Children
from mae_ext.errors import BadSample

STUB = """
import json, os, signal, sys, time
memory = int(sys.argv[1])
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if request["op"] == "open":
        os.ftruncate(memory, 8 * 4)
        answer = {"count": 4, "height": 2, "width": 3, "source": [3, 2], "description": "stub", "decoder": "stub"}
        print(json.dumps({"ok": answer}), flush=True)
    else:
        FATE
"""

FATES = {
    "spins": ("hung", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n        while True: pass"),
    "sleeps": ("hung", "time.sleep(1000)"),
    "segfaults": ("crashed", "os.kill(os.getpid(), signal.SIGSEGV)"),
    "exits": ("crashed", "os._exit(3)"),
    "is killed": ("crashed", "os.kill(os.getpid(), signal.SIGKILL)"),
    "runs out of memory": ("out of memory", "print(json.dumps({'bad': ['out of memory', '']}), flush=True)"),
}


@pytest.fixture
def stub(tmp_path):
    """What happens when frames are asked for -> Children whose child does that."""

    def make(fate, deadline_s=1.0, **arguments):
        program = tmp_path / "stub.py"
        program.write_text(STUB.replace("FATE", fate))
        return Children(deadline_s, 1 << 30, 1 << 20, child=program, **arguments)

    return make


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"\0\0\0\x18ftypisom")
    return str(path)


def processes():
    return psutil.Process().children(recursive=True)


@pytest.mark.parametrize("fate", FATES)
def test_a_child_that_fails_costs_its_file_and_the_next_file_gets_another(stub, file, fate):
    kind, code = FATES[fate]
    children = stub(code)
    for _ in range(2):
        began = time.monotonic()
        with children.open(file, None, "auto") as opened:
            assert opened.clip.times.tolist() == [0, 0, 0, 0]
            with pytest.raises(BadSample) as caught:
                opened.frames([0])
        assert caught.value.kind == kind and caught.value.path == file
        assert time.monotonic() - began < 5
    children.close()
    assert not [c for c in processes() if "stub.py" in " ".join(c.cmdline())]


def test_what_the_childs_program_did_not_foresee_is_a_verdict_that_names_it_and_the_next_child_is_fresh(stub, file):
    children = stub("print(json.dumps({'broken': 'Traceback:\\n  line 3\\nKeyError: 5'}), flush=True)")
    with children.open(file, None, "auto") as opened, pytest.raises(BadSample, match="KeyError: 5") as found:
        opened.frames([0])
    assert (found.value.kind, found.value.path) == ("unreadable", file)
    assert not opened.child.alive


def test_a_real_child_that_wants_more_memory_than_it_may_is_out_of_memory(tmp_path):
    clip = _write(tmp_path / "clip.mp4", 64)
    children = Children(20.0, 1 << 30, 1 << 30)
    with children.open(clip, None, "pyav") as opened:
        assert len(opened.frames([0, 5])) == 2
    with children.open(clip, None, "pyav") as opened, pytest.raises(BadSample, match="too large"):
        opened.child.ask(clip, {"op": "frames", "frames": [0] * 40, "max_bytes": 1 << 10}, opened.until, 20.0)


def test_one_child_reads_file_after_file_and_threads_get_one_each(tmp_path):
    clip = _write(tmp_path / "clip.mp4", 64)
    children = Children(20.0, 4 << 30, 1 << 30)
    seen, together = set(), threading.Barrier(2, timeout=20)

    def read():
        with children.open(clip, None, "auto") as opened:
            together.wait()
            opened.frames([0])
            seen.add(opened.child.process.pid)

    for _ in range(3):
        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(seen) == 2


def test_times_of_a_film_are_still_its_own_after_frames_were_put_where_they_lay(tmp_path):
    with Children(20.0, 4 << 30, 1 << 30).open(_write(tmp_path / "clip.mp4", 64), None, "auto") as opened:
        opened.frames([0, 5, 9])
        assert opened.clip.times.tolist() == pytest.approx([i / 25 for i in range(12)])


def test_many_frames_have_more_time_than_the_deadline_and_few_have_not(stub, file):
    """The deadline is for 200 frames, and each more has a tenth of a second."""
    fate = "time.sleep(1.5); os.ftruncate(memory, 18 * 240); print(json.dumps({'ok': {}}), flush=True)"
    children = stub(fate, deadline_s=1.0)
    with children.open(file, None, "auto") as opened:
        assert len(opened.frames(list(range(240)))) == 240
    with children.open(file, None, "auto") as opened, pytest.raises(BadSample, match="no answer within 1 s"):
        opened.frames(list(range(200)))


def test_a_film_whose_frames_are_counted_has_more_time_with_each_that_was(file, tmp_path):
    """Each sign of life names a number, and each frame has a tenth of a second; without any it has hung."""
    program = tmp_path / "stub.py"
    counting = "for n in (10, 20): time.sleep(0.8); print(json.dumps({'counting': n}), flush=True)"
    program.write_text(
        STUB.replace("        os.ftruncate(memory, 8 * 4)", f"        {counting}\n        os.ftruncate(memory, 8 * 4)")
    )
    with Children(1.0, 1 << 30, 1 << 20, child=program).open(file, None, "auto") as opened:
        assert len(opened.clip.times) == 4
    program.write_text(program.read_text().replace("(10, 20)", "(0, 0)"))
    with (
        pytest.raises(BadSample, match="hung"),
        Children(1.0, 1 << 30, 1 << 20, child=program).open(file, None, "auto"),
    ):
        pass


def test_frames_come_back_without_a_copy_and_are_read_only(tmp_path):
    clip = _write(tmp_path / "clip.mp4", 64)
    with Children(20.0, 4 << 30, 1 << 30).open(clip, None, "auto") as opened:
        frames = opened.frames([0, 1, 2])
        assert frames.shape == (3, 64, 64, 3) and not frames.flags.writeable and not frames.flags.owndata


def test_a_child_whose_parent_was_killed_ends(tmp_path, file):
    program = tmp_path / "parent.py"
    program.write_text(
        textwrap.dedent(f"""
        from mae_ext.data.video.decoder import Children
        from pathlib import Path
        import os, time
        context = Children(30.0, 1 << 32, 1 << 30).open({_write(tmp_path / "clip.mp4", 64)!r}, None, "auto")
        opened = context.__enter__()
        print(opened.child.process.pid, flush=True)
        time.sleep(60)
        """)
    )
    parent = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    assert CHILD.name in " ".join(child.cmdline())
    parent.kill()
    parent.communicate()
    assert child.wait(10) is not None or not child.is_running()


def test_descriptors_and_children_do_not_grow_with_files(stub, file):
    children = stub("os.ftruncate(memory, 18); print(json.dumps({'ok': {}}), flush=True)", deadline_s=20.0)

    def read():
        with children.open(file, None, "auto") as opened:
            opened.frames([1])

    read()
    before = len(os.listdir("/proc/self/fd")), len(processes())  # noqa: PTH208
    for _ in range(200):
        read()
    assert (len(os.listdir("/proc/self/fd")), len(processes())) == before  # noqa: PTH208


def test_a_child_that_has_read_many_files_is_replaced(stub, file, monkeypatch):
    monkeypatch.setattr("mae_ext.data.video.decoder.FILES_PER_CHILD", 3)
    children = stub("os.ftruncate(memory, 18); print(json.dumps({'ok': {}}), flush=True)")
    pids = []
    for _ in range(7):
        with children.open(file, None, "auto") as opened:
            pids.append(opened.child.process.pid)
    assert len(set(pids)) == 3


def _write(path: Path, edge: int) -> str:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height = stream.width = edge
        stream.pix_fmt = "yuv420p"
        for i in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((edge, edge, 3), 20 * i, np.uint8), format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)
