"""Optimisers by name: what each does to a weight, what a checkpoint keeps of it, what a bad step leaves alone."""

import shutil

import pytest
import torch
from engine.test_rates import batch, config, stepping
from engine.test_step import take
from faults.kills import trajectory

from mae_ext.cli import run
from mae_ext.engine.checkpoint import read_tensors
from mae_ext.engine.estimate import describe
from mae_ext.engine.meaning import remarks
from mae_ext.engine.optimizers import moments_of, optimizer_of
from mae_ext.engine.resume import optimizer_tensors
from mae_ext.engine.task import build_model
from mae_ext.errors import ConfigError, NonFinite, UserError

INNER, BIAS, EMBED = (
    "encoder.trunk.blocks.0.attention.out.weight", "encoder.trunk.blocks.0.attention.out.bias",
    "modalities.image.embed.project.weight",
)  # fmt: skip


@pytest.fixture
def lion():
    pytest.importorskip("lion_pytorch")


def moved(train):
    """Weights by name before and after one step at a rate of 0.01 with a decay of 0.5, and its gradients, of which
    those of matrices have singular values from 1 to 3."""
    run = stepping({"weight_decay": 0.5, "warmup_steps": 0, **train}).run
    named, g = dict(run.model.named_parameters()), torch.Generator().manual_seed(0)
    before = {name: p.detach().clone() for name, p in named.items()}
    for p in named.values():
        p.grad = torch.randn(p.shape, generator=g)
        if p.ndim == 2:
            u, s, v = torch.linalg.svd(p.grad, full_matrices=False)
            p.grad = u @ torch.diag(torch.linspace(1, 3, len(s))) @ v
    run.schedule.set(run.optimizer, 0)
    run.optimizer.step()
    return before, {name: p.detach() for name, p in named.items()}, {name: p.grad for name, p in named.items()}


@pytest.mark.usefixtures("lion")
def test_lion_moves_each_weight_by_the_rate_in_the_sign_of_its_gradient():
    before, after, gradients = moved({"optimizer": "lion", "betas": [0.9, 0.99]})
    for name in (INNER, BIAS, EMBED):
        decay = 0.0 if name == BIAS else 0.01 * 0.5
        expected = before[name] * (1 - decay) - 0.01 * gradients[name].sign()
        assert torch.allclose(after[name], expected, atol=1e-7), name


def test_muon_turns_the_matrices_of_blocks_by_all_their_directions_alike_and_leaves_the_rest_to_adamw():
    before, after, gradients = moved({"optimizer": "muon"})
    step = (after[INNER] - before[INNER] * (1 - 0.01 * 0.5)) / -(0.01 * 0.2 * 24**0.5)
    u, _, v = torch.linalg.svd(gradients[INNER])
    # Five rounds of Newton and Schulz in bf16 leave singular values between 0.7 and 1.2 of them.
    assert torch.linalg.svdvals(step).sub(1).abs().max() < 0.35
    assert torch.nn.functional.cosine_similarity(step.flatten(), (u @ v).flatten(), 0) > 0.98
    other = moved({"optimizer": "adamw"})[1]
    assert all(torch.equal(after[name], other[name]) for name in (BIAS, EMBED))
    assert not torch.equal(after[INNER], other[INNER])


@pytest.mark.parametrize("name", ["lion", "muon"])
def test_a_step_that_is_not_finite_changes_no_weight_and_no_moment_whatever_the_optimiser(name):
    if name == "lion":
        pytest.importorskip("lion_pytorch")
    step = stepping({"optimizer": name, "warmup_steps": 0})
    take(step, 0, batch(step, 0))
    tensors = {**dict(step.run.model.named_parameters()), **optimizer_tensors(step.run.model, step.run.optimizer)}
    before = {key: value.detach().clone() for key, value in tensors.items()}
    broken = batch(step, 1)
    broken["image"].x.fill_(float("nan"))
    with pytest.raises(NonFinite):
        take(step, 1, broken)
    assert all(torch.equal(value, before[key]) for key, value in tensors.items())


@pytest.mark.parametrize(("name", "each"), [("adamw", 2), ("lion", 1), ("muon", None)])
def test_the_state_is_there_before_the_first_step_and_is_what_a_plan_counts(name, each):
    if name == "lion":
        pytest.importorskip("lion_pytorch")
    made = config({"optimizer": name})
    model = build_model(made)
    tensors = optimizer_tensors(model, optimizer_of(model, made.train))
    assert {key.partition("/")[2] for key in tensors} == {n for n, _ in model.named_parameters()}
    counted = sum(tensor.numel() for key, tensor in tensors.items() if not key.startswith("step/"))
    assert moments_of(model, name) == counted
    weights = sum(p.numel() for p in model.parameters())
    if each is None:
        inner = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and ".blocks." in n)
        assert counted == 2 * weights - inner and 0.5 < inner / weights < 1
    else:
        assert counted == each * weights
    assert f"about {(8 * weights + 4 * counted) / 2**30:.2f} GiB" in describe(made, {})


@pytest.mark.parametrize("name", ["lion", "muon"])
def test_a_run_goes_on_to_the_same_bits_across_the_thaw_with_each_optimiser(tiny, photos, tmp_path, capfd, name):
    if name == "lion":
        pytest.importorskip("lion_pytorch")
    values = {"train.optimizer": name, "train.thaw": 4, "train.steps": 6, "train.save_every": 3}
    file = tiny(values | {"train.warmup_steps": 2, "train.lr": 1e-3, "train.lr_per": None, "train.accumulate": 2})
    command = ["pretrain", str(file), "--data", str(photos), "--out"]
    assert run([*command, str(tmp_path / "whole")]) == 0
    out, newest = shutil.copytree(tmp_path / "whole", tmp_path / "again"), "checkpoints/step-00000006"
    shutil.rmtree(out / newest)  # so that it goes on from 3, where the encoder has not learned yet
    assert run([*command, str(out)]) == 0
    assert trajectory(out) == trajectory(tmp_path / "whole")
    for part in ("model.safetensors", "optimizer.safetensors"):
        one, other = (read_tensors(folder / newest / part) for folder in (tmp_path / "whole", out))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one), part
    if name == "muon":
        shutil.rmtree(out / newest)
        capfd.readouterr()
        assert run([*command, str(out), "--set", "train.optimizer=adamw"]) == 2
        assert "train.optimizer: muon -> adamw" in capfd.readouterr().err
        assert run([*command, str(out), "--set", "train.optimizer=adamw", "--allow-change"]) == 2
        assert "has the moments of train.optimizer=muon, which are none of adamw" in capfd.readouterr().err


def test_lion_without_its_package_and_muon_in_shares_and_names_of_none_are_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lion_pytorch", None)
    made = config({"optimizer": "lion"})
    with pytest.raises(UserError, match=r"'lion-pytorch' is not installed: pip install 'mae-ext\[lion\]'"):
        optimizer_of(build_model(made), made.train)
    with pytest.raises(ConfigError, match="optimizer=muon needs whole matrices, of which parallel=fsdp leaves a rank"):
        config({"optimizer": "muon", "parallel": "fsdp"})
    with pytest.raises(ConfigError, match=r"train\.optimizer: Input should be 'adamw', 'lion' or 'muon'"):
        config({"optimizer": "sgd"})
    still = config({"optimizer": "muon", "freeze": "encoder"}, "classify")
    assert any("train.freeze=encoder leaves none" in sentence for sentence in remarks(still, 20, 4))
