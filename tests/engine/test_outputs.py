"""Predictions have a file each, under their samples' names, and nothing that is there is ever written over."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mae_ext.cli import run
from mae_ext.engine.outputs import MANIFEST, Results, model_identity, result_paths
from mae_ext.errors import UserError
from mae_ext.sections import PlugIn
from mae_ext.strict_yaml import write_yaml

SUFFIXES = (".png", ".jpg", ".nii.gz", ".nii")


@pytest.mark.parametrize(
    ("addresses", "names"),
    [
        (["x/a.png", "y/b.jpg"], ["a.png", "b.png"]),
        (["x/s1/ct.nii", "x/s2/ct.nii", "x/s2/mr.nii"], ["s1/ct.png", "s2/ct.png", "s2/mr.png"]),
        (["x/a.png", "x/a.jpg", "x/b.png"], ["a.png.png", "a.jpg.png", "b.png"]),
        (["p/CT/", "q/CT/"], ["p/CT.png", "q/CT.png"]),
        (["c.npz::x::1", "c.npz::x::2"], ["c.npz_x_1.png", "c.npz_x_2.png"]),
    ],
)
def test_each_sample_has_a_file_of_its_own_that_tells_where_it_is_from(tmp_path, addresses, names):
    paths = result_paths(addresses, SUFFIXES, tmp_path, ".png")
    assert [str(path.relative_to(tmp_path)) for path in paths] == names


@pytest.mark.parametrize("kind", ["segment", "detect", "classify"])
def test_predicting_into_the_folder_of_the_samples_changes_nothing_there(kind, tiny, striped, tmp_path, capfd):
    """The folder that a hurried user names: the samples' own, where label maps and pictures would have their names."""
    image = {"size": [16, 16], "patch": [4, 4], "batch": 4}
    task, data = {"name": kind}, Path(shutil.copytree(striped / "train", tmp_path / "own"))
    if kind == "segment":
        data, masks = data / "across", tmp_path / "masks"
        masks.mkdir()
        for path in data.iterdir():
            Image.fromarray(np.eye(*Image.open(path).size[::-1], dtype=np.uint8)).save(masks / path.name)
        task |= {"classes": ["line"], "masks": str(masks)}
    elif kind == "detect":
        pytest.importorskip("pycocotools", reason="pip install 'mae-ext[detect]'")
        data, labels = data / "across", tmp_path / "boxes"
        labels.mkdir()
        for path in data.iterdir():
            width, height = Image.open(path).size
            (labels / f"{path.stem}.xml").write_text(
                f"<annotation><filename>{path.name}</filename><size><width>{width}</width><height>{height}</height>"
                "</size><object><name>line</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>12</xmax><ymax>12</ymax>"
                "</bndbox></object></annotation>"
            )
        task |= {"labels": str(labels), "channels": 8, "depth": 0, "strides": [4, 8]}
    config = tiny({"modalities": {"image": image}, "task": task, "train.steps": 2, "train.warmup_steps": 1})
    start = ["finetune", str(config), "--init", "none", "--data", str(data), "--out", str(tmp_path / "ft")]
    assert run(start) == 0
    samples = tmp_path / "own" / "across"
    before = {path: path.read_bytes() for path in sorted(samples.rglob("*"))}
    code = run(["predict", str(tmp_path / "ft"), str(samples), "--out", str(samples)])
    assert code == (0 if kind == "classify" else 2)  # predictions.jsonl is nobody's name there
    assert {path: path.read_bytes() for path in before} == before
    out = tmp_path / "p"
    assert run(["predict", str(tmp_path / "ft"), str(samples), "--out", str(out)]) == 0
    written = {path: path.read_bytes() for path in out.iterdir()}
    first = min(path for path in written if path.suffix in (".png", ".jsonl") and "manifest" not in path.name)
    first.write_bytes(b"somebody's")
    capfd.readouterr()
    assert run(["predict", str(tmp_path / "ft"), str(samples), "--out", str(out)]) == 2
    said = capfd.readouterr().err
    assert f"it holds {first}, and nothing is written over; name another folder" in said
    assert {path: path.read_bytes() for path in out.iterdir()} == written | {first: b"somebody's"}


