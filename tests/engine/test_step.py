"""One step against what it should be, written out: weights of losses, clipping, accumulation, and fp16's scale."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from mae_ext.config import parse_config
from mae_ext.data.batch import Batch
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.gate import MAX_SKIPPED
from mae_ext.engine.optim import Schedule
from mae_ext.engine.run import assembled
from mae_ext.engine.step import Step
from mae_ext.errors import NonFinite
from mae_ext.rng import rng

CPU = Ranks(0, 1, torch.device("cpu"))


def make(train=None, weights=(1.0,), drop_path=0.0, ranks=CPU, rate=1e-3, **more):
    image = {"size": [8, 12], "patch": [4, 4], "batch": 4}
    config = parse_config(
        {
            "modalities": {f"m{i}": image | {"weight": w} for i, w in enumerate(weights)},
            "model": {
                "width": 24, "depth": 2, "heads": 2, "drop_path": drop_path,
                "decoder": {"width": 16, "depth": 1, "heads": 2},
            },
            "train": {"steps": 10, "precision": "fp32"} | (train or {}),
        }
    )  # fmt: skip
    run = replace(assembled(config, {}, ranks), schedule=Schedule(10, 0, rate, rate))
    step, batches = Step(run, **more), {}
    for i, name in enumerate(config.modalities):
        x = torch.rand(4, 3, 8, 12, generator=rng(0, "x", i))
        batches[name] = Batch(x, run.model.modality(name).draw_mask([rng(0, "mask", i, row) for row in range(4)]))
    return step, batches


def cut(step, batches):
    """Batches as a loader gives them: the equal parts that they are computed in."""
    count, (rows, *_) = step.run.config.train.accumulate, [len(b.x) for b in batches.values()]
    edges = [part * rows // count for part in range(count + 1)]
    return [{name: b.rows(start, stop) for name, b in batches.items()} for start, stop in pairwise(edges)]


def take(step, number, batches, stop=False, news=False):
    """A step whose answer is read at once."""
    step(number, cut(step, batches), stop, news)
    (taken,) = step.answers(everything=True)
    return taken


def gradients(step, batches):
    """Of the loss as the design has it: the weighted sum of the modalities' losses, without any of the engine."""
    model = copy.deepcopy(step.run.model)
    losses = [model(b.x, b.mask, name) for name, b in batches.items()]
    sum(m.weight * loss for m, loss in zip(step.run.config.modalities.values(), losses, strict=True)).backward()
    return [loss.item() for loss in losses], {n: p.grad for n, p in model.named_parameters()}


def seen(step, batches):
    """The gradients that reach the optimiser, and what the step returned."""
    found = {}

    def look(optimizer, arguments, keywords):
        found.update({n: p.grad.clone() for n, p in step.run.model.named_parameters() if p.grad is not None})

    handle = step.run.optimizer.register_step_pre_hook(look)
    taken = take(step, 0, batches)
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
    step, batches = make({"layer_decay": 0.5}, rate=8e-3)
    take(step, 0, batches)
    rates = {p: group["lr"] for group in step.run.optimizer.param_groups for p in group["params"]}
    named = dict(step.run.model.named_parameters())
    assert rates[named["decoder.mask_token"]] == 8e-3
    assert rates[named["encoder.trunk.blocks.1.attention.out.weight"]] == 4e-3
    assert rates[named["encoder.trunk.blocks.0.attention.out.weight"]] == 2e-3
    assert rates[named["modalities.m0.embed.project.weight"]] == 1e-3


def test_drop_path_draws_a_gate_for_each_sample_of_the_global_batch_whatever_the_rank():
    step, _ = make(drop_path=0.5)
    whole = step._gates("m0", 7, 4)
    assert whole.shape == (4, 2, 2) and (whole[:, 0] == 1).all() and set(whole[:, 1].flatten().tolist()) <= {0.0, 2.0}
    for rank in range(2):
        step.run = replace(step.run, ranks=Ranks(rank, 2, torch.device("cpu")))
        assert torch.equal(step._gates("m0", 7, 2), whole[2 * rank : 2 * rank + 2])
    step.run = replace(step.run, ranks=CPU)
    many = torch.stack([step._gates("m0", s, 4) for s in range(40)])
    assert not torch.equal(many[0], many[1]) and 0.35 < (many[:, :, 1] == 0).float().mean() < 0.65
    step.run.model.eval()
    assert step._gates("m0", 7, 4) is None


def test_the_encoder_has_the_gates_of_a_batch_for_its_loss_and_none_afterwards():
    """Also where the loss fails: what looks at the model next drops nothing."""
    step, batches = make(drop_path=0.5)
    encoder, seen = step.run.model.encoder, []
    handle = encoder.register_forward_pre_hook(lambda module, _: seen.append(module.gates))
    take(step, 3, batches)
    assert torch.equal(seen[0], step._gates("m0", 3, 4).permute(1, 2, 0)) and encoder.gates is None
    handle.remove()
    fails = encoder.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        step(4, cut(step, batches), False)
    fails.remove()
    assert encoder.gates is None


