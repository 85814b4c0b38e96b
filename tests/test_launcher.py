"""What an elastic launcher hears: one message of all ranks, and nothing is begun again that would only end again."""

import json

import pytest

from mae_ext.cli import run
from mae_ext.launcher import Launcher


@pytest.fixture
def started(tmp_path, monkeypatch):
    """As torchrun starts a rank: (rank, restarts used) -> the folder of that rank in that attempt."""

    def start(rank, used, most=2):
        folder = tmp_path / "torchelastic" / "none_x" / f"attempt_{used}" / str(rank)
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in (("RESTART_COUNT", used), ("MAX_RESTARTS", most), ("ERROR_FILE", folder / "error.json")):
            monkeypatch.setenv(f"TORCHELASTIC_{name}", str(value))
        monkeypatch.setenv("RANK", str(rank))
        return folder

    return start


WRONG = ["pretrain", "no_such_recipe"]


def test_what_all_ranks_say_alike_is_said_once_and_reported_by_each(started, capfd):
    folders = []
    for rank in (1, 0):
        folders.append(started(rank, 0))
        assert run(WRONG) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("mae-ext (rank 1): ") and "no_such_recipe" in lines[0]
    for folder in folders:
        report = json.loads((folder / "error.json").read_text())
        assert "no_such_recipe" in report["message"] and isinstance(report["timestamp"], int)


def test_ranks_that_are_started_again_after_such_an_end_leave_at_once_and_the_last_says_why(started, capfd):
    started(0, 0)
    assert run(WRONG) == 2
    first = capfd.readouterr().err
    for used, said in ((1, ""), (2, f"mae-ext: not started again, as it would end the same way: {first[9:]}")):
        started(0, used)
        assert run(["configs"]) == 2  # whatever the command
        assert capfd.readouterr().err == said


def test_ranks_that_only_made_room_for_another_node_are_not_kept_from_starting(started):
    """That is a restart which uses none up."""
    started(0, 1)
    assert run(WRONG) == 2
    started(0, 1)
    assert run(["configs"]) == 0


def test_a_process_that_no_launcher_started_remembers_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", "/dev/null")
    assert Launcher.here() is None
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "attempt_0" / "0" / "error.json"))  # not there
    assert Launcher.here() is None
