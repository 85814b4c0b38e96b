"""A step on scans that travelled as their files store them is the step on their floats, to the bit."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from mae_ext.config import parse_config
from mae_ext.data.batch import Batch
from mae_ext.data.change.mix import Mix
from mae_ext.data.loading.batches import ModalityData
from mae_ext.data.plan import Key
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.run import assembled
from mae_ext.engine.step import Step
from mae_ext.tasks.classify.task import Classification

READER = {
    "name": "volume", "body": -500, "intensity": {"name": "window", "windows": [[-160, 240], [-1350, 150]]}
}  # fmt: skip


@pytest.fixture
def scans(tmp_path):
    """Of two classes, of which three are int16 and one is not: its voxels are not whole."""
    for number in range(4):
        voxels = np.random.default_rng(number).integers(-1024, 1000, (10, 10, 10)).astype(np.int16)
        voxels = voxels + np.float32(0.25) if number == 3 else voxels
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        nib.Nifti1Image(voxels, np.eye(4)).to_filename(tmp_path / "ab"[number % 2] / f"{number}.nii")
    return tmp_path


def config_of(path, train=None, **more):
    volume = {
        "size": [8, 8, 8], "patch": [4, 4, 4], "channels": 2, "batch": 4,
        "mask": {"name": "foreground", "ratio": 0.5},
        "data": {"path": str(path), "reader": READER, "augment": {"fixed": [0, 1, 2], "flip": [0, 1, 2]},
                 "statistics": {"mean": [0.4, 0.5], "std": [0.3, 0.2]}},
    }  # fmt: skip
    model = {"width": 24, "depth": 1, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}
    train = {"steps": 4, "precision": "fp32"} | (train or {})
    return parse_config({"modalities": {"volume": volume}, "model": model, "train": train, **more})


def in_floats(data):
    """The batches of a reader that has nothing but `read`."""
    plain = ModalityData(data.seed, data.name, data.config)
    plain.reader.read_as_stored = plain.reader.read
    return plain


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("parts", ["a", ""])
def test_steps_on_scans_as_stored_are_those_on_their_floats_to_the_bit(scans, parts, accumulate):
    config = config_of(scans / parts, {"accumulate": accumulate})
    data = ModalityData(config.seed, "volume", config.modalities["volume"])
    ends = []
    for source, travels in ((data, {"a": torch.int16, "": torch.float32}[parts]), (in_floats(data), torch.float32)):
        run = assembled(config, {}, Ranks(0, 1, torch.device("cpu")))
        step, seen = Step(run), []
        for number in range(3):
            batches = [source.batch(number, part, accumulate) for part in range(accumulate)]
            for batch in batches if accumulate == 1 or parts else ():  # a part may be of one kind where a batch is not
                assert batch.x.dtype == travels and (batch.levels is None) == (travels == torch.float32)
            step(number, [{"volume": batch} for batch in batches], False)
            seen += [taken.losses for taken in step.answers(everything=True)]
        ends.append((seen, run.model.state_dict()))
    (losses, weights), (wanted, others) = ends
    assert losses == wanted and all(torch.equal(weights[name], others[name]) for name in others)


def test_a_batch_in_units_is_what_a_task_is_given_and_rows_take_their_levels_along(scans):
    config = config_of(scans / "a")
    data = ModalityData(config.seed, "volume", config.modalities["volume"])
    stored, plain = data.batch(0), in_floats(data).batch(0)
    assert stored.x.shape == (4, 1, 8, 8, 8) and plain.x.shape == (4, 2, 8, 8, 8)
    assert torch.equal(stored.in_units().x, plain.x) and stored.in_units().levels is None
    assert torch.equal(stored.rows(1, 3).in_units().x, plain.x[1:3])
    assert plain.in_units() is plain
    half = Batch(torch.ones(1, 1, 2, dtype=torch.float16)).in_units()
    assert half.x.dtype == torch.float32


def test_mixed_samples_are_mixed_in_units(scans):
    config = config_of(scans / "a")
    data = ModalityData(config.seed, "volume", config.modalities["volume"])
    keys = [Key(0, slot, slot, 0, slot) for slot in range(4)]
    mixed = [
        Mix(0.8, 1.0)(replace(batch, targets={"y": torch.eye(4)}), keys, 0, "volume", 0, "y")
        for batch in (data.batch(0), in_floats(data).batch(0))
    ]
    assert mixed[0].levels is None and torch.equal(mixed[0].x, mixed[1].x)


@pytest.mark.parametrize("changes", [{}, {"distort": 1}, {"erase": 0.5}])
def test_a_task_that_changes_values_reads_floats_and_one_that_does_not_reads_what_is_stored(scans, changes):
    for number in range(3, 4):
        (scans / "b" / f"{number}.nii").unlink()
    task = {"name": "classify", "smoothing": 0.0, "mixup": 0.0, "cutmix": 0.0, "distort": 0, "erase": 0.0} | changes
    config = config_of(scans, task=task)
    data = Classification(**{k: v for k, v in task.items() if k != "name"}).data(config)["volume"]
    batch = data.batch(0)
    assert batch.x.dtype == (torch.float32 if changes else torch.int16)
    assert batch.in_units().x.isfinite().all() and batch.targets