def classified(tiny, striped, tmp_path):
    image = {"size": [16, 16], "patch": [4, 4], "batch": 4}
    config = tiny({"modalities": {"image": image}, "task": {"name": "classify"}, "train.steps": 2})
    start = [
        "finetune",
        str(config),
        "--set",
        "train.warmup_steps=1",
        "--init",
        "none",
        "--data",
        str(striped / "train"),
    ]
    assert run([*start, "--out", str(tmp_path / "ft")]) == 0
    return tmp_path / "ft"


def test_classes_of_a_prediction_that_was_cut_short_are_those_of_one_that_was_not(tiny, striped, tmp_path, capfd):
    run_, samples, out = classified(tiny, striped, tmp_path), str(striped / "test"), tmp_path / "out"
    assert run(["predict", str(run_), samples, "--out", str(tmp_path / "whole")]) == 0
    out.mkdir()
    kept = (tmp_path / "whole" / MANIFEST).read_bytes().splitlines(keepends=True)[:6]
    (out / MANIFEST).write_bytes(b"".join(kept) + b'{"source": ')
    capfd.readouterr()
    assert run(["predict", str(run_), samples, "--out", str(out)]) == 0
    assert "5 of 12 samples are done" in capfd.readouterr().err
    ours, theirs = ([json.loads(x) for x in (o / "predictions.jsonl").open()] for o in (out, tmp_path / "whole"))
    assert [row["path"] for row in ours] == [row["path"] for row in theirs]
    for one, other in zip(ours, theirs, strict=True):  # batches of other sizes: the last bits may differ
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    again = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    assert run(["predict", str(run_), samples, "--out", str(out)]) == 0
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()} == again


def test_one_file_of_other_samples_is_not_replaced(tiny, striped, tmp_path, capfd):
    run_, out = classified(tiny, striped, tmp_path), str(tmp_path / "out")
    assert run(["predict", str(run_), str(striped / "test" / "down"), "--out", out]) == 0
    assert run(["predict", str(run_), str(striped / "test" / "across"), "--out", out]) == 2
    assert "it holds what was said of 4 other samples" in capfd.readouterr().err
    # All of them and more: nothing is lost.
    assert run(["predict", str(run_), str(striped / "test"), "--out", out]) == 0
    assert len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()) == 12


def test_a_list_of_what_could_not_be_read_goes_when_all_can(tiny, striped, tmp_path):
    run_, out, samples = classified(tiny, striped, tmp_path), tmp_path / "out", tmp_path / "new"
    shutil.copytree(striped / "test" / "down", samples)
    good = min(samples.iterdir())
    content = good.read_bytes()
    good.write_text("no picture")
    assert run(["predict", str(run_), str(samples), "--out", str(out)]) == 0
    assert json.loads((out / "predictions.bad.jsonl").read_text())["path"] == str(good)
    good.write_bytes(content)
    assert run(["predict", str(run_), str(samples), "--out", str(out)]) == 0
    assert not (out / "predictions.bad.jsonl").exists()
    assert len((out / "predictions.jsonl").read_text().splitlines()) == 4


def test_a_file_of_that_name_that_is_no_manifest_is_refused(make_config, tmp_path):
    (tmp_path / MANIFEST).write_text("{}\n")
    with (
        pytest.raises(UserError, match="not a manifest of predictions"),
        Results(tmp_path, torch.nn.Linear(1, 1), make_config()) as results,
    ):
        results.open([])
    assert (tmp_path / MANIFEST).read_text() == "{}\n"


def test_two_commands_do_not_predict_into_one_folder_at_a_time(make_config, tmp_path):
    model, config = torch.nn.Linear(1, 1), make_config()
    with Results(tmp_path, model, config) as one:
        one.open([])
        with (
            pytest.raises(UserError, match="another command is predicting there"),
            Results(tmp_path, model, config) as other,
        ):
            other.open([])


def test_a_model_is_known_by_its_weights_and_its_config(make_config):
    config, model = make_config(), torch.nn.Linear(2, 2)
    known = model_identity(model, config)
    assert known == model_identity(model, make_config())
    assert known != model_identity(model, make_config(batch=8))
    with torch.no_grad():
        model.weight[1, 1] += 1e-6
    assert known != model_identity(model, config)


