"""One step against what it should be, written out: weights of losses, clipping, accumulation, and fp16's scale."""

import copy

import pytest
import torch

from mae_ext.config import parse_config
from mae_ext.data.sample import Batch
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.optim import adamw
from mae_ext.engine.step import MAX_SKIPPED, NonFinite, Objective, Step
from mae_ext.model.mae import MAE
from mae_ext.rng import rng

CPU = Ranks(0, 1, torch.device("cpu"))


def make(train=None, weights=(1.0,), drop_path=0.0, **more):
    image = {"size": [8, 12], "patch": [4, 4], "batch": 4}
    config = parse_config(
        {
            "modalities": {f"m{i}": image | {"weight": w} for i, w in enumerate(weights)},
            "model": {
                "width": 24, "depth": 2, "heads": 2, "drop_path": drop_path,
                "decoder": {"width": 16, "depth": 1, "heads": 2},
            },
            "train": {"steps": 10, "precision": "fp32", "lr": 1e-2, "lr_per": None} | (train or {}),
        }
    )  # fmt: skip
    model = MAE(config).train()
    optimizer = adamw(model, config.train)
    scaler = torch.amp.GradScaler("cpu", enabled=config.train.precision == "fp16")
    step = Step(config, model, Objective(model, config), optimizer, scaler, CPU, **more)
    batches = {}
    for i, name in enumerate(config.modalities):
        x = torch.rand(4, 3, 8, 12, generator=rng(0, "x", i))
        batches[name] = Batch(x, model.modality(name).draw_mask([rng(0, "mask", i, row) for row in range(4)]))
    return step, batches


def gradients(step, batches):
    """Of the loss as the design has it: the weighted sum of the modalities' losses, without any of the engine."""
    model = copy.deepcopy(step.model)
    losses = [model(b.x, b.mask, name) for name, b in batches.items()]
    sum(m.weight * loss for m, loss in zip(step.config.modalities.values(), losses, strict=True)).backward()
    return [loss.item() for loss in losses], {n: p.grad for n, p in model.named_parameters()}


def seen(step, batches):
    """The gradients that reach the optimiser, and what the step returned."""
    found = {}

    def look(optimizer, arguments, keywords):
        found.update({n: p.grad.clone() for n, p in step.model.named_parameters() if p.grad is not None})

    handle = step.optimizer.register_step_pre_hook(look)
    taken = step(0, batches, 1e-3, False)
    handle.remove()
    return found, taken


def test_the_loss_of_several_modalities_is_their_weighted_sum():
    step, batches = make(weights=(0.25, 3.0))
    losses, expected = gradients(step, batches)
    found, taken = seen(step, batches)
    assert taken.losses == pytest.approx(losses, rel=1e-5)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=1e-6), name
    norm = torch.stack([g.square().sum() for g in expected.values()]).sum().sqrt()
    assert taken.norm == pytest.approx(norm.item(), rel=1e-4)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("share", [0.3, 5.0])
def test_gradients_longer_than_the_limit_are_cut_to_it_and_shorter_ones_are_left(share, accumulate):
    _, expected = gradients(*make())
    norm = torch.stack([g.square().sum() for g in expected.values()]).sum().sqrt().item()
    found, taken = seen(*make({"clip": share * norm, "accumulate": accumulate}))
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient * min(1.0, share), rtol=1e-3, atol=1e-6), name
    assert taken.norm == pytest.approx(norm, rel=1e-4)  # what is logged is the length before the cut


def test_each_layer_learns_at_its_own_rate():
    step, batches = make({"layer_decay": 0.5})
    step(0, batches, 8e-3, False)
    rates = {p: group["lr"] for group in step.optimizer.param_groups for p in group["params"]}
    named = dict(step.model.named_parameters())
    assert rates[named["decoder.mask_token"]] == 8e-3
    assert rates[named["encoder.trunk.blocks.1.attention.out.weight"]] == 4e-3
    assert rates[named["encoder.trunk.blocks.0.attention.out.weight"]] == 2e-3
    assert rates[named["modalities.m0.embed.project.weight"]] == 1e-3