@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_sample_is_dropped_by_its_own_gate_however_the_batch_is_cut(accumulate):
    step, batches = make({"accumulate": accumulate}, drop_path=0.9)
    found, taken = seen(step, batches)
    model, gates, parts = copy.deepcopy(make(drop_path=0.9)[0].run.model), step._gates("m0", 0, 4), []
    for row in range(4):
        model.encoder.gates = gates[row : row + 1].permute(1, 2, 0)
        one = batches["m0"].rows(row, row + 1)
        parts.append(model(one.x, one.mask))
    (sum(parts) / 4).backward()
    assert (gates == 0).any() and taken.losses == pytest.approx([sum(parts).item() / 4], rel=1e-5)
    for name, p in model.named_parameters():
        assert torch.allclose(found[name], p.grad, atol=1e-6), name


def poisoned(train, bad, **more):
    """A step whose gradients are NaN in the calls that `bad` names, from 0."""
    step, batches = make(train, **more)
    calls = []

    def poison(gradient):
        calls.append(0)
        return gradient * (float("nan") if bad(len(calls) - 1) else 1.0)

    step.run.model.encoder.class_token.register_hook(poison)
    return step, batches


def test_fp16_skips_an_update_that_overflows_says_so_and_goes_on():
    step, batches = poisoned({"precision": "fp16"}, lambda call: call in (0, 1, 4))
    before = copy.deepcopy(step.run.model.state_dict())
    taken = [take(step, s, batches) for s in range(2)]
    assert all(torch.equal(before[k], v) for k, v in step.run.model.state_dict().items()) and step.skipped == 2
    taken += [take(step, s, batches) for s in range(2, 6)]
    assert [t.skipped for t in taken] == [True, True, False, False, True, False]
    assert [t.scale for t in taken] == [65536, 32768, 16384, 16384, 16384, 8192]
    assert step.skipped == 0


def test_fp16_whose_gradients_are_never_finite_stops_once_the_scale_is_one():
    step, batches = poisoned({"precision": "fp16"}, lambda call: True)
    for s in range(16):
        assert take(step, s, batches).skipped
    with pytest.raises(NonFinite, match=r"skipped 17 updates in a row and is down to a scale of 1,") as caught:
        take(step, 16, batches)
    record = caught.value.record
    assert (record["skipped_in_a_row"], record["loss_scale"], record["step"]) == (17, 1.0, 16)
    assert record["nonfinite_gradients"] == ["encoder.class_token"]


def test_fp16_stops_after_so_many_skipped_updates_in_a_row_however_large_the_scale_is():
    step, batches = poisoned({"precision": "fp16"}, lambda call: call > 0)
    take(step, 0, batches)
    step.run.scaler.update(2.0**40)
    for s in range(1, MAX_SKIPPED):
        assert take(step, s, batches).skipped
    with pytest.raises(NonFinite, match=f"skipped {MAX_SKIPPED} updates in a row"):
        take(step, MAX_SKIPPED, batches)


def test_without_fp16_the_first_gradient_that_is_not_finite_is_the_last():
    step, batches = poisoned({}, lambda call: call == 1)
    assert take(step, 0, batches)[3:] == (False, False, 1.0)
    with pytest.raises(NonFinite):
        take(step, 1, batches)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_loss_that_is_not_finite_ends_the_run_at_once_and_is_no_matter_of_the_scale(precision):
    step, batches = make({"precision": precision})
    batches["m0"].x[0, 0, 0, 0] = float("inf")
    before = copy.deepcopy(step.run.model.state_dict())
    with pytest.raises(NonFinite) as caught:
        take(step, 0, batches)
    assert "loss_scale" not in caught.value.record and caught.value.record["losses"].keys() == {"m0"}
    assert all(torch.equal(before[k], v) for k, v in step.run.model.state_dict().items())


def test_news_are_heard_when_the_answer_is_read_and_only_when_there_are_any():
    heard = []
    step, batches = make(on_news=heard.append)
    assert take(step, 0, batches, stop=True).stopping and not take(step, 1, batches).stopping and not heard
    take(step, 2, batches, news=True)
    assert heard == [2]


@pytest.mark.parametrize("lag", [0, 1])
def test_an_answer_is_read_so_many_steps_later_and_all_of_them_when_asked(lag):
    step, batches = make(lag=lag)
    read = []
    for number in range(3):
        step(number, cut(step, batches), False)
        read.append([taken.step for taken in step.answers()])
    assert read == [[[0], [1], [2]], [[], [0], [1]]][lag]
    assert [taken.step for taken in step.answers(everything=True)] == [[], [2]][lag]
    assert not list(step.answers(everything=True))


