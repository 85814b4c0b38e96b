"""Terms of pretraining's loss: what each is given, and when."""

import pytest
import torch

from mae_ext.config import parse_config
from mae_ext.errors import ConfigError
from mae_ext.model.terms import Term
from mae_ext.model.uniformity import uniformity

IMAGE = {"size": [8, 12], "patch": [4, 4], "data": {"statistics": "none", "repeats": 2}}
FILES = torch.tensor([4, 4, 9, 2, 9, 4])


class Small(Term):
    """Of the first block."""

    blocks = (1,)

    def forward(self, seen):
        return 0.5 * seen.layers[1].square().mean()


@pytest.mark.parametrize("class_token", [True, False])
def test_training_adds_each_with_its_weight_over_patch_tokens_and_judging_none(build, draw, class_token):
    plain, model = (
        build(image=IMAGE, model={"depth": 4, "class_token": class_token}, train=t) for t in ({}, {"uniformity": 0.1})
    )
    model.terms["small"] = Small()
    (x, mask), modality = draw(plain.modality(), batch=6), model.modality()
    first, tokens = model.encoder.layers(modality.tokens(modality.normalize(x), mask.keep, None), [1])
    expected = plain(x, mask) + 0.1 * uniformity(tokens, FILES) + 0.5 * first.square().mean()
    assert model(x, mask, files=FILES).item() == pytest.approx(expected.item(), abs=1e-5)
    assert torch.equal(model.eval()(x, mask, files=FILES), plain.eval()(x, mask))


@pytest.mark.parametrize(
    ("train", "image", "message"),
    [
        ({}, {"batch": 2}, r"train\.uniformity compares samples of different files"),
        ({"accumulate": 2}, {}, r"uniformity=0\.5 compares .* never has together"),
        ({"micro_batch": 2}, {}, r"uniformity=0\.5 compares .* in one part then"),
        ({"micro_batch": "auto"}, {}, r"uniformity=0\.5 compares .* in one part then"),
        ({"uniformity": -1}, {}, "uniformity"),
    ],
)
def test_what_cannot_be_is_refused_by_name(train, image, message):
    values = {
        "modalities": {"image": IMAGE | {"batch": 4} | image}, "model": {"size": "tiny"},
        "train": {"steps": 1, "uniformity": 0.5} | train,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=message):
        parse_config(values)
