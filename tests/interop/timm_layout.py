"""The layout of timm's ViT, written down: names and shapes of published files, and what those models compute, in plain
torch and apart from the package.

rwightman/timm, models/vision_transformer.py; facebookresearch/mae, models_mae.py and models_vit.py;
facebookresearch/dino and dinov2, models/vision_transformer.py.
"""

import torch
import torch.nn.functional as F

SIZES = {"B": (768, 12, 12), "L": (1024, 24, 16), "tiny": (24, 2, 2)}
PUBLISHED = {"decoder": 512, "decoder_depth": 8, "classes": 1000, "image": 224, "patch": 16}
TINY = {"decoder": 16, "decoder_depth": 1, "classes": 5, "image": 24, "patch": 8}


def block(start, width, scale=False):
    hidden = 4 * width
    shapes = {
        "norm1.weight": (width,), "norm1.bias": (width,), "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,), "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
        "norm2.weight": (width,), "norm2.bias": (width,), "mlp.fc1.weight": (hidden, width),
        "mlp.fc1.bias": (hidden,), "mlp.fc2.weight": (width, hidden), "mlp.fc2.bias": (width,),
    }  # fmt: skip
    if scale:
        shapes |= {"ls1.gamma": (width,), "ls2.gamma": (width,)}
    return {f"{start}.{name}": shape for name, shape in shapes.items()}


def encoder(size, rows=1, scale=False, norm="norm", **sizes):
    """Name -> shape. rows: of the table, besides those of patches."""
    width, depth, _ = SIZES[size]
    of = (TINY if size == "tiny" else PUBLISHED) | sizes
    shapes = {
        "cls_token": (1, 1, width), "pos_embed": (1, (of["image"] // of["patch"]) ** 2 + rows, width),
        "patch_embed.proj.weight": (width, 3, of["patch"], of["patch"]), "patch_embed.proj.bias": (width,),
    }  # fmt: skip
    for i in range(depth):
        shapes |= block(f"blocks.{i}", width, scale)
    return shapes | {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}


def layout(kind, size):
    """Name -> shape of a published file."""
    width, _, _ = SIZES[size]
    of = TINY if size == "tiny" else PUBLISHED
    head = {"head.weight": (of["classes"], width), "head.bias": (of["classes"],)}
    if kind == "mae":  # mae_visualize_vit_*.pth, and what main_pretrain.py saves
        e, places = of["decoder"], (of["image"] // of["patch"]) ** 2 + 1
        shapes = encoder(size) | {
            "mask_token": (1, 1, e), "decoder_pos_embed": (1, places, e), "decoder_embed.weight": (e, width),
            "decoder_embed.bias": (e,), "decoder_norm.weight": (e,), "decoder_norm.bias": (e,),
            "decoder_pred.weight": (3 * of["patch"] ** 2, e), "decoder_pred.bias": (3 * of["patch"] ** 2,),
        }  # fmt: skip
        for i in range(of["decoder_depth"]):
            shapes |= block(f"decoder_blocks.{i}", e)
        return shapes
    if kind == "mae encoder":  # mae_pretrain_vit_*.pth
        return encoder(size)
    if kind == "mae fine-tuned":  # mae_finetuned_vit_*.pth, of global_pool=True
        return encoder(size, norm="fc_norm") | head
    if kind == "timm":
        return encoder(size) | head
    if kind == "timm registers":  # vit_*_reg4_*: no_embed_class
        return encoder(size, rows=0) | {"reg_token": (1, 4, width)}
    if kind == "timm without a class token":  # vit_*_gap
        shapes = encoder(size, rows=0) | head
        del shapes["cls_token"]
        return shapes
    if kind == "dino":  # dino_vit*_pretrain.pth
        return encoder(size)
    assert kind in ("dinov2", "dinov2 registers")  # dinov2_vit?14_pretrain.pth, dinov2_vit?14_reg4_pretrain.pth
    sizes = {} if size == "tiny" else {"image": 518, "patch": 14}
    registers = {"register_tokens": (1, 4, width)} if "registers" in kind else {}
    return encoder(size, scale=True, **sizes) | registers | {"mask_token": (1, width)}


def weights(kind, size="tiny", seed=0):
    """A file of random numbers."""
    g = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=g) * 0.2 + (name.endswith(("norm1.weight", "norm2.weight", "norm.weight")))
        for name, shape in layout(kind, size).items()
    }


def norm(x, w, name):
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)


