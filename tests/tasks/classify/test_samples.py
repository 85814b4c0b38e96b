"""What a sample and its class are before they are learned from: smoothed, distorted, erased, mixed."""

from pathlib import Path

import pytest
import torch
from tasks.classify.striped_config import striped_config

from mae_ext.config import load_config
from mae_ext.data.plan import Key
from mae_ext.data.sample import Crop
from mae_ext.engine.task import task_of
from mae_ext.errors import UserError
from mae_ext.tasks.classify.task import smoothed


def test_smoothing_spreads_a_share_over_all_classes_the_right_one_among_them():
    assert smoothed(torch.tensor(1), 4, 0.2).tolist() == pytest.approx([0.05, 0.85, 0.05, 0.05])
    assert smoothed(torch.tensor(3), 4, 0.0).tolist() == [0, 0, 0, 1]


def test_a_batch_has_the_smoothed_classes_of_its_files(tiny, striped):
    config = tiny({"task": {"name": "classify", "smoothing": 0.3}, "modalities.image.data": {"statistics": "none"}})
    loaded = load_config(config, [f"modalities.image.data.path={striped / 'train'}"])
    data = task_of(loaded).data(loaded)["image"]
    batch = data.batch(0)
    for source, target in zip(batch.sources, batch.targets["classes"], strict=True):
        number = ("across", "down", "slanted").index(Path(source).parent.name)
        assert target.tolist() == pytest.approx([0.1 + 0.7 * (i == number) for i in range(3)])


def test_what_a_task_asks_of_samples_is_done_to_them(tiny, striped):
    batches = {}
    for name, asked in {"plain": {}, "erase": {"erase": 1.0}, "distort": {"distort": 2}, "mix": {"mixup": 0.8}}.items():
        task, config = striped_config(tiny, striped, striped / "test", **asked)
        batches[name] = task.data(config)["image"].batch(0)
    plain = batches["plain"]
    assert set(plain.targets["classes"].flatten().tolist()) == {0.0, 1.0}
    assert all(not torch.equal(plain.x, batches[name].x) for name in ("erase", "distort", "mix"))
    # Of 8 samples in 4 pairs some are of two classes, and share one.
    assert any(0 < v < 1 for v in batches["mix"].targets["classes"].flatten().tolist())
    assert batches["mix"].targets["classes"].sum(1).tolist() == pytest.approx([1.0] * 8)


def test_a_sample_is_distorted_anew_in_every_epoch_and_view(tiny, striped):
    _, config = striped_config(tiny, striped, striped / "test", distort=2, strength=1.0)
    examples = task_of(config).data(config)["image"].examples

    def seen(epoch, repeat):
        (sample,) = examples.read(0, [Key(epoch, 0, 0, repeat, 0)], [lambda _: Crop((0, 0), (40, 40), (False, False))])
        return float(sample.x.double().sum())

    assert len({seen(epoch, repeat) for epoch in range(6) for repeat in range(2)}) > 9
    assert seen(3, 1) == seen(3, 1)


def test_pairs_of_a_mixture_stay_on_one_rank(tiny, striped):
    task, config = striped_config(tiny, striped, striped / "test", mixup=0.8)
    task.data(config, 0, 4)
    modality = config.modalities["image"].model_copy(update={"batch": 6})
    with pytest.raises(UserError, match=r"batch=6: .* over 2 ranks expected a multiple of 4"):
        task.data(config.model_copy(update={"modalities": {"image": modality}}), 0, 2)


@pytest.mark.parametrize("mixture", ["mixup", "cutmix"])
def test_views_of_one_file_are_no_pair_for_a_mixture(tiny, striped, mixture):
    for repeats, asked, fits in ((1, {mixture: 0.8}, True), (2, {}, True), (2, {mixture: 0.8}, False)):
        task, config = striped_config(tiny, striped, striped / "test", **asked)
        modality = config.modalities["image"]
        data = modality.data.model_copy(update={"repeats": repeats})
        config = config.model_copy(update={"modalities": {"image": modality.model_copy(update={"data": data})}})
        if fits:
            task.data(config)
            continue
        with pytest.raises(UserError, match="repeats=2: mixup and cutmix would mix a file with itself"):
            task.data(config)
