"""Whole samples: answered in windows at the scale of training, in slabs, each by one rank, and read once."""

import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from counted_reads import bytes_read
from PIL import Image
from tasks.segment.small_runs import IMAGE, VOLUME, Bright, nuclei

from mae_ext.config import parse_config
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.task import task_of
from mae_ext.tasks.segment.heads import Segmenter
from mae_ext.tasks.segment.overlap import dice


@pytest.mark.parametrize(
    ("augment", "scale"),
    [({}, (0.6 * 40 * 60) ** 0.5 / 16), ({"scale": None}, 40 / 16), ({"scale": [0.2, 0.2]}, 480**0.5 / 16),
     ({"fixed": [0, 1]}, 1.0)],
)  # fmt: skip
@torch.no_grad()
def test_whole_samples_are_answered_at_the_scale_of_training_and_on_their_own_voxels(tmp_path, augment, scale):
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[8:20, 33:51] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    modality = {"size": [16, 16], "patch": [4, 4], "batch": 4, "data": {"augment": augment}}
    config = parse_config(
        {"modalities": {"image": modality}, "model": {"width": 16, "depth": 1, "heads": 2}, "train": {"steps": 1}}
        | {"task": {"name": "segment", "classes": ["x"], "overlap": 0.0}}
    )
    model, task = Bright(), task_of(config)
    found, spacing = task._segmented(model, config, str(tmp_path / "a.png"), torch.device("cpu"))
    assert found.shape == (40, 60) and spacing is None
    truth = pixels[..., 0] > 0
    assert dice(found, truth.astype(np.int32), ["x"])["dice/x"] > (0.99 if scale == 1 else 0.9)
    # Without overlap the windows cover the sample once, but for the last ones: as much area as it has at that scale.
    windows = sum(len(x) for x, _ in model.seen)
    assert windows == np.prod([int(np.ceil(round(n / scale) / 16)) for n in (40, 60)])


@pytest.mark.parametrize(("overlap", "windows"), [(0.0, 3 * 4), (0.5, 4 * 7), (0.75, 7 * 12)])
@torch.no_grad()
def test_windows_overlap_by_what_the_task_says(tmp_path, overlap, windows):
    """Of 16 pixels, over 40 x 60."""
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.png")
    config = parse_config(
        {"modalities": {"image": IMAGE}, "model": {"width": 16, "depth": 1, "heads": 2}, "train": {"steps": 1}}
        | {"task": {"name": "segment", "classes": ["x"], "overlap": overlap}}
    )
    model = Bright()
    task_of(config)._segmented(model, config, str(tmp_path / "a.png"), torch.device("cpu"))
    assert sum(len(x) for x, _ in model.seen) == windows


@torch.no_grad()
def test_a_scan_that_is_read_in_slabs_is_answered_as_in_one_piece(organs, monkeypatch):
    spaced = {"reader": {"name": "volume", "intensity": "zscore", "spacing": [0.7, 1.3, 1.0]}}
    for data in ({}, spaced):
        config = parse_config(
            {"modalities": {"volume": VOLUME | {"data": VOLUME["data"] | data}}, "train": {"steps": 1}}
            | {"model": {"width": 16, "depth": 1, "heads": 2}, "task": {"name": "segment", "classes": ["x"]}}
        )
        address, task = str(organs / "scans" / "1.nii.gz"), task_of(config)
        whole, one = Bright(), Bright()
        wanted, spacing = task._segmented(whole, config, address, torch.device("cpu"))
        monkeypatch.setattr("mae_ext.data.loading.slabs.SLAB", 500)
        found, _ = task._segmented(one, config, address, torch.device("cpu"))
        monkeypatch.undo()
        assert spacing == (1.0, 1.0, 1.0) and np.array_equal(found, wanted) and len(np.unique(found)) == 2
        for (a, steps), (b, again) in zip(whole.seen, one.seen, strict=True):
            assert torch.equal(a, b) and torch.equal(steps, again)
        expected = (1.0, 1.0, 1.0) if not data else (0.7, 1.3, 1.0)
        torch.testing.assert_close(whole.seen[0][1][0], torch.tensor(expected))


