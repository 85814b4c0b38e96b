"""How much memory a process may still have, from trees as Linux shows them."""

import pytest

from mae_ext.memory import free_memory

MACHINE = {"proc/meminfo": "MemTotal:  16000000 kB\nMemFree:  100 kB\nMemAvailable:  8000000 kB\n"}
V1 = "sys/fs/cgroup/memory/docker/abc/memory."


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        (MACHINE, 8_000_000 << 10),
        (MACHINE | {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, 8_000_000 << 10),
        (MACHINE | {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "5000\n",
                    "sys/fs/cgroup/memory.current": "4000\n",
                    "sys/fs/cgroup/memory.stat": "anon 3000\ninactive_file 700\n"}, 1700),
        (MACHINE | {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "900\n",
                    "sys/fs/cgroup/a/memory.current": "1000\n", "sys/fs/cgroup/a/b/memory.max": "5000\n",
                    "sys/fs/cgroup/a/b/memory.current": "0\n"}, 0),
        (MACHINE | {"proc/self/cgroup": "4:memory:/docker/abc\n0::/\n", f"{V1}limit_in_bytes": "6000\n",
                    f"{V1}usage_in_bytes": "5000\n", f"{V1}stat": "inactive_file 1\ntotal_inactive_file 500\n"}, 1500),
    ],
)  # fmt: skip
def test_free_memory_is_what_the_machine_and_every_group_leave(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_memory(tmp_path) == expected


def test_this_machine_says_a_number():
    assert 1 << 20 < (free_memory() or 0) < 1 << 50
