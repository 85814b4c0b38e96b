"""What a start is named by, and pretraining that goes on from one: what of it is taken, fitted, refused and said."""

import json
import shutil

import pytest
import torch

from mae_ext import plugins
from mae_ext.cli import run
from mae_ext.config import Config
from mae_ext.engine import checkpoint
from mae_ext.engine.record import START
from mae_ext.engine.start import Named, known_of, opened
from mae_ext.engine.start_config import with_start
from mae_ext.engine.train import train
from mae_ext.errors import CheckpointError, ConfigError, UserError
from mae_ext.features.encoder import load_encoder

TRAIN = {"steps": 2, "workers": 0, "precision": "fp32", "tensorboard": False}


def values(model=None, data=None, **image):
    read = {"statistics": "measured"} | (data or {})
    return {"modalities": {"image": {"batch": 4, "data": read, **image}}, "train": TRAIN} | (
        {} if model is None else {"model": model}
    )


@pytest.mark.parametrize(
    ("what", "parts"),
    [
        ("weights.pth", ("weights.pth", None, "")),
        ("timm:weights.pth", ("weights.pth", "timm", "")),
        ("timm:a/b.pth::heads=12,grid=3x4", ("a/b.pth", "timm", "heads=12,grid=3x4")),
        ("weights.pth::heads=12", ("weights.pth", None, "heads=12")),
        ("C:weights.pth", ("C:weights.pth", None, "")),  # no format has this name
    ],
)
def test_a_start_is_a_path_with_a_format_before_it_and_hints_behind(what, parts):
    named = Named.of(what)
    assert (str(named.path), named.format, named.hints) == parts and str(named) == what


def test_a_path_that_is_there_is_a_path_whatever_it_looks_like(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "timm:odd::name").mkdir()
    assert Named.of("timm:odd::name") == Named((tmp_path / "timm:odd::name").relative_to(tmp_path))


def test_a_run_and_a_checkpoint_of_it_are_opened_alike(make_run):
    run = make_run()
    path = checkpoint.latest(run)
    for what in (run, path):
        origin = opened(what)
        assert origin.where == str(path) and origin.kind == "run" and origin.decodes
        assert known_of(str(what)).init == str(path.absolute())


@pytest.mark.parametrize("hints", ["heads=x", "heads", "depth=12", "grid=3", "heads=12,grid=3*4"])
def test_a_hint_that_is_not_known_is_refused(hints, tmp_path):
    from safetensors.torch import save_file

    save_file({"cls_token": torch.ones(1, 1, 4)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError):
        opened(f"timm:{tmp_path}/w.safetensors::{hints}")


def test_a_run_needs_no_hints(make_run):
    with pytest.raises(CheckpointError, match="a run says all of itself; remove '::heads=3', or write '::best'"):
        opened(f"{make_run()}::heads=3")


def test_the_best_checkpoint_of_a_run_has_a_name_of_its_own(make_run):
    run = make_run()
    shutil.copytree(checkpoint.latest(run), run / "checkpoints" / "step-00000009")
    with pytest.raises(CheckpointError, match="which of its checkpoints is the best is not known"):
        opened(f"{run}::best")
    (run / "best.json").write_text(json.dumps({"step": 7, "checkpoint": "step-00000007", "loss": 0.5}))
    assert opened(f"{run}::best").where.endswith("step-00000007") and opened(run).where.endswith("step-00000009")
    assert with_start(values(), "config", f"{run}::best").init == str(run / "checkpoints" / "step-00000007")
    assert load_encoder(f"{run}::best", device="cpu").path.name == "step-00000007"


def test_a_run_whose_target_is_gone_is_named_in_one_line(make_run, tiny, photos, tmp_path, monkeypatch, capfd):
    """A package was removed, or what a target once was is no longer in this one (`teacher`)."""
    monkeypatch.setitem(plugins.targets.builtins, "teacher", "model.means:Means")
    own = make_run(target="teacher")
    monkeypatch.delitem(plugins.targets.builtins, "teacher")
    said = "modalities.image.target: unknown target 'teacher' (there are: pixel)"
    saved = own / "checkpoints" / "step-00000007" / "config.yaml"
    new = ["pretrain", str(tiny()), "--init", str(own), "--data", str(photos), "--out", str(tmp_path / "new")]
    config = str(tiny({"modalities.image.target": {"name": "teacher", "of": "runs/a", "pixels": 1}}, "old"))
    for command, where in (
        (["embed", str(own), str(photos), "--out", str(tmp_path / "f.npz")], saved),
        (["export", str(own), "--to", "timm", "--out", str(tmp_path / "v.safetensors")], saved),
        (new, saved),
        (["pretrain", config, "--data", str(photos), "--out", str(tmp_path / "new")], config),
    ):
        assert run(command) == 2
        assert capfd.readouterr().err.splitlines() == [f"mae-ext: {where}: {said}"]


def test_what_a_config_of_pretraining_leaves_out_is_the_start_s(make_run):
    run = make_run(target={"name": "pixel", "normalize": "channel"}, mask={"name": "block", "ratio": 0.5})
    before = checkpoint.read_config(checkpoint.latest(run))
    config = with_start({"modalities": {"image": {"batch": 4}}, "train": TRAIN}, "config", run)
    assert config.model == before.model
    for part in ("size", "patch", "channels", "embed", "position", "mask", "target"):
        assert getattr(config.modalities["image"], part) == getattr(before.modalities["image"], part)
    assert config.modalities["image"].data.statistics == before.modalities["image"].data.statistics


def test_what_it_says_is_the_config_s(make_run):
    said = {"patch": [4, 4], "channels": 1, "size": [16, 16], "position": "learned", "target": "pixel"}
    config = with_start(values(**said), "config", make_run())
    image = config.modalities["image"]
    assert (image.patch, image.channels, image.size, image.position.name) == ((4, 4), 1, (16, 16), "learned")
    assert image.data.statistics == "measured"


def test_positions_of_a_picture_that_is_shown_larger_span_the_grid_of_before(make_run):
    config = with_start(values(size=[48, 32]), "config", make_run())  # of 24 x 16 with patches of 8 x 4
    assert config.modalities["image"].position.arguments == {"span": [3, 4]}
    fixed = with_start(values(size=[48, 32], data={"augment": {"fixed": [0]}}), "config", make_run("fixed"))
    assert fixed.modalities["image"].position.arguments == {"span": [6, 4]}
    own = with_start(values(size=[48, 32], position="sincos"), "config", make_run("own"))
    assert own.modalities["image"].position.arguments == {}


def test_a_modality_of_other_axes_learns_its_positions_from_those_of_before(make_run):
    clip = {"size": [4, 16, 16], "patch": [2, 8, 8], "batch": 4, "data": {"reader": "video"}}
    config = with_start({"modalities": {"clip": clip}, "train": TRAIN}, "config", make_run())
    assert config.modalities["clip"].position.name == "learned"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"width": 48, "depth": 2, "heads": 2}, r"model\.width is 48, and 24 there"),
        ({"class_token": False}, r"model\.class_token is False, and True there"),
        ({"decoder": {"width": 48}}, r"model\.decoder\.width is 48, and \d+ there.*any decoder: init_parts=encoder"),
    ],
)
def test_what_contradicts_the_start_is_refused_by_name(wrong, told, make_run):
    with pytest.raises(ConfigError, match=told):
        with_start(values(model=wrong), "config", make_run())


