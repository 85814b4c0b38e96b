"""nn.Linear whose matrix products, on a CPU that trains, go through oneDNN.

Why this file exists: PyTorch sends fp32 matrix products on a CPU to MKL, which on other vendors' processors takes its
AVX2 path; oneDNN, in the same wheel, has AVX-512 code for all of them (195 against 440 GFLOP/s on 2 cores). In bf16 a
weight is cast where it is used, in the forward and again in the backward pass; autocast's cache would hold a second
copy of the whole model through the step. On a GPU, and under torch.compile, this is nn.Linear.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """(M, K), (N, K) -> (M, N): a @ b.T + bias in a's dtype, through oneDNN."""
    if a.dtype == torch.float32:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
        return out
    return F.linear(a, b, bias)


class _CpuLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
        """(..., in), (out, in), (out) -> (..., out) in `dtype`."""
        flat = x.reshape(-1, x.shape[-1]).to(dtype)
        ctx.save_for_backward(flat, weight)
        ctx.x_shape, ctx.x_dtype = x.shape, x.dtype
        return _product(flat, weight.to(dtype), bias.to(dtype)).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight = ctx.saved_tensors
        grad = grads[0].reshape(-1, weight.shape[0]).to(flat.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = _product(grad, weight.to(flat.dtype).t()).to(ctx.x_dtype).view(ctx.x_shape)
        grad_weight = _product(grad.t(), flat.t()).to(weight.dtype) if ctx.needs_input_grad[1] else None
        grad_bias = grad.sum(0, dtype=weight.dtype) if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias, None


class Linear(nn.Linear):
    """(..., in) -> (..., out), always with a bias."""

    def forward(self, x: Tensor) -> Tensor:
        on_cpu = x.device.type == "cpu" and torch.backends.mkldnn.is_available()
        if not on_cpu or torch.compiler.is_compiling() or self.weight.dtype != torch.float32:
            return super().forward(x)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        with torch.autocast("cpu", enabled=False):
            out: Tensor = _CpuLinear.apply(x, self.weight, self.bias, dtype)  # type: ignore[no-untyped-call]
            return out
