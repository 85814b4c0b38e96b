"""Which bits a GPU promises: the switches of a run, what a checkpoint says of them, and no operation without a kernel.

No GPU is needed: switches are PyTorch's own everywhere, and operations are those of a step, traced on a CPU.
"""

import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mae_ext.config import ConfigError, parse_config
from mae_ext.data.batch import Batch
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.numerics import as_looked_at, as_promised, departures, standing_of
from mae_ext.engine.task import backbone_of, build_model, task_of
from mae_ext.errors import RunError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
NONE = (
    "avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward",
    "adaptive_max_pool2d_backward", "adaptive_max_pool3d_backward", "fractional_max_pool2d_backward",
    "fractional_max_pool3d_backward", "max_unpool2d", "max_unpool3d", "upsample_linear1d_backward",
    "upsample_bilinear2d_backward", "upsample_bicubic2d_backward", "upsample_trilinear3d_backward",
    "_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward", "reflection_pad1d_backward",
    "reflection_pad2d_backward", "reflection_pad3d_backward", "_ctc_loss_backward", "put_", "histc", "bincount",
    "kthvalue", "median", "grid_sampler_2d_backward", "grid_sampler_3d_backward", "cumsum", "cumprod",
    "scatter_reduce", "_embedding_bag_dense_backward",
)  # fmt: skip
"""PyTorch's list of what has no deterministic kernel on a GPU (torch.use_deterministic_algorithms). nll_loss2d has one
where it is not reduced."""


class Traced(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.ops, self.refused = set(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        self.ops.add(name)
        whole = name == "cumsum" and not args[0].is_floating_point()
        if (name in NONE and not whole) or (name == "nll_loss2d_forward" and args[3] != 0):
            self.refused.add(name)
        return func(*args, **kwargs or {})


def state():
    cudnn = torch.backends.cudnn
    return (
        torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.get_float32_matmul_precision(), cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32,
        torch.utils.deterministic.fill_uninitialized_memory, os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )  # fmt: skip


IMAGE = {"size": [16, 16], "patch": [4, 4], "channels": 3, "batch": 2, "data": {"statistics": "none"}}
VOLUME = IMAGE | {"size": [8, 8, 8], "patch": [4, 4, 4]}
CLIP = IMAGE | {"size": [4, 8, 8], "patch": [2, 4, 4], "position": "learned", "decode": {"name": "running_cell"}}


def config_of(modality=IMAGE, task="pretrain", arguments=None, **train):
    values = {
        "modalities": {"one": modality},
        "model": {"width": 24, "depth": 2, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}},
        "train": {"steps": 1, "precision": "fp32", **train},
        "task": {"name": task, **(arguments or {})},
    }
    return parse_config(values)


def test_on_a_gpu_the_switches_are_set_for_the_length_of_a_run_and_on_a_cpu_none_is():
    before = state()
    with as_promised(config_of(matmul="medium", deterministic=False, cudnn_benchmark=True), CPU):
        assert state() == before
    with as_promised(config_of(), GPU):
        assert state() == (True, False, "highest", True, False, False, False, ":4096:8")
        with as_looked_at():
            assert not torch.are_deterministic_algorithms_enabled()
        assert torch.are_deterministic_algorithms_enabled()
    assert state() == before
    with as_promised(config_of(matmul="high", deterministic=False, cudnn_benchmark=True), GPU):
        assert state()[:6] == (False, False, "high", False, True, True)
    assert state() == before


def test_a_workspace_that_the_user_chose_stays(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with as_promised(config_of(), GPU):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_an_operation_without_such_a_kernel_is_named_with_the_task_and_the_key():
    before, words = (
        state(),
        "grid_sampler_2d_backward_cuda does not have a deterministic implementation, but you set ...",
    )
    with (
        pytest.raises(
            RunError, match=r"task pretrain: grid_sampler_2d_backward_cuda has no kernel .*deterministic=false"
        ),
        as_promised(config_of(), GPU),
    ):
        raise RuntimeError(words)
    with pytest.raises(RuntimeError, match="another"), as_promised(config_of(), GPU):
        raise RuntimeError("another")
    assert state() == before


def test_what_cannot_be_promised_together_is_refused():
    with pytest.raises(
        ConfigError, match="cudnn_benchmark may choose otherwise in each run: set deterministic to false"
    ):
        config_of(cudnn_benchmark=True)


def test_a_run_that_goes_on_elsewhere_is_told_what_differs():
    one = standing_of(config_of(), Ranks(0, 1, CPU), None)
    assert one["torch"] == torch.__version__ and one["ranks"] == 1 and one["processor"]
    assert departures(one, dict(one)) is None and departures({}, one) is None
    said = departures(one, one | {"ranks": 2, "torch": "2.10.0"})
    assert said.endswith(f"torch {torch.__version__} -> 2.10.0, ranks 1 -> 2")


BOXES = {
    "boxes": torch.tensor([[[1.0, 1, 9, 9]], [[0, 0, 0, 0]]]), "labels": torch.tensor([[0], [-1]]),
    "ignored": torch.zeros(2, 1, dtype=torch.bool),
}  # fmt: skip
CLASSES = {"classes": ["a", "b"]}
STEPS = {
    "images": (IMAGE | {"position": "learned"}, "pretrain", {}, {"uniformity": 0.1}, {}),
    "clips": (CLIP, "pretrain", {}, {}, {}),
    "volumes": (VOLUME, "pretrain", {}, {}, {}),
    "classify": (IMAGE, "classify", CLASSES | {"pool": "attentive"}, {}, {"classes": torch.eye(2)}),
    "segment": (IMAGE, "segment", CLASSES, {}, {"labels": torch.ones(2, 16, 16, dtype=torch.long)}),
    "segment, some unknown": (
        VOLUME, "segment", CLASSES | {"head": "unetr", "ignore": 9}, {},
        {"labels": torch.ones(2, 8, 8, 8, dtype=torch.long)},
    ),
    "segment by UNETR": (
        VOLUME, "segment", CLASSES | {"head": "unetr"}, {}, {"labels": torch.ones(2, 8, 8, 8, dtype=torch.long)}
    ),
    "detect": (IMAGE, "detect", CLASSES | {"channels": 16, "depth": 1}, {}, BOXES),
}  # fmt: skip


@pytest.mark.parametrize("what", STEPS)
def test_a_step_of_every_task_has_a_deterministic_kernel_for_all_it_does(what):
    modality, task, arguments, train, targets = STEPS[what]
    config = config_of(modality, task, arguments, **train)
    model = build_model(config).train()
    x = torch.rand(2, 3, *config.modalities["one"].size, generator=torch.Generator().manual_seed(0))
    mask = backbone_of(model).modality().draw_mask([torch.Generator().manual_seed(i) for i in (0, 1)])
    batch = Batch(x, mask if task == "pretrain" else None, targets=targets)
    torch.use_deterministic_algorithms(True)
    try:
        with Traced() as seen:
            loss = task_of(config).loss(model, "one", batch)
            loss.backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert seen.refused == set() and len(seen.ops) > 30
    torch.testing.assert_close(task_of(config).loss(model, "one", batch), loss)


def test_what_has_none_is_noticed():
    x = torch.rand(1, 2, 4, 4, requires_grad=True)
    with Traced() as seen:
        torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear").sum().backward()
        torch.nn.functional.cross_entropy(x, torch.zeros(1, 4, 4, dtype=torch.long))
        torch.arange(3).cumsum(0)
    assert seen.refused == {"upsample_bilinear2d_backward", "nll_loss2d_forward"}
