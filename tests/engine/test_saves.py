"""Checkpoints are written beside the training, one at a time, and nobody is left waiting where waiting ends a run."""

import json
import signal
import threading
import time

import pytest
from engine.test_distributed import start_ranks, wait_for
from faults.kills import command, environment, kill_group, launch, rows, trajectory, wait_until

from mae_ext.engine import checkpoint, resume, saves
from mae_ext.engine.failpoint import VARIABLE
from mae_ext.engine.step import Step


@pytest.fixture
def stamps(monkeypatch):
    """[(step, seconds since the first)]: when the run asks after a step whether to save."""
    due, seen = saves.Saves.due, []

    def stamped(self, step):
        seen.append((step, time.perf_counter()))
        return due(self, step)

    monkeypatch.setattr(saves.Saves, "due", stamped)
    return seen


def checkpoints(out):
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def test_training_goes_on_while_a_checkpoint_is_written(tiny, train, tmp_path, failing, stamps):
    failing("folder.rename:1:sleep=4")
    assert train(tiny({"train.steps": 30, "train.save_every": 10})) == 0
    times = dict(stamps)
    begun = times[10]
    assert times[20] - begun < 3.8  # ten steps of milliseconds
    assert times[21] - begun > 4  # the next save waits for the first
    assert checkpoints(tmp_path / "run") == ["step-00000020", "step-00000030"]


def test_a_disk_that_is_slower_than_the_interval_is_said_once(tiny, train, failing, capfd):
    failing("folder.rename:1+:sleep=3")
    assert train(tiny({"train.steps": 20, "train.save_every": 10})) == 0
    said = capfd.readouterr().err
    assert said.count("is still being written") == 1
    assert "step 20 is to be saved and step 10 is still being written" in said and "train.save_every above 10" in said


def test_what_is_saved_beside_the_training_is_what_is_saved_before_it_goes_on(tiny, train, tmp_path, monkeypatch):
    config = tiny({"train.steps": 25, "train.save_every": 5, "train.keep": 9})
    assert train(config, out="beside") == 0
    monkeypatch.setattr(saves, "free_memory", lambda: 0)
    assert train(config, out="before") == 0
    for path in checkpoint.steps_of(tmp_path / "before" / "checkpoints"):
        other = tmp_path / "beside" / "checkpoints" / path.name
        assert json.loads((path / "manifest.json").read_text()) == json.loads((other / "manifest.json").read_text())
    assert len(checkpoints(tmp_path / "beside")) == 5
    assert trajectory(tmp_path / "beside") == trajectory(tmp_path / "before")


def test_where_memory_is_short_training_waits_and_no_copies_are_made(tiny, train, failing, stamps, capfd, monkeypatch):
    monkeypatch.setattr(saves, "free_memory", lambda: 300_000)  # of which the copies may have a half
    monkeypatch.setattr(saves, "stage", None)
    failing("folder.rename:1:sleep=0.7")
    assert train(tiny({"train.steps": 20, "train.save_every": 10})) == 0
    times = dict(stamps)
    assert times[11] - times[10] > 0.7
    assert "are free: too few for copies" in capfd.readouterr().err


def test_a_save_that_fails_on_its_thread_is_a_warning_of_the_next_step(tiny, train, tmp_path, failing, capfd):
    failing("file.fsynced:2:enospc")
    assert train(tiny({"train.steps": 30, "train.save_every": 10})) == 0
    said = capfd.readouterr().err
    assert said.count("could not save a checkpoint") == 1
    assert "step 10: could not save a checkpoint: " in said and "No space left on device" in said
    assert said.index("could not save") < said.index("step 30/30")
    assert checkpoints(tmp_path / "run") == ["step-00000020", "step-00000030"]


def test_an_older_checkpoint_that_cannot_be_deleted_is_no_failed_save(tiny, train, tmp_path, failing, capfd):
    failing("older.rename:1:erofs")
    assert train(tiny({"train.steps": 30, "train.save_every": 10})) == 0
    said = capfd.readouterr().err
    assert "step 30 is saved, and an older checkpoint could not be deleted" in said and "could not save" not in said
    assert checkpoints(tmp_path / "run") == ["step-00000010", "step-00000020", "step-00000030"]


def test_a_mistake_in_the_thread_ends_the_run_and_is_not_swallowed(tiny, train, monkeypatch):
    monkeypatch.setattr(saves.checkpoint, "verify", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tiny({"train.steps": 30, "train.save_every": 10}))


def test_lists_of_files_are_digested_once_in_a_run_however_often_it_saves(tiny, train, monkeypatch):
    digested, real = [], resume.fingerprint
    monkeypatch.setattr(resume, "fingerprint", lambda data: digested.append(data) or real(data))
    assert train(tiny({"train.steps": 30, "train.save_every": 3})) == 0
    assert len(digested) == 1


def test_no_thread_is_left_when_a_run_has_ended(tiny, train):
    assert train(tiny({"train.steps": 4, "train.save_every": 2})) == 0
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("saves")]


def test_a_signal_while_a_checkpoint_is_written_saves_the_step_it_stops_at(tiny, photos, tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    config = tiny({"train.steps": 100_000, "train.save_every": 40_000})
    env = environment(**{VARIABLE: "folder.rename:1:sleep=1"})
    process = launch(command(config, photos, out, "--set", "train.save_every=40"), log, env)
    try:
        assert wait_until(lambda: len(trajectory(out)) >= 45, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75, log.read_text()
    finally:
        kill_group(process)
    done = len(trajectory(out))
    assert checkpoint.latest(out).name == f"step-{done:08d}" and (out / "checkpoints" / "step-00000040").is_dir()
    assert f"stopped by a signal after step {done}, saved at step {done}" in log.read_text()


@pytest.mark.parametrize("memory", ["enough", "short"])
def test_ranks_outlive_saves_that_take_longer_than_a_step_may(tiny, photos, tmp_path, monkeypatch, test_path, memory):
    """Three saves of 3 s, one after the other, where a step's reduction gives up after 2 s."""
    if memory == "short":
        monkeypatch.setenv("SHORT_OF_MEMORY", "1")
    monkeypatch.setenv(VARIABLE, "folder.rename:1+:sleep=3")
    config = tiny({"train.steps": 6, "train.save_every": 2, "train.rank_timeout": 2})
    started = start_ranks(config, photos, tmp_path / "run", module="faults.impatient")
    assert wait_for(started) == [0, 0], [log.read_text()[-2000:] for _, log in started]
    assert checkpoints(tmp_path / "run") == ["step-00000004", "step-00000006"]
    assert [row["step"] for row in rows(tmp_path / "run" / "metrics.jsonl")] == list(range(1, 7))


def test_a_run_whose_folder_is_taken_away_says_so_and_makes_no_other_in_its_place(
    tiny, train, tmp_path, capfd, monkeypatch
):
    taken = Step.__call__

    def step(self, number, *rest):
        if number == 7:
            # The save of step 5 runs beside these steps, and may be slower than two of them.
            for thread in threading.enumerate():
                if thread.name == "saves":
                    thread.join()
            (tmp_path / "run").rename(tmp_path / "elsewhere")
        taken(self, number, *rest)

    monkeypatch.setattr(Step, "__call__", step)
    assert train(tiny({"train.steps": 10, "train.save_every": 5})) == 1
    said = capfd.readouterr().err
    assert "the folder of the run is gone" in said and "the last checkpoint, of step 10, could not be saved" in said
    assert checkpoints(tmp_path / "elsewhere") == ["step-00000005"] and not (tmp_path / "run").exists()
