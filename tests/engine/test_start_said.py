"""A start that is named wrongly, forgotten, or in the way: what is said, before anything is trained."""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from mae_ext.engine.start import Named, opened
from mae_ext.engine.start_config import with_start
from mae_ext.engine.train import train
from mae_ext.errors import CheckpointError, ConfigError, UserError
from mae_ext.export.weights import export
from mae_ext.report.pictures import reconstruct

TRAIN = {"steps": 1, "workers": 0, "precision": "fp32", "tensorboard": False}


def values(model=None, **image):
    made = {"modalities": {"image": {"batch": 4, **image}}, "train": TRAIN}
    return made if model is None else {**made, "model": model}


def test_a_run_that_goes_on_without_its_start_being_named_says_which_it_was(make_run, striped, tmp_path):
    run, out = make_run(), tmp_path / "out"
    data = {"data": {"path": str(striped / "train")}}
    first = with_start(values(**data), "c.yaml", run, out)
    train(first, out)
    with pytest.raises(ConfigError, match=f"the run in {re.escape(str(out))} started from .*; to go on with it give"):
        with_start(values(**data), "c.yaml", None, out)
    assert with_start(values(**data), "c.yaml", first.init, out) == first
    assert with_start(values(**data), "c.yaml", run, tmp_path / "another") == first


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("tim:{}", r"'tim' is no format that is read, did you mean 'timm'\?"),
        ("onnx:{}", r"'onnx' is no format that is read"),
        ("timm:{}x", "no such file or folder"),
    ],
)
def test_a_format_that_is_misspelt_is_said_and_not_taken_for_a_path(named, told, tmp_path):
    file = tmp_path / "w.safetensors"
    save_file({"cls_token": torch.ones(1, 1, 4)}, file)
    with pytest.raises(CheckpointError, match=told):
        opened(named.format(file))


def test_an_empty_name_is_not_the_folder_that_one_is_in():
    with pytest.raises(CheckpointError, match="the start has an empty name"):
        Named.of("")


def exported(run, tmp_path):
    export(run, "timm", tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


@pytest.mark.parametrize(
    ("hints", "told"),
    [
        ("patch=4x4,grid=3x4", "patch=4x4 after '::', and the weights say 8x4; remove it"),
        ("size=48x48,grid=3x4", "size=48x48 after '::', and the weights say 24x16; remove it"),
    ],
)
def test_a_hint_that_the_weights_contradict_is_refused(hints, told, make_run, tmp_path):
    file = exported(make_run(), tmp_path)
    assert opened(f"{file}::heads=2,grid=3x4,patch=8x4,size=24x16").config.model.heads == 2
    with pytest.raises(CheckpointError, match=re.escape(told)):
        opened(f"{file}::heads=2,{hints}")


def test_weights_of_eight_bits_are_read_as_the_numbers_that_they_are(make_run, tmp_path):
    file = exported(make_run(), tmp_path)
    whole = opened(f"{file}::heads=2,grid=3x4").weights
    small = {name: value.to(torch.float8_e4m3fn) for name, value in load_file(file).items()}
    save_file(small, tmp_path / "small.safetensors")
    read = opened(f"{tmp_path}/small.safetensors::heads=2,grid=3x4").weights
    name = "encoder.trunk.blocks.0.mlp.up.weight"
    assert read[name].equal(whole[name].to(torch.float8_e4m3fn).float())


def test_weights_without_a_decoder_draw_nothing_and_it_is_said_how_they_would(make_run, striped, tmp_path):
    file = exported(make_run(), tmp_path)
    with pytest.raises(UserError, match=r"these weights have no decoder, which draws; pretrain from them \(--init\)"):
        reconstruct(f"{file}::heads=2,grid=3x4", [striped / "test"], tmp_path / "pictures")


def test_a_run_is_not_begun_where_it_would_hide_weights(make_config, tmp_path):
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"holds weights of another program \(model\.safetensors\), which a run there"):
        train(make_config(), tmp_path, data=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_size_of_model_that_is_none_is_refused_and_one_that_differs_is_named(make_run):
    run = make_run()
    with pytest.raises(ConfigError, match=r"model\.size: .*'bse'"):
        with_start(values({"size": "bse"}), "c.yaml", run)
    with pytest.raises(ConfigError, match=r"model\.depth is 12, and 2 there \(model\.size=tiny asks for it\)"):
        with_start(values({"size": "tiny"}), "c.yaml", run)
    said = "Remove the keys"
    with pytest.raises(ConfigError, match=said) as info:
        with_start(values({"size": "tiny", "depth": 3}), "c.yaml", run)
    assert "model.depth is 3, and 2 there;" in str(info.value)


def test_an_input_size_that_is_no_list_is_the_one_key_at_fault(make_run):
    with pytest.raises(ConfigError, match=r"modalities\.image\.size") as info:
        with_start(values(size=24), "c.yaml", make_run())
    assert "Field required" not in str(info.value)
