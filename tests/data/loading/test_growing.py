"""Samples that grow with the steps, and views whose values are changed: functions of the step, whoever makes them."""

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, avg_pool3d

from mae_ext.config import load_config, parse_config
from mae_ext.data.change.jitter import jitter
from mae_ext.data.image.reader import ImageReader
from mae_ext.data.loading.batches import ModalityData, StepData
from mae_ext.data.loading.loader import Loader
from mae_ext.data.sample import Sample
from mae_ext.errors import UserError
from mae_ext.model.mask_content import ContentMasker
from mae_ext.rng import rng

SIZES = "modalities.image.sizes"
GROWING = [[0, [8, 8]], [0.5, [16, 16]]]


@pytest.fixture
def data_of(tiny, photos):
    def make(values=None):
        config = load_config(tiny({"modalities.image.data.path": str(photos), **(values or {})}))
        return config, ModalityData(config.seed, "image", config.modalities["image"])

    return make


def test_a_batch_has_the_size_of_its_step_and_shows_the_same_crops_in_fewer_pixels(data_of):
    _, growing = data_of({SIZES: GROWING})
    _, plain = data_of()
    steps = StepData({"image": growing}, 1, 10)
    for step, side in ((0, 8), (4, 8), (5, 16), (9, 16)):
        (part,) = steps[step]
        assert part["image"].x.shape == (8, 3, side, side) and part["image"].mask.grid == (side // 4,) * 2
        assert part["image"].mask.keep.shape == (8, side * side // 64)
    small, large = steps[4][0]["image"], plain.batch(4)
    assert small.sources == large.sources and torch.equal(small.files, large.files)
    halved = avg_pool2d(large.x.float(), 2)
    wrong = avg_pool2d(plain.batch(3).x.float(), 2)
    assert (small.x.float() - halved).abs().mean() < 12 < 30 < (small.x.float() - wrong).abs().mean()
    last = steps[7][0]["image"]
    assert torch.equal(last.x, plain.batch(7).x) and torch.equal(last.mask.keep, plain.batch(7).mask.keep)


def test_who_does_not_count_steps_sees_samples_as_large_as_they_become(data_of):
    _, growing = data_of({SIZES: GROWING})
    assert StepData({"image": growing})[0][0]["image"].x.shape[2:] == growing.batch(0).x.shape[2:] == (16, 16)


def test_the_largest_batches_are_known_when_the_first_is_small(data_of):
    _, growing = data_of({SIZES: GROWING})
    steps = StepData({"image": growing}, 1, 10)
    assert (steps.growth(0), steps.growth(5), StepData({"image": growing}).growth(0)) == (4.0, 1.0, 1.0)


def test_workers_and_parts_make_the_same_across_a_change_of_size(data_of):
    values = {SIZES: GROWING, "train.accumulate": 2, "modalities.image.data.augment": {"distort": 4, "grey": 0.5}}
    config, growing = data_of({**values, "train.workers": 1})
    loader = Loader(StepData({"image": growing}, 2, 4), config, 0, 4, torch.device("cpu"))
    try:
        made = list(loader)
    finally:
        loader.close()
    whole = StepData({"image": data_of(values)[1]}, 1, 4)
    for step, parts in enumerate(made):
        (expected,) = whole[step]
        assert parts[0]["image"].x.shape == (4, 3, *((8, 8) if step < 2 else (16, 16)))
        assert torch.equal(torch.cat([part["image"].x for part in parts]), expected["image"].x)
        assert torch.equal(torch.cat([part["image"].mask.keep for part in parts]), expected["image"].mask.keep)


def test_each_view_of_a_file_has_its_own_jitter_by_its_own_key(data_of):
    config, data = data_of({
        "modalities.image.data.repeats": 2,
        "modalities.image.data.augment": {"distort": 4, "grey": 0.2, "scale": None, "flip": []},
    })  # fmt: skip
    _, plain = data_of({
        "modalities.image.data.repeats": 2, "modalities.image.data.augment": {"scale": None, "flip": []},
    })  # fmt: skip
    batch, before, keys = data.batch(3), plain.batch(3), data.plan.keys(3)
    assert torch.equal(before.x[0], before.x[1]) and not torch.equal(batch.x[0], batch.x[1])
    for row, key in enumerate(keys):
        draw = rng(config.seed, "distort", "image", key.epoch, key.index, key.repeat)
        assert torch.equal(batch.x[row], jitter(Sample(before.x[row], ""), 4, 0.4, 0.2, draw).x)
    assert batch.x.dtype == torch.uint8 and torch.equal(batch.mask.keep, before.mask.keep)


def test_a_masker_that_asks_sees_the_sample_that_is_trained_on(data_of):
    masker = {"name": "content", "ratio": 0.75, "mix": 0.0, "measure": "entropy"}
    _, data = data_of({"modalities.image.mask": masker, "modalities.image.data.augment": {"distort": 4}})
    batch = data.batch(2)
    for x, keep in zip(batch.x, batch.mask.keep, strict=True):
        bits = ContentMasker(measure="entropy").content_of(x.float() / 255, (4, 4)).flatten()
        assert bits[keep].min() >= bits.sort(descending=True).values[3] - 1e-6


def test_a_reader_that_does_not_say_how_it_resizes_is_made_anew_for_each_size(data_of, monkeypatch):
    monkeypatch.delattr(ImageReader, "resizes")
    _, data = data_of({SIZES: GROWING})
    assert StepData({"image": data}, 1, 10)[0][0]["image"].x.shape == (8, 3, 8, 8)


def test_a_scan_shows_the_same_box_in_fewer_voxels_of_more_mm(tmp_path):
    scan = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    np.savez(tmp_path / "scans.npz", train_images=scan[None])
    volume = {
        "size": [16, 16, 16], "patch": [4, 4, 4], "channels": 1, "batch": 1,
        "sizes": [[0, [8, 8, 16]], [0.5, [16] * 3]],
        "data": {"path": str(tmp_path / "scans.npz"), "statistics": "none",
                 "reader": {"name": "volume", "intensity": "none"},
                 "augment": {"fixed": [0, 1, 2], "flip": [], "distort": 0}},
    }  # fmt: skip
    model = {"width": 24, "depth": 1, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}
    config = parse_config({"modalities": {"v": volume}, "model": model, "train": {"steps": 4, "workers": 0}})
    steps = StepData({"v": ModalityData(0, "v", config.modalities["v"])}, 1, 4)
    small, large = steps[0][0]["v"], steps.modalities["v"].batch(0)
    assert small.spacing.tolist() == [[2.0, 2.0, 1.0]] and small.mask.grid == (2, 2, 4)
    torch.testing.assert_close(small.in_units().x, avg_pool3d(large.in_units().x, (2, 2, 1)), atol=1e-5, rtol=0)
    assert small.valid.shape == (1, 1, 8, 8, 16) and small.valid.all()


def test_clips_have_all_their_frames_at_every_size(tmp_path):
    np.savez(tmp_path / "clips.npz", train_images=np.zeros((2, 8, 16, 16, 3), np.uint8))
    clip = {"size": [8, 16, 16], "patch": [2, 8, 8], "batch": 1,
            "data": {"path": str(tmp_path / "clips.npz"), "reader": "video", "statistics": "none",
                     "augment": {"fixed": [0], "distort": 4}}}  # fmt: skip
    model = {"width": 24, "depth": 1, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}

    def made(size):
        values = {"modalities": {"c": {**clip, "sizes": [[0, size], [0.5, [8, 16, 16]]]}}, "model": model}
        config = parse_config({**values, "train": {"steps": 4, "workers": 0}})
        return StepData({"c": ModalityData(0, "c", config.modalities["c"])}, 1, 4)

    assert made([8, 8, 8])[0][0]["c"].x.shape == (1, 3, 8, 8, 8)
    with pytest.raises(UserError, match=r"modalities.c.sizes: \[4, 16, 16\] on axis 0: this reader gives 8 there"):
        made([4, 16, 16])