@pytest.mark.parametrize("lag", [0, 1])
def test_answers_are_read_every_so_many_steps_when_the_config_says_so(lag):
    step, batches = make({"log_every": 3}, lag=lag)
    read = []
    for number in range(6):
        step(number, cut(step, batches), False)
        read.append([taken.step for taken in step.answers()])
    assert read == [[[], [], [0, 1, 2], [], [], [3, 4, 5]], [[], [], [0, 1], [], [], [2, 3, 4]]][lag]


def state_of(step):
    """Every tensor that a step may change: parameters, moments, counts of updates, the loss scale and its growth."""
    named = {f"p/{n}": p for n, p in step.run.model.named_parameters()}
    for n, p in step.run.model.named_parameters():
        named |= {f"{kind}/{n}": value for kind, value in step.run.optimizer.state[p].items()}
    scale = step.run.scaler.state_dict()
    return {n: t.detach().clone() for n, t in named.items()}, scale


def same(one, other):
    return one[1] == other[1] and all(torch.equal(one[0][n], t) for n, t in other[0].items())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("lag", "log_every"), [(0, 1), (1, 1), (0, 4), (1, 4), (5, 1)])
def test_nothing_is_changed_by_a_step_that_is_not_finite_nor_by_any_after_it(precision, lag, log_every):
    """However late the host reads of it: the gate is the device's, and here the fused update on a CPU."""
    step, batches = make({"precision": precision, "log_every": log_every}, lag=lag)
    bad = {"m0": replace(batches["m0"], x=batches["m0"].x.clone())}
    bad["m0"].x[0, 0, 0, 0] = float("nan")
    for number in range(3):
        step(number, cut(step, batches), False)
    before = state_of(step)
    step(3, cut(step, bad), False)
    for number in range(4, 8):  # good again, but the gate is closed
        step(number, cut(step, batches), False)
        assert same(before, state_of(step))
    with pytest.raises(NonFinite) as caught:
        list(step.answers(everything=True))
    assert caught.value.step == 3 and caught.value.record["nonfinite_gradients"][0] == "encoder.class_token"
    assert same(before, state_of(step)) and step.skipped == 0
    fresh, _ = make({"precision": precision})
    for number in range(3):
        take(fresh, number, batches)
    assert same(before, state_of(fresh))  # and what came before it was done


@pytest.mark.parametrize("lag", [0, 1])
def test_rows_of_the_steps_before_one_that_is_not_finite_are_read_first(lag):
    step, batches = make({"log_every": 8}, lag=lag)
    for number in range(4):
        if number == 2:
            step.run.model.encoder.class_token.register_hook(lambda gradient: gradient * float("nan"))
        step(number, cut(step, batches), False)
    answers = step.answers(everything=True)
    assert [next(answers).step, next(answers).step] == [0, 1]
    with pytest.raises(NonFinite) as caught:
        next(answers)
    assert caught.value.step == 2
    assert caught.value.record["nonfinite_gradients"] == ["encoder.class_token"]


@pytest.mark.parametrize("lag", [0, 1])
def test_fp16_leaves_out_the_update_that_overflows_and_no_other_whenever_that_is_read(lag):
    step, batches = poisoned({"precision": "fp16"}, lambda call: call in (1, 3), lag=lag)
    states, taken = [], []
    for number in range(5):
        step(number, cut(step, batches), False)
        states.append(state_of(step))
        taken += step.answers()
    taken += step.answers(everything=True)
    weights = [state[0]["p/decoder.mask_token"] for state in states]
    assert [torch.equal(a, b) for a, b in pairwise(weights)] == [True, False, True, False]
    assert [t.skipped for t in taken] == [False, True, False, True, False]
    assert [t.scale for t in taken] == [65536, 65536, 32768, 32768, 16384]
    assert states[-1][0]["step/decoder.mask_token"] == 3


@pytest.mark.parametrize("lag", [0, 1])
def test_fp16_that_gives_up_is_told_of_the_step_it_gives_up_in_and_of_the_state_before_it(lag):
    step, batches = poisoned({"precision": "fp16"}, lambda call: call < 17, lag=lag)

    def go():
        for number in range(20):  # from the 18th on gradients are finite, and nothing learns from them
            step(number, cut(step, batches), False)
            list(step.answers())

    with pytest.raises(NonFinite) as caught:
        go()
    assert caught.value.record["step"] == 16 and caught.value.record["skipped_in_a_row"] == 17
    assert step.skipped == 16 and step.run.scaler.get_scale() == 1.0
    assert all(count == 0 for name, count in state_of(step)[0].items() if name.startswith("step/"))


def test_a_lag_changes_no_bit():
    ends = []
    for lag in (0, 1):
        step, batches = make({"clip": 0.1, "accumulate": 2}, weights=(0.5, 2.0), drop_path=0.3, lag=lag)
        for number in range(4):
            step(number, cut(step, batches), False)
            list(step.answers())
        ends.append(state_of(step))
    assert same(*ends)
