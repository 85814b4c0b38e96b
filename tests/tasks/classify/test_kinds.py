"""Classification asks nothing of what kind its samples are: volumes from an archive, clips from files."""

import av
import numpy as np
import pytest
from faults.kills import rows

from mae_ext.cli import run

TASK = {"name": "classify", "smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0, "distort": 2, "erase": 0.25}
VOLUME = {
    "size": [8, 8, 8], "patch": [4, 4, 4], "channels": 1, "batch": 4,
    "data": {"reader": {"name": "volume", "intensity": "zscore"}, "augment": {"fixed": [0, 1, 2], "flip": []}},
}  # fmt: skip
CLIP = {
    "size": [4, 16, 16], "patch": [2, 8, 8], "batch": 4,
    "data": {"reader": {"name": "video", "stride": 1}, "augment": {"fixed": [0]}},
}  # fmt: skip


@pytest.fixture
def archive(tmp_path):
    """Cubes with a bright half, on one side or on the other; train and test in one .npz."""
    arrays = {}
    for split, count in (("train", 12), ("test", 5)):
        chance = np.random.default_rng(count)
        labels = np.arange(count) % 2
        x = chance.normal(0, 0.2, (count, 10, 10, 10)).astype(np.float32)
        for i, label in enumerate(labels):
            x[i, :, :, 5 * label : 5 + 5 * label] += 1
        arrays |= {f"{split}_images": x, f"{split}_labels": labels[:, None]}
    np.savez(tmp_path / "cubes.npz", **arrays)
    return tmp_path / "cubes.npz"


@pytest.fixture
def clips(tmp_path):
    """left/ and right/: a square that moves that way."""
    for name, way in (("left", -1), ("right", 1)):
        (tmp_path / "clips" / name).mkdir(parents=True)
        for k in range(4):
            with av.open(str(tmp_path / "clips" / name / f"{k}.mp4"), "w") as container:
                stream = container.add_stream("libx264", rate=25)
                stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
                for i in range(8):
                    pixels = np.full((32, 32, 3), 20 * k, np.uint8)
                    at = 12 + way * (i - 4) * 2
                    pixels[10:20, at : at + 8] = 250
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
                container.mux(stream.encode(None))
    return tmp_path / "clips"


def fine_tune(tiny, tmp_path, modalities, *more):
    config = tiny({"modalities": modalities, "task": TASK, "train.steps": 4, "train.warmup_steps": 1})
    return run(["finetune", str(config), "--init", "none", "--out", str(tmp_path / "ft"), *map(str, more)])


def test_volumes_of_an_archive_are_classified(tiny, archive, tmp_path):
    more = ("--data", f"{archive}::train", "--test", f"{archive}::test")
    assert fine_tune(tiny, tmp_path, {"volume": VOLUME}, *more) == 0
    assert rows(tmp_path / "ft" / "evaluations.jsonl")[0]["samples"] == 5
    assert run(["predict", str(tmp_path / "ft"), f"{archive}::test", "--out", str(tmp_path / "p")]) == 0
    said = rows(tmp_path / "p" / "predictions.jsonl")
    assert len(said) == 5 and set(said[0]["probabilities"]) == {"0", "1"}


def test_clips_in_class_folders_are_classified(tiny, clips, tmp_path):
    assert fine_tune(tiny, tmp_path, {"video": CLIP}, "--data", clips) == 0
    assert run(["predict", str(tmp_path / "ft"), str(clips / "left"), "--out", str(tmp_path / "p")]) == 0
    assert len(rows(tmp_path / "p" / "predictions.jsonl")) == 4
