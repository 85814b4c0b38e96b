"""What a worker makes is a part of a rank's batch: the rows of the parts are the rows of the batch, to the bit."""

import pytest
import torch
from tasks.classify.striped_config import striped_config

from mae_ext.config import load_config
from mae_ext.data.loading.batches import ModalityData, StepData
from mae_ext.data.loading.loader import Loader
from mae_ext.errors import RunError

DECODED = {"modalities.image.decode": {"name": "random", "ratio": 0.5}}


def tensors(batch):
    named = {"x": batch.x, "files": batch.files, "valid": batch.valid, "spacing": batch.spacing, **batch.targets}
    if batch.mask is not None:
        named |= {"keep": batch.mask.keep, "pred": batch.mask.pred}
    return {name: tensor for name, tensor in named.items() if tensor is not None}


def check(data, step, parts):
    whole, cut = data.batch(step), [data.batch(step, part, parts) for part in range(parts)]
    assert whole.sources == [source for part in cut for source in part.sources]
    for name, tensor in tensors(whole).items():
        assert torch.equal(tensor, torch.cat([tensors(part)[name] for part in cut])), name
    return whole, cut


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_parts_are_the_rows_of_the_batch_with_their_masks_also_where_a_files_views_fall_into_two(tiny, photos, parts):
    values = {"modalities.image.data.path": str(photos), "modalities.image.data.repeats": 2}
    config = load_config(tiny(values | DECODED))
    for rank in range(2):
        data = ModalityData(config.seed, "image", config.modalities["image"], rank, 2)
        if parts <= 4:
            check(data, 3, parts)
    check(ModalityData(config.seed, "image", config.modalities["image"]), 7, parts)


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_a_part_of_half_a_pair_has_the_mixture_of_the_whole_pair(tiny, striped, parts):
    """Slots 2i and 2i + 1 are mixed with each other, whatever parts they are in: also in parts of one sample."""
    task, config = striped_config(tiny, striped, striped / "test", mixup=0.8, cutmix=1.0)
    data = task.data(config)["image"]
    whole, cut = check(data, 2, parts)
    assert len({len(part.x) for part in cut}) == 1 and any(0 < v < 1 for v in whole.targets["classes"].flatten())
    task, config = striped_config(tiny, striped, striped / "test")
    assert len(task.data(config)["image"].keys(2, 1, 8)[0]) == 1  # without a mixture no more is read than is needed


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_step_comes_in_so_many_parts_and_a_bad_file_is_replaced_in_its_own(tiny, photos, workers):
    values = {"modalities.image.data.path": str(photos), "train.accumulate": 4, "train.workers": workers}
    reader = {"modalities.image.data.reader": {"name": "faulty", "fault": "bad", "match": "07."}}
    config = load_config(tiny(values | reader))
    data = ModalityData(config.seed, "image", config.modalities["image"])
    loader = Loader(StepData({"image": data}, 4), config, 0, 5, torch.device("cpu"))
    try:
        steps = list(loader)
    finally:
        loader.close()
    assert [len(parts) for parts in steps] == [4] * 5
    bad = []
    for step, parts in zip(range(5), steps, strict=True):
        whole = data.batch(step)
        assert torch.equal(whole.x, torch.cat([part["image"].x for part in parts]))
        assert torch.equal(whole.mask.pred, torch.cat([part["image"].mask.pred for part in parts]))
        assert whole.bad == [row for part in parts for row in part["image"].bad]
        bad += [number for number, part in enumerate(parts) if part["image"].bad]
    assert len(bad) == 1  # in the one part that would have had it


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_batch_took_is_told_by_stage_and_a_slow_reader_is_decoding(tiny, photos, workers):
    values = {"modalities.image.data.path": str(photos), "train.accumulate": 2, "train.workers": workers}
    reader = {"modalities.image.data.reader": {"name": "faulty", "fault": "bad", "match": "nothing", "slow": 0.02}}
    config = load_config(tiny(values | reader))
    data = ModalityData(config.seed, "image", config.modalities["image"])
    loader = Loader(StepData({"image": data}, 2), config, 0, 2, torch.device("cpu"))
    try:
        for _ in loader:
            assert list(loader.stages) == ["read", "decode", "transform", "share"]
            assert loader.stages["decode"] >= 8 * 0.02 and loader.stages["transform"] > 0
            assert 0 < loader.stages["read"] < loader.stages["decode"]
            assert (loader.stages["share"] > 0) == (workers > 0)
    finally:
        loader.close()


def test_batches_that_no_memory_could_hold_are_refused_by_name_with_what_they_need(tiny, photos, monkeypatch):
    values = {"modalities.image.data.path": str(photos), "train.workers": 0, "train.prefetch": 3, "train.accumulate": 2}
    config = load_config(tiny(values))
    data = ModalityData(config.seed, "image", config.modalities["image"])
    loader = Loader(StepData({"image": data}, 2), config, 0, 100, torch.device("cpu"))
    loader.close()
    loader._check_memory(4, 1 << 10)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    # 4 x 3 asked for, 3 in the queue, two steps of 2, and 1 in between: 20 of a terabyte on each of two ranks.
    told = r"need 40000\.0 GB of shared memory, and [0-9.]+ GB are free: 20 of 1000000 MB .* each of 2 ranks, with "
    with pytest.raises(RunError, match=told + r"train.workers=4, train.prefetch=3 and train.accumulate=2; lower"):
        loader._check_memory(4, 10**12)
