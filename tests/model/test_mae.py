"""The model's contracts: what it may see, what counts, and that it knows no modality."""

import shutil
from itertools import pairwise
from math import prod

import numpy as np
import pytest
import torch

from mae_ext.config import Statistics
from mae_ext.engine.optim import parameter_groups
from mae_ext.model.grid import nearness, patchify
from mae_ext.model.mask import Mask
from mae_ext.model.transformer import drop_path_gates

IMAGE = {"size": [24, 20], "patch": [8, 4]}
CLIP = {"size": [6, 20, 14], "patch": [2, 4, 2]}
SHAPES = [([21], [3]), ([10, 21], [2, 7]), ([15, 14, 6], [5, 2, 3]), ([6, 5, 6, 14], [3, 1, 2, 2])]
NORMALIZE = ["none", "mae", "channel", "layernorm"]


def boxes(numbers, modality):
    """The box of pixels of each token of one sample, from plain arithmetic."""
    for number in numbers.tolist():
        place = np.unravel_index(number, modality.grid)
        yield tuple(slice(i * p, (i + 1) * p) for i, p in zip(place, modality.patch, strict=True))


def paint(x, tokens, modality, value):
    """A copy of x with the pixels of each sample's tokens (B, K) replaced."""
    x = x.clone()
    for row, numbers in zip(x, tokens, strict=True):
        for box in boxes(numbers, modality):
            row[(slice(None), *box)] = value
    return x


def shake(model, std=0.2):
    """Weights of a size at which nothing is linear by accident, biases and norms included."""
    g = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += torch.randn(parameter.shape, generator=g) * std
    return model


# What is random


def test_weights_are_a_function_of_the_seed_and_leave_the_global_generator_alone(build):
    before = torch.get_rng_state()
    first = build(image=IMAGE).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(77)
    again = build(image=IMAGE).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_the_initialisation_is_maes(build):
    model = build(image=IMAGE, model={"width": 96, "heads": 3})
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            bound = (6 / sum(module.weight.shape)) ** 0.5
            assert 0.9 * bound < module.weight.abs().max() <= bound
            assert (module.bias == 0).all()
        if isinstance(module, torch.nn.LayerNorm):
            assert (module.weight == 1).all() and (module.bias == 0).all()
    assert 0.012 < model.encoder.class_token.std() < 0.028
    assert 0.01 < model.decoder.mask_token.std() < 0.035


# What the loss is


@pytest.mark.parametrize(("size", "patch"), SHAPES, ids=str)
@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_axes_and_channels_trains(build, draw, size, patch, channels):
    model = build(any={"size": size, "patch": patch, "channels": channels}, model={"width": 48})
    modality = model.modality()
    x, mask = draw(modality)
    predicted = model.predict(modality.normalize(x), mask, modality)
    assert predicted.shape == (*mask.pred.shape, prod(patch) * channels)
    model(x, mask).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("size", "patch"), SHAPES, ids=str)
def test_the_loss_is_about_the_hidden_patches_and_no_other(build, draw, size, patch):
    """A model that always answers 0: what is left is the mean square of the patches that count."""
    spec = {"size": size, "patch": patch, "target": {"name": "pixel", "normalize": "none"}}
    model = build(any=spec, model={"width": 48})
    modality = model.modality()
    torch.nn.init.zeros_(modality.predict.weight)
    x, mask = draw(modality)
    assert model(paint(torch.zeros_like(x), mask.pred, modality, 3.0), mask).item() == pytest.approx(9)
    assert model(paint(torch.zeros_like(x), mask.keep, modality, 3.0), mask).item() == 0


@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("decode", [None, {"name": "random", "ratio": 0.5}], ids=["all", "half"])
def test_the_loss_is_the_mean_square_between_prediction_and_target(build, draw, normalize, decode):
    model = shake(build(clip=CLIP | {"target": {"name": "pixel", "normalize": normalize}, "decode": decode}))
    modality = model.modality()
    modality.set_statistics(Statistics(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1)))
    x, mask = draw(modality)
    normal = (x - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1, 1)) / torch.tensor([0.2, 0.3, 0.1]).view(3, 1, 1, 1)
    wanted = modality.target(patchify(normal, modality.patch))
    wanted = torch.stack([row[numbers] for row, numbers in zip(wanted, mask.pred, strict=True)])
    expected = (model.predict(normal, mask, modality) - wanted).square().mean()
    assert torch.allclose(model(x, mask), expected, rtol=1e-5)


