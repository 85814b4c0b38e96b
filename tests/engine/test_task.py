"""The engine trains whatever keeps the task contract, and learns nothing else of it."""

import shutil

import pytest
import torch

from mae_ext.config import parse_config
from mae_ext.engine.checkpoint import load_run
from mae_ext.engine.optim import depth_of, freeze, layer_of, parameter_groups
from mae_ext.engine.pretrain import Pretraining
from mae_ext.engine.task import build_model, task_of
from mae_ext.engine.train import train
from mae_ext.errors import ConfigError
from mae_ext.model.mae import MAE
from mae_ext.overrides import configured


class Headed(torch.nn.Module):
    """What a task's model looks like to the engine."""

    def __init__(self, config):
        super().__init__()
        self.backbone = MAE(config, decodes=False)
        self.head = torch.nn.Linear(config.model.width, 3)


@pytest.fixture
def config(make_config):
    return make_config(position="learned")


@pytest.fixture
def model(config):
    return Headed(config)


def test_a_config_without_a_task_pretrains(config):
    assert config.task.name == "pretrain"
    assert isinstance(task_of(config), Pretraining)
    built, direct = build_model(config).state_dict(), MAE.from_config(config).state_dict()
    assert built.keys() == direct.keys() and all(torch.equal(built[key], direct[key]) for key in built)


def test_an_unknown_task_is_refused_with_those_there_are(config):
    with pytest.raises(ConfigError, match=r"task: unknown task 'pretrian', did you mean 'pretrain'\?"):
        parse_config(config.model_dump(mode="json") | {"task": "pretrian"})


def test_layers_are_numbered_as_beit_and_mae_number_them(model):
    layers = {name: layer_of(name, 2) for name, _ in model.named_parameters()}
    assert {layers[f"backbone.{name}"] for name in ("encoder.class_token", "modalities.image.position.table")} == {0}
    assert {layer for name, layer in layers.items() if ".embed." in name} == {0}
    for block in (0, 1):
        assert {layer for name, layer in layers.items() if f".trunk.blocks.{block}." in name} == {block + 1}
    assert layers["backbone.encoder.trunk.norm.weight"] == layers["head.weight"] == 3
    assert depth_of(model) == 2


def test_layer_decay_scales_the_rate_of_each_layer_and_1_changes_no_group(model):
    groups = parameter_groups(model, 0.05, 0.5)
    named = {id(p): name for name, p in model.named_parameters()}
    for group in groups:
        for parameter in group["params"]:
            assert group["scale"] == 0.5 ** (3 - layer_of(named[id(parameter)], 2))
    assert sum(len(group["params"]) for group in groups) == len(named)
    plain = parameter_groups(model, 0.05)
    assert len(plain) == 2 and {group["scale"] for group in plain} == {1.0}


@pytest.mark.parametrize(("what", "left"), [("none", {0, 1, 2, 3}), (1, {2, 3}), (2, {3}), ("encoder", {3})])
def test_freezing_takes_the_embedding_and_the_first_blocks(model, what, left):
    freeze(model, what)
    assert {layer_of(name, 2) for name, p in model.named_parameters() if p.requires_grad} == left
    assert model.backbone.encoder.trunk.norm.weight.requires_grad == (what != "encoder")
    assert model.head.weight.requires_grad


FROZEN = ("encoder.", "modalities.image.embed.", "modalities.image.position.")
FIRST = ("encoder.class_token", "encoder.trunk.blocks.0.", *FROZEN[1:])


@pytest.mark.parametrize(("what", "frozen"), [("none", ()), (1, FIRST), ("encoder", FROZEN)])
def test_of_a_model_that_pretrains_the_same_is_frozen_and_the_decoder_learns(config, what, frozen):
    model = MAE(config)
    freeze(model, what)
    kept = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert kept == {name for name, _ in model.named_parameters() if name.startswith(frozen)} and bool(kept) == bool(
        frozen
    )
    assert model.modality().predict.weight.requires_grad and model.decoder.trunk.blocks[0].norm1.weight.requires_grad


@pytest.mark.parametrize("what", ["encoder", 1])
def test_pretraining_leaves_what_is_frozen_as_it_was_and_goes_on_so(tiny, photos, tmp_path, what):
    values = {
        "train.steps": 4,
        "train.warmup_steps": 0,
        "train.save_every": 2,
        "train.freeze": what,
        "train.layer_decay": 0.5,
    }
    config = configured(str(tiny(values)), str(photos), None)
    run, before = train(config, tmp_path / "run"), MAE(config).state_dict()
    after = load_run(run).model.state_dict()
    same = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    weights = {name for name, _ in MAE(config).named_parameters()}
    assert same & weights == {name for name in weights if name.startswith(FROZEN if what == "encoder" else FIRST)}
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    again = load_run(train(config, run)).model.state_dict()
    assert all(torch.equal(again[name], after[name]) for name in after)


def test_more_frozen_blocks_than_there_are_is_an_error(model):
    with pytest.raises(ConfigError, match=r"train\.freeze=3: the encoder has 2 blocks"):
        freeze(model, 3)


def test_an_encoder_alone_has_nothing_of_a_decoder_and_says_so(config):
    model = MAE(config, decodes=False)
    assert not [name for name in model.state_dict() if "decoder" in name or "predict" in name]
    x = torch.zeros(1, 3, 24, 16)
    assert model.encode(x).shape == (1, 12, 24)
    with pytest.raises(ValueError, match="no decoder"):
        model(x, model.modality().draw_mask([torch.Generator()]))
