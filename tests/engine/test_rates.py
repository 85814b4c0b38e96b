"""A pretrained encoder's own rates: a share of the rest's, none until it thaws, others where nothing was loaded."""

import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from engine.test_step import CPU, take
from faults.kills import trajectory

from mae_ext.cli import run
from mae_ext.config import load_config, parse_config
from mae_ext.data.batch import Batch
from mae_ext.engine.checkpoint import latest, read_tensors
from mae_ext.engine.meaning import remarks
from mae_ext.engine.optim import Schedule, encoder_of
from mae_ext.engine.run import assembled
from mae_ext.engine.start_config import with_start
from mae_ext.engine.step import Step
from mae_ext.engine.task import build_model
from mae_ext.errors import ConfigError
from mae_ext.rng import rng


def config(train=None, task="pretrain"):
    image = {"size": [8, 8], "patch": [4, 4], "batch": 2, "data": {"statistics": "imagenet"}}
    model = {"width": 24, "depth": 2, "heads": 2, "drop_path": 0.0}
    model["decoder"] = {"width": 16, "depth": 1, "heads": 2}
    values = {"modalities": {"image": image}, "model": model, "task": task}
    return parse_config(values | {"train": {"steps": 20, "precision": "fp32", "warmup_steps": 4} | (train or {})})


def stepping(train=None, spare=True):
    made = assembled(config({"lr": 1e-2, "lr_per": None} | (train or {})), {}, CPU)
    return Step(replace(made, schedule=replace(Schedule.of(made.config, 20), spare=spare)))


def batch(step, number):
    mask = step.run.model.modality("image").draw_mask([rng(number, row) for row in range(2)])
    return {"image": Batch(torch.rand(2, 3, 8, 8, generator=rng("x", number)), mask)}


def rates(step):
    rate = {id(p): group["lr"] for group in step.run.optimizer.param_groups for p in group["params"]}
    return {name: rate[id(p)] for name, p in step.run.model.named_parameters()}


HEAD, EMBED, FIRST, NORM = (
    "decoder.mask_token", "modalities.image.embed.project.weight", "encoder.trunk.blocks.0.attention.out.weight",
    "encoder.trunk.norm.weight",
)  # fmt: skip
CASES = [
    # train, step, (decoder, embedding, first block, last norm) in shares of the rate of that step
    ({}, 4, (1, 1, 1, 1)),
    ({"encoder_lr": 0.1}, 4, (1, 0.1, 0.1, 0.1)),
    ({"encoder_lr": 0.1, "layer_decay": 0.5}, 4, (1, 0.0125, 0.025, 0.1)),
    ({"thaw": 8}, 0, (1, 0, 0, 0)),
    ({"thaw": 8}, 7, (1, 0, 0, 0)),
    ({"thaw": 8}, 8, (1, 0, 0, 0)),
    ({"thaw": 8}, 9, (1, 0.25, 0.25, 0.25)),
    ({"thaw": 8}, 11, (1, 0.75, 0.75, 0.75)),
    ({"thaw": 8}, 12, (1, 1, 1, 1)),
    ({"thaw": 8}, 19, (1, 1, 1, 1)),
    ({"thaw": 0.4}, 9, (1, 0.25, 0.25, 0.25)),
    ({"thaw": [8, 0]}, 7, (1, 0, 0, 0)),
    ({"thaw": [8, 0]}, 8, (1, 1, 1, 1)),
    ({"thaw": [8, 0.1]}, 9, (1, 0.5, 0.5, 0.5)),
    ({"thaw": 8, "encoder_lr": 0.1, "layer_decay": 0.5}, 10, (1, 0.00625, 0.0125, 0.05)),
]


@pytest.mark.parametrize(("train", "number", "shares"), CASES)
def test_each_part_learns_at_its_share_of_the_rate_of_a_step(train, number, shares):
    step = stepping(train)
    step.run.schedule.set(step.run.optimizer, number)
    found = rates(step)
    whole = step.run.schedule.lr(number)
    assert [found[name] for name in (HEAD, EMBED, FIRST, NORM)] == pytest.approx([share * whole for share in shares])


