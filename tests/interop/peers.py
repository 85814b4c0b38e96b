"""transformers' models for pictures, tiny and random in every weight, and what their version 4 called them."""

import torch

IMAGE, PATCH = 24, 8
SIZES = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": IMAGE, "patch_size": PATCH,
}  # fmt: skip
DECODER = {
    "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
}  # fmt: skip


def random(model):
    """In eval mode. Norms are near one, all else is near zero."""
    g = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = name.endswith("weight") and "norm" in name
            parameter.data = torch.randn(parameter.shape, generator=g) * 0.2 + scale
    return model.eval()


def vitmae(transformers, bare=False, **other):
    """With the tables that a ViTMAE is meant to have: transformers 5.23 leaves both at zero in a new model."""
    config = transformers.ViTMAEConfig(**{**SIZES, **DECODER, "intermediate_size": 96, **other})
    model = random((transformers.ViTMAEModel if bare else transformers.ViTMAEForPreTraining)(config))
    encoder = model if bare else model.vit
    if not bare:
        token = model.decoder.mask_token.clone()
        model.decoder.initialize_weights(9)
        model.decoder.mask_token.data = token.detach()
    weights = {name: weight.detach().clone() for name, weight in encoder.named_parameters() if "position" not in name}
    encoder.embeddings.patch_embeddings.projection._is_hf_initialized = False
    encoder.embeddings.initialize_weights()
    encoder.load_state_dict(weights, strict=False)
    return model


def vit(transformers, kind="ViTModel", **other):
    config = transformers.ViTConfig(**{**SIZES, "intermediate_size": 96, **other})
    return random(getattr(transformers, kind)(config))


def pixio(transformers, kind="PixioModel", **other):
    return random(getattr(transformers, kind)(transformers.PixioConfig(**{**SIZES, "n_cls_tokens": 3, **other})))


def dinov2(transformers, kind="Dinov2Model", **other):
    """With layer scale that is no one, and so counts."""
    registers = {"num_register_tokens": 4} if "Registers" in kind else {}
    config = getattr(transformers, kind.replace("Model", "Config"))(**{**SIZES, **registers, **other})
    return random(getattr(transformers, kind)(config))


def pixels(channels=3, size=(IMAGE, IMAGE)):
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))


def of_version_4(name):
    """A name of transformers 5 -> of transformers 4."""
    name = name.replace("layers.", "encoder.layer.") if "decoder" not in name else name
    for role, old in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        name = name.replace(f"attention.{role}", f"attention.attention.{old}")
    for new, old in (("attention.o_proj", "attention.output.dense"), ("mlp.fc1", "intermediate.dense")):
        name = name.replace(new, old)
    return name.replace("mlp.fc2", "output.dense")


def of_version_4_of_pixio(name):
    """Its MLP had the name that it has, and its norms had timm's."""
    old = of_version_4(name).replace("intermediate.dense", "mlp.fc1")
    if "attention" not in old:
        old = old.replace("output.dense", "mlp.fc2")
    return old.replace("layernorm_before", "norm1").replace("layernorm_after", "norm2")
