"""preprocessing.json is all that a program of one's own needs to feed an encoder as its run does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from export.tiny_runs import saved, tiny
from PIL import Image

from mae_ext.export.preprocessing import preprocessing
from mae_ext.export.subject import subject_of
from mae_ext.export.weights import export
from mae_ext.features.encoder import load_encoder


def picture(path: Path, height: int, width: int) -> Path:
    rng = np.random.default_rng(5)
    smooth = rng.integers(256, size=(4, 6, 3), dtype="uint8")
    Image.fromarray(smooth).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


BOX = (
    "of height H and width W, the centred box of round(16 s) x round(24 s) pixels, s = min(H / 16, W / 24), its "
    "corner at (H - height of the box) // 2, (W - width of the box) // 2"
)


def by_hand(file: Path, facts: dict) -> torch.Tensor:
    """(1, C, H, W) float32 with nothing of mae_ext: Pillow, NumPy and what the JSON says."""
    _, channels, h, w = facts["input"]["shape"]
    assert channels == 3 and facts["input"]["axes"][1:] == [
        "channel: red, green, blue", "height, from the top", "width, from the left",
    ]  # fmt: skip
    assert facts["read"]["steps"][1:] == [
        BOX,
        "resized to 16 x 24: bicubic, antialiased, rounded to bytes",
    ]
    image = Image.open(file).convert("RGB")
    s = min(image.height / h, image.width / w)
    height, width = round(h * s), round(w * s)
    top, left = (image.height - height) // 2, (image.width - width) // 2
    image = image.crop((left, top, left + width, top + height)).resize((w, h), Image.Resampling.BICUBIC)
    assert facts["input"]["units"].startswith("levels of 0 to 1: bytes divided by 255")
    x = np.asarray(image, np.float32) / 255
    if facts["normalise"]["by"].startswith("you"):
        x = (x - np.float32(facts["normalise"]["mean"])) / np.float32(facts["normalise"]["std"])
    return torch.from_numpy(x.transpose(2, 0, 1).copy())[None]


def facts_of(run: Path, to: str, folder: Path) -> tuple[dict, Path]:
    suffix = {"torch-export": ".pt2", "safetensors": ".safetensors"}[to]
    exported = export(run, to, folder / f"e{suffix}")
    return json.loads((folder / f"e{suffix}.preprocessing.json").read_text()), exported.path


@pytest.fixture(scope="module")
def program(runs, tmp_path_factory):
    facts, path = facts_of(runs["image"], "torch-export", tmp_path_factory.mktemp("program"))
    return facts, torch.export.load(path).module()


@pytest.mark.parametrize(("height", "width", "limit"), [(16, 40, 1e-5), (22, 24, 1e-5), (50, 90, 0.05)])
def test_a_file_read_by_hand_gives_the_tokens_that_the_run_gives(runs, program, tmp_path, height, width, limit):
    # Where nothing is resized there is nothing to round; else Pillow's bytes and torch's differ by one at most.
    facts, module = program
    file = picture(tmp_path / "a.png", height, width)
    (theirs,) = module(by_hand(file, facts))
    encoder = load_encoder(runs["image"], device="cpu")
    (sample,) = encoder.decode(encoder.items(str(file)))
    ours = encoder.model.encode_all(sample.x[None], "image")
    assert (ours - theirs).abs().max() < limit


def test_of_weights_alone_normalising_is_the_callers(runs, tmp_path):
    facts, _ = facts_of(runs["image"], "safetensors", tmp_path)
    assert facts["normalise"] == {
        "by": "you, before the model",
        "rule": "(value - mean) / std, channel by channel",
        "mean": pytest.approx([0.4, 0.45, 0.5]),
        "std": pytest.approx([0.2, 0.25, 0.3]),
    }
    encoder = load_encoder(runs["image"], device="cpu")
    normalised = by_hand(picture(tmp_path / "a.png", 16, 24), facts)
    (sample,) = encoder.decode(encoder.items(str(tmp_path / "a.png")))
    torch.testing.assert_close(normalised, encoder.model.modality().normalize(sample.x[None]), atol=1e-5, rtol=0)


def test_of_an_image_it_says_tokens_positions_and_reader(runs):
    facts = preprocessing(subject_of(runs["image"]), "onnx")
    assert facts["tokens"] == {
        "patch": [8, 8], "grid": [2, 3], "class_tokens": 1, "width": 24,
        "order": "row by row over the grid, the last axis fastest; 1 of no patch before them",
    }  # fmt: skip
    assert facts["positions"] == {"name": "sincos"}
    assert facts["read"]["reader"] == "image" and facts["read"]["arguments"] == {
        "channels": 3, "bands": None, "z": None, "t": None
    }  # fmt: skip
    assert facts["inputs"] == ["x"] and facts["outputs"] == ["tokens"] and facts["opset"] == 20
    assert facts["spacing"] == {"resampled_to": None, "meaning": "none", "input": False}
    json.dumps(facts)


@pytest.mark.parametrize(
    ("fixed", "words"),
    [
        ([0], "4 frames, one of each 2, from the middle of the places where such a clip can begin"),
        ([], "4 frames, spread evenly over the film, the first and the last among them"),
    ],
)
def test_of_a_clip_it_says_which_frames(tmp_path, fixed, words):
    run = saved(tmp_path / "run", tiny("clip", data={"augment": {"fixed": fixed}}))
    facts = preprocessing(subject_of(run), "onnx")
    assert facts["input"]["shape"] == ["batch", 3, 4, 16, 16]
    assert facts["input"]["axes"][2] == "frames, from the first"
    assert facts["input"]["units"] == "levels of 0 to 1: bytes divided by 255"
    assert words in facts["read"]["steps"]
    assert facts["read"]["arguments"]["stride"] == 2 and facts["read"]["arguments"]["short"] == "hold"
    assert "cache" not in facts["read"]["arguments"]


def test_of_a_volume_it_says_windows_spacing_and_the_ways_of_the_axes(tmp_path):
    fixed = {"augment": {"fixed": [0, 1, 2]}}
    run = saved(tmp_path / "run", tiny("volume", data=fixed, position={"name": "sincos", "unit": 4.0}))
    facts = preprocessing(subject_of(run), "onnx")
    assert facts["input"]["axes"][2:] == [
        "depth, from the feet to the head", "height, from the back to the front", "width, from left to right",
    ]  # fmt: skip
    assert facts["input"]["units"].startswith("of the scan's units (CT: Hounsfield units), channel i: (value - low_i)")
    assert facts["read"]["arguments"]["intensity"] == {"name": "window", "windows": [[-100, 300]]}
    assert facts["spacing"]["resampled_to"] == [3.0, 1.5, 1.5] and facts["spacing"]["input"] is True
    assert facts["inputs"] == ["x", "spacing"] and facts["positions"] == {"name": "sincos", "unit": 4.0}
    assert (
        "along the axes [0, 1, 2] (from 0) 16 x 16 x 24 of the source's own, from its middle; a shorter one is padded"
        in facts["read"]["steps"]
    )


def test_a_volume_read_by_hand_gives_the_samples_that_the_run_gives(tmp_path):
    """An array, whose axes and spacing are those of the model already: window, then the middle."""
    fixed = {
        "augment": {"fixed": [0, 1, 2]},
        "reader": {"name": "volume", "intensity": {"name": "window", "windows": [[-100, 300]]}},
    }
    run = saved(tmp_path / "run", tiny("volume", data=fixed))
    facts = preprocessing(subject_of(run), "onnx")
    scan = np.random.default_rng(0).integers(-300, 500, size=(20, 18, 30)).astype(np.float32)
    np.savez(tmp_path / "scans.npz", train_images=scan[None])
    x, _ = subject_of(run).samples(str(tmp_path / "scans.npz"))
    (low, high), size = facts["read"]["arguments"]["intensity"]["windows"][0], facts["input"]["shape"][2:]
    begin = [(have - want) // 2 for have, want in zip(scan.shape, size, strict=True)]
    middle = scan[tuple(slice(b, b + n) for b, n in zip(begin, size, strict=True))]
    np.testing.assert_allclose(x[0, 0].numpy(), np.clip((middle - low) / (high - low), 0, 1), atol=1e-6)


def test_statistics_that_nobody_measured_are_said_to_be_unknown(tmp_path):
    run = saved(tmp_path / "run", tiny("image", data={"statistics": "measured"}))
    exported = export(run, "safetensors", tmp_path / "e.safetensors")
    (remark,) = exported.remarks
    assert remark == "mean and std are not known: nobody measured them; the model takes values as they come"
    assert json.loads((tmp_path / "e.safetensors.preprocessing.json").read_text())["notes"] == [remark]
