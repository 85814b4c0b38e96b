"""A model with the CPU's kernels is the plain model to the user: same values, gradients, dtypes and names."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mae_ext
from mae_ext.config import parse_config
from mae_ext.engine import checkpoint, cpu
from mae_ext.engine.cpu import KERNELS, CpuAttention, CpuBlock, CpuLinear, CpuMlp, attend, on_device
from mae_ext.engine.failure import replay
from mae_ext.engine.task import load_task
from mae_ext.model.mae import MAE
from mae_ext.model.transformer import Block, Transformer, drop_path_gates

CPU = torch.device("cpu")
SHAPES = [(5, 24), (2, 7, 24), (2, 3, 5, 24), (1, 24)]


@pytest.fixture(params=[True, False], ids=["oneDNN", "MKL"])
def either_library(request, monkeypatch):
    monkeypatch.setattr(cpu, "ONEDNN", request.param)


@pytest.fixture(params=["native", "not native"])
def halves(request, monkeypatch):
    """A processor with half-precision products of its own, and one without."""
    half = {torch.bfloat16, torch.float16} if request.param == "native" else set()
    monkeypatch.setattr(cpu, "NATIVE", frozenset({torch.float32, torch.float64, *half}))


def layer_and_input(shape):
    g = torch.Generator().manual_seed(0)
    layer = CpuLinear(24, 40)
    for parameter in layer.parameters():
        parameter.data.normal_(generator=g)
    return layer, torch.randn(shape, generator=g).requires_grad_(), torch.randn(*shape[:-1], 40, generator=g)


def gradients(out, seed, *wanted):
    return torch.autograd.grad((out.float() * seed).sum(), wanted)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_linear_in_fp32(shape, either_library):
    layer, x, seed = layer_and_input(shape)
    ours, theirs = layer(x), F.linear(x, layer.weight, layer.bias)
    assert ours.dtype == torch.float32 and ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, atol=1e-5)
    wanted = (x, layer.weight, layer.bias)
    for a, b in zip(gradients(ours, seed, *wanted), gradients(theirs, seed, *wanted), strict=True):
        assert a.dtype == b.dtype and torch.allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast_outputs_are_half_and_gradients_full(shape, dtype, halves):
    layer, x, seed = layer_and_input(shape)
    exact = F.linear(x, layer.weight, layer.bias)
    with torch.autocast("cpu", dtype):
        ours = layer(x)
        theirs = F.linear(x, layer.weight, layer.bias)
    assert ours.dtype == theirs.dtype == dtype
    wanted = (x, layer.weight, layer.bias)
    for a, b, c in zip(
        (ours, *gradients(ours, seed, *wanted)),
        (theirs, *gradients(theirs, seed, *wanted)),
        (exact, *gradients(exact, seed, *wanted)),
        strict=True,
    ):
        assert a.dtype == b.dtype
        error, theirs_error = (a.float() - c).norm() / c.norm(), (b.float() - c).norm() / c.norm()
        assert error < 0.01 and error < 1.5 * theirs_error + 1e-4


@pytest.mark.parametrize("frozen", ["weight", "bias", "both", "x"])
def test_what_needs_no_gradient_gets_none_and_the_rest_is_right(frozen, either_library):
    layer, x, seed = layer_and_input((2, 7, 24))
    layer.weight.requires_grad_(frozen not in ("weight", "both"))
    layer.bias.requires_grad_(frozen not in ("bias", "both"))
    x = x.detach().requires_grad_(frozen != "x")
    wanted = [t for t in (x, layer.weight, layer.bias) if t.requires_grad]
    reference = gradients(F.linear(x, layer.weight, layer.bias), seed, *wanted)
    for a, b in zip(gradients(layer(x), seed, *wanted), reference, strict=True):
        assert torch.allclose(a, b, atol=2e-5)


def norm_of(width):
    g = torch.Generator().manual_seed(1)
    norm = nn.LayerNorm(width, eps=0.1)  # large, so that it matters
    for parameter in norm.parameters():
        parameter.data.normal_(generator=g)
    return norm


@pytest.mark.parametrize("what", ["gelu", "norm", "another"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_comes_before_the_product_is_applied_once_and_has_its_own_gradients(what, dtype, halves):
    layer, x, seed = layer_and_input((2, 7, 24))
    before = {"gelu": F.gelu, "norm": norm_of(24), "another": torch.tanh}[what]
    wanted = (x, layer.weight, layer.bias, *(before.parameters() if what == "norm" else ()))
    exact = F.linear(before(x), layer.weight, layer.bias)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
        ours = layer(x, before=before)
    assert ours.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.015
    for a, b in zip((ours, *gradients(ours, seed, *wanted)), (exact, *gradients(exact, seed, *wanted)), strict=True):
        assert (a.float() - b).norm() < tolerance * b.norm()


@pytest.mark.parametrize("frozen", ["norm", "linear", "x"])
def test_a_norm_before_the_product_may_be_frozen_by_itself(frozen):
    layer, x, seed = layer_and_input((2, 7, 24))
    norm = norm_of(24)
    norm.requires_grad_(frozen != "norm")
    layer.requires_grad_(frozen != "linear")
    x = x.detach().requires_grad_(frozen != "x")
    wanted = [t for t in (x, *layer.parameters(), *norm.parameters()) if t.requires_grad]
    reference = gradients(F.linear(norm(x), layer.weight, layer.bias), seed, *wanted)
    for a, b in zip(gradients(layer(x, before=norm), seed, *wanted), reference, strict=True):
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("what", ["gelu", "norm"])
def test_what_comes_before_the_product_is_not_kept_for_the_backward_pass(what):
    layer, _, _ = layer_and_input((1, 24))
    x = torch.randn(64, 24, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x, before=F.gelu if what == "gelu" else norm_of(24))
    assert [t.data_ptr() for t in kept if t.numel() == x.numel()] == [x.data_ptr()]


def test_without_gradients_nothing_is_recorded():
    layer, x, _ = layer_and_input((2, 7, 24))
    with torch.no_grad():
        assert layer(x).grad_fn is None
    with torch.inference_mode():
        assert torch.allclose(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-5)


def test_inputs_need_not_be_contiguous(either_library):
    layer, _, _ = layer_and_input((1, 24))
    x = torch.randn(7, 2, 24).transpose(0, 1).requires_grad_()
    wide = torch.randn(2, 7, 48)[..., ::2]
    for value in (x, wide):
        assert torch.allclose(layer(value), F.linear(value, layer.weight, layer.bias), atol=1e-5)
    layer(x).transpose(0, 1).square().sum().backward()
    expected = torch.autograd.grad(F.linear(x, layer.weight, layer.bias).square().sum(), x)[0]
    assert torch.allclose(x.grad, expected, atol=1e-3, rtol=1e-4)


def test_other_dtypes_take_the_ordinary_way():
    layer = CpuLinear(6, 4).double()
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert torch.autograd.gradcheck(layer, (x,))


def test_it_is_saved_and_loaded_as_the_ordinary_layer():
    ours, theirs = CpuLinear(6, 4), nn.Linear(6, 4)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 6)
    assert isinstance(ours, nn.Linear) and torch.allclose(ours(x), theirs(x), atol=1e-6)


def test_a_training_step_may_follow_an_inference_of_another_size():
    layer = CpuLinear(24, 40)
    for rows in (3, 9, 5):
        x = torch.randn(rows, 24)
        with torch.inference_mode():
            seen = layer(x, before=F.gelu)
        assert torch.allclose(seen, F.linear(F.gelu(x), layer.weight, layer.bias), atol=1e-5)
        assert torch.equal(layer(x, before=F.gelu), seen)


def test_attention_in_bf16_on_a_cpu_is_attention(halves):
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 11, 8, generator=g) for _ in range(3))
    exact = F.scaled_dot_product_attention(q, k, v)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            half = attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
        assert half.dtype == torch.bfloat16
        assert (half.float() - exact).abs().max() < 0.03
    assert torch.equal(attend(q, k, v), exact)


def test_its_gradients_in_bf16_on_a_cpu_are_those_of_attention(halves):
    g = torch.Generator().manual_seed(0)
    drawn = [torch.randn(2, 3, n, 8, generator=g).bfloat16() for n in (11, 7, 7)]
    weight = torch.randn(2, 3, 11, 8, generator=g)
    exact = [t.float().requires_grad_() for t in drawn]
    (F.scaled_dot_product_attention(*exact) * weight).sum().backward()
    half = [t.clone().requires_grad_() for t in drawn]
    with torch.autocast("cpu", torch.bfloat16):
        (attend(*half) * weight).sum().backward()
    for ours, theirs in zip(half, exact, strict=True):
        assert ours.grad.dtype == torch.bfloat16
        assert (ours.grad.float() - theirs.grad).abs().max() < 0.02 * theirs.grad.abs().max()


def test_attention_in_bf16_on_a_cpu_keeps_no_probabilities(halves):
    q, k, v = (torch.randn(2, 3, 64, 8).bfloat16().requires_grad_() for _ in range(3))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        attend(q, k, v)
    assert len(kept) >= 3 and max(kept) == q.numel()


def test_attention_of_doubles_is_of_doubles():
    q, k, v = torch.randn(3, 2, 3, 11, 8, dtype=torch.float64).unbind()
    assert torch.equal(attend(q, k, v), F.scaled_dot_product_attention(q, k, v))


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


@pytest.mark.parametrize("norm", [nn.LayerNorm(24, elementwise_affine=False), nn.LayerNorm(24, bias=False)], ids=str)
def test_a_norm_without_weights_of_its_own_is_applied_all_the_same(norm):
    layer, x, _ = layer_and_input((2, 7, 24))
    torch.testing.assert_close(layer(x, norm), F.linear(norm(x), layer.weight, layer.bias), atol=1e-4, rtol=1e-4)


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
