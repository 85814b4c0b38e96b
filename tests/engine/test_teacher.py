"""A frozen teacher: what it says is the target, and it is no part of the model, its checkpoints or its later use."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
import yaml
from faults.kills import trajectory

from mae_ext import load_encoder
from mae_ext.cli import run
from mae_ext.config import parse_config
from mae_ext.engine.checkpoint import latest, read_config, read_tensors
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.estimate import describe
from mae_ext.engine.run import assembled
from mae_ext.engine.teacher import same_teachers, settled, taught
from mae_ext.errors import ConfigError, UserError
from mae_ext.model.mae import MAE
from mae_ext.report.pictures import reconstruct

CPU = torch.device("cpu")


def settings(of, **image):
    """Of a student with 6 tokens of 4x4 pixels. image: other keys of its modality."""
    target = {"name": "teacher", "of": str(of)}
    own = {"size": [8, 12], "patch": [4, 4], "batch": 2, "target": target, "data": {"statistics": "imagenet"}} | image
    model = {"width": 16, "depth": 1, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}
    return {"modalities": {"image": own}, "model": model, "train": {"steps": 1, "precision": "fp32"}}


def pupil(of, **image):
    """-> (model, modality) of a run that begins."""
    begun = assembled(settled(parse_config(settings(of, **image))), {}, Ranks(0, 1, CPU))
    assert isinstance(begun.model, MAE)
    return begun.model, begun.model.modality()


def samples(*size):
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))


def test_what_is_wanted_are_the_teachers_tokens_of_the_whole_sample_each_normed(make_run):
    """The teacher has statistics of its own, and a student's sample in the reader's units reaches it as it is."""
    of = make_run(size=[8, 12], patch=[4, 4])
    model, modality = pupil(of)
    x, pred = samples(8, 12), torch.tensor([[1, 5], [0, 2]])
    encoded = F.layer_norm(load_encoder(of, device="cpu").encode(x), (24,))
    wanted = encoded.gather(1, pred[..., None].expand(-1, -1, 24))
    assert torch.allclose(
        modality.loss(wanted + 0.5, modality.normalize(x), pred, None), torch.tensor(0.125), atol=1e-4
    )
    assert model.modality().predict.out_features == 24


def test_it_sees_samples_at_its_own_size_and_its_map_is_brought_to_the_students_grid(make_run):
    of = make_run()  # of 24x16 pixels, in patches of 8x4: a grid of 3x4
    _, modality = pupil(of)
    x = samples(8, 12)
    seen = F.interpolate(x, (24, 16), mode="bilinear")
    theirs = load_encoder(of, device="cpu").encode(seen).mT.unflatten(2, (3, 4))
    found = modality.target.features.prepare(modality.normalize(x), None, None)
    assert found.shape == (2, 24, 2, 3)
    assert torch.allclose(found, F.interpolate(theirs, (2, 3), mode="bilinear"), atol=1e-4)
    assert modality.target.features.prepare(modality.normalize(samples(8, 8)), None, None).shape == (2, 24, 2, 2)


def test_it_is_frozen_and_in_no_list_of_what_the_model_has(make_run):
    of = make_run(size=[8, 12], patch=[4, 4])
    model, modality = pupil(of, target={"name": "teacher", "of": str(of), "pixels": 1})
    count = len(list(MAE(settled(parse_config(settings(of)))).parameters()))
    before = {key: value.clone() for key, value in modality.target.features.teacher.model.state_dict().items()}
    mask = modality.draw_mask([torch.Generator().manual_seed(i) for i in range(2)])
    model(samples(8, 12), mask).backward()
    assert len(list(model.parameters())) == count and not [key for key in model.state_dict() if "teacher" in key]
    teacher = modality.target.features.teacher.model
    assert not teacher.training and all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_a_copy_of_the_model_that_is_judged_has_the_same_teacher(make_run):
    model, modality = pupil(make_run(size=[8, 12], patch=[4, 4]))
    copy = MAE(settled(parse_config(settings(modality.target.features.teacher.teacher.where))))
    same_teachers(model, copy)
    assert copy.modality().target.features.teacher is modality.target.features.teacher


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ({"channels": 1, "data": {"statistics": "none"}}, "sees samples of 3 channels, and modalities.image has 1"),
        ({"size": [4, 8, 12], "patch": [2, 4, 4]}, "sees samples of 2 axes, and modalities.image has 3"),
    ],
)
def test_a_teacher_of_other_samples_is_refused_by_name(make_run, image, said):
    with pytest.raises(ConfigError, match=rf"modalities\.image\.target\.of=.*run {said}"):
        settled(parse_config(settings(make_run(), **image)))


def test_before_a_run_has_begun_a_model_says_what_it_does_not_know_and_a_plan_looks(make_run):
    config = parse_config(settings(make_run()))
    with pytest.raises(UserError, match="width of the teacher is not known"):
        MAE(config)
    assert "parameters" in describe(config, {})


@pytest.fixture
def taught_run(tiny, photos, tmp_path):
    """-> a run's command, its folder, its teacher's, and what it logged: 6 steps, of which the last 3 are missing."""
    teacher, out = tmp_path / "teacher", tmp_path / "run"
    short = {"train.steps": 6, "train.warmup_steps": 1, "train.save_every": 3}
    assert run(["pretrain", str(tiny(short, "teacher")), "--data", str(photos), "--out", str(teacher)]) == 0
    own = {**short, "modalities.image.target": {"name": "teacher", "of": str(teacher), "pixels": 1}}
    command = ["pretrain", str(tiny(own)), "--data", str(photos), "--out", str(out)]
    assert run(command) == 0
    whole = trajectory(out)
    shutil.rmtree(out / "checkpoints" / "step-00000006")
    return command, out, teacher, whole


def test_a_run_goes_on_bit_for_bit_with_its_teacher_and_refuses_another(taught_run, capfd):
    command, out, teacher, whole = taught_run
    assert run(command) == 0 and trajectory(out) == whole
    facts = read_config(latest(out)).modalities["image"].target.arguments
    assert facts["width"] == 32 and len(facts["digest"]) == 16 and facts["of"] == str(teacher)

    shutil.rmtree(out / "checkpoints" / "step-00000006")
    shutil.rmtree(teacher / "checkpoints" / "step-00000006")  # what the run is now is its step 3
    capfd.readouterr()
    for more in ([], ["--allow-change"]):
        assert run([*command, *more]) == 2
        said = capfd.readouterr().err.splitlines()[-1]
        assert "is not the teacher that this run began with" in said and facts["digest"] in said and "--out" in said
    shutil.rmtree(teacher)
    assert run(command) == 2 and "no such file or folder" in capfd.readouterr().err
    assert trajectory(out) == whole


def test_what_a_finished_run_is_good_for_needs_no_teacher(taught_run, striped, tmp_path, capfd):
    command, out, teacher, _ = taught_run
    assert run(command) == 0
    shutil.rmtree(teacher)
    weights = read_tensors(latest(out) / "model.safetensors")
    assert weights["modalities.image.predict.bias"].shape == (48 + 32,)
    encoder = load_encoder(out, device="cpu")
    assert encoder.encode(samples(16, 16)).shape == (2, 16, 32)
    assert len(reconstruct(out, [str(striped / "test" / "down")], tmp_path / "pictures")) == 5
    mask = encoder.model.modality().draw_mask([torch.Generator()] * 2)
    with pytest.raises(UserError, match="no teacher at hand"):
        encoder.model(samples(16, 16), mask)
    tuned = {"task": {"name": "classify"}, "modalities": {"image": {"batch": 4}}}
    tuned["train"] = {"steps": 1, "precision": "fp32", "workers": 0, "tensorboard": False, "device": "cpu"}
    config = tmp_path / "tuned.yaml"
    config.write_text(yaml.safe_dump(tuned))
    sides = ["--data", str(striped / "train"), "--test", str(striped / "test")]
    assert run(["finetune", str(config), "--init", str(out), *sides, "--out", str(tmp_path / "tuned")]) == 0
    assert len(trajectory(tmp_path / "tuned")) == 1


def test_without_pixels_a_picture_is_refused_in_one_line(make_run, striped, tmp_path):
    teacher = make_run("teacher")
    target = {"name": "teacher", "of": str(teacher), "width": 24}
    with pytest.raises(UserError, match=r"TeacherTarget, says nothing of pixels.*target\.pixels=1"):
        reconstruct(make_run("student", target=target), [str(striped / "test")], tmp_path / "pictures")
    assert not (tmp_path / "pictures").exists()


def test_handing_over_is_of_models_that_predict_alone(make_run):
    of = make_run(size=[8, 12], patch=[4, 4])
    config = settled(parse_config(settings(of)))
    shutil.rmtree(of)
    backbone = MAE(config, decodes=False)
    taught(backbone, config, CPU)
    assert backbone.modality().target.features.teacher is None
    assert json.dumps(config.modalities["image"].target.arguments)
