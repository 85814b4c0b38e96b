"""A model with the CPU's kernels is the plain model to the user: same values, gradients, dtypes and names."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mae_ext
from mae_ext.config import parse_config
from mae_ext.engine import checkpoint
from mae_ext.engine.cpu import KERNELS, CpuAttention, CpuBlock, CpuLinear, CpuMlp, on_device
from mae_ext.engine.failure import replay
from mae_ext.engine.task import load_task
from mae_ext.model.mae import MAE
from mae_ext.model.transformer import Block, Transformer, drop_path_gates

CPU = torch.device("cpu")


IMAGE = {"size": [8, 12], "patch": [4, 4], "channels": 2, "batch": 4, "data": {"statistics": "none"}}
CLIP = IMAGE | {
    "size": [4, 8, 8],
    "patch": [2, 4, 4],
    "position": "learned",
    "decode": {"name": "random", "ratio": 0.5},
}


def config_of(**train):
    values = {
        "modalities": {"image": IMAGE, "clip": CLIP},
        "model": {"width": 24, "depth": 3, "heads": 2, "decoder": {"width": 16, "depth": 2, "heads": 2}},
        "train": {"steps": 1, "precision": "fp32", **train},
    }
    return parse_config(values)


def both(**train):
    """The plain model and one with the kernels, of the same weights, none of them zero or one."""
    plain, g = MAE(config_of(**train)), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=g), alpha=0.1)
    return plain, on_device(copy.deepcopy(plain), CPU)


def batch_of(model, name):
    modality, g = model.modality(name), torch.Generator().manual_seed(2)
    x = torch.rand(4, modality.channels, *modality.size, generator=g)
    valid = torch.rand(4, 1, *modality.size, generator=g) > 0.3
    return x, modality.draw_mask([torch.Generator().manual_seed(i) for i in range(4)]), valid


def loss_and_gradients(model, name, dtype, gates):
    x, mask, valid = batch_of(model, name)
    model.encoder.gates = gates
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = model(x, mask, name, valid)
    model.zero_grad()
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("with_gates", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["image", "clip"])
def test_a_model_with_the_kernels_learns_what_the_plain_one_does(name, checkpointing, with_gates, either_library):
    gates = drop_path_gates(0.5, 3, 4, torch.Generator().manual_seed(3)) if with_gates else None
    plain, swapped = (loss_and_gradients(m, name, torch.float32, gates) for m in both(checkpointing=checkpointing))
    assert len(plain) == len(swapped) > 60
    for a, b in zip(swapped, plain, strict=True):
        assert a.dtype == b.dtype and (a - b).norm() <= 1e-4 * b.norm() + 1e-6


@pytest.mark.parametrize("with_gates", [False, True])
@pytest.mark.parametrize("name", ["image", "clip"])
def test_under_autocast_it_is_about_as_near_to_exact_numbers_as_the_plain_one(name, with_gates, halves):
    gates = drop_path_gates(0.5, 3, 4, torch.Generator().manual_seed(3)) if with_gates else None
    plain, swapped = both()
    exact = loss_and_gradients(plain, name, torch.float32, gates)
    rounded, ours = (loss_and_gradients(m, name, torch.bfloat16, gates) for m in (plain, swapped))

    def error(values):
        return torch.stack([(a - b).norm() / (b.norm() + 1e-6) for a, b in zip(values, exact, strict=True)]).mean()

    assert [t.dtype for t in ours] == [t.dtype for t in rounded]
    assert 0 < error(ours) < 2 * error(rounded) < 0.05


@pytest.mark.parametrize("larger", [1, 2])
@pytest.mark.parametrize("name", ["image", "clip"])
def test_its_tokens_and_pictures_are_those_of_the_plain_one(name, larger):
    plain, swapped = both()
    x, mask, _ = batch_of(plain, name)
    x = x.repeat(1, 1, *[larger] * (x.ndim - 2))
    with torch.no_grad():
        for call in (lambda m: m.encode_all(x, name), lambda m: m.encode_layers(x, [1, 3], name)[0]):
            torch.testing.assert_close(call(swapped), call(plain), atol=1e-5, rtol=1e-4)
    if larger == 1:
        torch.testing.assert_close(*(m.reconstruct(x, mask, name) for m in (swapped, plain)), atol=1e-5, rtol=1e-4)
    assert swapped.encode(x, name).requires_grad


def kinds(model):
    return {type(module) for module in model.modules()}


def test_only_forward_is_another_and_not_a_name_or_a_weight():
    plain, swapped = both()
    assert kinds(swapped) >= {CpuLinear, CpuAttention, CpuMlp, CpuBlock} and not kinds(swapped) & set(KERNELS)
    assert not kinds(plain) & set(KERNELS.values())
    ours, theirs = swapped.state_dict(), plain.state_dict()
    assert list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert on_device(swapped, CPU) is swapped and kinds(swapped) == kinds(on_device(both()[0], CPU))


def test_where_there_is_no_cpu_a_model_stays_plain_and_one_that_leaves_it_computes_as_the_plain_one():
    plain, swapped = both()
    meta = torch.device("meta")
    moved = swapped.to(meta)
    assert not kinds(on_device(plain, meta)) & set(KERNELS.values())
    x, mask, _ = batch_of(MAE(config_of()), "image")
    for model in (plain, moved):
        x, mask = x.to(meta), mask.each(lambda index: index.to(meta))
        with torch.autocast("cpu", torch.bfloat16):  # of another device, and so without effect
            tokens = model.encode_all(x, "image")
        assert tokens.device == meta and tokens.dtype == torch.float32 and tokens.shape == (4, 7, 24)


def test_a_copy_and_what_was_pickled_are_swapped_too_and_say_the_same():
    _, swapped = both()
    file = io.BytesIO()
    torch.save(swapped, file)
    file.seek(0)
    x = batch_of(swapped, "image")[0]
    for again in (copy.deepcopy(swapped), torch.load(file, weights_only=False)):
        assert kinds(again) == kinds(swapped) and torch.equal(again.encode(x, "image"), swapped.encode(x, "image"))


class Adapted(nn.Module):
    """As LoRA wraps a layer: what it adds is of the layer's own input."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.more = layer, nn.Linear(layer.in_features, layer.out_features)

    def forward(self, x):
        return self.layer(x) + self.more(x)


