"""Reconstruction beside labels: pretraining's masks and loss, a second stream, and a decoder that nothing else sees."""

import math
import shutil

import pytest
import torch
from engine.test_distributed import start_ranks, wait_for
from faults.kills import trajectory

from mae_ext.data.loading.batches import ModalityData
from mae_ext.engine import checkpoint, commit
from mae_ext.engine.optim import freeze
from mae_ext.engine.start import opened
from mae_ext.engine.task import build_model, task_of
from mae_ext.engine.train import train
from mae_ext.errors import ConfigError, UserError
from mae_ext.export.subject import subject_of
from mae_ext.features.encoder import load_encoder
from mae_ext.model.mae import MAE
from mae_ext.tasks.reconstruction import Reconstruction

TASKS = ("classify", "detect", "segment")
every_task = pytest.mark.parametrize("task", TASKS)
EXTRA = "image_unlabelled"


@pytest.fixture
def both(make, labelled):
    """A config of a task with reconstruction, and with the training pictures as samples without labels."""

    def config(task, also=None, **more):
        beside = {"reconstruct": 0.1, "unlabelled": str(labelled / "train"), "unlabelled_batch": 4}
        return make(task, also=beside | (also or {}), **more)

    return config


def settled(config, rank=0, world=1):
    task = task_of(config)
    data = task.data(config, rank, world)
    return task, task.settle(config, data, None), data


@every_task
def test_masks_beside_labels_are_those_that_pretraining_draws(make, task):
    config = make(task, also={"reconstruct": 0.5})
    _, _, data = settled(config)
    plain = ModalityData(config.seed, "image", config.modalities["image"])
    assert list(data) == ["image"]
    for step in (0, 3):
        ours, theirs = data["image"].batch(step).mask, plain.batch(step).mask
        assert torch.equal(ours.keep, theirs.keep) and torch.equal(ours.pred, theirs.pred)
        (second,) = data["image"].batch(step, 1, 2).mask.keep
        assert torch.equal(second, theirs.keep[1])
    assert settled(make(task))[2]["image"].batch(0).mask is None


@every_task
def test_the_loss_is_that_of_labels_and_the_weight_times_pretrainings_and_every_weight_learns(both, make, task):
    """So ranks wait for no gradient that never comes."""
    judge, config, data = settled(both(task))
    model, batch = build_model(config), data["image"].batch(0).in_units()
    loss = judge.loss(model, "image", batch)
    hidden = model.backbone(batch.x, batch.mask, "image", batch.valid)
    labels = task_of(settled(make(task))[1]).loss(model, "image", batch)
    torch.testing.assert_close(loss, labels + 0.1 * hidden)
    extra = data[EXTRA].batch(0).in_units()
    beside = judge.loss(model, EXTRA, extra)
    torch.testing.assert_close(beside, 0.1 * model.backbone(extra.x, extra.mask, "image", extra.valid))
    loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_samples_without_labels_are_a_stream_of_their_own_that_does_not_depend_on_ranks(both):
    _, _, data = settled(both("classify"))
    extra = data[EXTRA]
    assert (extra.plan.batch, len(extra.items), extra.examples, extra.held_out) == (4, 4, None, None)
    whole = extra.batch(5)
    assert not whole.targets and len(whole.x) == 4
    shares = [settled(both("classify"), rank, 2)[2][EXTRA].batch(5) for rank in (0, 1)]
    assert torch.equal(whole.x, torch.cat([share.x for share in shares]))
    assert torch.equal(whole.mask.keep, torch.cat([share.mask.keep for share in shares]))
    assert [key.index for key in extra.plan.keys(0)] != [key.index for key in data["image"].plan.keys(0)] * 2


@every_task
def test_the_mean_loss_of_two_ranks_is_that_of_one(both, task):
    judge, config, data = settled(both(task))
    model = build_model(config)
    with torch.no_grad():
        for name in ("image", EXTRA):
            whole = judge.loss(model, name, data[name].batch(2).in_units())
            each = [
                judge.loss(model, name, settled(both(task), rank, 2)[2][name].batch(2).in_units()) for rank in (0, 1)
            ]
            torch.testing.assert_close(whole, torch.stack(each).mean(), atol=1e-5, rtol=0)


def test_a_run_that_goes_on_is_the_run_that_was_never_stopped(both, tmp_path):
    config = both("segment", steps=4, save_every=2, accumulate=2, test=False, evaluate_every=None)
    out = train(config, tmp_path / "run")
    whole = trajectory(out)
    shutil.rmtree(checkpoint.steps_of(out / "checkpoints")[-1])
    train(config, out)
    assert trajectory(out) == whole and len(whole) == 4
    assert EXTRA in checkpoint.read_state(checkpoint.latest(out))["files"]


def test_what_is_taken_of_a_run_is_its_encoder_and_nothing_of_the_decoder(both, tmp_path):
    out = train(both("classify", steps=1), tmp_path / "run")
    origin = opened(out)
    assert not origin.decodes and not [name for name in origin.weights if "decoder" in name or "predict" in name]
    assert {origin.left["backbone.decoder.mask_token"], origin.left["head.weight"]} == {"the head of a task"}
    assert checkpoint.load_run(out).model.decoder is None
    x = torch.rand(2, 3, 16, 16)
    subject = subject_of(out)
    assert subject.classifier.backbone.decoder is None and "decoder" not in str(list(subject.classifier.state_dict()))
    weights = checkpoint.read_tensors(checkpoint.latest(out) / "model.safetensors")
    whole = build_model(checkpoint.read_config(checkpoint.latest(out))).eval()
    whole.load_state_dict(weights)
    with torch.no_grad():
        assert torch.equal(subject.classifier(x, "image"), whole(x, "image"))
        torch.testing.assert_close(load_encoder(out, device="cpu").encode(x), whole.backbone.encode(x, "image"))


