"""Several class tokens, as weights with registers have: one of them is what a class token always was."""

import pytest
import torch

from mae_ext.config import parse_config
from mae_ext.engine.optim import layer_of, parameter_groups
from mae_ext.errors import ConfigError
from mae_ext.model.mae import MAE

IMAGE = {"size": [8, 12], "patch": [4, 4]}


def config_with(tokens):
    return parse_config(
        {
            "modalities": {"image": {**IMAGE, "batch": 2, "data": {"statistics": "none"}}},
            "model": {
                "width": 24, "depth": 2, "heads": 2, "class_token": tokens,
                "decoder": {"width": 12, "depth": 1, "heads": 2},
            },
            "train": {"steps": 1},
        }
    )  # fmt: skip


def test_several_class_tokens_stand_before_the_patches_and_no_patch_is_lost(build, draw):
    model = build(image=IMAGE, model={"class_token": 3})
    x, mask = draw(model.modality())
    assert model.encode_all(x).shape[1] == 3 + 6
    assert torch.equal(model.encode(x), model.encode_all(x)[:, 3:])
    assert torch.equal(model.encode_layers(x, [1])[-1], model.encode(x))
    assert torch.equal(model.features(x, pool="class"), model.encode_all(x)[:, 0])
    assert model.features(x).shape == model.features(x, pool="class").shape
    model(x, mask).backward()
    assert model.encoder.class_token.grad.abs().amax(1).min() > 0
    assert model.predict(model.modality().normalize(x), mask, model.modality()).shape[:2] == mask.pred.shape


def test_each_of_several_class_tokens_is_drawn_by_itself_with_a_deviation_of_a_fiftieth():
    tokens = MAE(config_with(64)).encoder.class_token
    assert tokens.shape == (64, 24) and 0.019 < tokens.std() < 0.021
    assert len({tuple(row.tolist()) for row in tokens}) == 64


def test_one_class_token_is_a_vector_whether_the_config_says_true_or_1():
    one, true, none, zero = (config_with(value) for value in (1, True, 0, False))
    assert one == true and one.model.class_token is True
    assert none == zero and none.model.class_token is False
    assert MAE(one).encoder.class_token.shape == (24,)
    assert "encoder.class_token" not in MAE(none).state_dict()


def test_class_tokens_take_no_weight_decay_and_belong_to_the_layer_that_embeds():
    model = MAE(config_with(4))
    decayed = {id(p) for group in parameter_groups(model, 0.05) if group["weight_decay"] for p in group["params"]}
    assert id(model.encoder.class_token) not in decayed
    assert layer_of("encoder.class_token", 2) == 0


@pytest.mark.parametrize("tokens", [65, -1, "many", 2.5])
def test_a_number_of_class_tokens_that_cannot_be_is_named(tokens):
    with pytest.raises(ConfigError, match="class_token"):
        config_with(tokens)
