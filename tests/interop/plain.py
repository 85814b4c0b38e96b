"""Transformers of research code in plain arithmetic, on weights by name: another opinion where there is no package."""

import torch
import torch.nn.functional as F


def linear(x, weights, name):
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def norm(x, weights, name, eps=1e-6):
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)


def one_matrix(x, weights, name):
    """timm's and most others': queries, keys and values are rows of `qkv`."""
    return linear(x, weights, f"{name}.qkv").chunk(3, -1)


def three_matrices(x, weights, name):
    return [linear(x, weights, f"{name}.{role}") for role in "qkv"]


def no_key_bias(x, weights, name):
    q, k, v = F.linear(x, weights[f"{name}.qkv.weight"]).chunk(3, -1)
    return q + weights[f"{name}.q_bias"], k, v + weights[f"{name}.v_bias"]


def attention(x, weights, name, heads, projected):
    q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in projected(x, weights, name))
    shares = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
    return linear((shares @ v).transpose(1, 2).flatten(2), weights, f"{name}.proj")


def block(x, weights, name, heads, projected=one_matrix):
    x = x + attention(norm(x, weights, f"{name}.norm1"), weights, f"{name}.attn", heads, projected)
    hidden = F.gelu(linear(norm(x, weights, f"{name}.norm2"), weights, f"{name}.mlp.fc1"))
    return x + linear(hidden, weights, f"{name}.mlp.fc2")


def patches(x, weights, name):
    """(B, C, *S) -> (B, N, D): a convolution whose stride is its kernel."""
    kernel = weights[f"{name}.weight"]
    return F.conv3d(x, kernel, weights[f"{name}.bias"], kernel.shape[2:]).flatten(2).transpose(1, 2)


def sequence(count, width):
    """(N, D): sines and cosines of a flat index, in turn. By hand from 1706.03762."""
    phase = torch.arange(count).double()[:, None] / 10000 ** (torch.arange(width) // 2 * 2 / width)
    return torch.where(torch.arange(width) % 2 == 0, phase.sin(), phase.cos()).float()


def rows(tokens, index):
    """(B or 1, N, D), (B, K) -> (B, K, D)."""
    tokens = tokens.expand(len(index), -1, -1)
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def tubelets(x, patch):
    """(B, C, T, H, W) -> (B, N, pixels of a patch, C)."""
    t, h, w = patch
    split = x.unflatten(4, (-1, w)).unflatten(3, (-1, h)).unflatten(2, (-1, t))
    return split.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4, 6).flatten(1, 3)


def block_shapes(name, width, hidden, qkv):
    """{name: shape} of a block that is named as timm's are. qkv: of the attention's own maps."""
    shapes = {f"{name}.norm{i}.{kind}": (width,) for i in (1, 2) for kind in ("weight", "bias")}
    shapes |= {f"{name}.attn.{key}": shape for key, shape in qkv.items()}
    for layer, rows, columns in (("attn.proj", width, width), ("mlp.fc1", hidden, width), ("mlp.fc2", width, hidden)):
        shapes |= {f"{name}.{layer}.weight": (rows, columns), f"{name}.{layer}.bias": (rows,)}
    return shapes


def layer_shapes(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def one_matrix_shapes(width):
    return {"qkv.weight": (3 * width, width), "qkv.bias": (3 * width,)}


def meta(shapes):
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