@every_task
def test_the_decoder_is_that_of_a_run_of_pretraining_and_new_after_a_task(both, tmp_path, task):
    _, config, _ = settled(both(task))
    pretrained = MAE(config.model_copy(update={"task": type(config.task)(name="pretrain"), "seed": 9}))
    plain = config.model_copy(update={"task": type(config.task)(name="pretrain")})
    path = commit.save(tmp_path / "run" / "checkpoints", 1, plain, {"model": pretrained.state_dict()}, {})
    model = build_model(config)
    report = task_of(config).start(model, config.model_copy(update={"init": str(path)}))
    weights = pretrained.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.backbone.state_dict().items())
    assert report.count("new") == 0
    encoder = {f"backbone.{name}": value for name, value in MAE(plain, decodes=False).state_dict().items()}
    again = commit.save(tmp_path / "tuned" / "checkpoints", 1, config, {"model": encoder}, {})
    own = build_model(config).backbone.decoder.state_dict()
    report = task_of(config).start(model := build_model(config), config.model_copy(update={"init": str(again)}))
    assert report.rows["decoder.mask_token"] == ("new", "no decoder to start from")
    assert all(torch.equal(value, own[name]) for name, value in model.backbone.decoder.state_dict().items())
    assert torch.equal(model.backbone.encoder.class_token, encoder["backbone.encoder.class_token"])


@every_task
def test_a_frozen_encoder_takes_part_in_no_graph(make, task):
    judge, config, data = settled(make(task))
    model, tokens = build_model(config).train(), []
    freeze(model, "encoder")
    model.backbone.encoder.trunk.norm.register_forward_hook(lambda _, __, out: tokens.append(out))
    judge.loss(model, "image", data["image"].batch(0).in_units()).backward()
    assert tokens and not any(one.requires_grad for one in tokens)
    learning = {name: p.grad is not None for name, p in model.named_parameters()}
    assert all(has == (not name.startswith("backbone.")) for name, has in learning.items())


def test_a_frozen_encoder_does_not_move_and_the_head_does(make, tmp_path):
    config = make("segment", also={"head": "upsample", "features": 4}, freeze="encoder", evaluate_every=None)
    before = build_model(config).state_dict()
    out = train(config, tmp_path / "run")
    after = checkpoint.read_tensors(checkpoint.latest(out) / "model.safetensors")
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    statistics = {"backbone.modalities.image.mean", "backbone.modalities.image.std"}
    assert moved - statistics == {name for name in before if name.startswith("head.")}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((-0.1,), "reconstruct=-0.1: expected the weight of its loss, 0 .off. or more"),
        ((math.nan,), "reconstruct=nan"),
        ((True,), "reconstruct=True"),
        ((0.0, "more"), "unlabelled=more: nothing is learned of it without reconstruct"),
        ((0.1, 3), "unlabelled=3: expected a path"),
        ((0.1, None, 4), "unlabelled_batch=4: expected a whole number of samples, and unlabelled, a path"),
        ((0.1, "more", 0), "unlabelled_batch=0: expected a whole number"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_by_name(arguments, told):
    with pytest.raises(ValueError, match=told):
        Reconstruction(*arguments)


@every_task
def test_keys_that_go_with_no_reconstruction_are_refused_when_a_config_is_read(both, task):
    for keys, told in (({"freeze": "encoder"}, "freeze=encoder keeps as it is"), ({"micro_batch": 2}, "micro_batch")):
        with pytest.raises(ConfigError, match=told):
            both(task, **keys)


@every_task
def test_held_out_samples_among_those_without_labels_are_refused(both, labelled, task):
    with pytest.raises(UserError, match=r"2 files on both sides of the split, in .* and in .*test: "):
        settled(both(task, {"unlabelled": str(labelled)}))
    with pytest.raises(UserError, match=r"unlabelled_batch=3 does not split over 2 ranks with train.accumulate=1"):
        settled(both(task, {"unlabelled_batch": 3}), 0, 2)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_with_everything_on_learn_what_one_process_learns(both, labelled, tmp_path, parallel):
    """pytest -m slow tests/tasks/test_reconstruction.py"""
    config = both(
        "segment", {"head": "upsample", "features": 4}, steps=12, accumulate=1, evaluate_every=None, test=False
    )
    (file := tmp_path / "config.yaml").write_text(config.to_yaml())
    one = trajectory(train(config, tmp_path / "one"))
    more = ("--init", "none", "--set", f"train.parallel={parallel}")
    started = start_ranks(file, labelled / "train", tmp_path / "two", *more, verb="finetune")
    assert wait_for(started, 280) == [0, 0], [log.read_text()[-2000:] for _, log in started]
    two = trajectory(tmp_path / "two")
    assert len(one) == 12
    torch.testing.assert_close(torch.tensor(two), torch.tensor(one), atol=1e-5, rtol=1e-5)
