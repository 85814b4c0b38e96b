"""preprocessor_config.json, as transformers' own image processors read it."""

import json

import numpy as np
import pytest
import torch
from export.tiny_runs import saved, tiny
from PIL import Image

from mae_ext.export.folder import processor
from mae_ext.export.subject import subject_of
from mae_ext.export.weights import export

transformers = pytest.importorskip("transformers", reason="what opens the folder, an optional library")

MEAN, STD = [0.4, 0.45, 0.5], [0.2, 0.25, 0.3]


def written(folder, config):
    values, remark = processor(next(iter(config.modalities.values())), MEAN, STD)
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return remark


def smooth(height, width):
    pixels = np.random.default_rng(1).integers(256, size=(4, 6, 3), dtype="uint8")
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(("height", "width", "limit"), [(16, 16, 1e-5), (32, 40, 0.06), (50, 31, 0.4)])
def test_an_image_comes_out_as_our_reader_has_it_but_for_rounding(tmp_path, height, width, limit):
    config = tiny("image", size=[16, 16])
    assert written(tmp_path, config) is None
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    smooth(height, width).save(tmp_path / "a.png")
    pixels = theirs(Image.open(tmp_path / "a.png"), return_tensors="pt")["pixel_values"]
    subject = subject_of(saved(tmp_path / "run", config))
    ours = subject.encoder.model.modality().normalize(subject.samples(str(tmp_path / "a.png"))[0])
    assert pixels.shape == ours.shape == (1, 3, 16, 16)
    # A byte is 1 / 255 / 0.2 = 0.02. Theirs resizes before it cuts: at the edges it sees beyond them, and of an odd
    # length it cuts half a pixel beside.
    assert (pixels - ours).abs().max() < limit


@pytest.mark.parametrize("name", ["ViTImageProcessorPil", "BitImageProcessorPil"])
def test_the_processors_of_vit_and_of_bit_read_it(tmp_path, name):
    written(tmp_path, tiny("image", size=[16, 16]))
    theirs = getattr(transformers, name).from_pretrained(tmp_path)
    assert ([*theirs.image_mean], [*theirs.image_std]) == (MEAN, STD)
    assert theirs(smooth(20, 30), return_tensors="pt")["pixel_values"].shape == (1, 3, 16, 16)


def test_the_processor_of_videomae_takes_the_frames_of_a_clip(tmp_path):
    written(tmp_path, tiny("clip"))
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert type(theirs).__name__.startswith("VideoMAEImageProcessor")
    frames = [smooth(16, 16)] * 4
    pixels = theirs(frames, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 4, 3, 16, 16)
    level = np.asarray(frames[0], np.float32).transpose(2, 0, 1) / 255
    wanted = (level - np.float32(MEAN)[:, None, None]) / np.float32(STD)[:, None, None]
    torch.testing.assert_close(pixels[0, 0], torch.from_numpy(wanted), atol=1e-5, rtol=0)


def test_another_aspect_is_squeezed_and_that_is_said(tmp_path):
    remark = written(tmp_path, tiny("image"))
    assert remark.startswith("transformers' image processor has no box of the aspect 16:24: it squeezes whole images")
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert theirs(smooth(50, 50), return_tensors="pt")["pixel_values"].shape == (1, 3, 16, 24)


NAMES = {
    "hf-vitmae": "ViTMAEModel",
    "hf-vit": "ViTModel",
    "hf-dinov2": "Dinov2Model",
    "hf-pixio": "PixioModel",
    "hf-videomae": "VideoMAEModel",
}


@pytest.mark.parametrize("to", NAMES)
def test_from_pretrained_opens_the_folder_and_gives_the_same_features(tmp_path, to):
    clip = to == "hf-videomae"
    config = tiny("clip", position="sequence", model={"class_token": False}) if clip else tiny("image", size=[16, 16])
    run = saved(tmp_path / "run", config)
    export(run, to, tmp_path / "theirs")
    model = transformers.AutoModel.from_pretrained(tmp_path / "theirs").eval()
    assert type(model).__name__ == NAMES[to]
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "theirs")
    pictures = [smooth(16, 16).rotate(90 * i) for i in range(4)]
    pixels = processor(pictures if clip else pictures[0], return_tensors="pt")["pixel_values"]
    keys = {}
    if to == "hf-vitmae":  # which masks always, and shuffles
        model.config.mask_ratio, keys = 0.0, {"noise": torch.arange(4.0)[None]}
    with torch.no_grad():
        theirs = model(pixels, **keys).last_hidden_state
    levels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])) / 255  # (4, H, W, 3)
    x = levels.permute(3, 0, 1, 2)[None] if clip else levels[:1].permute(0, 3, 1, 2)
    torch.testing.assert_close(theirs, subject_of(run).tokens(x, None), atol=1e-5, rtol=0)
