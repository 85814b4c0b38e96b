"""Tokens of a model: never masked, the same whatever the batch, in the order of the grid."""

from math import prod

import pytest
import torch
from model.painted_patches import CLIP, IMAGE, shake

from mae_ext.config import Statistics
from mae_ext.model.grid import patchify
from mae_ext.model.moments import moments

# What is encoded


@pytest.mark.parametrize("modality", [IMAGE, CLIP], ids=["image", "clip"])
def test_encode_never_masks_in_training_or_in_evaluation(build, draw, modality):
    model = shake(build(any=modality))
    x, _ = draw(model.modality())
    tokens = model.train().encode(x)
    assert tokens.shape == (2, prod(model.modality().grid), 24)
    assert torch.equal(tokens, model.eval().encode(x)) and torch.equal(tokens, model.encode(x))
    (gradient,) = torch.autograd.grad(model.encode(x.requires_grad_())[0, 0].sum(), x)
    assert (gradient[0] != 0).all() and (gradient[1] == 0).all()


def test_evaluation_is_training_without_the_drawing(build, draw):
    """Nothing hides behind eval(): chance comes in as arguments."""
    model = shake(build(image=IMAGE))
    x, mask = draw(model.modality())
    assert torch.equal(model.train()(x, mask), model.eval()(x, mask))


def test_a_sample_is_encoded_alike_whatever_its_batch_mates(build, draw):
    model = shake(build(image=IMAGE)).eval()
    x, _ = draw(model.modality(), batch=4)
    alone = model.encode(x[2:3])
    for mates in (x, x.flip(0), torch.cat([x[2:3]] * 3)):
        together = model.encode(mates)
        row = next(i for i in range(len(mates)) if torch.equal(mates[i], x[2]))
        assert torch.allclose(together[row], alone[0], atol=1e-5)


def test_tokens_come_in_the_order_of_the_grid(build):
    """With a trunk that does nothing to it, a token is its own patch and place."""
    model = build(clip=CLIP | {"channels": 1}, model={"class_token": True})
    modality = model.modality()
    for block in model.encoder.trunk.blocks:
        for layer in (block.attention.out, block.mlp.down):
            torch.nn.init.zeros_(layer.weight)
    x = torch.rand(1, 1, *modality.size)
    everything = torch.arange(prod(modality.grid))[None]
    expected = modality.embed.project(patchify(x, modality.patch)) + modality.position(everything)
    assert torch.allclose(model.encode(x), model.encoder.trunk.norm(expected), atol=1e-5)


def test_statistics_travel_with_the_weights_and_bytes_count_from_0_to_1(build, draw):
    model, other = (shake(build(image=IMAGE)) for _ in range(2))
    bytes_ = torch.randint(0, 256, (2, 3, 24, 20), dtype=torch.uint8)
    plain = model.encode(bytes_)
    assert torch.equal(plain, model.encode(bytes_.float() / 255))
    model.modality().set_statistics(Statistics(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1)))
    by_hand = (bytes_ / 255 - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.1]).view(3, 1, 1)
    assert torch.allclose(model.encode(bytes_), other.encode(by_hand), atol=1e-5)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.encode(bytes_), other.encode(bytes_))


def test_statistics_of_another_number_of_channels_are_refused(build):
    modality = build(image=IMAGE).modality()
    with pytest.raises(ValueError, match="statistics for 2 channels, but the model has 3"):
        modality.set_statistics(Statistics(mean=(0, 0), std=(1, 1)))
    modality.set_statistics(Statistics(mean=(0.5,), std=(2,)))
    assert modality.mean.tolist() == [0.5] * 3 and modality.std.tolist() == [2] * 3


def test_features_are_the_mean_of_the_patches_or_the_class_token(build, draw):
    model = shake(build(image=IMAGE))
    x, _ = draw(model.modality())
    assert torch.equal(model.features(x), model.encode(x).mean(1))
    assert torch.equal(model.features(x, pool="class"), model.encode_all(x)[:, 0])
    without = shake(build(image=IMAGE, model={"class_token": False}))
    assert without.encode_all(x).shape == without.encode(x).shape
    with pytest.raises(ValueError, match="built without a class token"):
        without.features(x, pool="class")


def test_moments_are_of_the_patches_after_each_of_the_last_blocks(build, draw):
    model = shake(build(image=IMAGE))
    x, _ = draw(model.modality())
    depth = model.encoder.trunk.depth
    blocks = range(max(1, depth - 3), depth + 1)
    *layers, _ = model.encode_layers(x, blocks)
    assert torch.equal(model.features(x, pool="moments"), moments(layers))
    assert model.features(x, pool="moments").shape == (len(x), 2 * len(blocks) * model.encoder.trunk.width)


def test_physical_positions_reach_encoder_and_decoder(build, draw):
    model = shake(build(scan=CLIP | {"position": {"name": "sincos", "unit": 8.0}}))
    x, mask = draw(model.modality())
    near, far = torch.tensor([[1.0, 1.0, 1.0]] * 2), torch.tensor([[5.0, 1.0, 1.0]] * 2)
    assert not torch.allclose(model.encode(x, spacing=near), model.encode(x, spacing=far), atol=1e-3)
    assert model(x, mask, spacing=near) != model(x, mask, spacing=far)
    # 4 mm pixels in patches of 2, 4 and 2, in units of 8 mm: tokens stand 1, 2 and 1 apart.
    steps = model.modality().step(torch.full((1, 3), 4.0)) / 8.0
    assert steps.tolist() == [[1, 2, 1]]
    with pytest.raises(ValueError, match="needs samples with a spacing"):
        model.encode(x)
