"""scripts/studies/make_motion.py: the scene moves the way the label says, and single frames do not say which."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from mae_ext.data.sources.table import list_items
from mae_ext.data.video.reader import VideoReader

pytest.importorskip("skimage", reason="the photos inside the scikit-image wheel")
SCRIPT = Path(__file__).parents[2] / "scripts" / "studies" / "make_motion.py"
SPEC = importlib.util.spec_from_file_location("make_motion", SCRIPT)
motion = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(motion)


@pytest.fixture(scope="module")
def image():
    """Blobs at random, everywhere alike."""
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, size=(256, 256), mode="bicubic").clamp(0, 1)


def clip(image, kind, seed, count=9):
    made = motion.frames(image, kind, count, 64, np.random.default_rng(seed))
    return torch.from_numpy(np.stack(list(made))).float().mean(-1)


def shift(a, b):
    """(rows, columns) by which the middle of a is found further on in b, by trying."""
    best = {}
    for dy in range(-6, 7):
        for dx in range(-6, 7):
            there = b[20 + dy : 44 + dy, 20 + dx : 44 + dx]
            best[float((there - a[20:44, 20:44]).square().mean())] = (dy, dx)
    return best[min(best)]


@pytest.mark.parametrize(("kind", "way"), [("left", (0, -1)), ("right", (0, 1)), ("up", (-1, 0)), ("down", (1, 0))])
def test_the_scene_moves_the_way_its_label_says(image, kind, way):
    for seed in range(5):
        frames = clip(image, kind, seed)
        moved = shift(frames[3], frames[4])
        assert moved[0] * way[0] + moved[1] * way[1] >= 2 and abs(moved[0] * way[1]) + abs(moved[1] * way[0]) <= 1


@pytest.mark.parametrize(
    ("kind", "places"),
    [
        # what lies above, right of, below and left of the middle moves (rows, columns)
        ("clockwise", [(0, 1), (1, 0), (0, -1), (-1, 0)]),
        ("anticlockwise", [(0, -1), (-1, 0), (0, 1), (1, 0)]),
        ("in", [(-1, 0), (0, 1), (1, 0), (0, -1)]),
        ("out", [(1, 0), (0, -1), (-1, 0), (0, 1)]),
    ],
)
def test_a_turn_and_a_zoom_move_the_four_sides_as_they_should(image, kind, places):
    total = 0
    for seed in range(5):
        frames = clip(image, kind, seed)
        for (dy, dx), way in zip([(-18, 0), (0, 18), (18, 0), (0, -18)], places, strict=True):
            a, b = (f.roll((-dy, -dx), (0, 1)) for f in (frames[2], frames[6]))
            moved = shift(a, b)
            total += moved[0] * way[0] + moved[1] * way[1]
    assert total > 20


def test_a_single_frame_is_distributed_alike_in_all_classes(image):
    """The middle frame to the byte; the first in brightness and sharpness, by class against the spread of chance."""
    middle = [clip(image, kind, 7)[4] for kind in motion.CLASSES]
    assert all(torch.equal(frame, middle[0]) for frame in middle)
    numbers = torch.arange(60)
    for measure in (lambda f: f.mean(), lambda f: f.diff(dim=-1).abs().mean()):
        means, spread = [], []
        for label, kind in enumerate(motion.CLASSES):
            values = torch.stack([measure(clip(image, kind, 1000 * label + int(n), 2)[0]) for n in numbers])
            means.append(values.mean())
            spread.append(values.std() / len(numbers) ** 0.5)
        off = (torch.stack(means) - torch.stack(means).mean()) / torch.stack(spread)
        assert off.abs().max() < 4


def test_no_photo_is_in_both_parts_and_the_clips_are_read_back(tmp_path, monkeypatch, capsys):
    assert not set(motion.PHOTOS["train"]) & set(motion.PHOTOS["test"])
    monkeypatch.setattr("sys.argv", ["make_motion.py", "--out", str(tmp_path), "--train", "1", "--test", "1"])
    motion.main()
    for part in ("train", "test"):
        items = list_items(str(tmp_path / part), VideoReader.suffixes)
        assert len(items) == 8 and set(items.classes) == set(motion.CLASSES)
    reader = VideoReader((16, 64, 64), stride=1, short_side=0)
    assert ", 16 frames" in reader.describe(items.addresses[0])
