"""Whatever is wrong with the input is one line on stderr that names it; nothing ends in a traceback (issue: line 6)."""

import os
import shutil
import threading
from pathlib import Path

import pytest
import torch
from faults.kills import rows, trajectory

from mae_ext.cli import run

KINDS = ["truncated", "empty", "too large", "not an image", "damaged"]


@pytest.mark.parametrize("kind", KINDS)
def test_one_bad_file_of_41_stops_the_run_with_its_name_or_is_listed_where_more_are_allowed(
    pretrain, tiny, photos, tmp_path, bad_file, kind
):
    folder = tmp_path / "data"
    shutil.copytree(photos, folder)
    name, content = bad_file[kind]
    (folder / name).write_bytes(content)
    config = tiny({"train.steps": 12, "modalities.image.data.statistics": "none"})
    line = pretrain(1, config=config, data=folder)
    assert name in line and "1 of 41 files are bad" in line
    loose = ["--set", "modalities.image.data.max_bad_fraction=0.05"]
    assert run(["pretrain", str(config), "--data", str(folder), "--out", str(tmp_path / "loose"), *loose]) == 0
    ledger = rows(tmp_path / "loose" / "bad_samples.jsonl")
    assert [(Path(row["path"]).name, row["kind"]) for row in ledger] == [(name, kind)]
    assert len(trajectory(tmp_path / "loose")) == 12


@pytest.mark.parametrize("statistics", ["measured", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_with_nothing_but_bad_files_is_refused(pretrain, tmp_path, bad_file, kind, statistics):
    folder = tmp_path / "data"
    folder.mkdir()
    name, content = bad_file[kind]
    (folder / name).write_bytes(content)
    code = 2 if statistics == "measured" else 1
    line = pretrain(code, "--set", f"modalities.image.data.statistics={statistics}", data=folder)
    assert name in line
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_a_missing_and_an_empty_folder_are_told_apart(pretrain, tmp_path):
    (tmp_path / "empty").mkdir()
    missing, empty = pretrain(2, data=tmp_path / "nowhere"), pretrain(2, data=tmp_path / "empty")
    assert str(tmp_path / "nowhere") in missing and "no such" in missing.lower()
    assert str(tmp_path / "empty") in empty and ".jpg" in empty


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("modalities.image.size=[15,16]", ["size", "15", "patch", "4"]),
        ("modalities.image.size=[16]", ["size", "patch"]),
        ("modalities.image.size=[16,16,16]", ["size", "patch"]),
        ("modalities.image.size=[0,16]", ["size", "0"]),
        ("modalities.image.size=[-16,16]", ["size", "-16"]),
        ("modalities.image.patch=[32,4]", ["patch", "16"]),
        ("modalities.image.mask.ratio=0.99", ["mask", "0.99", "keeps none of 16", "0.9375"]),
        ("modalities.image.mask.ratio=1.0", ["mask", "1.0"]),
        ("modalities.image.mask.ratio=.nan", ["mask", "ratio"]),
        ("modalities.image.mask.ratio=half", ["mask", "half"]),
        ("modalities.image.mask.name=randm", ["randm", "random"]),
        ("modalities.image.mask.rato=0.5", ["rato", "ratio"]),
        ("modalities.image.embed=patches", ["patches", "patch"]),
        ("modalities.image.target={name: pixel, normalize: sometimes}", ["normalize", "sometimes"]),
        ("modalities.image.position={name: sincos, base: 3}", ["base"]),
        ("modalities.image.data.reader=os.system", ["os.system", "image"]),
        ("modalities.image.data.reader={name: image, max_pixels: 0}", ["max_pixels", "0"]),
        ("modalities.image.data.augment.scale=[1,0.2]", ["scale", "low"]),
        ("modalities.image.data.augment.flip=[5]", ["flip", "5"]),
        ("modalities.image.data.statistics={mean: [0.5], std: [0.2]}", ["statistics", "1 channels", "3"]),
        ("modalities.image.data.statistics={mean: [.5,.5,.5], std: [0,1,1]}", ["std"]),
        ("modalities.image.data.max_bad_fraction=2", ["max_bad_fraction", "2"]),
        ("modalities.image.batch=0", ["batch", "0"]),
        ("modalities.image.batch=7.5", ["batch", "7.5"]),
        ("modalities.image.channels=0", ["channels", "0"]),
        ("modalities.image.channels=7", ["channels", "7"]),
        ("model.heads=3", ["heads=3", "width=32"]),
        ("model.decoder.heads=3", ["decoder.heads=3", "16"]),
        ("model.depth=0", ["depth", "0"]),
        ("model.drop_path=1", ["drop_path", "1"]),
        ("model={}", ["size", "width"]),
        ("model.size=giant", ["giant", "huge"]),
        ("train.lr=.nan", ["train.lr", "nan"]),
        ("train.lr=.inf", ["train.lr", "inf"]),
        ("train.lr=-1", ["train.lr", "-1"]),
        ("train.lr=0", ["train.lr", "0"]),
        ("train.lr=fast", ["train.lr", "fast"]),
        ("train.steps=0", ["train.steps", "0"]),
        ("train.epochs=3", ["epochs", "steps", "not both"]),
        ("train.precision=fp8", ["precision", "fp8", "bf16"]),
        ("train.clip=0", ["clip", "0"]),
        ("train.keep=1", ["keep", "1"]),
        ("train.workers=-1", ["workers", "-1"]),
        ("train.betas=[0.9]", ["betas"]),
        ("train.accumulate=3", ["batch=8", "accumulate=3"]),
        ("train.stepz=10", ["stepz", "did you mean 'steps'"]),
        ("trian.steps=10", ["trian", "did you mean 'train'"]),
        ("train.steps", ["KEY=VALUE"]),
        ("=3", ["KEY=VALUE"]),
        ("train=3", ["train"]),
        ("train.steps.more=3", ["steps"]),
        ("modalities={}", ["modalities"]),
        ("modalities.my image={}", ["my image"]),
        ("seed=!!python/object/apply:os.getcwd []", ["python/object"]),
        ("train.steps=&a [*a]", ["alias"]),
        ("train.steps=[" + "[" * 100, ["--set"]),
    ],
)
def test_a_setting_that_cannot_mean_anything_is_refused_by_its_name(pretrain, tmp_path, override, told):
    line = pretrain(2, "--set", override)
    for part in told:
        assert part in line, line
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said(pretrain):
    assert "no GPU" in pretrain(2, "--set", "train.device=cuda")


