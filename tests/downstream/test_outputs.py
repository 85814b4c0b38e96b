"""Predictions have a file each, under their samples' names, and nothing that is there is ever written over."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae_ext.cli import run
from mae_ext.downstream.outputs import result_paths

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
