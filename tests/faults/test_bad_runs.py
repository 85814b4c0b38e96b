"""A command on what is no run, or on a run that cannot do it, is one line on stderr that says what was expected."""

import pytest

from mae_ext.cli import run
from mae_ext.engine import checkpoint


@pytest.fixture
def no_runs(tmp_path):
    """Things that are no run, by name."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "hollow" / "checkpoints").mkdir(parents=True)
    (tmp_path / "text.txt").write_text("not a run")
    (tmp_path / "weights.pt").write_bytes(b"PK\x03\x04 no zip either")
    (tmp_path / "weights.safetensors").write_bytes(b"\xff" * 64)
    broken = tmp_path / "broken" / "checkpoints" / "step-00000001"
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text("{}")
    names = ["folder", "hollow", "text.txt", "weights.pt", "weights.safetensors", "broken", "nowhere"]
    return {name: tmp_path / name for name in names}


@pytest.mark.parametrize("command", ["embed", "probe", "report", "reconstruct", "replay"])
def test_a_command_on_something_that_is_no_run_says_what_it_expected(said, no_runs, photos, tmp_path, command):
    more = {
        "embed": [photos, "--out", tmp_path / "f.safetensors"],
        "probe": ["--train", photos, "--test", photos],
        "reconstruct": [photos, "--out", tmp_path / "pictures"],
    }.get(command, [])
    for name, path in no_runs.items():
        line = said(2, command, path, *more)
        assert name in line, line
    assert not (tmp_path / "f.safetensors").exists()


@pytest.fixture
def trained(tiny, photos, tmp_path):
    config = tiny({"train.steps": 4})
    assert run(["pretrain", str(config), "--data", str(photos), "--out", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


def test_what_a_good_run_cannot_do_is_said_in_one_line(said, trained, photos, tmp_path, bad_file, striped):
    file = tmp_path / "file"
    file.write_text("mine")
    (tmp_path / "none").mkdir()
    bad = tmp_path / "bad"
    bad.mkdir()
    for kind, (name, content) in bad_file.items():
        (bad / f"{kind}{name}").write_bytes(content)
    told = said(2, "embed", trained, tmp_path / "nowhere", "--out", tmp_path / "a.safetensors")
    assert "nowhere" in told
    said(2, "embed", trained, tmp_path / "none", "--out", tmp_path / "a.safetensors")
    said(2, "embed", trained, photos, "--out", file / "a.safetensors")
    said(2, "embed", trained, photos, "--out", "/proc/a.safetensors")
    said(1, "embed", trained, bad, "--out", tmp_path / "b.safetensors")
    assert "label" in said(2, "probe", trained, "--train", photos, "--test", photos)
    said(2, "probe", trained, "--train", striped / "train", "--test", tmp_path / "none")
    said(2, "probe", trained, "--train", striped / "train", "--test", striped / "test", "--k", "0")
    said(2, "probe", trained, "--train", striped / "train", "--test", striped / "test", "--pool", "median")
    said(2, "reconstruct", trained, tmp_path / "nowhere", "--out", tmp_path / "pictures")
    said(2, "reconstruct", trained, file, "--out", tmp_path / "pictures")
    said(2, "reconstruct", trained, photos, "--out", file)
    said(2, "replay", trained)
    assert file.read_text() == "mine"


def test_a_checkpoint_of_another_architecture_is_refused_and_kept(pretrain, trained):
    before = {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()}
    line = pretrain(2, "--set", "train.steps=4", "--set", "model.width=48")
    assert "model.width: 32 -> 48" in line
    assert {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()} == before
    assert checkpoint.latest(trained) is not None


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["pretrain"], ["pretrain", "a", "b"], ["pretrain", "image_folder", "--speed", "9"],
     ["pretrain", "image_folder", "--steps", "0"], ["pretrain", "image_folder", "--steps", "many"],
     ["pretrain", "image_folder", "--data"], ["doctor"], ["doctor", "x", "--deadline", "0"], ["--version-of-what"],
     ["plan", "image_folder", "--world", "0"], ["plan", "image_folder", "--data", "nowhere"],
     ["doctor", "nowhere"], ["doctor", ".", "--reader", "nothing"], ["embed", "x"], ["reconstruct", "x"]],
    ids=" ".join,
)  # fmt: skip
def test_a_command_line_that_cannot_be_is_one_line(said, arguments):
    said(2, *arguments)
