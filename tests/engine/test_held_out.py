"""The loss of pretraining on held-out data: a number of the weights alone, whoever takes it and however often."""

import copy
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from faults.kills import rows, trajectory
from PIL import Image

from mae_ext.cli import run
from mae_ext.config import load_config, parse_config
from mae_ext.data.crops import evaluation_sampler
from mae_ext.data.image.reader import ImageReader
from mae_ext.data.loading.batches import valid_share
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.pretrain import Pretraining
from mae_ext.errors import NoneUsable, UserError
from mae_ext.model.mae import MAE
from mae_ext.rng import rng

ALONE = Ranks(0, 1, torch.device("cpu"))
NUMBERS = {"mean": [0.5, 0.4, 0.6], "std": [0.2, 0.3, 0.25]}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """train/ and test/ with 4 and 37 pictures of 20x12, each of its own noise."""
    root = tmp_path_factory.mktemp("pictures")
    for side, count in (("train", 4), ("test", 37)):
        (root / side).mkdir()
        for number in range(count):
            pixels = np.random.default_rng([count, number]).integers(256, size=(20, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / side / f"{number:02d}.png")
    return root


@pytest.fixture
def make(pictures):
    def config(train=None, **image):
        data = {"path": str(pictures / "train"), "test": str(pictures / "test"), "statistics": NUMBERS}
        modality = {"size": [24, 16], "patch": [8, 4], "batch": 4, "data": data | image.pop("data", {})}
        model = {"width": 24, "depth": 2, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}
        values = {"modalities": {"image": modality | image}, "model": model | {"drop_path": 0.5}}
        return parse_config(values | {"train": {"steps": 10, "workers": 0, "precision": "fp32"} | (train or {})})

    return config


@torch.no_grad()
def judged(config, ranks=ALONE):
    task = Pretraining()
    return task.evaluate(MAE(config).eval(), config, task.data(config), ranks)


@torch.no_grad()
def by_hand(config, name="image"):
    """Of each sample by itself, as it is shown to an encoder, under the mask that is its own."""
    m, model = config.modalities[name], MAE(config).eval()
    (judged,) = (d.held_out.listed for n, d in Pretraining().data(config).items() if n == name)
    reader, losses = ImageReader(m.size, m.channels), []
    for index in range(len(judged)):
        (sample,) = reader.read(judged.addresses[index], [evaluation_sampler(m.data.augment, m.size)])
        mask = model.modality(name).draw_mask([rng(config.seed, "held-out", name, index)])
        losses.append(model(sample.x[None], mask, name).item())
    return losses


@pytest.mark.parametrize("decode", [None, {"name": "random", "ratio": 0.5}])
def test_it_is_the_mean_over_samples_as_encoders_see_them_each_under_its_own_mask(make, decode):
    config = make(decode=decode)
    assert judged(config) == {"loss": pytest.approx(np.mean(by_hand(config)), rel=1e-5)}
    assert len({round(loss, 4) for loss in by_hand(config)}) > 30


class Meeting(Ranks):
    """Ranks that come one after the other, and of which the last hears all."""

    def gather(self, value):
        HEARD.append(value)
        return HEARD


HEARD = []


@pytest.mark.parametrize("world", [2, 3, 7])
def test_it_is_the_same_to_the_last_bit_for_any_number_of_ranks(make, world):
    config = make()
    HEARD.clear()
    for rank in range(world):
        together = judged(config, Meeting(rank, world, ALONE.device))
    assert together == judged(config)
    shares = [sum(size for _, (size, _) in parts) for parts, _ in HEARD]
    assert sum(shares) == 37 and min(shares) >= 37 // world - 4  # and each has had a part of the work


@pytest.mark.parametrize(("batch", "accumulate"), [(1, 1), (8, 2), (64, 1)])
def test_masks_are_those_of_files_in_batches_of_any_size(make, batch, accumulate):
    other = make(batch=batch, train={"accumulate": accumulate})
    assert judged(other)["loss"] == pytest.approx(judged(make())["loss"], rel=1e-5)


def test_no_more_samples_are_encoded_at_once_than_a_step_computes_at_once(make, monkeypatch):
    sizes, real = [], MAE.forward

    def forward(self, x, *arguments):
        sizes.append(len(x))
        return real(self, x, *arguments)

    monkeypatch.setattr(MAE, "forward", forward)
    for settings, most in (({"batch": 8, "train": {"accumulate": 4}}, 2), ({"batch": 256}, 16)):
        sizes.clear()
        judged(make(**settings))
        assert max(sizes) == most and sum(sizes) == 37


def test_neither_drop_path_nor_uniformity_is_in_it(make):
    assert judged(make(train={"uniformity": 0.5})) == judged(make())
    assert judged(make()) == judged(make())


def test_another_seed_draws_other_masks(make):
    config = make()
    model, task = MAE(config).eval(), Pretraining()
    seeds = [config.model_copy(update={"seed": seed}) for seed in (0, 1)]
    with torch.no_grad():
        one, other = (task.evaluate(model, c, task.data(c), ALONE)["loss"] for c in seeds)
    assert one != other and one == pytest.approx(other, rel=0.1)


def test_of_several_modalities_it_is_their_weighted_sum_and_each(make, pictures):
    config = make()
    image = config.modalities["image"]
    small = image.model_copy(update={"size": (8, 16), "weight": 3.0})
    two = config.model_copy(update={"modalities": {"image": image, "small": small}})
    scores = judged(two)
    assert scores["loss"] == scores["loss/image"] + 3 * scores["loss/small"]
    assert scores["loss/small"] == pytest.approx(np.mean(by_hand(two, "small")), rel=1e-5)
    unjudged = small.model_copy(update={"data": small.data.model_copy(update={"test": None})})
    one = judged(two.model_copy(update={"modalities": {"image": image, "small": unjudged}}))
    assert one == {"loss": scores["loss/image"], "loss/image": scores["loss/image"]}
    assert judged(make(data={"test": None})) == {}


@torch.no_grad()
def test_voxels_that_pad_a_scan_count_as_little_as_in_training(tmp_path):
    for number in range(3):
        (tmp_path / "train").mkdir(exist_ok=True)
        values = np.random.default_rng(number).normal(size=(6 + 6 * number, 16, 16)).astype(np.float32)
        nib.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / "train" / f"{number}.nii.gz")
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    config = parse_config({
        "modalities": {"scan": {
            "size": [16, 8, 8], "patch": [4, 4, 4], "channels": 1, "batch": 2,
            "position": {"name": "sincos", "unit": 4},
            "mask": {"name": "foreground", "ratio": 0.5},
            "data": {"path": str(tmp_path / "train"), "test": str(tmp_path / "test"),
                     "reader": {"name": "volume", "intensity": "percentile"},
                     "augment": {"fixed": [0, 1, 2], "flip": []}, "statistics": "none"}}},
        "model": {"width": 24, "depth": 1, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}},
        "train": {"steps": 1, "workers": 0, "precision": "fp32"},
    })  # fmt: skip
    (data,) = Pretraining().data(config).values()
    model, losses, unmasked = MAE(config).eval(), [], []
    crop = evaluation_sampler(data.config.data.augment, data.config.size)
    for index in range(3):
        (sample,) = data.reader.read(data.held_out.listed.addresses[index], [crop])
        share = valid_share(sample, data.config.patch)
        mask = model.modality().draw_mask([rng(0, "held-out", "scan", index)], None, [share])
        spacing, valid = torch.tensor([sample.spacing]), sample.valid[None]
        losses.append(model(sample.x[None], mask, "scan", valid, spacing).item())
        unmasked.append(model(sample.x[None], mask, "scan", None, spacing).item())
    assert judged(config)["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert abs(np.mean(losses) - np.mean(unmasked)) > 1e-3


def test_files_that_cannot_be_read_are_named_and_too_many_end_it(make, pictures, tmp_path, capsys):
    shutil.copytree(pictures / "test", tmp_path / "test")
    for number in (3, 30):
        (tmp_path / "test" / f"{number:02d}.png").write_bytes(b"no picture")
    lenient = make(data={"test": str(tmp_path / "test"), "max_bad_fraction": 0.06})
    good = [loss for number, loss in enumerate(by_hand(make())) if number not in (3, 30)]
    assert judged(lenient)["loss"] == pytest.approx(np.mean(good), rel=1e-5)
    said = capsys.readouterr().err
    assert "2 of 37 samples cannot be read and are not in its loss: 2 not an image" in said and "03.png" in said
    with pytest.raises(NoneUsable, match=r"2 of 37 samples cannot be used, more than max_bad_fraction=0\.05"):
        judged(make(data={"test": str(tmp_path / "test"), "max_bad_fraction": 0.05}))
    for path in (tmp_path / "test").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(UserError, match="none of its 37 samples can be read"):
        judged(make(data={"test": str(tmp_path / "test"), "max_bad_fraction": 1.0}))


def test_a_file_that_is_trained_on_is_not_held_out_by_another_name_or_modality(make, pictures, tmp_path):
    (tmp_path / "linked").symlink_to(pictures / "train")
    for test in (pictures / "train", pictures, tmp_path / "linked"):
        with pytest.raises(UserError, match=r"4 files on both sides of the split.*keep each on one side"):
            Pretraining().data(make(data={"test": str(test)}))
    image = make().modalities["image"]
    other = image.model_copy(
        update={"data": image.data.model_copy(update={"path": str(pictures / "test"), "test": None})}
    )
    with pytest.raises(UserError, match="37 files on both sides"):
        Pretraining().data(make().model_copy(update={"modalities": {"image": image, "other": other}}))


def test_a_patient_that_is_trained_on_is_not_held_out(make, pictures, tmp_path):
    table = tmp_path / "table.csv"
    lines = [f"{pictures}/{side}/0{i}.png,p{i % 3},{side}\n" for i in range(4) for side in ("train", "test")]
    table.write_text("path,patient,split\n" + "".join(lines))
    with pytest.raises(UserError, match=r"3 patients on both sides of the split"):
        Pretraining().data(make(data={"path": f"{table}::train", "test": f"{table}::test"}))


@pytest.fixture
def pretrain(tiny, pictures, tmp_path):
    def go(*more, out="run", test=True, **values):
        config = tiny(
            {"train.steps": 6, "train.warmup_steps": 1, "train.save_every": 4, "train.evaluate_every": 3} | values
        )
        held_out = ["--test", str(pictures / "test")] if test else []
        return run(
            ["pretrain", str(config), "--data", str(pictures / "train"), *held_out, "--out", str(tmp_path / out), *more]
        )

    return go


def test_a_run_that_is_judged_trains_on_the_same_bits_and_says_what_it_scores(pretrain, tmp_path, capfd):
    assert pretrain() == 0
    said = capfd.readouterr().err
    found = rows(tmp_path / "run" / "evaluations.jsonl")
    assert [row["step"] for row in found] == [3, 6] and found[1]["loss"] < found[0]["loss"]
    assert (
        f"step 6/6  held out: loss {found[1]['loss']:.4f}" in said and "37 files" in said and "to be judged on" in said
    )
    assert pretrain(out="unjudged", test=False) == 0
    assert trajectory(tmp_path / "run") == trajectory(tmp_path / "unjudged")
    assert "train.evaluate_every=3 has nothing to judge on: data.test is not set" in capfd.readouterr().err
    assert not (tmp_path / "unjudged" / "evaluations.jsonl").exists()


def test_a_run_that_goes_on_scores_the_same_bits(pretrain, tmp_path):
    assert pretrain() == 0
    whole = (tmp_path / "run" / "evaluations.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000006")
    assert pretrain() == 0
    assert (tmp_path / "run" / "evaluations.jsonl").read_bytes() == whole
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-00000006" / "state.json").read_text())
    assert state["step"] == 6


def test_several_modalities_name_what_is_held_out_of_each(tiny, pictures, tmp_path, capfd):
    image = {"size": [16, 16], "patch": [4, 4], "batch": 2, "data": {"path": str(pictures / "train")}}
    two = {"one": image, "two": copy.deepcopy(image)}
    config = tiny({"modalities": two, "train.steps": 1, "train.warmup_steps": 0})
    assert run(["pretrain", str(config), "--test", str(pictures / "test")]) == 2
    assert f"--test {pictures / 'test'}: with several modalities, give NAME=PATH" in capfd.readouterr().err
    go = ["pretrain", str(config), "--test", f"two={pictures / 'test'}", "--out", str(tmp_path / "run")]
    assert run(go) == 0
    (row,) = rows(tmp_path / "run" / "evaluations.jsonl")
    assert row.keys() == {"step", "loss", "loss/two"} and row["loss"] == row["loss/two"]


def test_a_config_may_name_what_is_held_out(tiny, pictures):
    config = load_config(
        tiny({"modalities.image.data": {"path": str(pictures / "train"), "test": str(pictures / "test")}})
    )
    (data,) = Pretraining().data(config).values()
    assert len(data.held_out.listed) == 37 and data.held_out.examples is None
