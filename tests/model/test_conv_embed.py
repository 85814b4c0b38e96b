"""Convolutions inside a patch: as deep as they are, a token knows its own patch, all of it, and no other."""

from math import prod

import pytest
import torch
from own_patch import assert_a_token_is_of_its_patch_alone

from mae_ext.config import parse_config
from mae_ext.engine.optim import depth_of, layer_of
from mae_ext.model.conv_embed import ConvEmbed
from mae_ext.model.embed import PatchEmbed

SHAPES = [
    ((7,), (3,)),
    ((3,), (16,)),
    ((5, 3), (4, 4)),
    ((2, 3), (5, 1)),
    ((3, 2, 2), (2, 5, 8)),
    ((2, 2, 3), (1, 4, 4)),
]


def embedder(grid, patch, channels=2, width=8, **arguments):
    torch.manual_seed(0)
    size = tuple(g * p for g, p in zip(grid, patch, strict=True))
    return ConvEmbed(size, patch, channels, width, hidden=3, **arguments), torch.randn(2, channels, *size)


@pytest.mark.parametrize("start", [1, 2])
@pytest.mark.parametrize(("grid", "patch"), SHAPES, ids=str)
def test_the_gradient_of_a_token_is_its_patch_and_nothing_outside(grid, patch, start):
    embed, x = embedder(grid, patch, start=start)
    assert_a_token_is_of_its_patch_alone(embed, x, grid, patch)


@pytest.mark.parametrize(("grid", "patch"), SHAPES, ids=str)
def test_what_is_not_kept_is_never_read_and_other_tokens_change_nothing(grid, patch):
    embed, x = embedder(grid, patch)
    last = prod(grid) - 1
    whole = embed(x, torch.arange(last + 1).expand(2, -1))
    box = tuple(slice((g - 1) * p, g * p) for g, p in zip(grid, patch, strict=True))
    kept = torch.zeros_like(x, dtype=torch.bool)
    kept[(slice(None), slice(None), *box)] = True
    alone = embed(torch.where(kept, x, torch.nan), torch.tensor([[last]] * 2))
    assert torch.allclose(alone[:, 0], whole[:, last], atol=1e-6)


@pytest.mark.parametrize(
    ("patch", "start", "shapes"),
    [
        ((4, 4), None, [(4, 4), (2, 2), (1, 1)]),
        ((8, 8, 8), None, [(4, 4, 4), (2, 2, 2), (1, 1, 1)]),
        ((8, 8, 8), 1, [(8, 8, 8), (4, 4, 4), (2, 2, 2), (1, 1, 1)]),
        ((1, 5), 1, [(1, 5), (1, 3), (1, 2), (1, 1)]),
        ((2, 16, 16), None, [(1, 8, 8), (1, 4, 4), (1, 2, 2), (1, 1, 1)]),
        ((1, 1), 1, [(1, 1)]),
    ],
    ids=str,
)
def test_each_level_halves_the_axes_that_are_longer_than_one_still(patch, start, shapes):
    embed, x = embedder((1,) * len(patch), patch, start=start)
    assert embed.shapes == shapes
    assert [tuple(level.shape[2:]) for level in embed._levels(x)] == shapes


def test_without_its_convolutions_it_is_the_embedder_of_patches():
    embed, x = embedder((3, 2), (4, 4))
    plain = PatchEmbed((12, 8), (4, 4), 2, 8)
    plain.project = embed.project
    keep = torch.tensor([[1, 4], [0, 5]])
    assert not torch.allclose(embed(x, keep), plain(x, keep), atol=1e-2)
    for skip in embed.skips:
        torch.nn.init.zeros_(skip.weight)
    assert torch.equal(embed(x, keep), plain(x, keep))


def test_a_step_in_bf16_over_many_cubes_has_the_gradients_of_one_in_fp32():
    """oneDNN's bf16 kernel for the weights of a convolution over 2x2x2 voxels reads what nobody wrote."""
    torch.manual_seed(0)
    embed, x = ConvEmbed((8, 8, 64), (8, 8, 8), 1, 24), torch.randn(36, 1, 8, 8, 64)
    keep, found = torch.arange(8).expand(36, -1), []
    for half in (False, True):
        embed.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = embed(x, keep).float().square().mean()
        loss.backward()
        found.append({name: p.grad.clone() for name, p in embed.named_parameters()})
    for name, exact in found[0].items():
        assert (found[1][name] - exact).norm() < 0.03 * exact.norm() + 1e-6, name


@pytest.mark.parametrize(
    ("patch", "arguments", "said"),
    [
        ((2, 2, 2, 2), {}, "1 to 3 axes"),
        ((4, 4), {"hidden": 0}, "hidden=0"),
        ((4, 4), {"hidden": 2.5}, "hidden=2.5"),
        ((4, 4), {"hidden": True}, "hidden=True"),
        ((4, 4), {"start": 3}, "start=3"),
    ],
)
def test_what_it_cannot_be_is_refused(patch, arguments, said):
    with pytest.raises(ValueError, match=said):
        ConvEmbed(patch, patch, 1, 8, **arguments)


def test_in_a_model_it_is_the_embedding_serves_other_sizes_and_gives_features_of_layers(build, draw):
    model = build(scan={"size": [8, 12], "patch": [4, 4], "channels": 1, "embed": {"name": "conv", "hidden": 2}})
    own = [name for name, _ in model.named_parameters() if ".embed." in name]
    assert len(own) > 8 and {layer_of(name, depth_of(model)) for name in own} == {0}
    x, mask = draw(model.modality())
    hidden = model.modality().normalize(x).clone()
    keep = torch.zeros(2, 6, dtype=torch.bool).scatter(1, mask.keep, True)
    covered = (~keep).view(2, 1, 2, 3).repeat_interleave(4, 2).repeat_interleave(4, 3)
    changed = torch.where(covered, hidden + 3, hidden)
    predicted = [model.predict(one, mask, model.modality()) for one in (hidden, changed)]
    assert torch.equal(*predicted)
    layers = model.eval().encode_layers(torch.rand(1, 1, 16, 8), [1])
    assert [tuple(layer.shape) for layer in layers] == [(1, 8, 24)] * 2


def test_a_config_names_it_and_misspelt_arguments_are_refused():
    image = {"size": [8, 8], "patch": [4, 4], "batch": 2, "embed": {"name": "conv", "hiden": 4}}
    with pytest.raises(Exception, match="did you mean 'hidden'"):
        parse_config({"modalities": {"x": image}, "model": {"size": "tiny"}, "train": {"steps": 1}})
