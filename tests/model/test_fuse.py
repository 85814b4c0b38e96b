"""Several blocks of the encoder for the decoder: of the decoder alone, and all the rest as without it."""

from itertools import accumulate

import pytest
import torch

from mae_ext.config import parse_config
from mae_ext.engine.estimate import modality_estimates
from mae_ext.engine.optim import freeze, layer_of
from mae_ext.errors import ConfigError

IMAGE = {"size": [8, 12], "patch": [4, 4]}
DEEP = {"depth": 4, "class_token": 2}
FUSED = DEEP | {"decoder": {"width": 16, "depth": 1, "heads": 2, "fuse": [1, 3]}}


def test_it_is_the_mean_of_the_last_block_and_maps_of_the_others_by_the_encoders_norm(build, draw):
    model = build(image=IMAGE, model=FUSED)
    fuse, encoder, modality = model.decoder.fuse, model.encoder, model.modality()
    assert torch.equal(fuse.weights.softmax(0), torch.full((3,), 1 / 3))  # all weigh the same at first
    fuse.weights.data = torch.tensor([0.5, -1.0, 2.0])
    x, mask = draw(modality)
    tokens = modality.tokens(modality.normalize(x), mask.keep, None)
    after = list(accumulate(encoder.trunk.blocks, lambda x, block: block(x), initial=encoder._with_class_token(tokens)))
    share = [value / sum(map(torch.exp, fuse.weights)) for value in map(torch.exp, fuse.weights)]
    first, third = (m.weight for m in fuse.maps)
    mixed = share[0] * after[1] @ first.T + share[1] * after[3] @ third.T + share[2] * after[4]
    expected = model.decode(encoder.trunk.norm(mixed), mask, modality)
    torch.testing.assert_close(model.predict(modality.normalize(x), mask, modality), expected)
    plain = modality.loss(expected, modality.normalize(x), mask.pred, None)
    torch.testing.assert_close(model(x, mask), plain)


def test_encoding_and_every_other_weight_are_those_of_a_model_without_it(build, draw):
    with_it, without = build(image=IMAGE, model=FUSED), build(image=IMAGE, model=DEEP)
    own, x = with_it.state_dict(), draw(without.modality())[0]
    assert all(torch.equal(own[key], value) for key, value in without.state_dict().items())
    new = own.keys() - without.state_dict().keys()
    assert len(new) == 5 and all(key.startswith("decoder.fuse.") for key in new)
    assert torch.equal(with_it.encode_all(x), without.encode_all(x))
    # A part of the decoder in all that asks: rates by layer, what freezes, what a step costs.
    assert {layer_of(key, 4) for key in new} == {5}
    freeze(with_it, "encoder")
    assert all(p.requires_grad for key, p in with_it.named_parameters() if key in new)


def test_its_maps_are_in_what_a_step_is_said_to_cost(build):
    def cost(model):
        values = {"modalities": {"image": IMAGE | {"batch": 4}}, "model": {"width": 24, "heads": 2} | model}
        config = parse_config(values | {"train": {"steps": 1}})
        (row,) = modality_estimates(config, build(image=IMAGE, model={"width": 24} | model))
        return row.flops, row.kept

    plain = {**DEEP, "decoder": {"width": 16, "depth": 1, "heads": 2}}
    more, kept = cost(FUSED)
    assert more - cost(plain)[0] == 3 * 2 * 2 * (kept + 2) * 24 * 24


def test_every_fused_block_learns_from_pixels_and_a_decoder_that_is_recomputed_gives_the_same(build, draw):
    models = [build(image=IMAGE, model=FUSED, train={"checkpointing": how}) for how in (False, True, "selective")]
    x, mask = draw(models[0].modality(), batch=4)
    gradients = []
    for model in models:
        model(x, mask).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert all(grad is not None and grad.abs().max() > 0 for name, grad in gradients[0].items() if "fuse" in name)
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0])


@pytest.mark.parametrize("fuse", [[0], [4], [3, 1], [1, 1], [5]])
def test_blocks_that_are_none_before_the_last_are_refused(build, fuse):
    with pytest.raises(ConfigError, match=r"decoder\.fuse|greater than or equal to 1"):
        build(image=IMAGE, model=DEEP | {"decoder": {"fuse": fuse}})
