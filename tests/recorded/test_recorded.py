"""What many inputs and options come to is what was recorded of them.

When one fails and the change was meant, `scripts/checks/recorded --why "..."` records it again.
"""

import copy
import json
import re
import subprocess
import sys

import pytest
from recorded import record, rooms

for needed in ("pydicom", "pycocotools"):
    pytest.importorskip(needed, reason="pip install 'mae-ext[dev]'")
rooms.load()
MOST_BYTES = 375_000
KEPT = sorted(path.stem for path in record.KEPT.glob("*.json"))


@pytest.mark.parametrize("name", sorted(record.ROOMS))
def test_what_comes_of_each_input_is_what_was_recorded(name):
    kept = record.kept(name)
    assert kept is not None, f'nothing is recorded: scripts/checks/recorded --why "..." {name}'
    wrong = record.differences(kept, json.loads(json.dumps(record.values(name))))
    lines = "\n  ".join(wrong[:25])
    assert not wrong, (
        f"{len(wrong)} of {len(kept)} inputs of '{name}' come to something else:\n  {lines}\n"
        f'If that was meant: scripts/checks/recorded --why "..." {name}'
    )


def test_nothing_is_kept_of_rooms_that_are_gone_and_all_of_it_is_small():
    assert set(KEPT) == set(record.ROOMS)
    assert sum(path.stat().st_size for path in record.KEPT.glob("*.json")) < MOST_BYTES


def test_every_recording_has_a_reason():
    entries = [line for line in record.LOG.read_text().splitlines() if line.startswith("- ")]
    assert entries and all(re.fullmatch(r"- \d{4}-\d\d-\d\d: .+ \(.+\)", line) for line in entries)
    assert all(any(name in entry for entry in entries) for name in KEPT)


def test_a_change_of_any_kind_of_value_is_noticed_and_rounding_is_not():
    kept = {"one": [1, "f4 9", 0.5, 100.0], "two": {"found": "u1 3x4 abc", "said": []}, "three": True}
    assert record.differences(kept, copy.deepcopy(kept)) == []
    assert record.differences(kept, {**kept, "one": [1, "f4 9", 0.5004, 100.001]}) == []
    for label, other in (
        ("one", [2, "f4 9", 0.5, 100.0]), ("one", [1, "f4 9", 0.5, 100.02]), ("one", [1, "f4 9", 0.5]),
        ("two", {"found": "u1 3x4 abd", "said": []}), ("two", {"found": "u1 3x4 abc", "said": ["x"]}), ("three", 1),
    ):  # fmt: skip
        (line,) = record.differences(kept, {**kept, label: other})
        assert line.startswith(f"{label}: ")
    assert len(record.differences(kept, {k: v for k, v in kept.items() if k != "two"})) == 1


def test_without_a_reason_nothing_is_recorded():
    words = [sys.executable, "-m", "recorded.record", "--why", "  "]
    done = subprocess.run(words, cwd=record.HERE.parent, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "") and "say why" in done.stderr