def test_a_layer_that_somebody_wraps_is_given_what_the_norm_gives():
    torch.manual_seed(0)
    plain, x = Transformer(24, 2, 3), torch.randn(2, 7, 24)
    for block in plain.blocks:
        block.norm1.weight.data.normal_()
        block.attention.qkv, block.mlp.down = Adapted(block.attention.qkv), Adapted(block.mlp.down)
    early = on_device(copy.deepcopy(plain), CPU)
    torch.testing.assert_close(early(x), plain(x), atol=1e-5, rtol=1e-4)
    assert type(early.blocks[0].attention.qkv.more) is CpuLinear


class Halved(Block):
    def forward(self, x, gate=None):
        return super().forward(x, gate) / 2


def test_of_a_class_that_somebody_derived_the_parts_are_swapped_and_its_forward_stays():
    torch.manual_seed(0)
    plain, x = Halved(24, 3, 4.0, 1e-6), torch.randn(2, 7, 24)
    swapped = on_device(copy.deepcopy(plain), CPU)
    assert type(swapped) is Halved and type(swapped.mlp) is CpuMlp
    torch.testing.assert_close(swapped(x), plain(x), atol=1e-5, rtol=1e-4)


def test_a_layer_without_a_bias_is_the_ordinary_one():
    layer, x = on_device(nn.Linear(6, 4, bias=False), CPU), torch.randn(3, 6)
    assert type(layer) is CpuLinear and torch.equal(layer(x), F.linear(x, layer.weight))


def test_a_model_in_doubles_is_exact_to_doubles():
    plain, swapped = (model.double() for model in both())
    x = batch_of(plain, "image")[0]
    torch.testing.assert_close(swapped.encode(x, "image"), plain.encode(x, "image"), atol=1e-12, rtol=1e-12)


def test_every_way_to_a_model_on_a_cpu_gives_it_the_kernels(tiny, photos, tmp_path, monkeypatch):
    built, real = [], MAE.from_config
    monkeypatch.setattr(MAE, "from_config", lambda config: built.append(real(config)) or built[-1])
    changes = {"modalities.image.data.path": str(photos), "train.steps": 1, "train.device": "cpu", "train.workers": 0}
    run = mae_ext.train(mae_ext.load_config(tiny(changes)), tmp_path / "run")
    failure = checkpoint.find(run)
    (failure / "record.json").write_text("{}")
    replay(failure)
    encoder = mae_ext.load_encoder(run, device="cpu")
    ways = {
        "train": built[0], "replay": built[1], "task": load_task(run, "cpu")[1], "encoder": encoder,
        "random": encoder.randomised(1),
    }  # fmt: skip
    for way, model in ways.items():
        assert CpuBlock in kinds(model) and not kinds(model) & set(KERNELS), way
