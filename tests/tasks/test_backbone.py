"""An encoder goes into a task's model whole or not at all."""

import pytest
import torch

from mae_ext import plugins
from mae_ext.engine import checkpoint, commit
from mae_ext.errors import CheckpointError
from mae_ext.model.mae import MAE
from mae_ext.tasks.backbone import load_backbone


def starting(config, path):
    return config.model_copy(update={"init": str(path)})


def test_an_encoder_loads_whole(make_run):
    path = checkpoint.latest(make_run())
    model = MAE(checkpoint.read_config(path), decodes=False)
    with torch.no_grad():
        model.encoder.class_token.zero_()
    report = load_backbone(model, starting(checkpoint.read_config(path), path))
    weights = checkpoint.read_tensors(path / "model.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert report.count("taken") == len(model.state_dict())


def test_what_could_only_be_new_is_refused_by_name_and_nothing_is_loaded(make_run, make_config, monkeypatch):
    monkeypatch.setitem(plugins.embedders.builtins, "other", "mae_ext.model.embed:PatchEmbed")
    run, config = make_run(), make_config(embed="other")
    model = MAE(config, decodes=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        CheckpointError,
        match=r"another architecture: 29 of 31 tensors of the encoder \(8\d% of its numbers\) fit; "
        r"modalities\.image\.embed\.project\.weight would be new: embed 'patch' there, 'other' here",
    ):
        load_backbone(model, starting(config, run))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_learned_positions_begin_as_the_fixed_ones_of_the_run(make_run, make_config):
    config = make_config(position="learned")
    model = MAE(config, decodes=False)
    report = load_backbone(model, starting(config, make_run()))
    fixed = MAE(make_config()).modality().position.table
    assert torch.equal(model.modality().position.table, fixed)
    assert report.rows["modalities.image.position.table"] == ("fitted", "positions, sincos 3x4 -> learned 3x4")


def test_a_fine_tuned_run_can_be_fine_tuned_again(make_run, tmp_path):
    path = checkpoint.latest(make_run())
    config = checkpoint.read_config(path)
    model = MAE(config, decodes=False)
    tensors = {"model": {f"backbone.{name}": value for name, value in model.state_dict().items()}}
    again = commit.save(tmp_path / "again" / "checkpoints", 3, config, tensors, {})
    load_backbone(model, starting(config, again))
    assert checkpoint.load_run(tmp_path / "again").model.decoder is None
