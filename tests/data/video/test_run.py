"""Whole runs on a folder of clips: a broken one costs a line, workers change nothing, and every command takes video."""

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from safetensors.numpy import load_file

from mae_ext.config import parse_config
from mae_ext.data.loading.doctor import inspect
from mae_ext.engine.train import train
from mae_ext.features.embed import embed
from mae_ext.probing.probe import probe
from mae_ext.probing.spec import ProbeSpec


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """dark/ and light/ with six clips each of a spot that moves, and one file that was cut short."""
    root = tmp_path_factory.mktemp("clips")
    for name, ground in (("dark", 40), ("light", 200)):
        (root / name).mkdir()
        for k in range(6):
            with av.open(str(root / name / f"{k}.mp4"), "w") as container:
                stream = container.add_stream("libx264", rate=25)
                stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
                for i in range(16):
                    pixels = np.full((48, 64, 3), ground, np.uint8)
                    pixels[5 * k : 5 * k + 12, 3 * i : 3 * i + 12] = 255 - ground
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
                container.mux(stream.encode(None))
    cut = root / "dark" / "2cut.mp4"
    shutil.copy(root / "dark" / "2.mp4", cut)
    cut.write_bytes(cut.read_bytes()[:-1500])
    return root


def config(folder, workers):
    reader = {"name": "video", "stride": 2}
    data = {"path": str(folder), "reader": reader, "augment": {"fixed": [0]}, "repeats": 2, "max_bad_fraction": 0.2}
    video = {
        "size": [4, 24, 16],
        "patch": [2, 8, 4],
        "batch": 4,
        "mask": {"name": "tube", "ratio": 0.75},
        "decode": {"name": "running_cell", "ratio": 0.5},
        "data": data,
    }
    model = {"width": 24, "depth": 1, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}
    steps = {"steps": 20, "precision": "fp32", "workers": workers, "tensorboard": False}
    return parse_config({"modalities": {"video": video}, "model": model, "train": steps})


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    return train(config(folder, 0), tmp_path_factory.mktemp("run"))


def test_a_broken_file_costs_one_line_and_workers_change_no_loss(run, folder, tmp_path):
    with_workers = train(config(folder, 2), tmp_path)
    assert losses(with_workers) == losses(run) and len(losses(run)) == 20
    for where in (run, with_workers):
        rows = [json.loads(line) for line in (where / "bad_samples.jsonl").read_text().splitlines()]
        assert {(Path(row["path"]).name, row["kind"]) for row in rows} == {("2cut.mp4", "truncated")}


def test_the_doctor_names_the_broken_file_and_describes_the_others(folder):
    verdicts = list(inspect([str(folder)], "video"))
    assert [Path(v.path).name for v in verdicts if not v.ok] == ["2cut.mp4"]
    assert all("h264 yuv420p 64x48, 16 frames in 0.6 s" in v.description for v in verdicts if v.ok)


def test_clips_are_embedded_and_probed(run, folder, tmp_path):
    features = load_file(embed(run, str(folder), tmp_path / "features.safetensors", max_bad_fraction=0.2))["features"]
    assert features.shape == (12, 24)
    assert json.loads((tmp_path / "features.bad.jsonl").read_text())["kind"] == "truncated"
    found = probe(run, ProbeSpec(str(folder), str(folder), k=3, max_bad_fraction=0.2))
    assert found["knn"]["accuracy"] == 1.0  # dark and light are told by any features
