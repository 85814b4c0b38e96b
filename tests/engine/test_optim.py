"""Parameter groups, the optimiser, and a learning rate that depends on the step and on nothing else."""

from math import cos, pi

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ext.config import parse_config
from mae_ext.engine.optim import Schedule, adamw, parameter_groups, peak_lr, rising
from mae_ext.model.mae import MAE


def config(train=None, **modalities):
    image = {"size": [16, 16], "patch": [8, 8], "batch": 4}
    return parse_config(
        {
            "modalities": {name: image | m for name, m in (modalities or {"image": {}}).items()},
            "model": {"width": 24, "depth": 2, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}},
            "train": {"steps": 100} | (train or {}),
        }
    )


@pytest.mark.parametrize("position", ["sincos", "learned", "separable"])
def test_matrices_decay_and_biases_norms_tokens_and_positions_do_not(position):
    model = MAE(config(image={"position": position}))
    decayed, free = parameter_groups(model, 0.05)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed_names, free_names = ({names[id(p)] for p in group["params"]} for group in (decayed, free))
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0)
    assert not decayed_names & free_names and decayed_names | free_names == set(names.values())
    linear = {f"{n}.weight" for n, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert decayed_names == linear
    assert {"encoder.class_token", "decoder.mask_token", "encoder.trunk.norm.weight"} <= free_names
    tables = {name for name in names.values() if "position" in name}
    assert tables <= free_names and bool(tables) == (position != "sincos")


def test_frozen_parameters_are_in_no_group():
    model = MAE(config())
    model.encoder.requires_grad_(False)
    grouped = [p for group in parameter_groups(model, 0.05) for p in group["params"]]
    assert len(grouped) == sum(p.requires_grad for p in model.parameters())


def test_the_optimiser_is_adamw_to_the_letter():
    """Against the update rule written out (1711.05101), over three steps; its moments are made ahead of the first."""
    model = torch.nn.Linear(5, 3)
    settings = config({"lr": 0.01, "betas": [0.8, 0.9], "weight_decay": 0.3}).train
    optimizer = adamw(model, settings)
    expected = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    m = {name: torch.zeros_like(p) for name, p in expected.items()}
    v = {name: torch.zeros_like(p) for name, p in expected.items()}
    g = torch.Generator().manual_seed(0)
    for t in (1, 2, 3):
        for name, p in model.named_parameters():
            p.grad = torch.randn(p.shape, generator=g)
            m[name] = 0.8 * m[name] + 0.2 * p.grad
            v[name] = 0.9 * v[name] + 0.1 * p.grad.double() ** 2
            decay = 0.3 if name == "weight" else 0.0
            step = (m[name] / (1 - 0.8**t)) / ((v[name] / (1 - 0.9**t)).sqrt() + 1e-8)
            expected[name] -= 0.01 * decay * expected[name] + 0.01 * step
        optimizer.step()
    for name, p in model.named_parameters():
        assert torch.allclose(p.double(), expected[name], atol=1e-6)


def test_the_peak_is_the_base_rate_per_256_samples_of_everything_in_a_step():
    assert peak_lr(config({"lr": 1.5e-4}, image={"batch": 4096})) == pytest.approx(2.4e-3)
    assert peak_lr(config({"lr": 1e-3}, image={"batch": 64}, clip={"batch": 192})) == pytest.approx(1e-3)
    assert peak_lr(config({"lr": 1e-3, "lr_per": 64, "accumulate": 2}, image={"batch": 128})) == pytest.approx(2e-3)
    assert peak_lr(config({"lr": 1e-3, "lr_per": None}, image={"batch": 4096})) == 1e-3


def test_a_floor_above_the_peak_is_said_with_both_numbers():
    """VideoMAE's recipe has a floor of 8e-5 for 2048 samples; with 64 the peak is below it."""
    spec = {"lr": 1.5e-4, "min_lr": 8e-5}
    assert rising(config(spec, image={"batch": 2048})) is None
    assert "min_lr=8e-05 is above the learning rate at its peak, 3.75e-05 with 64" in rising(
        config(spec, image={"batch": 64})
    )


def test_the_rate_rises_in_a_line_and_falls_in_half_a_cosine():
    schedule = Schedule(steps=110, warmup=10, peak=1.0, floor=0.1)
    rates = [schedule.lr(step) for step in range(111)]
    assert rates[:11] == pytest.approx([step / 10 for step in range(11)])
    assert rates[10] == 1.0 and rates[60] == pytest.approx(0.55) and rates[110] == pytest.approx(0.1)
    assert rates[35] == pytest.approx(0.1 + 0.9 * (1 + cos(pi / 4)) / 2)
    assert schedule.lr(10_000) == pytest.approx(0.1)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 50), st.integers(1, 200), st.floats(0, 1, allow_subnormal=False), st.integers(0, 300))
def test_the_rate_never_leaves_its_bounds_and_never_rises_after_the_warm_up(warmup, total, floor, step):
    schedule = Schedule(total, warmup, 1.0, floor)
    now, later = schedule.lr(step), schedule.lr(step + 1)
    assert 0 <= now <= 1
    assert later >= now if step < warmup else later <= now + 1e-12
    if step >= warmup:
        assert now >= floor - 1e-12
    assert now == Schedule(total, warmup, 1.0, floor).lr(step)


def test_without_warm_up_the_first_step_is_at_the_peak():
    assert Schedule(10, 0, 0.3, 0.0).lr(0) == 0.3
    assert Schedule(1, 0, 0.3, 0.0).lr(0) == 0.3


def test_epochs_become_steps_by_the_samples_of_the_first_modality():
    train = {"steps": None, "epochs": 3, "warmup_epochs": 0.5}
    assert Schedule.of(config(train, image={"batch": 8}), 100) == Schedule(38, 6, 1.5e-4 * 8 / 256, 0.0)
    few = config({"steps": 7, "warmup_steps": 2, "min_lr": 1e-6})
    assert Schedule.of(few, 100) == Schedule(7, 2, 1.5e-4 / 64, 1e-6)
    assert Schedule.of(config({"steps": None, "epochs": 0.001}), 100) == Schedule(1, 0, 1.5e-4 / 64, 0.0)