def test_a_prediction_never_depends_on_a_hidden_pixel(build, draw):
    model = shake(build(clip=CLIP))
    modality = model.modality()
    x, mask = draw(modality)
    blank = paint(x, mask.pred, modality, float("nan"))
    assert torch.equal(model.predict(x, mask, modality), model.predict(blank, mask, modality))


def test_a_prediction_depends_on_every_visible_pixel(build, draw):
    model = shake(build(clip=CLIP))
    modality = model.modality()
    x, mask = draw(modality, batch=1)
    (gradient,) = torch.autograd.grad(model.predict(x.requires_grad_(), mask, modality)[0, 0].sum(), x)
    expected = paint(torch.zeros_like(gradient), mask.keep, modality, 1.0).bool()
    assert torch.equal(gradient != 0, expected)


def test_only_the_asked_tokens_are_decoded(build, draw):
    modality = {**CLIP, "decode": {"name": "random", "ratio": 0.5}}
    model = shake(build(clip=modality))
    x, mask = draw(model.modality())
    hidden = mask.hidden().shape[1]
    assert mask.pred.shape[1] == hidden // 2
    assert model.predict(x, mask, model.modality()).shape[1] == hidden // 2
    seen = []
    model.decoder.trunk.register_forward_hook(lambda _, inputs, out: seen.append(inputs[0].shape[1]))
    model.modality().embed.register_forward_hook(lambda _, inputs, out: seen.append(out.shape[1]))
    model(x, mask)
    assert seen == [mask.keep.shape[1], 1 + mask.keep.shape[1] + mask.pred.shape[1]]


# What is valid


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_all_valid_is_the_same_as_not_saying(build, draw, normalize):
    model = shake(build(clip=CLIP | {"target": {"name": "pixel", "normalize": normalize}}))
    x, mask = draw(model.modality())
    assert torch.allclose(model(x, mask), model(x, mask, valid=torch.ones_like(x[:, :1]).bool()), rtol=1e-6)


def test_invalid_pixels_have_no_influence(build, draw):
    model = shake(build(clip=CLIP | {"target": {"name": "pixel", "normalize": "none"}}))
    modality = model.modality()
    x, mask = draw(modality)
    valid = torch.rand(2, 1, *modality.size, generator=torch.Generator().manual_seed(3)) < 0.4
    hidden = paint(torch.zeros_like(x), mask.pred, modality, 1.0).bool()
    other = torch.where(hidden & ~valid, 1e6 * torch.rand(x.shape), x)
    assert torch.equal(model(x, mask, valid=valid), model(other, mask, valid=valid))
    assert not torch.equal(model(x, mask), model(other, mask))


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_a_patch_with_no_valid_pixel_has_no_influence_under_any_target(build, draw, normalize):
    model = shake(build(clip=CLIP | {"target": {"name": "pixel", "normalize": normalize}}))
    modality = model.modality()
    x, mask = draw(modality)
    gone = mask.pred[:, ::3]
    valid = paint(torch.ones_like(x[:, :1]), gone, modality, 0).bool()
    shorter = Mask(mask.keep, torch.stack([row[[i for i in range(len(row)) if i % 3]] for row in mask.pred]), mask.grid)
    loss = model(x, mask, valid=valid)
    assert torch.allclose(loss, model(paint(x, gone, modality, 0.9), mask, valid=valid), rtol=1e-6)
    # Mask tokens see one another, so asking for fewer changes the answers a little; the loss is about the same patches.
    assert torch.allclose(loss, model(x, shorter), rtol=0.2)


def test_valid_pixels_are_weighed_exactly(build, draw):
    model = build(image=IMAGE | {"target": {"name": "pixel", "normalize": "none"}})
    modality = model.modality()
    torch.nn.init.zeros_(modality.predict.weight)
    x, mask = draw(modality)
    valid = torch.zeros(2, 1, *modality.size, dtype=torch.bool)
    expected = []
    for sample, share in enumerate((3, 5)):
        pixels = []
        for box in boxes(mask.pred[sample], modality):
            corner = (slice(box[0].start, box[0].start + share), slice(box[1].start, box[1].start + 2))
            valid[(sample, 0, *corner)] = True
            pixels.append(x[(sample, slice(None), *corner)].flatten())
        expected.append(torch.cat(pixels).square().mean())
    # Sample by sample: a sample with few valid pixels counts as much as one with many.
    assert torch.allclose(model(x, mask, valid=valid), torch.stack(expected).mean(), rtol=1e-5)


