"""A run with terms of the loss, and blocks fused for its decoder: going on, and what others take of it."""

import json
import shutil

import pytest
import torch
from engine.test_distributed import ALL_TERMS
from faults.kills import trajectory

import mae_ext
from mae_ext.engine.checkpoint import read_tensors
from mae_ext.errors import CheckpointError


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """-> (config, the run of 8 steps, with a checkpoint after every second)."""
    folder = tmp_path_factory.mktemp("terms")
    values = {
        "modalities": {"image": {"size": [16, 16], "patch": [4, 4], "batch": 8, "data": {"path": str(photos)}}},
        "model": {
            "width": 24, "depth": 3, "heads": 2, "drop_path": 0.1, "decoder": {"width": 16, "depth": 1, "heads": 2},
        },
        "train": {
            "steps": 8, "lr": 1e-2, "precision": "fp32", "device": "cpu", "workers": 0, "save_every": 2, "keep": 9,
            "tensorboard": False,
        },
    }  # fmt: skip
    for dotted, value in ALL_TERMS.items():
        *parents, last = dotted.split(".")
        node = values
        for key in parents:
            node = node[key]
        node[last] = value
    config = mae_ext.parse_config(values)
    return config, mae_ext.train(config, folder / "run")


def test_it_goes_on_to_the_bit_where_it_was(whole, tmp_path):
    config, run = whole
    part = shutil.copytree(run, tmp_path / "run")
    for step in (4, 6, 8):
        shutil.rmtree(part / "checkpoints" / f"step-{step:08d}")
    mae_ext.train(config, part)
    assert trajectory(part) == trajectory(run)
    last, again = (read_tensors(r / "checkpoints" / "step-00000008" / "model.safetensors") for r in (run, part))
    assert last.keys() == again.keys() and all(torch.equal(last[key], again[key]) for key in last)


def test_pretraining_that_starts_from_it_takes_the_fused_decoder(whole, tmp_path):
    config, run = whole
    more = config.model_copy(update={"init": str(run)})
    again = mae_ext.train(
        more.model_copy(update={"train": config.train.model_copy(update={"steps": 1})}), tmp_path / "a"
    )
    assert json.loads((again / "start.json").read_text())["tensors"]["decoder.fuse.weights"]["outcome"] == "taken"


def test_a_start_whose_decoder_is_given_other_blocks_is_refused_with_what_to_type(whole, tmp_path):
    config, run = whole
    decoder = config.model.decoder.model_copy(update={"fuse": ()})
    model = config.model.model_copy(update={"decoder": decoder})
    with pytest.raises(CheckpointError, match=r"--set model\.decoder\.fuse=\[1\]"):
        mae_ext.train(config.model_copy(update={"model": model, "init": str(run)}), tmp_path / "b")