class Sure(Segmenter):
    """The first window is very sure of class 0, the others are less so of class 1; both are as good as certain."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.backbone, self.seen = torch.nn.Linear(1, 1), 0

    def probabilities(self, x, name, spacing=None):
        logits = torch.zeros(len(x), 2, *x.shape[2:])
        for i, one in enumerate(logits):
            one[int(self.seen + i > 0)] = 10 if self.seen + i > 0 else 1000
        self.seen += len(x)
        return logits.softmax(1).movedim(1, -1)


@torch.no_grad()
def test_where_windows_meet_their_probabilities_are_averaged_and_not_their_logits(tmp_path):
    """Two windows, at the columns 0 and 8 of 24, have equal say between the columns 11 and 12 (in the middle: towards
    the edge, where weights are those at the least, everywhere)."""
    Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(tmp_path / "a.png")
    config = parse_config(
        {"modalities": {"image": IMAGE}, "model": {"width": 16, "depth": 1, "heads": 2}, "train": {"steps": 1}}
        | {"task": {"name": "segment", "classes": ["x"], "overlap": 0.5}}
    )
    found, _ = task_of(config)._segmented(Sure(), config, str(tmp_path / "a.png"), torch.device("cpu"))
    assert found[7].tolist() == found[8].tolist() == [0] * 12 + [1] * 12


@torch.no_grad()
def test_each_rank_judges_samples_of_its_own(blobs):
    paths = {"path": str(blobs / "train" / "images"), "test": str(blobs / "test" / "images")}
    config = parse_config(
        {"modalities": {"image": IMAGE | {"data": IMAGE["data"] | paths}}, "train": {"steps": 1}}
        | {"model": {"width": 16, "depth": 1, "heads": 2}, "task": {"name": "segment", **nuclei(blobs)}}
    )
    task, said = task_of(config), []

    class Meeting(Ranks):
        """Ranks that come one after the other and hear those before them."""

        def gather(self, value):
            said.append(value)
            return said

    scores = [
        task.evaluate(Bright(), config, task.data(config), Meeting(rank, 2, torch.device("cpu"))) for rank in range(2)
    ]
    assert [s["samples"] for s in scores] == [2, 3]
    assert scores[-1] == task.evaluate(Bright(), config, task.data(config), Ranks(0, 1, torch.device("cpu")))


@torch.no_grad()
def test_a_scan_is_read_once_to_be_judged_and_once_to_be_answered_besides_its_headers(organs, monkeypatch):
    """Two headers are asked each time: for the size, and for where the labels lie or the answer has to."""
    for part in ("scans", "labels"):
        for path in sorted((organs / part).iterdir()):
            nib.load(path).to_filename(organs / part / path.name.removesuffix(".gz"))
            path.unlink()
    monkeypatch.setattr("mae_ext.data.volume.formats.known.HEADER_BYTES", 1000)
    paths = {"path": str(shutil.copytree(organs / "scans", organs / "train")), "test": str(organs / "scans")}
    config = parse_config({
        "modalities": {"volume": VOLUME | {"data": VOLUME["data"] | paths}}, "train": {"steps": 1},
        "model": {"width": 16, "depth": 1, "heads": 2},
        "task": {"name": "segment", "classes": ["one", "two"], "masks": str(organs / "labels")},
    })  # fmt: skip
    task, scan = task_of(config), organs / "scans" / "1.nii"
    data = task.data(config)
    with bytes_read(monkeypatch) as of:
        task.evaluate(Bright(), config, data, Ranks(0, 1, torch.device("cpu")))
    assert of(scan) == scan.stat().st_size + 2 * 1000
    with bytes_read(monkeypatch) as of:
        task.predict(Bright(), config, [str(scan)], organs / "out")
    assert of(scan) == scan.stat().st_size + 2 * 1000