def test_a_sample_without_a_valid_pixel_counts_as_zero_and_gives_no_gradient(build, draw):
    model = shake(build(image=IMAGE))
    x, mask = draw(model.modality())
    nowhere = torch.zeros_like(x[:, :1]).bool()
    half = nowhere.clone()
    half[0] = True
    only = Mask(mask.keep[:1], mask.pred[:1], mask.grid)
    assert torch.allclose(model(x, mask, valid=half), model(x[:1], only) / 2, rtol=1e-5)
    loss = model(x, mask, valid=nowhere)
    loss.backward()
    assert loss.item() == 0 and all((p.grad == 0).all() for p in model.parameters())


@pytest.mark.parametrize("with_valid", [False, True])
@pytest.mark.parametrize("cuts", [[4], [1, 3], [2, 2], [1, 1, 1, 1]], ids=str)
def test_a_batch_is_the_mean_of_its_parts_in_loss_and_gradient(build, draw, with_valid, cuts):
    model = shake(build(image=IMAGE))
    x, mask = draw(model.modality(), batch=4)
    chance, share = (
        torch.rand(4, 1, 24, 20, generator=torch.Generator().manual_seed(3)),
        torch.tensor([0.1, 0.5, 0.9, 1]),
    )
    valid = chance < share.view(4, 1, 1, 1) if with_valid else None

    def step(rows):
        part = mask.each(lambda t: t[rows])
        loss = model(x[rows], part, valid=None if valid is None else valid[rows])
        return loss, torch.autograd.grad(loss, list(model.parameters()))

    loss, gradient = step(slice(None))
    starts = np.cumsum([0, *cuts])
    parts = [step(slice(a, b)) for a, b in pairwise(starts)]
    assert torch.allclose(loss, sum(p[0] * c / 4 for p, c in zip(parts, cuts, strict=True)), rtol=1e-5)
    for i, whole in enumerate(gradient):
        assert torch.allclose(whole, sum(p[1][i] * c / 4 for p, c in zip(parts, cuts, strict=True)), atol=1e-5)


@pytest.mark.parametrize("normalize", ["mae", "channel", "layernorm"])
def test_a_patch_that_is_valid_in_part_has_a_target_of_variance_one_whatever_lies_beside(build, draw, normalize):
    """A model that always answers 0: what is left is the mean square of the target over what is valid."""
    model = build(image=IMAGE | {"target": {"name": "pixel", "normalize": normalize}})
    modality = model.modality()
    torch.nn.init.zeros_(modality.predict.weight)
    x, mask = draw(modality)
    valid = torch.ones(2, 1, *modality.size, dtype=torch.bool)
    valid[..., ::3] = False
    air = torch.where(valid, x, -20.0)
    count = int(valid[0, 0, :8, :4].sum())
    assert all(int(v) in (16, 24) for v in patchify(valid.float(), modality.patch).sum(-1).flatten())
    loss = model(air, mask, valid=valid).item()
    # An unbiased variance of 1 is a mean square of (n - 1) / n, over 16 or 24 pixels, each of three values.
    most = 1.0 if normalize == "layernorm" else 1 - 1 / (24 * (1 if normalize == "channel" else 3))
    least = 1.0 if normalize == "layernorm" else 1 - 1 / (16 * (1 if normalize == "channel" else 3))
    assert count in (16, 24) and least - 1e-3 <= loss <= most + 1e-3
    assert model(x, mask, valid=valid).item() == pytest.approx(loss, abs=1e-6)


def test_a_picture_takes_mean_and_contrast_of_a_hidden_patch_from_what_is_valid_of_it(build, draw):
    model = build(image=IMAGE | {"target": {"name": "pixel", "normalize": "mae"}})
    modality = model.modality()
    torch.nn.init.zeros_(modality.predict.weight)
    x, mask = draw(modality)
    valid = torch.ones(2, 1, *modality.size, dtype=torch.bool)
    valid[..., ::4] = False
    air = torch.where(valid, x, -20.0)
    filled = model.reconstruct(air, mask, own_statistics=True, valid=valid)
    for row in range(2):
        for box in boxes(mask.pred[row], modality):
            patch, there = air[(row, slice(None), *box)], valid[(row, 0, *box)]
            mean = patch[:, there].mean()
            assert torch.allclose(filled[(row, slice(None), *box)], mean.expand_as(patch), atol=1e-4)


