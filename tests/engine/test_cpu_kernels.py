"""The CPU's products and attention: values, gradients and dtypes of the plain ones, and less kept."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mae_ext.engine import cpu
from mae_ext.engine.cpu import CpuLinear, attend, on_device

SHAPES = [(5, 24), (2, 7, 24), (2, 3, 5, 24), (1, 24)]


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


def outputs_and_gradients(q, k, v):
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    out = attend(*leaves)
    return [out.detach(), *torch.autograd.grad((out.float() ** 2).sum(), leaves)]


@pytest.mark.parametrize("heads_at_a_time", [1, 2, 4])
def test_attention_head_by_head_is_that_of_all_heads_to_the_bit(monkeypatch, heads_at_a_time):
    drawn = [torch.randn(2, 3, n, 64, generator=torch.Generator().manual_seed(n)).bfloat16() for n in (150, 90, 90)]
    at_once = outputs_and_gradients(*drawn)
    monkeypatch.setattr(cpu, "LARGEST", 0)
    monkeypatch.setattr(cpu, "GROUP", heads_at_a_time * 150 * 90 * 2)
    for ours, theirs in zip(outputs_and_gradients(*drawn), at_once, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("heads", "tokens", "taken"), [(128, 197, [128]), (96, 433, [11, 11, 11, 11, 11, 11, 11, 11, 8]), (2, 4097, [1, 1])]
)
def test_heads_are_taken_together_as_long_as_their_scores_fit_a_cache(heads, tokens, taken):
    q = torch.empty(heads, tokens, 64, dtype=torch.bfloat16)
    assert [len(q[group]) for group in cpu._groups(q, q)] == taken


def test_attention_of_doubles_is_of_doubles():
    q, k, v = torch.randn(3, 2, 3, 11, 8, dtype=torch.float64).unbind()
    assert torch.equal(attend(q, k, v), F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize("norm", [nn.LayerNorm(24, elementwise_affine=False), nn.LayerNorm(24, bias=False)], ids=str)
def test_a_norm_without_weights_of_its_own_is_applied_all_the_same(norm):
    layer, x, _ = layer_and_input((2, 7, 24))
    torch.testing.assert_close(layer(x, norm), F.linear(norm(x), layer.weight, layer.bias), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("slices", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_a_convolution_over_few_slices_has_the_gradients_of_exact_numbers_in_bf16(slices, kernel):
    g = torch.Generator().manual_seed(0)
    layer = on_device(nn.Conv3d(16, 8, kernel, padding=kernel // 2), torch.device("cpu"))
    x = torch.randn(2, 16, slices, 4, 4, generator=g).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    seed, wanted = torch.randn(out.shape, generator=g), (x, layer.weight, layer.bias)
    got = gradients(out, seed, *wanted)
    exact = F.conv3d(x.double(), layer.weight.double(), layer.bias.double(), padding=kernel // 2)
    assert out.dtype == torch.bfloat16
    for ours, true in zip([out, *got], [exact, *gradients(exact, seed, *wanted)], strict=True):
        assert (ours.double() - true).norm() < 0.02 * true.norm()