def blocks(x, w, start, heads):
    """A block as published: attention over softmax(qk / sqrt(d)) v, each half scaled where there is layer scale."""
    number = 0
    while f"{start}.{number}.norm1.weight" in w:
        name = f"{start}.{number}"
        b, n, d = x.shape
        qkv = F.linear(norm(x, w, f"{name}.norm1"), w[f"{name}.attn.qkv.weight"], w[f"{name}.attn.qkv.bias"])
        q, k, v = qkv.reshape(b, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.transpose(-2, -1)) * (d // heads) ** -0.5).softmax(-1) @ v
        y = F.linear(mixed.transpose(1, 2).reshape(b, n, d), w[f"{name}.attn.proj.weight"], w[f"{name}.attn.proj.bias"])
        x = x + y * w.get(f"{name}.ls1.gamma", torch.ones(d))
        y = F.gelu(F.linear(norm(x, w, f"{name}.norm2"), w[f"{name}.mlp.fc1.weight"], w[f"{name}.mlp.fc1.bias"]))
        y = F.linear(y, w[f"{name}.mlp.fc2.weight"], w[f"{name}.mlp.fc2.bias"])
        x = x + y * w.get(f"{name}.ls2.gamma", torch.ones(d))
        number += 1
    return x


def patches(x, w):
    """(B, 3, H, W) -> (B, N, D), without a place."""
    kernel = w["patch_embed.proj.weight"]
    return F.conv2d(x, kernel, w["patch_embed.proj.bias"], stride=kernel.shape[-2:]).flatten(2).transpose(1, 2)


def features(x, w, heads=2):
    """(B, 3, H, W) normalised -> (B, c + N, D): every token after the last norm."""
    tokens, table = patches(x, w), w["pos_embed"]
    count = tokens.shape[1]
    before = [w[name].expand(len(x), -1, -1) for name in ("cls_token", "reg_token") if name in w]
    if table.shape[1] == count:  # no_embed_class
        tokens = torch.cat([*before, tokens + table], 1)
    else:
        tokens = torch.cat([*before, tokens], 1) + table
    if "register_tokens" in w:  # after places are added
        registers = w["register_tokens"].expand(len(x), -1, -1)
        tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], 1)
    return norm(blocks(tokens, w, "blocks", heads), w, "norm" if "norm.weight" in w else "fc_norm")


def prediction(x, w, keep, heads=2):
    """(B, 3, H, W), (B, K) -> (B, N, pix): what MAE's decoder answers for every patch."""

    def take(tokens, index):
        return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))

    tokens = patches(x, w) + w["pos_embed"][:, 1:]
    first = (w["cls_token"] + w["pos_embed"][:, :1]).expand(len(x), -1, -1)
    seen = norm(blocks(torch.cat([first, take(tokens, keep)], 1), w, "blocks", heads), w, "norm")
    seen = F.linear(seen, w["decoder_embed.weight"], w["decoder_embed.bias"])
    full = w["mask_token"].expand(len(x), tokens.shape[1], -1).clone()
    full = full.scatter(1, keep[..., None].expand(-1, -1, full.shape[-1]), seen[:, 1:])
    full = torch.cat([seen[:, :1], full], 1) + w["decoder_pos_embed"]
    full = norm(blocks(full, w, "decoder_blocks", heads), w, "decoder_norm")
    return F.linear(full, w["decoder_pred.weight"], w["decoder_pred.bias"])[:, 1:]


def sines(width, edge):
    """(1, 1 + edge * edge, width): MAE's table, w before h, by its own arithmetic (util/pos_embed.py), in float64."""
    rates = 1.0 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    h, w = torch.meshgrid(torch.arange(edge), torch.arange(edge), indexing="ij")
    halves = []
    for place in (w, h):
        phase = place.flatten()[:, None].double() * rates
        halves += [phase.sin(), phase.cos()]
    table = torch.cat(halves, 1).float()
    return torch.cat([torch.zeros(1, width), table])[None]
