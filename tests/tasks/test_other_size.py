"""A task's model, given another size than it was built for: what one that was built for it, with its weights, says."""

import pytest
import torch

from mae_ext.config import parse_config
from mae_ext.engine.task import build_model
from mae_ext.errors import WrongShape

TASKS = {
    "mean": {"name": "classify", "classes": ["a", "b"]},
    "attentive": {"name": "classify", "classes": ["a", "b"], "pool": "attentive"},
    "linear": {"name": "segment", "classes": ["a", "b"]},
    "unetr": {"name": "segment", "classes": ["a", "b"], "head": "unetr", "features": 4},
    "upsample": {"name": "segment", "classes": ["a", "b"], "head": "upsample", "features": 4, "layers": 2},
    "detect": {"name": "detect", "classes": ["a", "b"], "channels": 8, "depth": 1, "strides": [4, 8, 16]},
}


def model_of(task, size):
    modality = {"size": size, "patch": [8, 8], "batch": 2, "data": {"statistics": "none"}}
    values = {"task": TASKS[task], "modalities": {"image": modality}, "train": {"steps": 1}}
    return build_model(parse_config({**values, "model": {"width": 24, "depth": 3, "heads": 2}})).eval()


def tensors(answers):
    return [answers] if isinstance(answers, torch.Tensor) else list(vars(answers).values())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", [(64, 48), (24, 32)], ids=str)  # the second has as many tokens as that of training
def test_a_task_answers_another_size_as_a_model_built_for_it(task, size):
    small, large = model_of(task, [32, 24]), model_of(task, list(size))
    large.load_state_dict(small.state_dict())
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = tensors(small(x, "image")), tensors(large(x, "image"))
    for found, wanted in zip(one, other, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    if task == "detect":
        for part in ("xy", "stride", "reach"):
            assert torch.equal(getattr(small.places_in(x, "image"), part), getattr(large.places, part))
        assert small.places_in(torch.zeros(1, 3, 32, 24), "image").xy is small.xy


@pytest.mark.parametrize("task", TASKS)
def test_a_task_refuses_a_size_that_the_patch_does_not_divide(task):
    with pytest.raises(WrongShape, match=r"size \[20, 24\] is not a multiple of patch \[8, 8\]"):
        model_of(task, [32, 24])(torch.zeros(1, 3, 20, 24), "image")
