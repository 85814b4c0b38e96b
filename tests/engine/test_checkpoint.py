"""A checkpoint is whole and verified, or it is not there (FAULTS R2, R4, R5).

All 100 offsets are damaged in the fast suite. Every failpoint of a run, not one in ten, with a line that counts them:

    scripts/test -m slow -k failpoint -s
"""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from faults.kills import environment, rows, trajectory

from mae_ext.cli import run
from mae_ext.engine import checkpoint, commit
from mae_ext.errors import CheckpointError


def train(config, photos, out, *more):
    return run(["pretrain", str(config), "--data", str(photos), "--out", str(out), *more])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two checkpoints of a model that nobody trained: steps 7 and 9."""

    def make(config, run):
        for step in (7, 9):
            weights = {f"layer.{i}": torch.full((5, 7), float(step + i)) for i in range(3)}
            tensors = {"model": weights, "optimizer": {k: v + 1 for k, v in weights.items()}}
            commit.save(run / "checkpoints", step, config, tensors, {"files": {}})
        return run

    return make


@pytest.fixture
def two(trained, make_config, tmp_path):
    return trained(make_config(), tmp_path / "run")


def test_a_checkpoint_holds_what_was_saved_and_says_so_in_its_manifest(two):
    found = checkpoint.latest(two)
    assert found.name == "step-00000009"
    manifest = checkpoint.verify(found)
    assert manifest["step"] == 9
    assert set(manifest["files"]) == {p.name for p in found.iterdir()} - {"manifest.json"}
    assert torch.equal(checkpoint.read_tensors(found / "model.safetensors")["layer.1"], torch.full((5, 7), 10.0))


def test_each_of_100_flipped_bytes_is_found_and_the_one_before_is_taken(two):
    newest = two / "checkpoints" / "step-00000009"
    files = sorted(newest.iterdir())
    for number in range(100):
        file = files[number % len(files)]
        whole = file.read_bytes()
        offset = number * 7919 % len(whole)
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << number % 8
        file.write_bytes(damaged)
        said = []
        found = checkpoint.latest(two, said.append)
        file.write_bytes(whole)
        assert found.name == "step-00000007", f"byte {offset} of {file.name}"
        assert len(said) == 1 and "step-00000009" in said[0] and "falling back" in said[0]
    assert checkpoint.latest(two) == newest


def test_no_byte_of_a_manifest_may_be_another(two):
    newest = two / "checkpoints" / "step-00000009"
    file = newest / "manifest.json"
    whole = file.read_bytes()
    for offset in range(len(whole)):
        file.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1 << offset % 8]) + whole[offset + 1 :])
        with pytest.raises(CheckpointError):
            checkpoint.verify(newest)


def test_a_manifest_of_an_older_version_without_a_digest_of_itself_is_read(two):
    file = two / "checkpoints" / "step-00000009" / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest[checkpoint.SEAL]
    file.write_text(json.dumps(manifest, indent=1))
    assert checkpoint.latest(two) == file.parent


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "state.json", "config.yaml", "manifest.json"]
)
def test_a_truncated_file_is_found(two, name, share):
    file = two / "checkpoints" / "step-00000009" / name
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    assert checkpoint.latest(two).name == "step-00000007"


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
def test_a_missing_file_is_found(two, name):
    (two / "checkpoints" / "step-00000009" / name).unlink()
    assert checkpoint.latest(two).name == "step-00000007"


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", '{"format": 1}', '{"format": 1, "files": 3}', "[" * 10**5, '{"format":1,"files":{"../x":{}}}'],
)
def test_a_manifest_of_nonsense_is_no_checkpoint(two, text):
    (two / "checkpoints" / "step-00000009" / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match="step-00000009"):
        checkpoint.verify(two / "checkpoints" / "step-00000009")


def test_another_format_is_refused_with_both_numbers(two):
    for path in checkpoint.steps_of(two / "checkpoints"):
        manifest = json.loads((path / "manifest.json").read_text())
        (path / "manifest.json").write_text(json.dumps(manifest | {"format": 3}))
    with pytest.raises(CheckpointError, match="format 3; this version reads formats 1 and 2"):
        checkpoint.latest(two)


def test_when_no_checkpoint_is_whole_that_is_an_error_and_not_a_fresh_start(two):
    for path in checkpoint.steps_of(two / "checkpoints"):
        (path / "state.json").unlink()
    with pytest.raises(CheckpointError, match="no whole checkpoint is left"):
        checkpoint.latest(two)


def test_pruning_keeps_the_newest_and_clears_what_killed_savers_left(two, make_config):
    directory = two / "checkpoints"
    (directory / "step-00000011.tmp-123").mkdir()
    commit.save(directory, 12, make_config(), {"model": {"w": torch.ones(2)}}, {})
    commit.prune(directory, keep=2)
    assert sorted(p.name for p in directory.iterdir()) == ["step-00000009", "step-00000012"]


def test_nothing_is_deleted_before_the_newest_is_verified(two, make_config):
    directory = two / "checkpoints"
    newest = commit.save(directory, 12, make_config(), {"model": {"w": torch.ones(2)}}, {})
    (newest / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError):
        commit.prune(directory, keep=2)
    assert [p.name for p in checkpoint.steps_of(directory)] == ["step-00000007", "step-00000009", "step-00000012"]
    assert checkpoint.latest(two).name == "step-00000009"


def test_saving_a_step_again_replaces_it_only_if_it_is_damaged(two, make_config):
    directory = two / "checkpoints"
    tensors = {"model": {"w": torch.ones(2)}}
    kept = commit.save(directory, 9, make_config(), tensors, {})
    assert "layer.1" in checkpoint.read_tensors(kept / "model.safetensors")
    (kept / "model.safetensors").write_bytes(b"rubbish")
    assert "w" in checkpoint.read_tensors(commit.save(directory, 9, make_config(), tensors, {}) / "model.safetensors")
    assert (directory / "step-00000009.damaged" / "model.safetensors").read_bytes() == b"rubbish"


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_and_ends_the_same(tiny, photos, tmp_path, capfd):
    config, reference, out = tiny({"train.steps": 40, "train.save_every": 10}), tmp_path / "reference", tmp_path / "run"
    assert train(config, photos, reference) == 0
    shutil.copytree(reference, out)
    damaged = out / "checkpoints" / "step-00000040" / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    capfd.readouterr()
    # Another interval, so that the next checkpoints are not those that were there.
    assert train(config, photos, out, "--set", "train.save_every=3") == 0
    said = capfd.readouterr().err
    assert "step-00000040/optimizer.safetensors is damaged" in said and "going on from step 30" in said
    assert trajectory(out) == trajectory(reference)
    assert (out / "checkpoints" / "step-00000040.damaged").is_dir()
    weights = [checkpoint.read_tensors(checkpoint.latest(r) / "model.safetensors") for r in (reference, out)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


FAILING = {
    "the weights": "file.write:280",
    "the flush": "file.fsynced:7",
    "the new folder": "folder.make:2",
    "the manifest": "manifest.write:2",
    "the rename": "folder.rename:2",
}
"""At the second of three saves, of four files each."""


@pytest.mark.parametrize("action", ["enospc", "erofs", "eio"])
@pytest.mark.parametrize("where", FAILING)
def test_a_disk_that_fails_while_saving_is_warned_of_and_training_goes_on(
    tiny, photos, tmp_path, failing, capfd, where, action
):
    out, config = tmp_path / "run", tiny({"train.steps": 30, "train.save_every": 10})
    failing(f"{FAILING[where]}:{action}")
    assert train(config, photos, out) == 0
    said = capfd.readouterr().err
    assert said.count("could not save a checkpoint") == 1 and "step 20" in said and "MAE_EXT_FAILPOINT" in said
    assert [p.name for p in sorted((out / "checkpoints").iterdir())] == ["step-00000010", "step-00000030"]
    assert [row["step"] for row in rows(out / "metrics.jsonl")] == list(range(1, 31))


def test_a_run_whose_last_checkpoint_cannot_be_saved_fails_and_goes_on_when_there_is_room(
    tiny, photos, tmp_path, failing, capfd
):
    config, out = tiny({"train.steps": 15, "train.save_every": 10}), tmp_path / "run"
    failing("file.write:1+:enospc")
    assert train(config, photos, out) == 1
    assert capfd.readouterr().err.splitlines()[-1].startswith("mae-ext: the last checkpoint, of step 15, could not")
    failing("")
    assert train(config, photos, out) == 0
    assert [row["step"] for row in rows(out / "metrics.jsonl")] == list(range(1, 16))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 KiB: metrics fit, and one checkpoint of the tiny model, not three."""
    where = tmp_path / "disk"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(where)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs takes root")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def test_a_disk_that_is_really_full_costs_checkpoints_and_not_the_run(small_disk, tiny, photos, capfd):
    config, out = tiny({"train.steps": 40, "train.save_every": 10, "train.tensorboard": True}), small_disk / "run"
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 4096 * 4)
    assert train(config, photos, out) == 1
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "No space left" in said and "could not save a checkpoint" in said
    assert said.splitlines()[-1].startswith("mae-ext: ")
    last = checkpoint.latest(out)
    assert last is None or last.name == "step-00000010"
    ballast.unlink()
    assert subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)]).returncode == 0
    assert train(config, photos, out) == 0
    assert [row["step"] for row in rows(out / "metrics.jsonl")] == list(range(1, 41))


def failpoints(config, photos, out, every):
    script = [sys.executable, "-m", "faults.failpoints", str(config), str(photos), str(out), str(every)]
    done = subprocess.run(script, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.timeout(900)  # 36 s of a core, of starting processes for the most part
def test_a_run_killed_at_a_failpoint_goes_on_from_it(tiny, photos, tmp_path, test_path):
    print(failpoints(tiny({"train.steps": 8, "train.save_every": 3}), photos, tmp_path / "runs", every=11))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_killed_at_any_failpoint_goes_on_from_it(tiny, photos, tmp_path, test_path):
    print("\n" + failpoints(tiny({"train.steps": 12, "train.save_every": 4}), photos, tmp_path / "runs", every=1))
