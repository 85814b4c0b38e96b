"""Pictures of clips move: one frame of the GIF for each frame of the clip, masked and filled where the model was."""

from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mae_ext.drawing.panels import moments
from mae_ext.features.encoder import load_encoder
from mae_ext.report.pictures import panels_of, reconstruct

SIZE, PATCH = [6, 24, 16], [2, 8, 4]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two clips of a bright bar that moves to the right over a grey ground."""
    root = tmp_path_factory.mktemp("clips")
    for name, speed in (("slow", 1), ("fast", 3)):
        with av.open(str(root / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
            stream.width, stream.height, stream.pix_fmt = 64, 96, "yuv420p"
            for i in range(20):
                pixels = np.full((96, 64, 3), 90, np.uint8)
                pixels[:, i * speed : i * speed + 8] = 230
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = i
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return root


@pytest.fixture
def run(make_run):
    data = {"path": "clips", "reader": {"name": "video", "stride": 2}, "augment": {"fixed": [0]}, "statistics": "none"}
    return make_run(size=SIZE, patch=PATCH, mask={"name": "tube", "ratio": 0.75}, data=data)


def test_a_clip_becomes_a_gif_with_as_many_frames_and_so_does_the_sheet(run, clips, tmp_path):
    written = reconstruct(run, [str(clips)], tmp_path / "pictures")
    assert [p.name.rpartition("_")[2] for p in written] == ["fast.gif", "slow.gif", "overview.gif"]
    for path in written:
        with Image.open(path) as picture:
            assert picture.format == "GIF" and picture.n_frames == SIZE[0] and picture.info["loop"] == 0
            frames = []
            for i in range(picture.n_frames):
                picture.seek(i)
                frames.append(np.asarray(picture.convert("RGB")).astype(int))
        assert all(np.abs(a - b).max() > 10 for a, b in pairwise(frames))


def test_each_moment_shows_input_masked_and_reconstruction_of_its_frame(run, clips):
    encoder = load_encoder(run)
    (panel, _) = panels_of(encoder, [str(clips)])
    assert "patch statistics: interpolated from visible patches" in panel.caption
    shown = moments(panel)
    assert len(shown) == SIZE[0]
    for i, moment in enumerate(shown):
        (_, given), (_, masked), (_, filled) = moment.columns
        assert given.shape == (3, *SIZE[1:])
        assert given.equal(panel.columns[0][1][:, i])
        hidden = (masked == 0.5).all(0)
        # A tube hides the same place in every frame.
        assert int(hidden.sum()) == 24 * 16 * 3 // 4 and hidden.equal((shown[0].columns[1][1] == 0.5).all(0))
        assert (filled - given)[:, ~hidden].abs().max() < 1e-5
    assert isinstance(panel.caption[0], str) and Path(panel.caption[0]).name == "fast.mp4"
