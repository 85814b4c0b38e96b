"""A third party's package adds an embedder, a masker and a task; nothing in mae_ext knows of them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mae_ext.model.mask import from_scores
from mae_ext.rng import rng

HERE = Path(__file__).parent
PACKAGE = HERE / "plugin_example"

CONFIG = """
modalities:
  image:
    size: [32, 24]
    patch: [8, 8]
    batch: 4
    embed: {name: conv_stem, hidden: 6}
    mask: {name: checkerboard, ratio: 0.5}
model: {width: 32, depth: 2, heads: 2, decoder: {width: 16, depth: 1, heads: 2}}
train: {steps: 6, lr: 1.0e-3, precision: fp32, workers: 0, tensorboard: false}
"""


def command(*arguments, path=()):
    """Run mae_ext in a process of its own, with `path` in front of what Python finds."""
    parts = [*map(str, path), str(HERE.parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(parts)}
    return subprocess.run(
        [sys.executable, "-m", "mae_ext", *map(str, arguments)], env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package, built and installed by pip into a folder, without an index."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*pip, "--target", target, PACKAGE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 40, 40, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def test_an_installed_plugin_trains_by_its_name_in_the_yaml(installed, photos, config, tmp_path):
    out = tmp_path / "run"
    done = command("pretrain", config, "--data", photos, "--out", out, "--steps", 4, path=[installed])
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(np.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)

    again = tmp_path / "again"
    assert command("pretrain", config, "--data", photos, "--out", again, "--steps", 4, path=[installed]).returncode == 0
    losses = [json.loads(line)["loss"] for line in (again / "metrics.jsonl").read_text().splitlines()]
    assert losses == [row["loss"] for row in rows]


def test_the_list_of_plugins_says_which_package_they_are_from(installed):
    done = command("plugins", path=[installed])
    assert done.returncode == 0, done.stderr
    for name in ("conv_stem", "checkerboard", "regress"):
        line = next(line for line in done.stdout.splitlines() if name in line)
        assert "mae-ext-plugin-example 0.1.0" in line


def test_without_the_package_the_name_is_refused_and_what_there_is_is_listed(photos, config, tmp_path):
    done = command("pretrain", config, "--data", photos, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "modalities.image.embed" in done.stderr
    assert "conv_stem" in done.stderr
    assert "patch" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_argument_that_the_plugin_does_not_take_is_refused_before_work_starts(installed, photos, config, tmp_path):
    out = tmp_path / "run"
    config.write_text(CONFIG.replace("hidden: 6", "hiden: 6"))
    done = command("pretrain", config, "--data", photos, "--out", out, path=[installed])
    assert done.returncode == 2
    assert "did you mean 'hidden'?" in done.stderr
    assert not (out / "metrics.jsonl").exists()


def test_an_installed_task_is_finetuned_from_a_run_goes_on_with_the_same_losses_and_predicts(
    installed, photos, config, tmp_path
):
    run, index, tuned = tmp_path / "run", tmp_path / "index.csv", tmp_path / "tuned"
    assert command("pretrain", config, "--data", photos, "--out", run, "--steps", 2, path=[installed]).returncode == 0
    rows = [f"{photos / f'{i}.png'},{i / 2},{'train' if i < 6 else 'test'}" for i in range(8)]
    index.write_text("\n".join(["path,size,split", *rows]) + "\n")
    config.write_text(
        "task: regress\nmodalities: {image: {batch: 3}}\n"
        "train: {steps: 6, lr: 1.0e-2, precision: fp32, workers: 0, save_every: 2, tensorboard: false}\n"
    )
    sides = ["--data", f"{index}::split=train,label=size", "--test", f"{index}::split=test,label=size"]
    tune = ["finetune", config, "--init", run, *sides, "--out", tuned]
    done = command(*tune, path=[installed])
    assert done.returncode == 0, done.stderr
    losses = [json.loads(line)["loss"] for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    scores = (tuned / "evaluations.jsonl").read_text()
    assert {"step", "samples", "mae", "r2"} == set(json.loads(scores)) and json.loads(scores)["samples"] == 2

    shutil.rmtree(max((tuned / "checkpoints").iterdir()))  # as a run that was killed before its last checkpoint
    done = command(*tune, path=[installed])
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["loss"] for line in (tuned / "metrics.jsonl").read_text().splitlines()] == losses
    assert (tuned / "evaluations.jsonl").read_text() == scores

    for _ in range(2):
        done = command("predict", tuned, photos, "--out", tmp_path / "said", path=[installed])
        assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in (tmp_path / "said" / "predictions.jsonl").read_text().splitlines()]
    wanted = [3.5, 3.0]
    off = [abs(said[i]["number"] - number) for i, number in zip((7, 6), wanted, strict=True)]
    assert len(said) == 8 and np.isclose(np.mean(off), json.loads(scores)["mae"], rtol=1e-4)


@pytest.mark.parametrize(("size", "patch"), [((15,), (3,)), ((10, 21), (5, 3)), ((6, 10, 9), (2, 5, 3))])
def test_a_token_of_the_embedder_sees_its_own_patch_and_no_other(size, patch, monkeypatch):
    monkeypatch.syspath_prepend(PACKAGE / "src")
    from mae_ext_plugin_example.embed import ConvStem

    torch.manual_seed(0)
    stem = ConvStem(size, patch, channels=2, width=8, hidden=4)
    tokens = int(np.prod([s // p for s, p in zip(size, patch, strict=True)]))
    everything = torch.arange(tokens)[None]
    x = torch.randn(1, 2, *size)
    changed = x.clone()
    # The first patch, which is token 0 in every number of axes.
    changed[(..., *(slice(0, p) for p in patch))] += 1
    before, after = stem(x, everything)[0], stem(changed, everything)[0]
    assert before.shape == (tokens, 8)
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(before[1:], after[1:], rtol=0, atol=0)


@pytest.mark.parametrize("grid", [(7,), (4, 6), (3, 5, 2)])
def test_the_masker_keeps_one_colour_of_the_board_and_repeats_itself_for_a_key(grid, monkeypatch):
    monkeypatch.syspath_prepend(PACKAGE / "src")
    from mae_ext_plugin_example.mask import Checkerboard

    masker = Checkerboard(ratio=0.5)
    keep = masker.num_keep(grid)
    seen = set()
    for seed in range(20):
        scores = masker.scores(grid, rng(seed, "mask"))
        assert torch.equal(scores, masker.scores(grid, rng(seed, "mask")))
        kept = from_scores(scores[None], keep).keep[0].tolist()
        colours = {sum(np.unravel_index(token, grid)) % 2 for token in kept}
        assert len(kept) == keep
        assert len(colours) == 1
        seen |= colours
    assert seen == {0, 1}
