"""Activations that are made again in the backward pass instead of being kept: all of a block's, or the cheap ones."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch import Tensor
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

Checkpointing = Literal[True, "selective"]
"""What is computed twice: True, everything in a block but what enters it; "selective", all but products and attention.

Of "selective", what products make is kept where that is no less than they take (qkv, the attended values' projection,
the MLP's hidden values), and what attention makes. Norms, GELUs and casts are made again: a third (fp32) to two fifths
(bf16) of a block's memory, and next to none of its arithmetic; every second block made again whole would save as much
for a sixth of the step. The MLP's second product takes more than it makes, and nobody needs it twice: it is neither
kept nor made again. On a CPU, whose kernels keep no norms and GELUs anyway (engine/cpu.py), it saves little.
"""


def recomputed(block: Callable[..., Tensor], what: Checkpointing, *inputs: Any) -> Tensor:
    """block(*inputs), whose activations are made again in the backward pass. Draws no numbers."""
    contexts = partial(create_selective_checkpoint_contexts, _policy) if what == "selective" else noop_context_fn
    out: Tensor = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    return out


PRODUCTS = {"aten::mm": 0, "aten::addmm": 1, "mkldnn::_linear_pointwise": 0}
"""By name of the operator, which of its arguments is (M, K): what makes (M, N) of it."""

ATTENTION = "aten::_scaled_dot_product_"
"""What every kernel of SDPA begins with."""


def _policy(_: Any, operator: Any, *args: Any, **__: Any) -> CheckpointPolicy:
    name = operator.name().partition(".")[0]
    if name.startswith(ATTENTION) and "backward" not in name:
        return CheckpointPolicy.MUST_SAVE
    if name in PRODUCTS:
        entered, weight = args[PRODUCTS[name]], args[PRODUCTS[name] + 1]
        # mm takes (K, N); a linear layer's weight is (N, K).
        made = weight.shape[0] if name.startswith("mkldnn") else weight.shape[1]
        if made >= entered.shape[1]:
            return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