def test_drop_path_draws_a_gate_for_each_sample_of_the_global_batch_whatever_the_rank():
    step, _ = make(drop_path=0.5)
    whole = step._gates("m0", 7, 4)
    assert whole.shape == (2, 2, 4) and (whole[0] == 1).all() and set(whole[1].flatten().tolist()) <= {0.0, 2.0}
    for rank in range(2):
        step.ranks = Ranks(rank, 2, torch.device("cpu"))
        assert torch.equal(step._gates("m0", 7, 2), whole[..., 2 * rank : 2 * rank + 2])
    step.ranks = CPU
    many = torch.stack([step._gates("m0", s, 4) for s in range(40)])
    assert not torch.equal(many[0], many[1]) and 0.35 < (many[:, 1] == 0).float().mean() < 0.65
    step.model.eval()
    assert step._gates("m0", 7, 4) is None


def poisoned(train, bad):
    """A step whose gradients are NaN in the calls that `bad` names, from 0."""
    step, batches = make(train)
    calls = []

    def poison(gradient):
        calls.append(0)
        return gradient * (float("nan") if bad(len(calls) - 1) else 1.0)

    step.model.encoder.class_token.register_hook(poison)
    return step, batches


def test_fp16_skips_an_update_that_overflows_says_so_and_goes_on():
    step, batches = poisoned({"precision": "fp16"}, lambda call: call in (0, 1, 4))
    before = copy.deepcopy(step.model.state_dict())
    taken = [step(s, batches, 1e-3, False) for s in range(2)]
    assert all(torch.equal(before[k], v) for k, v in step.model.state_dict().items()) and step.skipped == 2
    taken += [step(s, batches, 1e-3, False) for s in range(2, 6)]
    assert [t.skipped for t in taken] == [True, True, False, False, True, False]
    assert [t.scale for t in taken] == [65536, 32768, 16384, 16384, 16384, 8192]
    assert step.skipped == 0


def test_fp16_whose_gradients_are_never_finite_stops_once_the_scale_is_one():
    step, batches = poisoned({"precision": "fp16"}, lambda call: True)
    for s in range(16):
        assert step(s, batches, 1e-3, False).skipped
    with pytest.raises(NonFinite, match=r"skipped 17 updates in a row and is down to a scale of 1,") as caught:
        step(16, batches, 1e-3, False)
    record = caught.value.record
    assert (record["skipped_in_a_row"], record["loss_scale"], record["step"]) == (17, 1.0, 16)
    assert record["nonfinite_gradients"] == ["encoder.class_token"]


def test_fp16_stops_after_so_many_skipped_updates_in_a_row_however_large_the_scale_is():
    step, batches = poisoned({"precision": "fp16"}, lambda call: call > 0)
    step(0, batches, 1e-3, False)
    step.scaler.update(2.0**40)
    for s in range(1, MAX_SKIPPED):
        assert step(s, batches, 1e-3, False).skipped
    with pytest.raises(NonFinite, match=f"skipped {MAX_SKIPPED} updates in a row"):
        step(MAX_SKIPPED, batches, 1e-3, False)


def test_without_fp16_the_first_gradient_that_is_not_finite_is_the_last():
    step, batches = poisoned({}, lambda call: call == 1)
    assert step(0, batches, 1e-3, False)[2:] == (False, False, 1.0)
    with pytest.raises(NonFinite):
        step(1, batches, 1e-3, False)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_loss_that_is_not_finite_ends_the_run_at_once_and_is_no_matter_of_the_scale(precision):
    step, batches = make({"precision": precision})
    batches["m0"].x[0, 0, 0, 0] = float("inf")
    before = copy.deepcopy(step.model.state_dict())
    with pytest.raises(NonFinite) as caught:
        step(0, batches, 1e-3, False)
    assert "loss_scale" not in caught.value.record and caught.value.record["losses"].keys() == {"m0"}
    assert all(torch.equal(before[k], v) for k, v in step.model.state_dict().items())


def test_news_are_heard_before_anything_is_updated_and_only_when_there_are_any():
    def stop():
        raise RuntimeError("heard")

    step, batches = make(on_news=stop)
    before = copy.deepcopy(step.model.state_dict())
    with pytest.raises(RuntimeError, match="heard"):
        step(0, batches, 1e-3, False, news=True)
    assert all(torch.equal(before[k], v) for k, v in step.model.state_dict().items())
    step.optimizer.zero_grad()
    assert step(0, batches, 1e-3, True).stopping and not step(1, batches, 1e-3, False).stopping
