"""A batch is cut, moved and joined with its rows together."""

import pickle
from dataclasses import FrozenInstanceError

import pytest
import torch

from mae_ext.data.sample import Batch, Crop, Sample
from mae_ext.model.mask import Mask


@pytest.fixture
def batch():
    rows = torch.arange(6)
    return Batch(
        x=rows.view(6, 1, 1, 1).expand(6, 3, 4, 4).float(),
        mask=Mask(rows[:, None] + torch.tensor([0, 10]), rows[:, None] + torch.tensor([20, 30]), (5, 10)),
        valid=(rows % 2 == 0).view(6, 1, 1, 1).expand(6, 1, 4, 4),
        spacing=rows[:, None].expand(6, 2).float(),
        sources=[f"{i}.png" for i in range(6)],
        bad=[{"path": "bad.png"}],
    )


def test_rows_of_a_batch_stay_together(batch):
    part = batch.rows(2, 5)
    assert part.x[:, 0, 0, 0].tolist() == part.spacing[:, 0].tolist() == part.mask.keep[:, 0].tolist() == [2, 3, 4]
    assert part.mask.pred.tolist() == [[22, 32], [23, 33], [24, 34]] and part.mask.grid == (5, 10)
    assert part.valid[:, 0, 0, 0].tolist() == [True, False, True]
    assert part.sources == ["2.png", "3.png", "4.png"]


def test_the_parts_of_a_batch_are_the_batch_and_bad_files_are_told_once(batch):
    parts = [batch.rows(i, i + 2) for i in (0, 2, 4)]
    assert torch.equal(torch.cat([part.x for part in parts]), batch.x)
    assert torch.equal(torch.cat([part.mask.keep for part in parts]), batch.mask.keep)
    assert [source for part in parts for source in part.sources] == batch.sources
    assert not any(part.bad for part in parts)


def test_moving_a_batch_moves_every_tensor_and_keeps_the_rest(batch):
    moved = batch.to(torch.device("meta"))
    tensors = (moved.x, moved.valid, moved.spacing, moved.mask.keep, moved.mask.pred)
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert (moved.sources, moved.bad, moved.mask.grid) == (batch.sources, batch.bad, batch.mask.grid)
    assert batch.x.device.type == "cpu"


def test_what_a_batch_does_not_have_it_does_not_get(batch):
    bare = Batch(batch.x, batch.mask).to(torch.device("cpu")).rows(0, 2)
    assert bare.valid is None and bare.spacing is None and bare.sources == [] and len(bare.x) == 2


def test_samples_crops_and_batches_travel_between_processes(batch):
    crop, sample = Crop((0, 1), (4, 5), (False, True)), Sample(torch.ones(3, 4, 4), "a.png", spacing=(1.0, 2.0))
    assert pickle.loads(pickle.dumps(crop)) == crop
    again = pickle.loads(pickle.dumps(sample))
    assert again.source == "a.png" and again.spacing == (1.0, 2.0) and torch.equal(again.x, sample.x)
    assert torch.equal(pickle.loads(pickle.dumps(batch)).mask.pred, batch.mask.pred)


def test_a_sample_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Sample(torch.ones(1, 2, 2), "a.png").source = "b.png"
