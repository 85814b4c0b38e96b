"""Heads of segmentation: which layers they are given, where they answer, and UNETR's decoder as MONAI has it."""

import pytest
import torch
from einops import rearrange
from monai.networks.nets import UNETR

from mae_ext.config import parse_config
from mae_ext.errors import ConfigError
from mae_ext.tasks.segment import heads
from mae_ext.tasks.segment.heads import LinearHead, Segmenter, UnetrHead
from mae_ext.tasks.segment.upsample import UpsampleHead


def segmenter(depth, patch, size=(32, 32), class_token=True, head="unetr"):
    config = parse_config({
        "modalities": {"image": {"size": size, "patch": [patch] * len(size), "channels": 1, "batch": 2}},
        "model": {"width": 12, "depth": depth, "heads": 2, "class_token": class_token}, "train": {"steps": 1},
        "task": {"name": "segment", "classes": ["x"]},
    })  # fmt: skip
    return Segmenter(config, "image", head, 2, features=2)


@pytest.mark.parametrize(
    ("depth", "patch", "taken"), [(12, 16, [3, 6, 9]), (24, 16, [6, 12, 18]), (6, 8, [2, 4]), (4, 4, [2]), (3, 2, [])]
)
def test_layers_are_taken_evenly_over_the_depth_as_in_the_paper(depth, patch, taken):
    assert segmenter(depth, patch).taken == taken
    assert segmenter(depth, patch, head="linear").taken == []


@pytest.mark.parametrize("class_token", [True, False])
def test_the_head_is_given_what_those_blocks_say_of_patches_in_the_order_of_depth(class_token):
    model, said, given = segmenter(6, 8, class_token=class_token), {}, []
    for number, block in enumerate(model.backbone.encoder.trunk.blocks, start=1):
        block.register_forward_hook(lambda _, __, out, number=number: said.update({number: out}))
    model.head.register_forward_pre_hook(lambda _, args: given.extend(args[0]))
    model(torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)), "image")
    first = int(class_token)
    assert torch.equal(given[0], said[2][:, first:]) and torch.equal(given[1], said[4][:, first:])
    assert torch.equal(given[2], model.backbone.encoder.trunk.norm(said[6])[:, first:]) and len(given) == 3


class Fixed(torch.nn.Module):
    """Stands where MONAI's UNETR has its encoder: what it says is given, after blocks 3, 6 and 9 and at the end."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        return self.layers[-1], {3: self.layers[0], 6: self.layers[1], 9: self.layers[2]}


def test_the_decoder_is_monais_with_its_weights():
    torch.manual_seed(0)
    ours = UnetrHead(24, (16, 16), channels=2, classes=3, features=4)
    theirs = UNETR(2, 3, (32, 48), feature_size=4, hidden_size=24, mlp_dim=24, num_heads=2, spatial_dims=2)
    names = {"stem": "encoder1", "skips.0": "encoder2", "skips.1": "encoder3", "skips.2": "encoder4"}
    names |= {"ups.0": "decoder5", "ups.1": "decoder4", "ups.2": "decoder3", "ups.3": "decoder2", "out": "out"}
    for name, other in names.items():
        theirs.get_submodule(other).load_state_dict(ours.get_submodule(name).state_dict())
    layers = [torch.randn(2, 6, 24) for _ in range(4)]
    theirs.vit = Fixed(layers)
    x = torch.randn(2, 2, 32, 48)
    torch.testing.assert_close(ours(layers, (2, 3), x), theirs(x), atol=1e-5, rtol=0)


def test_patches_that_are_not_one_power_of_two_are_refused_with_what_to_use_instead():
    for patch in ((4, 8), (12, 12), (1, 1)):
        with pytest.raises(ConfigError, match=r"one power of two on all axes, not .*; use head: linear"):
            UnetrHead(8, patch, 1, 2)


@torch.no_grad()
def test_many_classes_are_put_where_few_are(monkeypatch):
    head = LinearHead(6, (2, 4, 3), 40)
    tokens = torch.randn(2, 12, 6, generator=torch.Generator().manual_seed(0))
    many = head([tokens], (2, 3, 2), tokens)
    said = head.predict(head.norm(tokens))
    kw = {"d": 2, "h": 3, "w": 2, "p": 2, "q": 4, "r": 3}
    assert torch.equal(many, rearrange(said, "b (d h w) (p q r c) -> b c (d p) (h q) (w r)", **kw))
    monkeypatch.setattr(heads, "MANY", 99)
    assert torch.equal(head([tokens], (2, 3, 2), tokens), many)


@torch.no_grad()
@pytest.mark.parametrize("many", [1, 99])
def test_probabilities_are_the_softmax_of_what_is_trained_with_classes_last(monkeypatch, many):
    monkeypatch.setattr(heads, "MANY", many)
    tokens = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))
    linear = LinearHead(8, (2, 4, 3), 5)
    for head, grid, x in [
        (linear, (2, 3, 2), tokens),
        (UnetrHead(8, (4, 4), 1, 5, 2), (4, 3), torch.rand(2, 1, 16, 12)),
        (UpsampleHead(8, (4, 4), 1, 5, 2), (4, 3), torch.rand(2, 1, 16, 12)),
    ]:
        layers = [tokens] * getattr(head, "levels", 1)
        wanted = head(layers, grid, x).softmax(1).movedim(1, -1)
        found = head.probabilities(layers, grid, x)
        assert found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-6, atol=1e-7)
        assert found.sum(-1).allclose(torch.ones(()))


@pytest.mark.parametrize("size", [(16, 32), (8, 16, 24)])
@pytest.mark.parametrize("edge", [2, 4, 8])
@pytest.mark.parametrize("head", ["linear", "unetr", "upsample"])
def test_every_head_answers_every_voxel_for_any_number_of_axes(size, edge, head):
    modality = {"size": size, "patch": [edge] * len(size), "channels": 1, "batch": 2}
    reader = {"data": {"reader": "image" if size == (16, 32) else "volume"}}
    config = parse_config(
        {"modalities": {"a": modality | reader}, "model": {"width": 16, "depth": 3, "heads": 2}, "train": {"steps": 1}}
        | {"task": {"name": "segment", "classes": ["x"]}}
    )
    model = Segmenter(config, "a", head, 3, features=4)
    x = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))
    out = model(x, "a")
    assert out.shape == (2, 3, *size) and out.dtype == torch.float32
    out.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_linear_head_answers_for_its_own_patch_and_in_the_order_of_the_grid():
    """Of a head whose weights are one token's place, the answer of each voxel names the patch it lies in."""
    from mae_ext.tasks.segment.heads import LinearHead

    head = LinearHead(6, (2, 5), 1)
    tokens = torch.arange(6.0)[None, :, None].expand(1, 6, 6)
    head.norm, head.predict.weight.data = torch.nn.Identity(), torch.full((10, 6), 1 / 6)
    out = head([tokens], (3, 2), torch.zeros(0))[0, 0]
    assert torch.allclose(out, torch.arange(6.0).view(3, 2).repeat_interleave(2, 0).repeat_interleave(5, 1))
