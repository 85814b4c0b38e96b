"""Processors are counted as a container has them, and waiting threads sleep: in the command and in every child."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mae_ext import cores as module
from mae_ext.cores import cores

ROOT = Path(__file__).parent.parent


@pytest.fixture
def many(monkeypatch):
    """A machine that lends this process 64 processors."""
    monkeypatch.setattr(module, "_here", lambda: 64)


def system(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V1 = "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_"


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 64),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "120000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "310000 100000\n"}, 4),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "10000 100000\n"}, 1),
        # The limit is of a group above the process's own, or the group's name is one of the host.
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
          "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/not/here\n", "sys/fs/cgroup/cpu.max": "500000 100000\n"}, 5),
        ({"proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/docker/abc\n0::/\n",
          f"{V1}quota_us": "400000\n", f"{V1}period_us": "100000\n"}, 4),
        ({"proc/self/cgroup": "3:cpu:/docker/abc\n", f"{V1}quota_us": "-1\n", f"{V1}period_us": "100000\n"}, 64),
        ({"proc/self/cgroup": "3:cpuset:/docker/abc\n", f"{V1}quota_us": "400000\n", f"{V1}period_us": "100000\n"}, 64),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "9900000 100000\n"}, 64),
        ({"proc/self/cgroup": "nonsense\n", "sys/fs/cgroup/cpu.max": "\n"}, 64),
    ],
)  # fmt: skip
def test_a_quota_of_any_version_at_any_level_counts(tmp_path, files, expected):
    assert cores(system(tmp_path, files)) == expected


def test_processors_that_the_process_is_not_bound_to_do_not_count():
    bind = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    code = f"{bind}; from mae_ext.cores import cores; print(cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "1"


def display(code, **given):
    """What OpenMP says of its settings when it is loaded."""
    clean = {k: v for k, v in os.environ.items() if k not in (*module.WAITING, "OMP_NUM_THREADS")}
    env = {**clean, "OMP_DISPLAY_ENV": "verbose", "PYTHONPATH": str(ROOT), **given}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=240)
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r"(?:\[host\] )?(\w+) = '(\S*)'", done.stderr)), done.stderr.count(
        "DISPLAY ENVIRONMENT BEGIN"
    )


COMMAND = "from mae_ext.cli import run; run(['plugins']); import torch"


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP")
def test_waiting_threads_sleep_unless_the_user_has_said_how_they_wait():
    said, _ = display(COMMAND)
    assert (said["OMP_WAIT_POLICY"], said["GOMP_SPINCOUNT"]) == ("PASSIVE", "0")
    said, _ = display(COMMAND, GOMP_SPINCOUNT="777")
    assert (said["OMP_WAIT_POLICY"], said["GOMP_SPINCOUNT"]) == ("ACTIVE", "777") or said["GOMP_SPINCOUNT"] == "777"
    said, _ = display(COMMAND, OMP_WAIT_POLICY="ACTIVE")
    assert said["OMP_WAIT_POLICY"] == "ACTIVE"


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP")
def test_they_sleep_in_children_too_and_those_of_a_script_that_had_loaded_torch_before():
    """A sandbox comes from the server that workers come from; both load OpenMP again."""
    code = (
        "import torch, os; os.environ['OMP_DISPLAY_ENV'] = 'verbose'\n"
        "import mae_ext, mae_ext.data.image.reader\nfrom mae_ext.data.loading.sandbox import Sandbox\n"
        "with Sandbox(60.0) as box: print(box.call(os.getenv, 'OMP_WAIT_POLICY'))"
    )
    clean = {k: v for k, v in os.environ.items() if k not in (*module.WAITING, "OMP_NUM_THREADS", "OMP_DISPLAY_ENV")}
    env = {**clean, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=240)
    assert done.stdout.strip() == "PASSIVE"
    assert "GOMP_SPINCOUNT = '0'" in done.stderr  # said by the server's own copy of the library, not by the parent's


@pytest.mark.usefixtures("many")
def test_under_a_quota_no_more_threads_are_started_than_may_run(monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 2)
    for given, expected in (({}, "2"), ({"OMP_NUM_THREADS": "5"}, "5")):
        for name in (*module.WAITING, "OMP_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        module.settle_threads()
        assert os.environ["OMP_NUM_THREADS"] == expected and os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setattr(module, "cores", lambda: 64)
    monkeypatch.delenv("OMP_NUM_THREADS")
    module.settle_threads()
    assert "OMP_NUM_THREADS" not in os.environ  # torch knows the machine better
