"""What pretraining hands to the model: everything that a batch knows of its samples."""

import pytest
import torch

from mae_ext.config import parse_config
from mae_ext.data.batch import Batch
from mae_ext.engine.pretrain import Pretraining
from mae_ext.model.mae import MAE
from mae_ext.rng import rng


@pytest.fixture
def asked():
    config = parse_config({
        "modalities": {"scan": {
            "size": [8, 8], "patch": [4, 4], "channels": 1, "batch": 4, "mask": {"name": "random", "ratio": 0.5},
            "position": {"name": "sincos", "unit": 2.0},
        }},
        "model": {"width": 24, "depth": 2, "heads": 2, "drop_path": 0.5,
                  "decoder": {"width": 16, "depth": 1, "heads": 2}},
        "train": {"steps": 1, "uniformity": 0.5},
    })  # fmt: skip
    model = MAE.from_config(config).train()
    x = torch.rand(4, 1, 8, 8, generator=rng(0, "x"))
    mask = model.modality("scan").draw_mask([rng(0, "mask", row) for row in range(4)])
    batch = Batch(
        x, mask, valid=torch.rand(4, 1, 8, 8, generator=rng(0, "valid")) < 0.5,
        spacing=torch.tensor([[1.0, 1.0], [1.5, 1.0], [3.0, 2.0], [0.5, 0.5]]), files=torch.tensor([0, 0, 1, 2]),
    )  # fmt: skip
    return model, batch


def test_the_loss_is_that_of_all_that_is_known(asked):
    model, batch = asked
    found = Pretraining().loss(model, "scan", batch)
    known = {"valid": batch.valid, "spacing": batch.spacing, "files": batch.files}
    assert torch.equal(found, model(batch.x, batch.mask, "scan", **known))
    ones = torch.ones_like(batch.spacing)  # positions in mm need some
    for name, other in {"valid": None, "spacing": ones, "files": None}.items():
        assert not torch.equal(found, model(batch.x, batch.mask, "scan", **known | {name: other})), name