NAMES = ["type", "keys", "values", "items", "training", "forward", "pop", "position", "modalities", "none"]


@pytest.mark.parametrize("name", NAMES)
def test_a_modality_may_have_any_name(build, draw, name):
    """Also one that torch's dict of modules has for itself, or that a parameter without weight decay has."""
    model, plain = build(**{name: IMAGE}), build(image=IMAGE)
    x, mask = draw(plain.modality())
    assert torch.equal(model(x, mask, name), plain(x, mask)) and torch.equal(model(x, mask), plain(x, mask))
    ours, theirs = model.state_dict(), plain.state_dict()
    assert [key.replace(f"modalities.{name}.", "modalities.image.") for key in ours] == list(theirs)
    again = build(**{name: IMAGE})
    again.load_state_dict(shake(model).state_dict())
    assert torch.equal(again(x, mask), model(x, mask))
    groups = [[len(group["params"]) for group in parameter_groups(m, 0.05)] for m in (model, plain)]
    assert groups[0] == groups[1]


# What is encoded


@pytest.mark.parametrize("modality", [IMAGE, CLIP], ids=["image", "clip"])
def test_encode_never_masks_in_training_or_in_evaluation(build, draw, modality):
    model = shake(build(any=modality))
    x, _ = draw(model.modality())
    tokens = model.train().encode(x)
    assert tokens.shape == (2, prod(model.modality().grid), 24)
    assert torch.equal(tokens, model.eval().encode(x)) and torch.equal(tokens, model.encode(x))
    (gradient,) = torch.autograd.grad(model.encode(x.requires_grad_())[0, 0].sum(), x)
    assert (gradient[0] != 0).all() and (gradient[1] == 0).all()


def test_evaluation_is_training_without_the_drawing(build, draw):
    """Nothing hides behind eval(): chance comes in as arguments."""
    model = shake(build(image=IMAGE))
    x, mask = draw(model.modality())
    assert torch.equal(model.train()(x, mask), model.eval()(x, mask))


def test_a_sample_is_encoded_alike_whatever_its_batch_mates(build, draw):
    model = shake(build(image=IMAGE)).eval()
    x, _ = draw(model.modality(), batch=4)
    alone = model.encode(x[2:3])
    for mates in (x, x.flip(0), torch.cat([x[2:3]] * 3)):
        together = model.encode(mates)
        row = next(i for i in range(len(mates)) if torch.equal(mates[i], x[2]))
        assert torch.allclose(together[row], alone[0], atol=1e-5)


def test_tokens_come_in_the_order_of_the_grid(build):
    """With a trunk that does nothing to it, a token is its own patch and place."""
    model = build(clip=CLIP | {"channels": 1}, model={"class_token": True})
    modality = model.modality()
    for block in model.encoder.trunk.blocks:
        for layer in (block.attention.out, block.mlp.down):
            torch.nn.init.zeros_(layer.weight)
    x = torch.rand(1, 1, *modality.size)
    everything = torch.arange(prod(modality.grid))[None]
    expected = modality.embed.project(patchify(x, modality.patch)) + modality.position(everything)
    assert torch.allclose(model.encode(x), model.encoder.trunk.norm(expected), atol=1e-5)


def test_statistics_travel_with_the_weights_and_bytes_count_from_0_to_1(build, draw):
    model, other = (shake(build(image=IMAGE)) for _ in range(2))
    bytes_ = torch.randint(0, 256, (2, 3, 24, 20), dtype=torch.uint8)
    plain = model.encode(bytes_)
    assert torch.equal(plain, model.encode(bytes_.float() / 255))
    model.modality().set_statistics(Statistics(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1)))
    by_hand = (bytes_ / 255 - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.1]).view(3, 1, 1)
    assert torch.allclose(model.encode(bytes_), other.encode(by_hand), atol=1e-5)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.encode(bytes_), other.encode(bytes_))


def test_statistics_of_another_number_of_channels_are_refused(build):
    modality = build(image=IMAGE).modality()
    with pytest.raises(ValueError, match="statistics for 2 channels, but the model has 3"):
        modality.set_statistics(Statistics(mean=(0, 0), std=(1, 1)))
    modality.set_statistics(Statistics(mean=(0.5,), std=(2,)))
    assert modality.mean.tolist() == [0.5] * 3 and modality.std.tolist() == [2] * 3


