"""What a CPU that trains is given: kernels in place of PyTorch's, swapped in on a built model, and two settings.

PyTorch sends fp32 matrix products on a CPU to MKL, which on other vendors' processors takes its AVX2 path; oneDNN, in
the same wheel, has AVX-512 code for all of them (195 against 440 GFLOP/s on 2 cores). Where there is no AVX-512, MKL is
the faster of the two (a fifth, over the products of a step). In bf16 a weight is cast where it is used, in the forward
and again in the backward pass; autocast's cache would hold a second copy of the whole model through the step. What
comes before a product (a norm, a GELU) is applied again in the backward pass, from the tensor that its own gradient
needs anyway: a third of a step's activations, for 1 % of its time. A processor without half-precision instructions
multiplies bf16 numbers at a seventh to a hundredth of its fp32 rate; there the products of the same rounded numbers are
taken in fp32.

A swapped model has the same parameters under the same names. For tensors on a GPU, and under torch.compile, it computes
what the plain model does.
"""

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mae_ext.model.transformer import Attention, Block, Mlp, gated

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameter numbers of glibc's mallopt (malloc.h)."""

LARGEST = 32 << 20
"""The largest M_MMAP_THRESHOLD that 64-bit glibc accepts (HEAP_MAX_SIZE / 2)."""

GROUP = 4 << 20
"""Bytes of attention's scores, (heads, Q, N), that are computed at a time where those of all heads are more than
`LARGEST`: more than a cache holds, and mapped afresh by glibc for every tensor."""


def settle_in() -> None:
    """Denormals are flushed to zero, and memory that a step frees stays with the process for the next step.

    Without the first, Adam's second moments of unused directions slow a CPU down tenfold. Without the second, glibc
    returns hundreds of megabytes to the kernel in every step and takes them back a page fault at a time: 6 % of a bf16
    ViT-B step. Affects this process alone; does nothing where there is no glibc.
    """
    torch.set_flush_denormal(True)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


Before = Callable[[Tensor], Tensor] | None
"""What is applied to an input first. A layer norm over the last axis and F.gelu become a part of the product."""


def _native() -> frozenset[torch.dtype]:
    """The dtypes that this processor multiplies by itself."""
    ops, mkldnn = torch.ops.mkldnn, torch.backends.mkldnn.is_available()
    half = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    return frozenset(
        {torch.float32, torch.float64, *(dtype for dtype, check in half.items() if mkldnn and getattr(ops, check)())}
    )


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


class _LinearFunction(torch.autograd.Function):
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


class CpuLinear(nn.Linear):
    """(..., in) -> (..., out)."""

    def forward(self, x: Tensor, before: Before = None) -> Tensor:
        """The product of before(x). On a CPU, before(x) is made again in the backward pass, not kept."""
        plain = torch.compiler.is_compiling() or x.device.type != "cpu" or self.weight.dtype != torch.float32
        # No compiler can look into what follows.
        if plain or self.bias is None or not torch.backends.mkldnn.is_available():
            return super().forward(x if before is None else before(x))
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        scale, shift, eps = None, None, 0.0
        if type(before) is nn.LayerNorm and before.weight is not None and before.bias is not None:
            scale, shift, eps = before.weight, before.bias, before.eps
        elif before is not None and before is not F.gelu:
            x = before(x)
        with torch.autocast("cpu", enabled=False):
            out: Tensor = _LinearFunction.apply(  # type: ignore[no-untyped-call]
                x, self.weight, self.bias, dtype, before is F.gelu, scale, shift, eps
            )
            return out


