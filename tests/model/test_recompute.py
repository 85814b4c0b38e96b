"""What is made again in the backward pass, and what is not: products counted, and memory that a block holds."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mae_ext.model.transformer import Transformer

WIDTH, DEPTH, TOKENS = 32, 3, (4, 25)


@pytest.fixture
def trunk():
    torch.manual_seed(0)
    return Transformer(WIDTH, DEPTH, 2)


@pytest.fixture
def x():
    return torch.randn(*TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))


class Made(TorchDispatchMode):
    """Every tensor that is made under it, without keeping one."""

    def __init__(self):
        super().__init__()
        self.storages = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else [out]:
            if isinstance(one, torch.Tensor):
                self.storages.append(one.untyped_storage()._weak_ref())
        return out

    def alive(self):
        """Bytes of them that are still held, for each number of a block's input."""
        held = [torch.UntypedStorage._new_with_weak_ptr(weak) for weak in self.storages]
        sizes = {one.data_ptr(): one.nbytes() for one in held if one is not None}
        return sum(sizes.values()) / (TOKENS[0] * TOKENS[1] * WIDTH * DEPTH)


def products(trunk, x, what):
    trunk.checkpointing = what
    with FlopCounterMode(display=False) as counter:
        trunk(x).sum().backward()
    return counter.get_total_flops()


def held(trunk, x, what, precision):
    trunk.checkpointing = what
    with Made() as made, torch.autocast("cpu", precision, enabled=precision != torch.float32):
        out = trunk(x)
    assert out.requires_grad
    return made.alive()


def test_selective_repeats_no_product_and_no_attention(trunk, x):
    plain, selective, whole = (products(trunk, x, what) for what in (False, "selective", True))
    assert plain == selective < whole


@pytest.mark.parametrize(("precision", "kept"), [(torch.float32, 0.7), (torch.bfloat16, 0.6)], ids=["fp32", "bf16"])
def test_selective_holds_what_products_made_and_little_else(trunk, x, precision, kept):
    plain, selective, whole = (held(trunk, x, what, precision) for what in (False, "selective", True))
    assert 2 * whole < selective < kept * plain
