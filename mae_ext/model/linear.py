"""nn.Linear whose matrix products, on a CPU that trains, take the fastest way, and whose input is not kept twice.

Why this file exists: PyTorch sends fp32 matrix products on a CPU to MKL, which on other vendors' processors takes its
AVX2 path; oneDNN, in the same wheel, has AVX-512 code for all of them (195 against 440 GFLOP/s on 2 cores). Where
there is no AVX-512, MKL is the faster of the two (a fifth, over the products of a step). In bf16 a weight is cast
where it is used, in the forward and again in the backward pass; autocast's cache would hold a second copy of the whole
model through the step. What comes before the product (a norm, a GELU) is applied again in the backward pass, from the
tensor that its own gradient needs anyway: a third of a step's activations, for 1 % of its time. A processor without
half-precision instructions multiplies bf16 numbers at a seventh to a hundredth of its fp32 rate; there the products of
the same rounded numbers are taken in fp32. On a GPU, and under torch.compile, this is nn.Linear.
"""

import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Before = nn.LayerNorm | Callable[[Tensor], Tensor] | None
"""What a Linear applies to its input first: a layer norm over the last axis, F.gelu, or nothing."""


def _native() -> frozenset[torch.dtype]:
    """The dtypes that this processor multiplies by itself."""
    ops, mkldnn = torch.ops.mkldnn, torch.backends.mkldnn.is_available()
    half = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    return frozenset({torch.float32, *(dtype for dtype, asked in half.items() if mkldnn and getattr(ops, asked)())})


NATIVE = _native()
ONEDNN = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
"""Whether fp32 products go through oneDNN, and not through MKL."""


def is_native(dtype: torch.dtype) -> bool:
    return dtype in NATIVE


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """(M, K), (N, K) -> (M, N): a @ b.T + bias in a's dtype, summed in fp32."""
    if not is_native(a.dtype):
        return _product(a.float(), b.float(), None if bias is None else bias.float()).to(a.dtype)
    if a.dtype == torch.float32 and ONEDNN:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
        return out
    return F.linear(a, b, bias)


_scratch = threading.local()


def _gelu(x: Tensor) -> Tensor:
    """(M, K) -> (M, K): GELU, in memory that the next call of this thread uses again.

    The largest short-lived tensor of a step otherwise leaves holes among those that live until the backward pass.
    """
    held = getattr(_scratch, "held", None)
    if held is None or held.dtype != x.dtype or held.numel() < x.numel():
        with torch.inference_mode(False):  # else training after an inference could not write to it
            held = _scratch.held = torch.empty(x.numel(), dtype=x.dtype)
    out = held[: x.numel()].view_as(x)
    torch.ops.aten.gelu.out(x, out=out)
    return out


class _CpuLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype,
        gelu: bool, scale: Tensor | None, shift: Tensor | None, eps: float,
    ) -> Tensor:  # fmt: skip
        """(..., in), (out, in), (out) -> (..., out) in `dtype`. scale, shift: (in) of a layer norm, both or neither."""
        flat = x.reshape(-1, x.shape[-1])
        mean = rstd = None
        if scale is not None:
            entered, mean, rstd = torch.native_layer_norm(flat, scale.shape, scale, shift, eps)
            entered = entered.to(dtype)
        else:
            flat = flat.to(dtype)
            entered = _gelu(flat) if gelu else flat
        ctx.save_for_backward(flat, weight, scale, shift, mean, rstd)
        ctx.x_shape, ctx.x_dtype, ctx.dtype, ctx.gelu, ctx.eps = x.shape, x.dtype, dtype, gelu, eps
        return _product(entered, weight.to(dtype), bias.to(dtype)).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight, scale, shift, mean, rstd = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, _, _, wants_scale, wants_shift, _ = ctx.needs_input_grad
        grad = grads[0].reshape(-1, weight.shape[0]).to(ctx.dtype)
        grad_weight = grad_scale = grad_shift = None
        if wants_weight:
            entered = flat
            if scale is not None:
                entered = torch.native_layer_norm(flat, scale.shape, scale, shift, ctx.eps)[0].to(ctx.dtype)
            elif ctx.gelu:
                entered = _gelu(flat)
            grad_weight = _product(grad.t(), entered.t()).to(weight.dtype)
            del entered
        grad_bias = grad.sum(0, dtype=weight.dtype) if wants_bias else None
        grad_x = None
        if wants_x or wants_scale or wants_shift:
            grad_x = _product(grad, weight.to(ctx.dtype).t())
            del grad
            if scale is not None:
                grad_x, grad_scale, grad_shift = torch.ops.aten.native_layer_norm_backward(
                    grad_x.to(flat.dtype), flat, scale.shape, mean, rstd, scale, shift,
                    [wants_x, wants_scale, wants_shift],
                )  # fmt: skip
            elif ctx.gelu:
                torch.ops.aten.gelu_backward.grad_input(grad_x, flat, grad_input=grad_x)
        if grad_x is not None:
            grad_x = grad_x.to(ctx.x_dtype).view(ctx.x_shape)
        return grad_x, grad_weight, grad_bias, None, None, grad_scale, grad_shift, None


class Linear(nn.Linear):
    """(..., in) -> (..., out), always with a bias."""

    def forward(self, x: Tensor, before: Before = None) -> Tensor:
        """The product of before(x). On a CPU, before(x) is made again in the backward pass, not kept."""
        plain = torch.compiler.is_compiling() or x.device.type != "cpu" or self.weight.dtype != torch.float32
        if plain or not torch.backends.mkldnn.is_available():  # which no compiler can look into
            return super().forward(x if before is None else before(x))
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        scale, shift, eps = None, None, 0.0
        if isinstance(before, nn.LayerNorm):
            scale, shift, eps = before.weight, before.bias, before.eps
        elif before is not None and before is not F.gelu:
            x = before(x)
        with torch.autocast("cpu", enabled=False):
            out: Tensor = _CpuLinear.apply(  # type: ignore[no-untyped-call]
                x, self.weight, self.bias, dtype, before is F.gelu, scale, shift, eps
            )
            return out
