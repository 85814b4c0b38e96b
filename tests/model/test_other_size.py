"""Samples of another size than a model was built for: what a model built for that size, with the same weights, says."""

from math import prod

import pytest
import torch

from mae_ext import plugins
from mae_ext.errors import WrongShape
from mae_ext.model.mae import MAE
from mae_ext.model.mask import Mask

KINDS = {
    "image": ({"size": [16, 24], "patch": [8, 8]}, (64, 48)),
    "clip": ({"size": [4, 16, 8], "patch": [2, 8, 8], "data": {"reader": "video"}}, (6, 24, 40)),
    "scan": ({"size": [8, 16, 8], "patch": [4, 8, 4], "channels": 1, "data": {"reader": "volume"}}, (12, 8, 20)),
}
POSITIONS = ["sincos", "sequence", "learned", "separable", {"name": "sincos", "unit": 6.0}, "span"]
SPAN = {"image": [4, 5.5], "clip": [3, 4, 2], "scan": [2, 3.5, 7]}


def modality(kind, position, size=None):
    own, other = KINDS[kind]
    data = {"statistics": {"mean": [0.4] * own.get("channels", 3), "std": [0.3] * own.get("channels", 3)}}
    position = {"name": "sincos", "span": SPAN[kind]} if position == "span" else position
    return {**own, "position": position, "data": own.get("data", {}) | data} | ({"size": list(other)} if size else {})


def spacing_of(size, position, batch=2):
    return torch.tensor([[0.7, 1.3, 2.0][: len(size)]] * batch) if isinstance(position, dict) else None


def with_weights_of(small, large):
    """`large` with the weights of `small`, learned positions interpolated by PyTorch's own bicubic where there are two
    axes, and by rows of the identity along each axis elsewhere."""
    weights = small.state_dict()
    for key in [key for key in weights if "position.table" in key]:
        grid, wanted = small.modality().grid, large.modality().grid
        table = weights[key]
        if table.shape == large.state_dict()[key].shape:
            continue
        if key.endswith("position.table") and len(grid) == 2:
            picture = table.view(*grid, -1).permute(2, 0, 1)[None]
            fitted = torch.nn.functional.interpolate(picture, wanted, mode="bicubic", align_corners=False)
            weights[key] = fitted[0].permute(1, 2, 0).flatten(0, 1)
        else:
            part = next(p for n, p in large.named_modules() if key.startswith(n + ".") and hasattr(p, "fitted"))
            weights[key] = part.fitted(key.rpartition("position.")[2], table, grid)
    large.load_state_dict(weights)
    return large


@pytest.mark.parametrize("kind", KINDS)
def test_learned_positions_of_another_size_are_not_rounded_under_autocast(build, kind):
    position = build(**{kind: modality(kind, "learned")}).modality().position
    index, grid = torch.arange(3)[None], tuple(2 * extent for extent in position.grid)
    with torch.autocast("cpu", torch.bfloat16):
        places = position(index, None, grid)
    assert torch.equal(places, position(index, None, grid)) and places.dtype == torch.float32


