"""What a step would wait for on a GPU, without one: on the meta device, which computes nothing, and knows no value.

A read of a value, an index whose length depends on values, and a copy between host and device.
"""

from dataclasses import replace

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mae_ext.config import load_config
from mae_ext.data.batch import Batch
from mae_ext.engine.pretrain import Pretraining
from mae_ext.engine.step import Objective
from mae_ext.model.mae import MAE
from mae_ext.model.mask import draw_mask
from mae_ext.model.modality import build_maskers
from mae_ext.rng import rng

META = torch.device("meta")
READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::equal"}
INDEXES = {"aten::index.Tensor", "aten::index_put", "aten::index_put_", "aten::_unsafe_index.Tensor"}


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def waits_in_kernel(name, had, came):
    """had, came: the tensors that a kernel has and makes."""
    devices = {t.device.type for t in (*had, *came)}
    if name in READS:
        return had[0].device == META
    if name in INDEXES:
        return any(index.dtype == torch.bool or index.device != META for index in had[1:])
    return "copy" in name and len(devices) == 2


def waits_in_call(name, arguments, keywords):
    """What becomes no kernel on the meta device: a tensor of Python numbers, and a list as an index."""
    if name in ("tensor", "as_tensor", "new_tensor"):
        return torch.device(keywords.get("device") or "cpu") == META or name == "new_tensor"
    if name in ("__getitem__", "__setitem__"):
        index = arguments[1] if isinstance(arguments[1], tuple) else (arguments[1],)
        return any(isinstance(part, list) for part in index)
    return False


class Kernels(TorchDispatchMode):
    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, kernel, types, arguments=(), keywords=None):
        name, came = kernel.name(), None
        try:
            came = kernel(*arguments, **(keywords or {}))
        finally:  # a read of a value fails here
            if waits_in_kernel(name, tensors((arguments, keywords)), tensors(came)):
                self.waits.append(name)
        return came


class Calls(TorchFunctionMode):
    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, call, types, arguments=(), keywords=None):
        name = getattr(call, "__name__", "")
        if waits_in_call(name, arguments, keywords or {}):
            self.waits.append(name)
        return call(*arguments, **(keywords or {}))


def waits_of(do):
    waits = []
    with Calls(waits), Kernels(waits):
        do()
    return waits


def objective(recipe, *overrides):
    """Its loss and gradients, of two samples as its reader gives them."""
    small = ["model.size=tiny", "model.decoder.width=48", "model.decoder.depth=1", "model.decoder.heads=2"]
    config = load_config(recipe, [*small, *overrides])
    batches = {}
    for name, m in config.modalities.items():
        shares = [torch.rand(m.grid, generator=rng(0, "share", i)) for i in range(2)]
        mask = draw_mask(*build_maskers(m, name), m.grid, [rng(0, i) for i in range(2)], shares)
        batch = Batch(torch.zeros(2, m.channels, *m.size), mask, files=torch.arange(2))
        if m.data.reader.name == "image":
            batch = replace(batch, x=batch.x.byte())
        if m.data.reader.name == "volume":
            stored = {"x": batch.x[:, :1].short(), "levels": torch.ones(2, m.channels, 6)}
            batch = replace(
                batch, valid=batch.x[:, :1] == 0, spacing=torch.ones(2, 3), **(stored if m.channels != 2 else {})
            )
        batches[name] = batch.to(META)
    task = Pretraining()
    whole = Objective(MAE(config).to(META), config, task)

    def step():
        loss, _ = whole(batches)
        loss.backward()

    return step


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("image_in1k_vitb", []),
        ("image_demo", ["modalities.image.target={name: pixel, normalize: channel}"]),
        ("video_k400_vitb_dual", []),
        ("video_k400_maest_vitl", []),
        ("video_demo", ["modalities.video.target={name: pixel, planes: [0]}"]),
        ("volume_ct_vitb", []),
        ("volume_ct_vitb", ["modalities.volume.position={name: learned}"]),
        ("volume_mri_mixed_vitb", []),
        ("volume_brats_vitb", ["train.uniformity=0.01"]),
        ("volume_demo", ["modalities.volume.target={name: pixel, planes: [0, 2]}"]),
    ],
)
def test_the_loss_and_gradients_of_pretraining_wait_for_nothing(recipe, overrides):
    assert waits_of(objective(recipe, *overrides)) == []


def test_what_would_wait_is_seen():
    x = torch.zeros(3, 4, device=META)

    def fails(read):
        with pytest.raises((RuntimeError, NotImplementedError)):
            read()

    assert waits_of(lambda: fails(lambda: x.sum().item())) == ["aten::_local_scalar_dense"]
    assert waits_of(lambda: fails(lambda: bool(x.sum() > 0))) == ["aten::_local_scalar_dense"]
    assert waits_of(lambda: fails(lambda: x[x > 0])) == ["aten::index.Tensor"]
    assert waits_of(lambda: fails(x.nonzero)) == ["aten::nonzero"]
    assert waits_of(lambda: x[:, torch.tensor([1, 2])]) == ["aten::index.Tensor"]
    assert waits_of(lambda: x[:, [1, 2]])[0] == "__getitem__"
    assert waits_of(lambda: torch.tensor([1.0, 2.0], device=META)) == ["tensor"]
    assert waits_of(lambda: torch.ones(3).to(META)) == ["aten::_to_copy"]
    assert waits_of(lambda: x.copy_(torch.ones(3, 4))) == ["aten::copy_"]
    assert waits_of(lambda: x * 2 + torch.arange(4, device=META)) == []