def test_the_encoder_alone_goes_with_any_decoder(make_run):
    wanted = {**values(model={"decoder": {"width": 8, "depth": 1, "heads": 2}}), "init_parts": "encoder"}
    assert with_start(wanted, "config", make_run()).model.decoder.width == 8


def test_pretraining_goes_on_from_a_run_and_says_what_it_took(make_run, striped, tmp_path, capfd):
    run, out = make_run(), tmp_path / "on"
    asked = {**values(size=[48, 32], data={"path": str(striped / "train")}), "seed": 5}
    config = with_start(asked, "config", run, out)
    train(config, out)
    said = json.loads((out / START).read_text())
    assert said["where"] == config.init
    assert {name for name, row in said["tensors"].items() if row["outcome"] != "taken"} == {
        "modalities.image.mean", "modalities.image.std"  # measured, as the config asks
    }  # fmt: skip
    assert "starting from" in capfd.readouterr().err
    first = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    scratch = train(config.model_copy(update={"init": None}), tmp_path / "scratch")
    assert first["loss"] != json.loads((scratch / "metrics.jsonl").read_text().splitlines()[0])["loss"]


def test_a_run_goes_on_to_the_same_bits_when_what_it_started_from_is_gone(make_run, striped, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(make_run(), start)
    wanted = values(data={"path": str(striped / "train")})

    def trained(out, steps):
        asked = {**wanted, "train": {**TRAIN, "steps": 4, "warmup_steps": 0, "save_every": steps}}
        return with_start(asked, "config", start, out)

    whole = train(trained(tmp_path / "whole", 4), tmp_path / "whole")
    cut = tmp_path / "cut"
    train(trained(cut, 2), cut)
    shutil.rmtree(cut / "checkpoints" / "step-00000004")
    shutil.rmtree(start)
    train(trained(cut, 2), cut)
    one, other = (
        checkpoint.read_tensors(run / "checkpoints" / "step-00000004" / "model.safetensors") for run in (whole, cut)
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_from_python_a_start_is_named_as_in_the_commands(make_run, striped, tmp_path):
    run, file = make_run(), tmp_path / "c.yaml"
    file.write_text(Config.model_validate({**values(), "modalities": {"image": {"batch": 4}}} | _whole()).to_yaml())
    with pytest.raises(UserError, match=r"config\.init"):
        train(Config.model_validate(values() | _whole()), tmp_path / "no", init=run)
    out = train(file, tmp_path / "out", data=striped / "train", init=run)
    assert load_encoder(out).config.init == str(checkpoint.latest(run).absolute())


def _whole():
    made = {"size": [24, 16], "patch": [8, 4], "channels": 3, "batch": 4}
    model = {"width": 24, "depth": 2, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}
    return {"modalities": {"image": made}, "model": model}
