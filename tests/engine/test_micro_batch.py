"""How many parts a batch has, where train.micro_batch decides: arithmetic, and trying until it fits."""

import pytest
import torch
from torch import nn

from mae_ext.config import parse_config
from mae_ext.data.batch import Batch
from mae_ext.engine.distributed import Ranks, check_split
from mae_ext.engine.micro_batch import agreed, fewest_parts, numbers_of_parts, tried, try_step, undisturbed, with_parts
from mae_ext.engine.task import build_model, task_of
from mae_ext.errors import ConfigError, RunError, UserError
from mae_ext.rng import rng

CPU = Ranks(0, 1, torch.device("cpu"))


def config(batches=(24,), **train):
    names = ("image", "other")
    modalities = {
        name: {"size": [16, 16], "patch": [4, 4], "batch": batch} for name, batch in zip(names, batches, strict=False)
    }
    model = {"width": 24, "depth": 1, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}
    return parse_config({"modalities": modalities, "model": model, "train": {"steps": 5, "precision": "fp32"} | train})


@pytest.mark.parametrize(
    ("batches", "world", "most", "parts"),
    [
        ((24,), 1, 24, 1), ((24,), 1, 100, 1), ((24,), 1, 8, 3), ((24,), 1, 7, 4), ((24,), 2, 8, 2), ((24,), 3, 1, 8),
        ((24, 16), 1, 40, 1), ((24, 16), 1, 12, 4), ((24, 16), 2, 5, 4),
    ],
)  # fmt: skip
def test_a_number_becomes_the_fewest_parts_of_at_most_so_many_samples(batches, world, most, parts):
    settled = with_parts(config(batches, micro_batch=most), world)
    assert (settled.train.accumulate, settled.train.micro_batch) == (parts, None)
    assert settled.samples_per_step // (world * parts) <= most
    check_split(settled, world)
    assert parse_config(settled.model_dump(mode="json")) == settled  # as a checkpoint holds it


def test_a_number_below_the_smallest_part_is_refused_by_name():
    with pytest.raises(
        ConfigError, match=r"micro_batch=4: the smallest equal parts of the batches over 1 ranks have 5"
    ):
        with_parts(config((24, 16), micro_batch=4), 1)


def test_a_batch_that_does_not_split_over_the_ranks_is_said_of_the_ranks():
    with pytest.raises(UserError, match="batch=24 does not split over 5 ranks"):
        check_split(with_parts(config(micro_batch=4), 5), 5)


@pytest.mark.parametrize("train", [{"micro_batch": 4, "accumulate": 2}, {"micro_batch": "auto", "uniformity": 0.01}])
def test_what_decides_the_same_thing_twice_or_needs_whole_batches_is_refused(train):
    with pytest.raises(ConfigError, match="micro_batch"):
        config(**train)


def memory_for(model, rows):
    """As if a device had memory for so many samples at once."""

    def check(_, inputs):
        if len(inputs[0]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return model.encoder.register_forward_pre_hook(check)


def batch_of(settings, model, rows):
    x = torch.rand(2, 3, 16, 16, generator=rng(0, "x"))
    mask = model.modality("image").draw_mask([rng(0, "mask", i) for i in range(2)])
    return Batch(x, mask).repeated(rows)


@pytest.mark.parametrize(("room", "parts"), [(24, 1), (23, 2), (11, 3), (2, 12), (1, 24)])
def test_the_fewest_parts_that_fit_are_found_and_nothing_is_disturbed(room, parts):
    settings = config()
    model, task = build_model(settings).train(), task_of(settings)
    model.register_buffer("seen", torch.zeros(()))
    model.encoder.register_forward_hook(lambda *_: model.seen.add_(torch.rand(())) and None)  # as others' layers do
    memory_for(model, room)
    sizes, before, drawn = [], {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()

    def attempt(number):
        sizes.append(24 // number)
        try_step(settings, task, model, {"image": batch_of(settings, model, 24 // number)})

    with undisturbed(model):
        assert fewest_parts(numbers_of_parts(settings, 1), attempt) == parts
    assert sizes[-1] == 24 // parts and sizes == sorted(sizes, reverse=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_model_of_which_not_even_one_sample_fits_is_said_to_be_too_large():
    def attempt(_):
        raise torch.OutOfMemoryError

    with pytest.raises(RunError, match="not even batches in 24 parts fit"):
        fewest_parts(numbers_of_parts(config(), 1), attempt)


def test_other_errors_of_a_trial_are_not_taken_for_a_lack_of_memory():
    def attempt(_):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        fewest_parts([1, 2], attempt)


def test_repeated_samples_are_the_samples_over_and_over():
    batch = Batch(torch.arange(3.0)[:, None], targets={"label": torch.tensor([5, 6, 7])}, sources=["a", "b", "c"])
    five = batch.repeated(5)
    assert five.x[:, 0].tolist() == [0, 1, 2, 0, 1] and five.targets["label"].tolist() == [5, 6, 7, 5, 6]


def test_on_a_cpu_a_batch_is_one_part_and_that_is_said(capfd):
    settings = config(micro_batch="auto")
    assert tried(settings, task_of(settings), {}, nn.Identity(), CPU) == 1
    settled = agreed(config(), CPU)
    assert settled.train.accumulate == 1
    assert "micro_batch=auto: 24 samples at once" in (said := capfd.readouterr().err) and "on a CPU nothing" in said


def test_ranks_take_the_parts_of_the_one_that_needs_the_most():
    class Two(Ranks):
        def gather(self, value):
            return [value, 4]

    assert agreed(config(accumulate=2), Two(1, 2, torch.device("cpu"))).train.accumulate == 4