@pytest.mark.parametrize("position", POSITIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_features_of_another_size_are_those_of_a_model_built_for_it(build, kind, position):
    small = build(**{kind: modality(kind, position)}).eval()
    large = with_weights_of(small, build(**{kind: modality(kind, position, "other")}).eval())
    size = KINDS[kind][1]
    x = torch.rand(2, small.modality().channels, *size, generator=torch.Generator().manual_seed(0))
    spacing = spacing_of(size, position)
    with torch.no_grad():
        assert small.encode(x, spacing=spacing).shape == (2, prod(large.modality().grid), 24)
        for pool in ("mean", "class"):
            one, other = (m.features(x, spacing=spacing, pool=pool) for m in (small, large))
            torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
        torch.testing.assert_close(
            small.encode(x, spacing=spacing), large.encode(x, spacing=spacing), atol=2e-6, rtol=0
        )
        mask = small.modality().draw_mask([torch.Generator().manual_seed(i) for i in range(2)], large.modality().grid)
        one, other = (m.reconstruct(x, mask, spacing=spacing) for m in (small, large))
        assert one.shape == x.shape
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
        torch.testing.assert_close(small(x, mask, spacing=spacing), large(x, mask, spacing=spacing))


def test_every_part_of_a_larger_picture_counts(build):
    model = build(image=modality("image", "sincos")).eval()
    x = torch.rand(1, 3, 64, 48)
    with torch.no_grad():
        before = model.encode(x)
        for row, column in ((0, 0), (3, 2), (7, 5)):
            y = x.clone()
            y[..., 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 0
            moved = (model.encode(y) - before).abs().amax(-1)[0]
            assert moved.argmax() == 6 * row + column and moved.min() > 0


def test_learned_positions_of_another_grid_learn_too(build):
    model = build(image=modality("image", "learned"))
    model.encode(torch.rand(1, 3, 32, 32)).square().mean().backward()
    assert model.modality().position.table.grad.abs().amin(-1).min() > 0


def test_learned_positions_are_pytorchs_bicubic_on_two_axes_and_themselves_on_their_own_grid():
    table = plugins.positions.build("learned", {}, grid=(3, 5), width=8)
    index = torch.arange(6 * 7)[None]
    picture = table.table.detach().view(3, 5, 8).permute(2, 0, 1)[None]
    wanted = torch.nn.functional.interpolate(picture, (6, 7), mode="bicubic", align_corners=False)
    torch.testing.assert_close(table(index, None, (6, 7))[0], wanted[0].permute(1, 2, 0).flatten(0, 1))
    assert torch.equal(table(index[:, :15], None, (3, 5)), table(index[:, :15]))


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        (
            (1, 3, 20, 24),
            r"size \[20, 24\] is not a multiple of patch \[8, 8\] on axis 0 .* to \[16, 24\] for instance",
        ),
        ((1, 3, 4, 24), r"is not a multiple of patch .* to \[8, 24\] for instance"),
        ((1, 1, 16, 24), r"a tensor of \[1, 1, 16, 24\]: expected \(batch, 3 channels, 2 axes such as \[16, 24\]\)"),
        ((3, 16, 24), r"expected \(batch, 3 channels"),
        ((1, 3, 2, 16, 24), r"expected \(batch, 3 channels"),
    ],
)
def test_what_no_patch_divides_and_what_is_no_such_sample_is_refused_by_its_shape(build, shape, told):
    model = build(image=modality("image", "sincos"))
    for call in (model.encode, model.features, lambda x: model.encode_layers(x, [1])):
        with pytest.raises(WrongShape, match=f"modality 'image': .*{told}"):
            call(torch.rand(shape))
    assert issubclass(WrongShape, ValueError)


def test_a_mask_of_another_grid_is_refused(build):
    model = build(image=modality("image", "sincos"))
    mask = model.modality().draw_mask([torch.Generator()])
    x = torch.rand(1, 3, 32, 32)
    for call in (model, model.reconstruct):
        with pytest.raises(WrongShape, match=r"\[32, 32\] have a grid of \[4, 4\], and the mask is of \[2, 3\]"):
            call(x, mask)
    # As many tokens do not make it the same grid.
    with pytest.raises(WrongShape, match="the mask is of"):
        model.reconstruct(torch.rand(1, 3, 24, 16), Mask(mask.keep, mask.pred, (2, 3)))


@pytest.mark.parametrize("part", ["embed", "position"])
def test_a_plug_in_that_does_not_say_so_is_given_its_own_size_alone(build, part):
    model = build(image=modality("image", "learned"))
    module = getattr(model.modality(), part)
    module.any_size = False
    assert model.encode(torch.rand(1, 3, 16, 24)).shape[1] == 6
    with pytest.raises(WrongShape, match=rf"samples of \[32, 32\], and {type(module).__name__} is of size \[16, 24\]"):
        model.encode(torch.rand(1, 3, 32, 32))


def test_a_decode_masker_serves_another_grid(build):
    own = modality("image", "sincos") | {"decode": {"name": "random", "ratio": 0.5}}
    model = build(image=own).eval()
    mask = model.modality().draw_mask([torch.Generator()], (8, 6))
    assert (mask.grid, mask.keep.shape[1], mask.pred.shape[1]) == ((8, 6), 12, 18)
    assert isinstance(model, MAE) and model(torch.rand(1, 3, 64, 48), mask).isfinite()
