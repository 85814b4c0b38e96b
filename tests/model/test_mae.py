"""The model's contracts: what it may see, what counts, and that it knows no modality."""

import shutil
from math import prod

import pytest
import torch
from model.painted_patches import CLIP, IMAGE, NORMALIZE, paint, shake

from mae_ext.config import Statistics
from mae_ext.engine.optim import parameter_groups
from mae_ext.model.grid import patchify
from mae_ext.model.transformer import drop_path_gates

SHAPES = [([21], [3]), ([10, 21], [2, 7]), ([15, 14, 6], [5, 2, 3]), ([6, 5, 6, 14], [3, 1, 2, 2])]


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


def test_the_term_of_a_target_is_added_to_the_loss_and_sees_patch_tokens_answers_and_what_is_valid(build, draw):
    model = build(image=IMAGE, model={"class_token": True})
    modality = model.modality()
    x, mask = draw(modality)
    valid = torch.ones(2, 1, *modality.size, dtype=torch.bool)
    without, seen = model(x, mask, valid=valid), []

    def term(*given):
        seen.append(given)
        return given[0].mean() + 2

    modality.target.term = term
    loss = model(x, mask, valid=valid)
    ((encoded, predicted, normalised, of, counts),) = seen
    tokens = model.encoder(modality.tokens(modality.normalize(x), mask.keep, None))
    assert torch.equal(encoded, model.encoder.patches(tokens))
    assert encoded.shape[:2] == mask.keep.shape and predicted.shape[:2] == mask.pred.shape
    assert torch.equal(normalised, modality.normalize(x)) and of is mask and counts is valid
    assert torch.equal(loss, without + encoded.mean() + 2)


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
