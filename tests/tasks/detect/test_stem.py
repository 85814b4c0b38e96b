"""The pixels beside a pyramid: where they are added, and for which levels they cannot be."""

import pytest
import torch

from mae_ext.config import parse_config
from mae_ext.engine.task import build_model
from mae_ext.errors import ConfigError
from mae_ext.tasks.detect.stem import Stem


def detector(patch=8, size=(32, 48), **task):
    modality = {"size": list(size), "patch": [patch, patch], "batch": 2, "data": {"statistics": "none"}}
    known = {"name": "detect", "classes": ["a"], "channels": 8, "depth": 1, "strides": [4, 8, 16]}
    values = {"modalities": {"image": modality}, "task": known | task, "train": {"steps": 1}}
    return build_model(parse_config({**values, "model": {"width": 24, "depth": 1, "heads": 2}}))


@torch.no_grad()
def test_the_finest_level_alone_sees_the_pixels_near_its_places():
    model, x, seen = detector(stem=4), torch.rand(1, 3, 32, 48), []
    model.pyramid.register_forward_hook(lambda _, __, maps: [torch.zeros_like(one) for one in maps])
    model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(x, "image")
    x[:, :, 16, 24] += 1
    model(x, "image")
    fine, *coarse = ((one != other).any(1)[0] for one, other in zip(*seen, strict=True))
    assert fine.nonzero().tolist() == [[4, 6]]
    assert not any(level.any() for level in coarse)


def test_every_weight_of_a_stem_learns_and_the_map_is_that_of_the_level():
    stem = Stem(3, 4, 8, (4.0, 4.0))
    out = stem(torch.rand(2, 3, 32, 48))
    out.square().sum().backward()
    assert out.shape == (2, 8, 8, 12) and all(bool(p.grad.abs().sum() > 0) for p in stem.parameters())
    assert detector().stem is None


@pytest.mark.parametrize(
    ("patch", "task", "told"),
    [
        (14, {"stem": 4}, r"task: stem=4: halves the image .* 3\.5 x 3\.5 pixels apart; expected one power of two"),
        (8, {"stem": -1}, "stem=-1: expected a whole number, at least 0"),
    ],
)
def test_levels_that_halving_never_comes_to_are_refused(patch, task, told):
    with pytest.raises(ConfigError, match=told):
        detector(patch, (56, 56) if patch == 14 else (32, 48), **task)