@pytest.mark.parametrize("spare", [True, False])
def test_an_encoder_that_stands_still_keeps_every_bit_and_its_moments_begin_when_it_thaws(spare):
    step = stepping({"thaw": [3, 2], "clip": 0.1, "weight_decay": 0.5, "warmup_steps": 0}, spare)
    model, state = step.run.model, step.run.optimizer.state
    own = encoder_of(model)
    assert {EMBED, FIRST, NORM, "encoder.class_token"} <= own and not any(name.startswith("decoder") for name in own)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for number in range(4):
        take(step, number, batch(step, number))  # of the fourth the rate is 0, and the moments are not
        for name, p in model.named_parameters():
            assert torch.equal(p, before[name]) == (name in own), (number, name)
            counted = number - 2 if name in own and number > 2 else 0 if name in own else number + 1
            assert state[p]["step"] == counted and bool(state[p]["exp_avg"].any()) == (counted > 0), (number, name)
    take(step, 4, batch(step, 4))
    assert not any(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_gradients_that_are_not_asked_for_are_not_computed_and_all_else_is_the_same_to_the_bit():
    ends = {}
    for spare in (True, False):
        step = stepping({"thaw": 2, "clip": 0.1}, spare)
        norms = [take(step, n, batch(step, n)).norm for n in range(7)]
        ends[spare] = norms, {name: p.detach().clone() for name, p in step.run.model.named_parameters()}
        step.run.schedule.set(step.run.optimizer, 0)
        assert step.run.model.get_parameter(FIRST).requires_grad != spare
        assert step.run.model.get_parameter(HEAD).requires_grad
    assert ends[True][0] == ends[False][0]
    assert all(torch.equal(ends[True][1][name], p) for name, p in ends[False][1].items())


def test_a_head_learns_alone_and_then_with_its_encoder_and_a_run_goes_on_across_the_thaw(tiny, striped, tmp_path):
    start = tmp_path / "start"
    assert run(["pretrain", str(tiny({"train.steps": 2, "train.warmup_steps": 0})), "--data", str(striped / "train"),
                "--out", str(start)]) == 0  # fmt: skip
    values = {"task": "classify", "train.thaw": 4, "train.encoder_lr": 0.5, "train.steps": 8, "train.save_every": 2}
    tuned = tiny(values | {"train.warmup_steps": 2, "train.keep": 9}, "tuned")
    command = ["finetune", str(tuned), "--init", str(start), "--data", str(striped / "train"), "--out"]
    assert run([*command, str(tmp_path / "whole")]) == 0
    pretrained = read_tensors(latest(start, print) / "model.safetensors")
    for at, moved in ((2, False), (4, False), (6, True)):
        weights = read_tensors(tmp_path / "whole" / "checkpoints" / f"step-0000000{at}" / "model.safetensors")
        name = "encoder.trunk.blocks.0.attention.out.weight"
        assert torch.equal(weights[f"backbone.{name}"], pretrained[name]) != moved
    out = shutil.copytree(tmp_path / "whole", tmp_path / "again")
    for at in (4, 6, 8):
        shutil.rmtree(out / "checkpoints" / f"step-0000000{at}")
    assert run([*command, str(out)]) == 0
    assert trajectory(out) == trajectory(tmp_path / "whole")
    for file in ("model.safetensors", "optimizer.safetensors"):
        one, other = (read_tensors(latest(folder, print) / file) for folder in (tmp_path / "whole", out))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({"thaw": 5, "freeze": "encoder"}, "thaw=5 lets no encoder learn: freeze=encoder"),
        ({"encoder_lr": 0.1, "freeze": "encoder"}, "encoder_lr=0.1 has no rate to change: freeze=encoder"),
        ({"encoder_lr": 0}, "train.encoder_lr: Input should be greater than 0"),
        ({"thaw": 2.5}, "train.thaw: expected steps (50), a share of the run below 1 (0.2), or two such numbers"),
        ({"thaw": -1}, "train.thaw: expected steps"),
        ({"thaw": [1, 2, 3]}, "train.thaw: expected steps"),
        ({"thaw": "half"}, "train.thaw: expected steps"),
        ({"scratch": {"layerdecay": 1}}, "scratch: layerdecay: no such key of train"),
        ({"scratch": {"layer_decay": 2}}, "scratch: layer_decay: Input should be less than or equal to 1"),
        ({"scratch": {"epochs": 2}}, "scratch: give epochs or steps, not both"),
    ],
)
def test_rates_that_mean_nothing_are_refused_by_name(train, told):
    with pytest.raises(ConfigError) as refused:
        config(train)
    assert told in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({"encoder_lr": 0.1}, "train.encoder_lr=0.1 holds an encoder back that has learned nothing: init is none"),
        ({"thaw": 0.2}, "train.thaw=0.2 holds an encoder back that has learned nothing: init is none"),
        ({"thaw": [0.5, 3]}, "train.thaw=[0.5, 3] holds an encoder back"),
        ({"thaw": 20}, "train.thaw=20 is no shorter than the run, of 20 steps: the encoder never learns"),
    ],
)
def test_an_encoder_that_is_held_back_and_should_not_be_is_said(train, told):
    assert any(told in sentence for sentence in remarks(config(train, "classify"), 20, 4))


def test_from_scratch_a_recipe_has_the_rates_that_it_states_for_that_and_from_a_start_the_others(tiny, tmp_path):
    train = {"train.layer_decay": 0.5, "train.thaw": 4, "train.scratch": {"layer_decay": 1, "thaw": 0, "lr": 0.02}}
    file = tiny({"task": "classify", **train})
    start = tmp_path / "run"
    values = yaml.safe_load(file.read_text())
    alone = with_start(values, "c", "none")
    assert (alone.train.layer_decay, alone.train.thaw, alone.train.lr, alone.train.scratch) == (1, 0, 0.02, {})
    started = parse_config({**values, "init": str(start)})
    assert (started.train.layer_decay, started.train.thaw, started.train.lr) == (0.5, 4, 0.01)
    assert parse_config(alone.model_dump(mode="json")) == alone
    told = load_config(file, ["train.layer_decay=0.7", "train.scratch.lr=0.03"]).train
    assert (told.layer_decay, told.thaw, told.lr) == (0.7, 0, 0.03)  # what a command says holds whatever it starts from


def test_a_decoder_inside_of_a_backbone_is_none_of_the_encoder():
    task = torch.nn.Module()
    task.backbone, task.encoder = build_model(config()), torch.nn.Linear(2, 2)
    own = encoder_of(task)
    assert {f"backbone.{name}" for name in (EMBED, FIRST, NORM)} <= own
    assert not {name for name in own if "decoder" in name or "predict" in name or not name.startswith("backbone.")}
