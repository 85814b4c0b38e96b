"""Whatever readers and workers do, a batch is a function of (config, step); each trouble costs time or one file."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path

import pytest
import torch

from mae_ext.config import load_config
from mae_ext.data.loading.batches import ModalityData, StepData
from mae_ext.data.loading.loader import Loader
from mae_ext.errors import RunError, UserError
from mae_ext.model.mask import from_scores
from mae_ext.rng import rng

pytestmark = pytest.mark.usefixtures("faulty")
STEPS = 10


@pytest.fixture
def load(tiny, photos):
    """-> (Loader, config) over steps 0..10 with the plug-in reader, which misbehaves as told on file 07."""

    def make(workers=2, fault="bad", match="07.", timeout=10.0, prefetch=2, start=0, stop=STEPS, **arguments):
        reader = {"name": "faulty", "fault": fault, "match": match, **arguments}
        train = {"workers": workers, "worker_timeout": timeout, "prefetch": prefetch, "save_every": 500}
        config = load_config(
            tiny(
                {
                    "modalities.image.data.reader": reader,
                    "modalities.image.data.path": str(photos),
                    **{f"train.{key}": value for key, value in train.items()},
                }
            )
        )
        data = StepData({"image": ModalityData(config.seed, "image", config.modalities["image"])})
        return Loader(data, config, start, stop, torch.device("cpu"))

    return make


def everything(loader):
    try:
        return [part["image"] for step in loader for part in step]
    finally:
        loader.close()


def same(one, other):
    pairs = list(zip(one, other, strict=True))
    return bool(pairs) and all(
        torch.equal(a.x, b.x)
        and a.sources == b.sources
        and a.bad == b.bad
        and torch.equal(a.mask.keep, b.mask.keep)
        and torch.equal(a.mask.pred, b.mask.pred)
        for a, b in pairs
    )


def test_batches_are_the_same_for_every_number_of_workers_and_from_every_start(load):
    reference = everything(load(workers=0, fault="bad", match="nothing"))
    assert len(reference) == STEPS
    assert len({source for batch in reference for source in batch.sources}) == 40
    for workers in (1, 3):
        assert same(everything(load(workers=workers, fault="bad", match="nothing")), reference)
    assert same(everything(load(workers=2, start=6, fault="bad", match="nothing")), reference[6:])


def test_a_bad_file_is_replaced_by_the_same_one_wherever_it_is_read(load):
    reference = everything(load(workers=0))
    assert same(everything(load(workers=3)), reference)
    bad = [row for batch in reference for row in batch.bad]
    assert {(row["kind"], row["path"].split("/")[-1]) for row in bad} == {("rotten", "07.jpg")}
    clean = everything(load(workers=0, match="nothing"))
    changed = [a.sources != b.sources for a, b in zip(reference, clean, strict=True)]
    assert sum(changed) == len(bad)  # one sample of one batch, each time


@pytest.mark.parametrize("fault", ["kill", "segfault", "spin", "sleep"])
def test_a_worker_that_dies_or_hangs_once_changes_no_batch(load, tmp_path, fault):
    reference = everything(load(workers=0, match="nothing"))
    timeout = 3.0
    loader = load(fault=fault, once=str(tmp_path / "marker"), timeout=timeout)
    waits, batches = [], []
    for (step,) in loader:
        waits.append(loader.waited)
        batches.append(step["image"])
    loader.close()
    assert same(batches, reference)
    assert loader.incidents
    assert max(waits) < timeout + 30  # 5 s is the bar of the slow suite; here the machine may be busy with other things
    assert not loader.data.modalities["image"].quarantined


@pytest.mark.parametrize("fault", ["kill", "spin"])
def test_a_file_that_always_brings_workers_down_is_set_aside_by_name(load, fault):
    loader = load(fault=fault, timeout=3.0, workers=3, prefetch=1)
    batches = everything(loader)
    bad = {(row["path"].split("/")[-1], row["kind"]) for batch in batches for row in batch.bad}
    assert bad == {("07.jpg", {"kill": "crashed", "spin": "hung"}[fault])}
    # As if it had been bad from the first.
    as_if = everything(load(workers=0, fault="bad"))
    assert [batch.sources for batch in batches] == [batch.sources for batch in as_if]
    assert all(torch.equal(a.x, b.x) for a, b in zip(batches, as_if, strict=True))
    # Another worker, whose turn with the file came later, heard of it and lost no life to it.
    bad_steps = [step for step, batch in enumerate(batches) if batch.bad]
    assert len({step % 3 for step in bad_steps}) > 1
    assert {incident.step for incident in loader.incidents} == {bad_steps[0]}


def test_a_file_that_crashes_while_earlier_batches_are_slow_is_still_the_one_that_is_found(load):
    # A batch takes longer than the second after which silent workers are looked at. All files are read in five steps.
    loader = load(fault="kill", slow=0.15, workers=3, timeout=20.0, stop=5)
    batches = everything(loader)
    assert {row["path"].split("/")[-1] for batch in batches for row in batch.bad} == {"07.jpg"}


def test_a_batch_that_lies_ready_for_longer_than_the_timeout_is_taken_and_nobody_is_replaced(load):
    """A step, a probe or a save may take longer than a batch ever may."""
    reference = everything(load(workers=0, match="nothing"))
    loader, batches = load(timeout=1.0, match="nothing"), []
    try:
        for (step,) in loader:
            batches.append(step["image"])
            time.sleep(0.8)
    finally:
        loader.close()
    assert same(batches, reference) and not loader.incidents


@pytest.mark.parametrize("place", [0, -1])
def test_a_substitute_that_crashes_is_found_too(load, place):
    """A file is bad, and the one that stands in for it kills: of the same batch, or of the next."""
    peek = load(workers=0)
    peek.close()
    data = peek.data.modalities["image"]
    indices = islice(data.plan.candidates(data.plan.keys(0)[place]), 2)
    first, second = (data.items.addresses[i].split("/")[-1] for i in indices)
    loader = load(fault="kill", match=second, also_bad=first)
    batches = everything(loader)
    assert {(r["path"].split("/")[-1], r["kind"]) for b in batches for r in b.bad} >= {
        (first, "rotten"),
        (second, "crashed"),
    }


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("fault", "told"), [("exception", "a mistake"), ("shape", "(3, 15, 16)")])
def test_a_bug_of_a_reader_is_one_line_that_names_the_file(load, workers, fault, told):
    with pytest.raises(RunError) as caught:
        everything(load(workers=workers, fault=fault))
    text = str(caught.value)
    assert "\n" not in text and "Traceback" not in text
    assert "FaultyReader" in text and "07.jpg" in text and told in text


def test_a_worker_that_spins_while_finished_batches_of_its_own_wait_to_be_taken_is_replaced_too(load, tmp_path):
    """With the GIL held it answers nothing, not even for the batches that it has finished."""
    reference = everything(load(workers=0, match="nothing"))
    # Steps 0 to 2 fill the queue while nobody takes from it; 3 waits in the worker, which spins over step 4.
    names = Path(reference[4].sources[0]).name
    loader = load(fault="spin", match=names, once=str(tmp_path / "marker"), workers=1, prefetch=2, timeout=3.0)
    time.sleep(5.0)
    batches = everything(loader)
    assert same(batches, reference)
    assert loader.incidents


def test_when_everything_is_bad_the_run_ends_instead_of_searching_on(load):
    with pytest.raises(RunError, match=r"40 files in a row could not be used"):
        everything(load(match="."))


def test_a_batch_that_does_not_split_over_the_ranks_is_refused(tiny, photos):
    config = load_config(tiny({"modalities.image.data.path": str(photos)}))
    with pytest.raises(UserError, match="batch=8 does not split over 3 ranks"):
        ModalityData(0, "image", config.modalities["image"], rank=0, world=3)


def test_two_ranks_together_read_what_one_reads(tiny, photos):
    config = load_config(tiny({"modalities.image.data.path": str(photos)})).modalities["image"]
    whole = ModalityData(0, "image", config)
    halves = [ModalityData(0, "image", config, rank, 2) for rank in range(2)]
    for step in (0, 3, 11):
        one, parts = whole.batch(step), [half.batch(step) for half in halves]
        assert [k for half in halves for k in half.plan.keys(step)] == whole.plan.keys(step)
        assert one.sources == parts[0].sources + parts[1].sources
        assert torch.equal(one.x, torch.cat([part.x for part in parts]))
        assert torch.equal(one.mask.keep, torch.cat([part.mask.keep for part in parts]))
        assert torch.equal(one.mask.pred, torch.cat([part.mask.pred for part in parts]))


def test_each_sample_of_a_batch_has_a_mask_of_its_own_and_each_row_says_its_file(tiny, photos):
    values = {"modalities.image.data.path": str(photos), "modalities.image.data.repeats": 2}
    decode = {"modalities.image.decode": {"name": "random", "ratio": 0.5}}
    config = load_config(tiny(values | decode)).modalities["image"]
    data = ModalityData(3, "image", config)
    for step in (0, 5):
        batch, keys = data.batch(step), data.plan.keys(step)
        assert len({tuple(row) for row in batch.mask.keep.tolist()}) == 8
        for slot in range(8):
            # The same as of one sample alone: (seed, what, modality, step, slot) and nothing else decides.
            scores = [data.masker.scores((4, 4), rng(3, what, "image", step, slot)) for what in ("mask", "decode")]
            alone = from_scores(scores[0][None], 4, scores[1][None], 6)
            assert torch.equal(batch.mask.keep[slot], alone.keep[0])
            assert torch.equal(batch.mask.pred[slot], alone.pred[0])
        assert batch.files.tolist() == [key.index for key in keys]
        assert [data.items.addresses[i] for i in batch.files.tolist()] == batch.sources
        assert torch.equal(batch.rows(2, 4).files, batch.files[2:4])


def test_a_row_of_a_file_that_stands_in_says_which_one_it_is(load):
    data = load(workers=0).data.modalities["image"]
    for step in range(5):
        batch = data.batch(step)
        assert [data.items.addresses[i] for i in batch.files.tolist()] == batch.sources


def test_closing_leaves_no_thread_and_no_worker(load):
    before = threading.enumerate()
    loader = load(workers=3, slow=0.05)
    next(loader)
    loader.close()
    assert not [t for t in threading.enumerate() if t.name == "loader" and t not in before]


def test_closing_does_not_wait_for_a_worker_that_hangs(load):
    loader = load(workers=1, fault="spin", match=".", timeout=600.0)
    time.sleep(1.0)
    began = time.monotonic()
    loader.close()
    assert time.monotonic() - began < 10


def test_a_spinning_worker_does_not_outlive_a_parent_that_was_killed(faulty, tiny, photos, tmp_path):
    from faults.kills import command, launch

    reader = {"name": "faulty", "fault": "spin", "match": "."}
    config = tiny({"modalities.image.data.reader": reader, "modalities.image.data.statistics": "none"})
    process = launch(command(config, photos, tmp_path / "run", "--set", "train.workers=2"), tmp_path / "log")
    group = process.pid
    try:
        # The run, the server that workers come from, and two workers, which need a moment to begin to spin.
        assert _within(120, lambda: len(_members(group)) >= 4), (tmp_path / "log").read_text()
        time.sleep(2.0)
        os.kill(process.pid, signal.SIGKILL)  # it alone, as the system does when memory runs out
        process.wait()
        assert _within(30, lambda: not _members(group))
    finally:
        for pid in _members(group):
            os.kill(pid, signal.SIGKILL)


def _within(seconds, condition):
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit:
        time.sleep(0.1)
    return condition()


def _members(group):
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def test_statistics_are_measured_in_spite_of_a_file_that_hangs_or_crashes(load, tiny, photos, tmp_path):
    from mae_ext.data.loading.statistics import resolve_statistics

    def measured(fault, match, **arguments):
        reader = {"name": "faulty", "fault": fault, "match": match, **arguments}
        values = {"modalities.image.data.reader": reader, "modalities.image.data.path": str(photos)}
        config = load_config(tiny(values | {"train.workers": 1, "train.worker_timeout": 3.0}))
        data = {"image": ModalityData(0, "image", config.modalities["image"])}
        return json.loads(resolve_statistics(config, data).modalities["image"].data.model_dump_json())["statistics"]

    everything = measured("bad", "nothing")
    assert measured("segfault", "07.", once=str(tmp_path / "a")) == everything
    assert measured("kill", "07.") == measured("bad", "07.") != everything
    assert measured("spin", "07.") == measured("bad", "07.")


def test_a_script_that_just_calls_train_trains_once_and_not_in_each_worker(tiny, photos, tmp_path):
    config = tiny({"train.workers": 2, "train.steps": 3, "modalities.image.data.path": str(photos)})
    script = tmp_path / "script.py"
    script.write_text(
        f"print('here', flush=True)\nimport mae_ext\n"
        f"mae_ext.train(mae_ext.load_config({str(config)!r}), {str(tmp_path / 'run')!r})\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.split().count("here") == 1, done.stderr
    assert "Traceback" not in done.stderr and "replaced" not in done.stderr
