"""A target that looks at the whole sample: what the loss makes of it, and that there is no picture of it."""

import pytest
import torch

from mae_ext import plugins
from mae_ext.errors import UserError
from mae_ext.model.grid import take_patches
from mae_ext.model.mask import Mask
from mae_ext.model.target import PixelTarget

IMAGE = {"size": [8, 12], "patch": [4, 4], "channels": 2, "mask": {"name": "random", "ratio": 0.5}}


@pytest.fixture(autouse=True)
def theirs(monkeypatch):
    monkeypatch.setitem(plugins.targets.builtins, "means", "model.means:Means")


def known(modality, pix, rows=4):
    g = torch.Generator().manual_seed(1)
    x, pred = torch.randn(rows, 2, 8, 12, generator=g), torch.tensor([[0, 5], [2, 3], [1, 4], [0, 1]])[:rows]
    valid = torch.rand(rows, 1, 8, 12, generator=g) < 0.7
    valid[1, :, :4] = False
    return torch.randn(rows, 2, pix, generator=g), x, pred, valid


def test_a_target_of_coarser_maps_is_asked_with_patches_of_them_and_shares_that_count(build):
    modality = build(x=IMAGE | {"target": "means"}).modality()
    predicted, x, pred, valid = known(modality, 4)
    wanted = torch.zeros(4, 2, 4)
    share = torch.zeros(4, 2, 4)
    for b in range(4):
        for p, number in enumerate(pred[b].tolist()):
            i, j = 4 * (number // 3), 4 * (number % 3)
            for half in (0, 1):
                box = (b, slice(None), slice(i, i + 4), slice(j + 2 * half, j + 2 * half + 2))
                wanted[b, p, 2 * half : 2 * half + 2] = x[box].mean((1, 2))
                share[b, p, 2 * half : 2 * half + 2] = valid[box].float().mean()
    error = (predicted - wanted).square()
    assert torch.allclose(modality.loss(predicted, x, pred, None), error.mean(), atol=1e-6)
    by_hand = ((error * share).sum((1, 2)) / share.sum((1, 2)).clamp(min=1)).mean()
    assert torch.allclose(modality.loss(predicted, x, pred, valid), by_hand, atol=1e-6)


def test_a_target_of_patches_alone_has_the_loss_that_it_always_had_to_the_bit(build):
    modality, target = build(x=IMAGE).modality(), PixelTarget((4, 4), 2)
    predicted, x, pred, _ = known(modality, 32)
    before = target.error(predicted, target(take_patches(x, (4, 4), pred))).mean()
    assert torch.equal(modality.loss(predicted, x, pred, None), before)


def test_the_loss_of_a_batch_is_the_mean_of_its_halves(build):
    """What ranks and accumulation rest on."""
    modality = build(x=IMAGE | {"target": "means"}).modality()
    predicted, x, pred, valid = known(modality, modality.target.pix)
    for counted in (None, valid):
        halves = [
            modality.loss(predicted[rows], x[rows], pred[rows], None if counted is None else counted[rows])
            for rows in (slice(0, 2), slice(2, 4))
        ]
        assert torch.allclose(modality.loss(predicted, x, pred, counted), sum(halves) / 2, atol=1e-6)


def test_every_number_that_is_predicted_learns_and_none_is_a_way_to_the_samples(build, draw):
    model = build(x=IMAGE | {"target": "means"}).train()
    x, mask = draw(model.modality())
    x.requires_grad_()
    model(x, mask).backward()
    gradient = model.modality().predict.bias.grad
    assert gradient.shape == (model.modality().target.pix,) and (gradient != 0).all()
    assert not [name for name in model.state_dict() if ".target." in name]


def test_without_pixels_there_is_no_picture_and_it_says_so(build):
    model = build(x=IMAGE | {"target": "means"})
    mask = Mask(torch.tensor([[0, 1, 2]]), torch.tensor([[3, 4, 5]]), (2, 3))
    with pytest.raises(UserError, match=r"modality 'x': its target, Means, says nothing of pixels.*'pixel' has one"):
        model.reconstruct(torch.rand(1, 2, 8, 12), mask)
