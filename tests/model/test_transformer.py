"""Blocks against PyTorch's own, and what may not change them: checkpointing, the order of tokens, a gate of one."""

import pytest
import torch
from torch import nn

from mae_ext.model.transformer import Block, Transformer, drop_path_gates

WIDTH, DEPTH, HEADS = 24, 4, 3


@pytest.fixture
def trunk():
    torch.manual_seed(0)
    return Transformer(WIDTH, DEPTH, HEADS)


@pytest.fixture
def x():
    return torch.randn(3, 7, WIDTH, generator=torch.Generator().manual_seed(0))


def gates(value):
    return torch.full((DEPTH, 2, 3), float(value))


def test_a_block_is_torchs_pre_norm_encoder_layer(x):
    theirs = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True)
    for parameter in theirs.parameters():
        parameter.data.normal_(std=0.3)
    ours = Block(WIDTH, HEADS, 4.0, 1e-6)
    names = {
        "self_attn.in_proj_": "attention.qkv.",
        "self_attn.out_proj": "attention.out",
        "linear1": "mlp.up",
        "linear2": "mlp.down",
    }

    def renamed(name):
        for old, new in names.items():
            name = name.replace(old, new)
        return name

    ours.load_state_dict({renamed(name): tensor for name, tensor in theirs.state_dict().items()})
    assert torch.allclose(ours(x), theirs(x), atol=1e-4, rtol=1e-4)


def test_the_order_of_tokens_means_nothing(trunk, x):
    order = torch.randperm(7)
    assert torch.allclose(trunk(x)[:, order], trunk(x[:, order]), atol=1e-5)


@pytest.mark.parametrize("with_gates", [False, True])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_recomputed_activations_give_the_same_gradients_to_the_bit(trunk, x, with_gates, precision):
    drawn = drop_path_gates(0.5, DEPTH, 3, torch.Generator().manual_seed(1)) if with_gates else None

    def gradients():
        trunk.zero_grad()
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            out = trunk(x, drawn)
        out.float().square().sum().backward()
        return [out.detach()] + [p.grad.clone() for p in trunk.parameters()]

    plain = gradients()
    for what in (True, "selective"):
        trunk.checkpointing = what
        for a, b in zip(plain, gradients(), strict=True):
            assert torch.equal(a, b)


def test_checkpointing_recomputes_every_block_once(trunk, x):
    calls = []
    for block in trunk.blocks:
        block.attention.register_forward_pre_hook(lambda *_: calls.append(1))
    trunk.checkpointing = True
    trunk(x).sum().backward()
    assert len(calls) == 2 * DEPTH
    calls.clear()
    with torch.no_grad():
        trunk(x)
    assert len(calls) == DEPTH


def test_gates_of_one_change_nothing_and_of_zero_leave_the_input(trunk, x):
    assert torch.allclose(trunk(x, gates(1)), trunk(x), atol=1e-6)
    assert torch.allclose(trunk(x, gates(0)), trunk.norm(x), atol=1e-6)


def test_a_gate_scales_one_branch_of_one_sample(trunk, x):
    block = trunk.blocks[0]
    gate = torch.ones(2, 3)
    gate[0, 1] = 2.5
    out = block(x, gate)
    assert torch.allclose(out[[0, 2]], block(x)[[0, 2]], atol=1e-6)
    between = x[1] + 2.5 * block.attention(block.norm1(x))[1]
    assert torch.allclose(out[1], between + block.mlp(block.norm2(between[None]))[0], atol=1e-5)


def test_gates_drop_more_the_deeper_and_keep_the_mean():
    drawn = drop_path_gates(0.4, 5, 4000, torch.Generator().manual_seed(0))
    assert drawn.shape == (5, 2, 4000) and drawn.dtype == torch.float32
    for depth, rate in enumerate([0.0, 0.1, 0.2, 0.3, 0.4]):
        row = drawn[depth]
        assert torch.allclose(row[row > 0], torch.tensor(1 / (1 - rate)))
        # 8000 draws: five standard errors are at most 0.028.
        assert abs((row == 0).float().mean() - rate) < 0.028
        assert abs(row.mean() - 1) < 0.05
    assert abs(torch.corrcoef(drawn[4])[0, 1]) < 0.08  # the two branches fall independently


def test_gates_are_a_function_of_their_generator_and_of_nothing_else():
    first = drop_path_gates(0.3, 3, 8, torch.Generator().manual_seed(5))
    torch.manual_seed(9)
    assert torch.equal(first, drop_path_gates(0.3, 3, 8, torch.Generator().manual_seed(5)))
    assert (drop_path_gates(0.0, 3, 8, torch.Generator()) == 1).all()
    assert (drop_path_gates(0.9, 1, 8, torch.Generator()) == 1).all()