CONFIGS = {
    "a tag that makes objects": (b"seed: !!python/object/apply:os.system ['touch CANARY']\n", "python/object"),
    "another tag": (b"train: !!python/name:os.system\n", "python/name"),
    "binary": (b"\x89PNG\r\n\x1a\n\0\0\0", "text"),
    "null bytes": (b"seed: 1\0\n", "not valid YAML"),
    "empty": (b"", "keys and values"),
    "a list": (b"- 1\n- 2\n", "list"),
    "a duplicate": (b"seed: 1\nseed: 2\n", "given twice"),
    "an unknown key": (b"sed: 1\n", "did you mean 'seed'"),
    "tabs": (b"train:\n\tsteps: 3\n", "not valid YAML"),
    "a pickle": (b"\x80\x04\x95\x10\0\0\0", "text"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "keys and values"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_file_that_is_no_config_is_refused(pretrain, tmp_path, kind):
    content, told = CONFIGS[kind]
    config, canary = tmp_path / "bad.yaml", tmp_path / "canary"
    config.write_bytes(content.replace(b"CANARY", os.fsencode(canary)))
    line = pretrain(2, config=config)
    assert "bad.yaml" in line and told in line
    assert not canary.exists()


def test_a_folder_as_config_an_unknown_recipe_and_a_typo_in_one_are_told(pretrain, tmp_path):
    assert "is a folder; data are named by --data" in pretrain(2, config=tmp_path)
    assert "image_folder" in pretrain(2, config="image_foldr")
    assert "image_in1k_vitb" in pretrain(2, config="nothing_like_it")
    assert "no such file" in pretrain(2, config="/dev/null/x.yaml")


def test_without_data_it_says_what_to_give(said, tiny, tmp_path):
    assert "--data" in said(2, "pretrain", tiny(), "--out", tmp_path / "run")
    assert "--data" in said(2, "pretrain", "image_folder", "--out", tmp_path / "run")


def test_a_run_folder_that_cannot_be_written_is_named(pretrain, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "below", Path("/proc/run"), Path("/dev/null")):
        assert str(out) in pretrain(2, out=out)
    assert file.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_run_folder_without_permission_is_named(pretrain, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert "locked" in pretrain(2, out=locked / "run")


def test_things_in_the_way_of_what_a_run_writes_are_named(pretrain, tmp_path):
    for number, name in enumerate(("metrics.jsonl", "config.yaml", "bad_samples.jsonl", ".lock")):
        out = tmp_path / f"run{number}"
        (out / name).mkdir(parents=True)
        assert name in pretrain(2 if name == ".lock" else 1, out=out)


def test_checkpoints_that_are_a_file_cost_checkpoints_and_not_the_run(pretrain, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "checkpoints").write_text("?")
    assert "could not be saved" in pretrain(1, out=out)
    assert len(trajectory(out)) == 60


@pytest.mark.parametrize(
    "data", ["/dev/zero", "/dev/null", "/proc/self/mem", "/etc/passwd", "", " ", ".\0.", "x" * 5000]
)
def test_data_that_is_no_data_is_refused(pretrain, data):
    pretrain(2, data=data)


def test_pipes_and_devices_in_a_folder_block_nothing(pretrain, photos, tiny, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(photos, folder)
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "loop").symlink_to(folder)
    (folder / "two\nlines.png").write_bytes(b"")
    config = tiny({"train.steps": 12, "modalities.image.data.max_bad_fraction": 0.2})
    ended = []
    thread = threading.Thread(
        target=lambda: ended.append(
            run(["pretrain", str(config), "--data", str(folder), "--out", str(tmp_path / "run")])
        ),
        daemon=True,
    )
    thread.start()
    thread.join(60)
    assert ended == [0]
    bad = {Path(row["path"]).name for row in rows(tmp_path / "run" / "bad_samples.jsonl")}
    assert "two\nlines.png" in bad