def test_features_are_the_mean_of_the_patches_or_the_class_token(build, draw):
    model = shake(build(image=IMAGE))
    x, _ = draw(model.modality())
    assert torch.equal(model.features(x), model.encode(x).mean(1))
    assert torch.equal(model.features(x, pool="class"), model.encode_all(x)[:, 0])
    without = shake(build(image=IMAGE, model={"class_token": False}))
    assert without.encode_all(x).shape == without.encode(x).shape
    with pytest.raises(ValueError, match="built without a class token"):
        without.features(x, pool="class")


def test_physical_positions_reach_encoder_and_decoder(build, draw):
    model = shake(build(scan=CLIP | {"position": {"name": "sincos", "unit": 8.0}}))
    x, mask = draw(model.modality())
    near, far = torch.tensor([[1.0, 1.0, 1.0]] * 2), torch.tensor([[5.0, 1.0, 1.0]] * 2)
    assert not torch.allclose(model.encode(x, spacing=near), model.encode(x, spacing=far), atol=1e-3)
    assert model(x, mask, spacing=near) != model(x, mask, spacing=far)
    # 4 mm pixels in patches of 2, 4 and 2, in units of 8 mm: tokens stand 1, 2 and 1 apart.
    steps = model.modality().step(torch.full((1, 3), 4.0)) / 8.0
    assert steps.tolist() == [[1, 2, 1]]
    with pytest.raises(ValueError, match="needs samples with a spacing"):
        model.encode(x)


# What is reconstructed


@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("modality", [IMAGE, CLIP], ids=["image", "clip"])
def test_a_reconstruction_leaves_visible_patches_exactly_as_given(build, draw, modality, normalize, own):
    model = shake(build(any=modality | {"target": {"name": "pixel", "normalize": normalize}}))
    any_ = model.modality()
    any_.set_statistics(Statistics(mean=(0.413, 0.457, 0.481), std=(0.268, 0.261, 0.276)))
    x, mask = draw(any_)
    out = model.reconstruct(x, mask, own_statistics=own)
    assert out.shape == x.shape and out.dtype == torch.float32 and not out.requires_grad
    visible = paint(torch.zeros_like(x), mask.keep, any_, 1.0).bool()
    assert torch.equal(out[visible], x[visible])
    assert (out[~visible] != x[~visible]).float().mean() > 0.99
    bytes_ = (x * 255).byte()
    assert torch.equal(model.reconstruct(bytes_, mask, own_statistics=own)[visible], (bytes_.float() / 255)[visible])


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_a_reconstruction_knows_nothing_of_what_is_hidden_unless_it_says_so(build, draw, normalize):
    model = shake(build(clip=CLIP | {"target": {"name": "pixel", "normalize": normalize}}))
    modality = model.modality()
    x, mask = draw(modality)
    honest = model.reconstruct(x, mask)
    for other in (0.0, 1e4, float("nan")):
        assert torch.equal(honest, model.reconstruct(paint(x, mask.pred, modality, other), mask))
    leaky = model.reconstruct(x, mask, own_statistics=True)
    assert torch.allclose(leaky, honest, atol=1e-5) == (normalize == "none")


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_a_perfect_answer_with_its_own_statistics_is_the_picture(build, draw, normalize):
    """The arithmetic back from targets to pixels, with the right answer in place of the network."""
    model = build(clip=CLIP | {"target": {"name": "pixel", "normalize": normalize}})
    modality = model.modality()
    modality.set_statistics(Statistics(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1)))
    x, mask = draw(modality)
    targets = modality.target(patchify(modality.normalize(x), modality.patch))
    model.predict = lambda x, mask, *_: torch.stack([t[p] for t, p in zip(targets, mask.pred, strict=True)])
    assert torch.allclose(model.reconstruct(x, mask, own_statistics=True), x, atol=1e-5)


