"""torchcodec gives the frames and bytes that PyAV gives, where it is used; elsewhere PyAV is; and why not is a line."""

import sys

import numpy as np
import pytest
from data.video.numbered_clips import at, numbers, write

from mae_ext.cli import run
from mae_ext.data.video import by_name
from mae_ext.data.video.decoder import Children
from mae_ext.data.video.reader import VideoReader
from mae_ext.errors import UserError

PLAIN = {"plain": True, "bits": 8, "matrix": [1, 0, 0, 1], "width": 128}

cannot = by_name.load_torchcodec()
needed = pytest.mark.skipif(bool(cannot), reason=f"torchcodec {cannot}")


@pytest.fixture(scope="module")
def children():
    """One child for all films: each imports torch first."""
    yield (made := Children(60.0, 4 << 30, 1 << 30))
    made.close()


def frames(children, path, decoder, short_side=None, which=(0, 7, 8, 30, 59)):
    with children.open(str(path), short_side, decoder) as opened:
        return opened.frames(which).copy(), opened.clip.decoder


@needed
def test_torchcodec_gives_pyavs_bytes_of_frames_as_they_are_stored(children, tmp_path):
    for name, codec in (("a.mp4", "libx264"), ("b.mp4", "mpeg4"), ("c.mkv", "libx264")):
        path = write(tmp_path / name, 60, codec, size=(74, 136))
        ours, _ = frames(children, path, "pyav")
        theirs, by = frames(children, path, "torchcodec")
        assert by == "torchcodec", name
        assert np.array_equal(ours, theirs), name


@needed
def test_scaled_bytes_are_the_same_whichever_frames_are_asked_for_and_whether_torchcodec_or_pyav_decodes(
    children, tmp_path
):
    """The same pictures in two containers, one of which torchcodec is not used for."""
    plain, other = (write(tmp_path / name, 60, "mpeg4") for name in ("a.mp4", "a.avi"))
    scaled, by = frames(children, plain, "torchcodec", 40)
    assert by == "torchcodec" and scaled.shape == (5, 40, 71, 3)
    again, by = frames(children, other, "torchcodec", 40)
    assert by == "pyav" and np.array_equal(scaled, again)
    assert np.array_equal(frames(children, plain, "torchcodec", 40, [30])[0][0], scaled[3])
    assert np.abs(scaled.astype(int) - frames(children, plain, "pyav", 40)[0]).max() < 16


@needed
def test_a_clip_by_torchcodec_has_the_frames_that_were_asked_for_and_uneven_times_are_kept(tmp_path):
    rng = np.random.default_rng(0)
    film = write(tmp_path / "vfr.mp4", 60, pts=np.cumsum(rng.integers(10, 90, 60)).tolist())
    reader = VideoReader((8, 36, 64), stride=3, decoder="torchcodec")
    assert numbers(reader.read(str(film), [at(20)])[0].x) == [20 + 3 * k for k in range(8)]
    assert reader.describe(str(film)).endswith("torchcodec")
    by_time = {d: VideoReader((8, 36, 64), fps=10, decoder=d) for d in ("auto", "torchcodec")}
    assert len({tuple(numbers(r.read(str(film), [at(5)])[0].x)) for r in by_time.values()}) == 1


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True), ({"bits": 10}, False), ({"matrix": [0, 1, -1, 0]}, False), ({"plain": False}, False),
        ({"width": 16}, False),
    ],
)  # fmt: skip
def test_what_torchcodec_or_decord_gets_wrong_is_not_theirs(change, fits):
    for decoder in ("torchcodec", "decord"):
        assert by_name.is_for(decoder, by_name.MP4, "h264", PLAIN | change) == fits
        assert not by_name.is_for(decoder, "avi", "h264", PLAIN)
    assert not by_name.is_for("auto", by_name.MP4, "h264", PLAIN)


def test_a_missing_extra_is_a_line_that_names_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(UserError, match=r"pip install 'mae-ext\[torchcodec\]'"):
        VideoReader((8, 36, 64), decoder="torchcodec")
    write(tmp_path / "a.mp4", 20)
    words = ["--config", "video_k400_vitb", "--set", "modalities.video.data.reader.decoder=torchcodec"]
    assert run(["doctor", str(tmp_path), *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "decoder='torchcodec'" in said and "mae-ext[torchcodec]" in said


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("Could not load libtorchcodec. libavutil.so.57: cannot open shared object file", "apt install ffmpeg"),
        ("OSError: libnvrtc.so.13: cannot open shared object file", "torchcodec<0.14"),
        ("libtorchcodec_core5.so: undefined symbol: _ZN3c106detail", "another torch"),
    ],
)
def test_what_does_not_load_is_a_line_with_the_likeliest_cause_and_what_to_do(said, advice):
    line = by_name._why_not(said)
    assert advice in line and "decoder: auto" in line and "\n" not in line


@needed
def test_a_cache_by_torchcodec_is_not_that_of_another_decoder(tmp_path):
    film = str(write(tmp_path / "a.mp4", 20))
    keys = [VideoReader((4, 36, 64), decoder=decoder)._key(film) for decoder in ("auto", "torchcodec")]
    assert keys[0] != keys[1]
