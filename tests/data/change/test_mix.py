"""Mixtures of neighbours: labels move with the pixels, and no rank needs another's samples."""

import numpy as np
import pytest
import torch

from mae_ext.data.batch import Batch
from mae_ext.data.change.mix import Mix, cutmix, mixup
from mae_ext.data.plan import Plan
from mae_ext.rng import rng


def batch(plan, step, shape=(3, 8, 6)):
    """Sample of slot s holds the value s everywhere, and is of class s."""
    keys = plan.keys(step)
    x = torch.stack([torch.full(shape, float(k.slot)) for k in keys])
    return Batch(x, targets={"classes": torch.eye(plan.batch)[[k.slot for k in keys]]}), keys


def mixed(mix, plan, step=5):
    return mix(*batch(plan, step), 3, "image", step, "classes")


def test_neither_is_the_batch_itself():
    plain, keys = batch(Plan(0, "image", 20, 8), 0)
    assert Mix(0.0, 0.0)(plain, keys, 0, "image", 0, "classes") is plain


@pytest.mark.parametrize("mix", [Mix(0.8, 0.0), Mix(0.0, 1.0), Mix(0.8, 1.0)])
@pytest.mark.parametrize("shape", [(3, 8, 6), (1, 4, 8, 6)])
def test_a_label_says_what_share_of_the_pixels_is_whose(mix, shape):
    plan = Plan(0, "image", 20, 8)
    found = mix(*batch(plan, 5, shape), 3, "image", 5, "classes")
    expected = found.targets["classes"] @ torch.arange(8.0)
    assert torch.allclose(found.x.flatten(1).mean(1), expected, atol=1e-5)
    assert torch.allclose(found.targets["classes"].sum(1), torch.ones(8))


@pytest.mark.parametrize("world", [2, 4])
def test_any_number_of_ranks_mixes_the_same_samples(world):
    mix = Mix(0.8, 1.0)
    whole = mixed(mix, Plan(0, "image", 20, 8))
    parts = [mixed(mix, Plan(0, "image", 20, 8, 1, rank, world)) for rank in range(world)]
    assert torch.equal(whole.x, torch.cat([part.x for part in parts]))
    assert torch.equal(whole.targets["classes"], torch.cat([part.targets["classes"] for part in parts]))


def test_another_step_mixes_otherwise_and_bytes_count_as_0_to_1():
    mix, plan = Mix(0.8, 0.0), Plan(0, "image", 20, 8)
    assert not torch.equal(mixed(mix, plan, 5).targets["classes"], mixed(mix, plan, 6).targets["classes"])
    plain, keys = batch(plan, 0)
    as_bytes = Batch((plain.x * 30).byte(), targets=plain.targets)
    found = mix(as_bytes, keys, 0, "image", 0, "classes")
    assert found.x.dtype == torch.float32 and found.x.max() <= 1


def test_the_ends_of_the_share_are_the_sample_itself_and_the_other():
    pair = torch.rand(2, 3, 8, 8, generator=rng(0))
    assert torch.equal(mixup(pair, 1.0), pair) and torch.equal(mixup(pair, 0.0), pair.flip(0))
    alone, kept = cutmix(pair, 1.0, torch.tensor([0.3, 0.6]).numpy())
    assert kept == 1 and torch.equal(alone, pair)
    other, kept = cutmix(pair, 0.0, torch.tensor([0.5, 0.5]).numpy())
    assert kept == 0 and torch.equal(other, pair.flip(0))


def test_mixup_leaves_the_share_of_itself_and_cutmix_too():
    pair = torch.stack([torch.zeros(1, 8, 6), torch.ones(1, 8, 6)])
    assert mixup(pair, 0.75)[0].unique().tolist() == [0.25] and mixup(pair, 0.75)[1].unique().tolist() == [0.75]
    mixed, kept = cutmix(pair, 0.75, np.array([0.5, 0.5]))
    assert torch.equal(mixed[0, 0], 1 - mixed[1, 0]) and kept == pytest.approx(1 - mixed[0].mean().item())


def test_the_box_has_the_samples_aspect_the_share_as_its_area_and_its_centre_where_it_was_drawn():
    pair = torch.stack([torch.zeros(1, 40, 80), torch.ones(1, 40, 80)])
    mixed, kept = cutmix(pair, 0.75, np.array([0.25, 0.75]))
    assert kept == 0.75
    rows, columns = mixed[0, 0].nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 19, 40, 79)
    mixed, kept = cutmix(pair, 0.75, np.array([0.0, 1.0]))  # a quarter of the box is inside
    rows, columns = mixed[0, 0].nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 9, 60, 79)
    assert kept == 1 - 10 * 20 / 3200


def shares(mix, steps=200):
    """(n, 2): the share of slot 0 that is its own, and whether a box was pasted."""
    plan, rows = Plan(0, "image", 20, 2), []
    for step in range(steps):
        found = mixed(mix, plan, step)
        rows.append((float(found.targets["classes"][0, 0]), len(found.x[0].unique()) > 1))
    return rows


def test_each_mixture_has_its_own_parameter_and_a_coin_decides_where_both_are_on():
    """Beta(200, 200) is near a half, Beta(0.01, 0.01) near 0 or 1."""
    assert all(abs(share - 0.5) < 0.15 and not cut for share, cut in shares(Mix(200.0, 0.0)))
    assert all(min(share, 1 - share) < 0.2 for share, _ in shares(Mix(0.01, 0.0), 40))
    both = shares(Mix(0.01, 200.0))
    pasted = [share for share, cut in both if cut]
    assert 70 < len(pasted) < 130
    assert all(0.3 < share < 0.9 for share in pasted)  # of half the area, less what was cut off
    extreme = [min(share, 1 - share) < 0.2 for share, cut in both if not cut]
    assert sum(extreme) > 0.9 * len(extreme)


def test_every_pair_of_a_batch_has_a_share_of_its_own():
    found = mixed(Mix(0.8, 0.0), Plan(0, "image", 20, 8)).targets["classes"].amax(1)[::2]
    assert len({round(float(share), 6) for share in found}) == 4