def test_all_hidden_patches_are_shown_also_those_that_training_would_not_ask_for(build, draw):
    model = shake(build(image=IMAGE | {"decode": {"name": "random", "ratio": 0.5}}))
    x, mask = draw(model.modality())
    out = model.reconstruct(x, mask)
    assert mask.pred.shape[1] < mask.hidden().shape[1]
    assert torch.equal(out, model.reconstruct(x, Mask(mask.keep, mask.hidden(), mask.grid)))
    hidden = paint(torch.zeros_like(x), mask.hidden(), model.modality(), 1.0).bool()
    assert (out[hidden] != x[hidden]).float().mean() > 0.99


def test_contrast_of_hidden_patches_comes_from_their_nearest_neighbours():
    grid = (3, 5)
    weight = nearness(torch.tensor([[1, 13]]), torch.tensor([[0, 4, 14]]), grid)
    assert weight.shape == (1, 2, 3) and torch.allclose(weight.sum(-1), torch.ones(1, 2))
    # Token 1 is one step from 0, three from 4 and sqrt(4 + 9) from 14.
    by_hand = torch.tensor([1, 1 / 81, 1 / 169])
    assert torch.allclose(weight[0, 0], by_hand / by_hand.sum(), atol=1e-5)
    assert weight[0, 1].argmax() == 2


# One trunk


THREE = {
    "image": {"size": [16, 24], "patch": [8, 8], "channels": 3},
    "clip": {"size": [4, 16, 16], "patch": [2, 8, 8], "channels": 3, "decode": {"name": "random", "ratio": 0.5}},
    "scan": {
        "size": [12, 8, 16],
        "patch": [4, 4, 8],
        "channels": 1,
        "mask": {"name": "block", "ratio": 0.5},
        "position": "learned",
        "target": {"name": "pixel", "normalize": "channel"},
    },
}


def test_images_clips_and_scans_train_one_trunk_together(build, draw):
    model = build(**THREE)
    batches = {name: draw(model.modality(name)) for name in THREE}
    losses = {name: model(x, mask, name) for name, (x, mask) in batches.items()}
    for name, loss in losses.items():
        reached = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True)
        touched = {n for (n, _), g in zip(model.named_parameters(), reached, strict=True) if g is not None}
        own = {n for n, _ in model.named_parameters() if n.startswith(f"modalities.{name}.")}
        shared = {n for n, _ in model.named_parameters() if not n.startswith("modalities.")}
        assert touched == own | shared

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    before = sum(losses.values()).item()
    for _ in range(10):
        optimizer.zero_grad()
        total = sum(model(x, mask, name) for name, (x, mask) in batches.items())
        total.backward()
        optimizer.step()
    assert total.item() < 0.9 * before


def test_a_model_of_several_modalities_asks_which(build, draw):
    model = build(**THREE)
    x, mask = draw(model.modality("clip"))
    for call in (lambda: model(x, mask), lambda: model.encode(x), lambda: model.reconstruct(x, mask)):
        with pytest.raises(ValueError, match="name one of: image, clip, scan"):
            call()
    assert model.encode(x, "clip").shape == (2, 8, 24)


def test_gates_reach_the_encoder(build, draw):
    model = shake(build(image=IMAGE))
    x, mask = draw(model.modality())
    plain, drawn = model(x, mask), drop_path_gates(0.9, 2, 2, torch.Generator().manual_seed(0))
    model.encoder.gates = torch.ones(2, 2, 2)
    assert torch.allclose(plain, model(x, mask), rtol=1e-6)
    model.encoder.gates = drawn
    assert (drawn == 0).any() and model(x, mask) != plain


def test_checkpointing_changes_neither_loss_nor_gradients(build, draw):
    plain, saving = build(image=IMAGE), build(image=IMAGE, train={"checkpointing": True})
    x, mask = draw(plain.modality())
    gradients = []
    for model in (plain, saving):
        loss = shake(model)(x, mask)
        gradients.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    assert saving.encoder.trunk.checkpointing and saving.decoder.trunk.checkpointing
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_bf16_is_fp32_within_its_digits(build, draw):
    model = shake(build(image=IMAGE), 0.05)
    x, mask = draw(model.modality())
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x, mask)
    assert half.dtype == torch.float32
    assert torch.allclose(half, model(x, mask), rtol=0.02)
    half.backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_the_compiled_model_is_the_model(build, draw):
    model = shake(build(clip=CLIP), 0.05)
    x, mask = draw(model.modality())
    compiled = torch.compile(model)
    losses = [m(x, mask) for m in (model, compiled)]
    assert torch.allclose(*losses, rtol=1e-5)
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses]
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-5, rtol=1e-3)