class _AttentionFunction(torch.autograd.Function):
    """Softmax attention whose probabilities, (B, H, Q, N), are made again in the backward pass, not kept."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        shape, out = q.shape, q.new_empty(q.shape).flatten(0, 1)
        q, k, v = _by_head(q, k, v)
        for heads in _groups(q, k):
            out[heads] = torch.bmm(_probabilities(q[heads], k[heads]), v[heads])
        return out.view(shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        saved = ctx.saved_tensors  # once: of activations that are computed again there is one set
        shapes = [t.shape for t in saved]
        q, k, v, grad = _by_head(*saved, grads[0])
        grad_q, grad_k, grad_v = (torch.empty_like(t) for t in (q, k, v))
        for heads in _groups(q, k):
            p = _probabilities(q[heads], k[heads])
            grad_v[heads] = torch.bmm(p.transpose(1, 2), grad[heads])  # `@` copies the transpose of a single head
            scores = torch._softmax_backward_data(torch.bmm(grad[heads], v[heads].transpose(1, 2)), p, -1, p.dtype)
            del p
            scores *= q.shape[-1] ** -0.5
            grad_q[heads] = torch.bmm(scores, k[heads])
            grad_k[heads] = torch.bmm(scores.transpose(1, 2), q[heads])
        return grad_q.view(shapes[0]), grad_k.view(shapes[1]), grad_v.view(shapes[2])


def _by_head(*tensors: Tensor) -> list[Tensor]:
    """(B, H, N, d) each -> (B * H, N, d) each."""
    return [t.reshape(-1, *t.shape[2:]) for t in tensors]


def _groups(q: Tensor, k: Tensor) -> Iterator[slice]:
    """(H, Q, d), (H, N, d) -> the heads that are computed at a time: all where their scores fit `LARGEST`, else as many
    as fit `GROUP`. Of the shape alone, and no bit depends on it."""
    heads, each = len(q), q.shape[1] * k.shape[1] * q.element_size()
    group = heads if heads * each <= LARGEST else max(1, GROUP // each)
    return (slice(head, head + group) for head in range(0, heads, group))


def _probabilities(q: Tensor, k: Tensor) -> Tensor:
    """(H, Q, d), (H, N, d) -> (H, Q, N)."""
    scores = torch.bmm(q * q.shape[-1] ** -0.5, k.transpose(1, 2))
    return scores.softmax(-1)  # the sum inside is fp32


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, H, Q, d), (B, H, N, d), (B, H, N, d) -> (B, H, Q, d): softmax attention."""
    on_cpu = q.device.type == "cpu" and not torch.compiler.is_compiling()
    if on_cpu and not is_native(q.dtype):
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)
    if on_cpu and q.dtype == torch.bfloat16:
        # Forward and backward on one core of an AMD EPYC (Zen 4), ms, all heads at once / in groups / by SDPA's flash
        # kernel: 2x12x433x64 44 / - / 63, 8x12x433x64 226 / 149 / 246, 2x6x1568x64 310 / 227 / 341, 1x12x1729x64
        # 399 / 292 / 393, 1x6x4097x64 1429 / 892 / 1151.
        with torch.autocast("cpu", enabled=False):  # which would leave bf16 in the softmax
            out: Tensor = _AttentionFunction.apply(q, k, v)  # type: ignore[no-untyped-call]
            return out
    return F.scaled_dot_product_attention(q, k, v)


class CpuAttention(Attention):
    def forward(self, x: Tensor, before: Before = None) -> Tensor:
        """(B, N, D) -> (B, N, D): self-attention over before(x)."""
        q, k, v = rearrange(after(before, self.qkv, x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        mixed: Tensor = self.out(rearrange(attend(q, k, v), "b h n d -> b n (h d)"))
        return mixed


class CpuMlp(Mlp):
    def forward(self, x: Tensor, before: Before = None) -> Tensor:
        """(B, N, D) -> (B, N, D): two layers over before(x)."""
        return after(F.gelu, self.down, after(before, self.up, x))


class CpuBlock(Block):
    def through(self, x: Tensor, gate: Tensor | None) -> Tensor:
        """(B, N, D), (2, B) | None -> (B, N, D), as Block's."""
        first, second = (None, None) if gate is None else gate
        x = x + gated(after(self.norm1, self.attention, x), first)
        return x + gated(after(self.norm2, self.mlp, x), second)


class CpuConv3d(nn.Conv3d):
    """Of fewer slices than its kernel has, in fp32: oneDNN's bf16 gradient of such weights is wrong, some of it inf
    (torch 2.13, a kernel of 3 over 2 slices, whatever their size; 2-d and transposed convolutions are right)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C', D', H', W')."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if x.device.type != "cpu" or dtype == torch.float32 or x.shape[2] >= self.kernel_size[0]:
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            bias = None if self.bias is None else self.bias.float()
            out: Tensor = self._conv_forward(x.float(), self.weight.float(), bias)
            return out.to(dtype)


def after(before: Before, module: nn.Module, x: Tensor) -> Tensor:
    """module(before(x)): at once where the module is one of those above, and not what somebody put in its place."""
    at_once = type(module) in (CpuLinear, CpuAttention, CpuMlp)
    out: Tensor = module(x, before) if at_once else module(x if before is None else before(x))
    return out


KERNELS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: CpuLinear,
    Attention: CpuAttention,
    Mlp: CpuMlp,
    Block: CpuBlock,
    nn.Conv3d: CpuConv3d,
}
"""What takes the place of what: the same attributes, another forward."""

Model = TypeVar("Model", bound=nn.Module)


def on_device(model: Model, device: torch.device) -> Model:
    """The model there, in place: as it is on a GPU, with the kernels of this module on a CPU.

    All that trains or evaluates a model has it from here; what is not, is plain PyTorch: as right, and slower on a CPU.
    """
    if device.type == "cpu":
        for module in model.modules():
            # An exact type: of a class that somebody derived we do not know what its forward does.
            module.__class__ = KERNELS.get(type(module), type(module))
    return model.to(device)