def test_a_manifest_from_before_there_were_loggers_and_observers_is_of_the_same_model(make_config):
    config, model = make_config(), torch.nn.Linear(1, 1, bias=False)
    settings = config.model_dump(mode="json")
    for key in ("log_every", "loggers", "observe", "parallel", "micro_batch"):
        del settings["train"][key]
    weights = model.weight.detach().numpy().tobytes()
    assert (
        model_identity(model, config) == hashlib.sha256(write_yaml(settings).encode() + b"weight" + weights).hexdigest()
    )
    watched = config.train.model_copy(update={"log_every": 7, "observe": (PlugIn(name="norms"),)})
    assert model_identity(model, config.model_copy(update={"train": watched})) == model_identity(model, config)


def test_a_file_that_was_being_moved_into_place_at_a_kill_is_written_anew(make_config, tmp_path):
    """The line is there before the file is: without the file the sample is not done."""
    (tmp_path / "a").write_text("a sample")
    model, config, out = torch.nn.Linear(1, 1), make_config(), tmp_path / "out"
    with Results(out, model, config) as results:
        assert results.open([str(tmp_path / "a")], [out / "a.png"]) == [0]
        with results.writing(str(tmp_path / "a"), out / "a.png") as path:
            path.write_text("an answer")
    (out / "a.png").unlink()
    with Results(out, model, config) as results:
        assert results.open([str(tmp_path / "a")], [out / "a.png"]) == [0]


def answered(out, model, config, sample, text):
    """-> whether there was anything to do."""
    with Results(out, model, config) as results:
        left = results.open([str(sample)], [out / f"{sample.stem}.png"])
        for _ in left:
            with results.writing(str(sample), out / f"{sample.stem}.png") as path:
                path.write_text(text)
    return bool(left)


def test_a_changed_samples_file_is_written_anew_after_a_kill_before_its_move(make_config, tmp_path):
    model, config, out, scan = torch.nn.Linear(1, 1), make_config(), tmp_path / "out", tmp_path / "ct.nii"
    scan.write_text("a scan")
    assert answered(out, model, config, scan, "the first")
    scan.write_text("another scan")
    assert answered(out, model, config, scan, "the second")
    (out / "ct.png").write_text("the first")  # as a kill between the second's line and its move leaves it
    assert answered(out, model, config, scan, "the second, again")
    assert (out / "ct.png").read_text() == "the second, again" and not answered(out, model, config, scan, "")
    (out / "ct.png").write_text("a user's")
    with pytest.raises(UserError, match=r"it holds .*ct\.png, and nothing is written over"):
        answered(out, model, config, scan, "the third")


def test_another_sample_of_the_same_name_does_not_replace_what_was_said_of_the_first(make_config, tmp_path):
    model, config, out = torch.nn.Linear(1, 1), make_config(), tmp_path / "out"
    one, other = tmp_path / "x" / "ct.nii", tmp_path / "y" / "ct.nii"
    for scan in (one, other):
        scan.parent.mkdir()
        scan.write_text(f"the scan {scan}")
    assert answered(out, model, config, one, "of x")
    with pytest.raises(UserError, match=r"it holds .*ct\.png, and nothing is written over"):
        answered(out, model, config, other, "of y")
    assert (out / "ct.png").read_text() == "of x"
    assert not answered(out, model, config, one, "again")


def test_a_sample_that_moved_or_changed_has_its_file_written_anew(make_config, tmp_path):
    model, config, out, scan = torch.nn.Linear(1, 1), make_config(), tmp_path / "out", tmp_path / "x" / "ct.nii"
    scan.parent.mkdir()
    scan.write_text("a scan")
    assert answered(out, model, config, scan, "the first")
    scan.write_text("another scan")
    assert answered(out, model, config, scan, "of what it is now")
    assert (out / "ct.png").read_text() == "of what it is now"
    scan.parent.rename(tmp_path / "z")
    assert answered(out, model, config, tmp_path / "z" / "ct.nii", "in its new place")
    assert (out / "ct.png").read_text() == "in its new place"
