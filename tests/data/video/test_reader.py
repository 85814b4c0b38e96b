"""The right frames of good videos, by the stated rules."""

import pickle
import subprocess
import sys

import av
import numpy as np
import pytest
import torch
from data.video.numbered_clips import FIXED, HEIGHT, WIDTH, at, numbers, picture, write

from mae_ext.config import AugmentConfig
from mae_ext.data.crops import center_sampler, crop_sampler, evaluation_sampler
from mae_ext.data.sample import Crop
from mae_ext.data.sources.table import list_items
from mae_ext.data.video.reader import VideoReader
from mae_ext.errors import BadSample
from mae_ext.rng import rng


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize("stride", [1, 3, 5])
@pytest.mark.parametrize("first", [0, 11, 24])
def test_a_stride_takes_every_nth_frame_from_the_first(read, clip, decoder, stride, first):
    sample = read(clip, at(first), stride=stride, decoder=decoder)
    assert sample.x.shape == (3, 8, 36, 64) and sample.x.dtype == torch.uint8
    assert numbers(sample.x) == [first + k * stride for k in range(8)]


def test_both_decoders_give_the_same_bytes(read, clip):
    for short_side in (0, 40, 55):
        one, other = (
            read(clip, at(3), stride=2, size=(8, 30, 50), short_side=short_side, decoder=d) for d in ("decord", "pyav")
        )
        assert torch.equal(one.x, other.x)


def test_a_clip_can_begin_at_every_frame_that_lets_it_end_inside_and_at_no_other(read, clip):
    starts = {numbers(read(clip, crop_sampler(FIXED, (8, 36, 64), rng(i)), stride=7).x)[0] for i in range(120)}
    assert starts == set(range(60 - 7 * 7))


def test_several_clips_come_from_one_decode_and_are_those_that_come_alone(read, clip):
    crops = [crop_sampler(AugmentConfig(fixed=(0,)), (8, 36, 64), rng(i)) for i in range(4)]
    together = read(clip, *crops, stride=3)
    for crop, sample in zip(crops, together, strict=True):
        assert torch.equal(sample.x, read(clip, crop, stride=3).x)


def test_a_box_over_all_positions_is_the_whole_video_evenly(read, clip):
    got = numbers(read(clip, center_sampler((8, 36, 64)), stride=4).x)
    assert got[0] == 0 and got[-1] == 59
    assert set(np.diff(got)) <= {8, 9}


def test_flips_turn_time_and_columns_around(read, clip):
    plain = read(clip, at(5), stride=2).x
    assert torch.equal(read(clip, at(5, flip=(True, False, False)), stride=2).x, plain.flip(1))
    assert torch.equal(read(clip, at(5, flip=(False, False, True)), stride=2).x, plain.flip(3))


def test_a_rate_takes_the_frame_on_display_whatever_the_files_own_rate(read, tmp_path):
    for rate in (10, 25, 50):
        path = write(tmp_path / f"{rate}.mp4", 2 * rate, rate=rate)
        assert numbers(read(path, at(0), fps=5).x) == [k * rate // 5 for k in range(8)]


def test_a_rate_follows_the_clock_where_frames_last_unequally(read, tmp_path):
    durations = np.random.default_rng(0).integers(20, 120, 60)
    times = np.concatenate([[0], np.cumsum(durations)[:-1]])
    path = write(tmp_path / "vfr.mkv", 60, pts=times.tolist())
    for first in (0, 7):
        wanted = [int(np.searchsorted(times, times[first] + 200 * k + 0.1, side="right")) - 1 for k in range(8)]
        assert numbers(read(path, at(first), fps=5).x) == wanted


@pytest.mark.parametrize(
    ("short", "wanted"), [("hold", [0, 4, 8, 9, 9, 9, 9, 9]), ("spread", [0, 1, 3, 4, 5, 6, 8, 9])]
)
def test_videos_shorter_than_a_clip_follow_the_stated_rule(read, tmp_path, short, wanted):
    path = write(tmp_path / "ten.mp4", 10)
    assert numbers(read(path, short=short).x) == wanted
    assert numbers(read(path, crop_sampler(FIXED, (8, 36, 64), rng(1)), short=short).x) == wanted


@pytest.mark.parametrize("arguments", [{"stride": 4}, {"fps": 5}])
def test_videos_shorter_than_a_clip_can_be_refused(read, tmp_path, arguments):
    with pytest.raises(BadSample) as caught:
        read(write(tmp_path / "ten.mp4", 10), short="refuse", **arguments)
    assert caught.value.kind == "too short"
    read(write(tmp_path / "forty.mp4", 40), short="refuse", **arguments)


@pytest.mark.parametrize("short", ["hold", "spread"])
def test_a_single_frame_is_a_clip_that_stands_still(read, tmp_path, short):
    assert numbers(read(write(tmp_path / "one.mp4", 1), short=short, fps=5).x) == [0] * 8


def test_a_member_of_a_tar_shard_is_read_where_it_stands(read, tmp_path, clip):
    import tarfile

    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(clip, "a/clip.mp4")
    (address,) = list_items(str(tmp_path / "s.tar"), VideoReader.suffixes).addresses
    for decoder in ("decord", "pyav"):
        assert torch.equal(read(address, at(4), decoder=decoder).x, read(clip, at(4)).x)


def test_array_rows_are_clips_too(read, tmp_path):
    frames = np.stack([picture(i) for i in range(40)])
    np.savez(tmp_path / "a.npz", train_images=np.stack([frames, frames[::-1]]))
    first, second = (read(f"{tmp_path}/a.npz::train_images::{row}", at(0), stride=5) for row in (0, 1))
    assert numbers(first.x) == list(range(0, 40, 5)) and numbers(second.x) == list(range(39, 0, -5))


def test_a_cached_read_is_the_same_bytes_without_a_decode(tmp_path, clip):
    size, crops = (8, 36, 64), [crop_sampler(AugmentConfig(fixed=(0,)), (8, 36, 64), rng(i)) for i in range(3)]
    plain = VideoReader(size, stride=3).read(clip, crops)
    reader = VideoReader(size, stride=3, cache=str(tmp_path / "cache"))
    reader.prepared(clip)
    reader.children = None  # nobody is left who could decode
    for a, b in zip(plain, reader.read(clip, crops), strict=True):
        assert torch.equal(a.x, b.x)


def test_a_reader_travels_to_workers_without_its_children(clip):
    reader = VideoReader((8, 36, 64), stride=2)
    x = reader.read(clip, [at(0)])[0].x
    copy = pickle.loads(pickle.dumps(reader))
    assert torch.equal(copy.read(clip, [at(0)])[0].x, x)


def test_frames_that_an_edit_list_hides_are_neither_counted_nor_given(read, tmp_path):
    path = write(tmp_path / "edited.mp4", shift=-5)
    with av.open(str(path)) as container:
        shown = sum(1 for _ in container.decode(video=0))
    got = numbers(read(path, center_sampler((8, 36, 64))).x)
    assert shown == 55 and got[0] == 5 and got[-1] == 59 and len(set(got)) == 8
    for decoder in ("decord", "pyav"):
        assert numbers(read(path, at(0), stride=1, decoder=decoder).x) == list(range(5, 13))
        assert numbers(read(path, at(47), stride=1, decoder=decoder).x) == list(range(52, 60))


def test_a_still_scene_is_not_mistaken_for_repeated_frames(read, tmp_path):
    path = tmp_path / "still.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for i in range(30):
            frame = av.VideoFrame.from_ndarray(picture(77), format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert numbers(read(path).x) == [77] * 8


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"size": (16, 16)}, "three axes"),
        ({"channels": 4}, "channels=4"),
        ({"stride": 2, "fps": 5.0}, "one of them"),
        ({"stride": -1}, "stride=-1"),
        ({"fps": float("nan")}, "fps=nan"),
        ({"short": "loop"}, "short='loop'"),
        ({"decoder": "cv2"}, "decoder='cv2'"),
        ({"short_side": -5}, "short_side=-5"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_by_name(arguments, named):
    with pytest.raises(ValueError, match=named):
        VideoReader(**{"size": (8, 36, 64)} | arguments)


def test_a_crop_that_lies_outside_is_our_fault_and_not_the_files(read, clip):
    with pytest.raises(ValueError, match="does not lie"):
        read(clip, lambda extent: Crop((0, 0, 0), (extent[0] + 1, *extent[1:]), (False,) * 3))


def test_frames_smaller_than_a_crop_of_fixed_length_are_a_bad_file(read, clip):
    fixed = evaluation_sampler(AugmentConfig(fixed=(0, 1, 2)), (8, 80, 64))
    with pytest.raises(BadSample, match="frames are 128x72 pixels, smaller than the crop") as caught:
        read(clip, fixed, size=(8, 80, 64), short_side=0)
    assert caught.value.kind == "too small"
    read(clip, evaluation_sampler(AugmentConfig(fixed=(0, 1, 2)), (8, 72, 64)), size=(8, 72, 64), short_side=0)


def test_a_description_says_what_a_film_holds_and_who_reads_it(clip, tmp_path):
    np.savez(tmp_path / "a.npz", train_images=np.zeros((1, 9, 6, 8, 3), np.uint8))
    told = VideoReader((8, 36, 64)).describe
    assert told(clip) == "h264 yuv420p 128x72, 60 frames in 2.4 s, pyav"
    assert told(f"{tmp_path}/a.npz::train_images::0") == "array of 9 frames, 8x6"
    with_decord = VideoReader((8, 36, 64), decoder="decord").describe
    assert with_decord(clip).endswith("60 frames in 2.4 s, decord")
    avi = str(write(tmp_path / "b.avi", 30, "mpeg4", size=(48, 64)))
    assert with_decord(avi) == "mpeg4 yuv420p 64x48, 30 frames in 1.2 s, pyav"


def test_the_child_of_the_reader_imports_no_torch():
    """It starts in a third of a second, for each worker and after each file that killed one."""
    code = "import sys, mae_ext.data.video.child; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'av'" in loaded and "'torch'" not in loaded


def extents(reader, path, **arguments):
    """What a crop sampler is told of a film."""
    seen = []

    def crop(extent):
        seen.append(extent)
        return Crop((0,) * len(extent), extent, (False,) * len(extent))

    reader(path, crop, **arguments)
    return seen[0]


def test_crops_are_told_where_clips_can_begin_and_how_large_frames_are(read, clip, tmp_path):
    assert extents(read, clip, stride=4, short_side=0) == (60 - 28 + 7, 72, 128)
    assert extents(read, clip, stride=8, short_side=0) == (60 - 56 + 7, 72, 128)
    assert extents(read, clip, stride=9, short_side=0) == (1 + 7, 72, 128)  # too short by four frames
    # 25 frames a second: the seventh step of 0.2 s ends with the display of the last frame, half a frame later.
    assert extents(read, clip, fps=5, short_side=0) == (25 + 7, 72, 128)
    assert extents(read, clip, size=(8, 28, 40)) == (32 + 7, 32, 57)  # by default 8/7 of the shorter side of the output
    assert extents(read, clip, size=(8, 42, 28)) == (32 + 7, 32, 57)
    assert extents(read, clip, short_side=36) == (32 + 7, 36, 64)
    assert extents(read, clip, short_side=100) == (32 + 7, 72, 128)  # nothing is enlarged
    upright = write(tmp_path / "upright.mp4", 30, size=(128, 72))
    assert extents(read, upright, size=(2, 28, 40), short_side=36) == (30 - 4 + 1, 64, 36)


def test_a_box_is_cut_out_of_every_frame_in_rows_and_columns_and_flips_turn_it_upside_down(read, clip):
    whole = read(clip, at(3), stride=2, short_side=0, size=(8, 72, 128)).x

    def box(*flip):
        return lambda extent: Crop((3, 10, 20), (11, 50, 110), flip)

    cut = read(clip, box(False, False, False), stride=2, short_side=0, size=(8, 40, 90)).x
    assert torch.equal(cut, whole[:, :, 10:50, 20:110])
    turned = read(clip, box(False, True, False), stride=2, short_side=0, size=(8, 40, 90)).x
    assert torch.equal(turned, cut.flip(2)) and not torch.equal(turned, cut)


def test_a_longer_box_is_a_clip_spread_evenly_over_what_it_covers(read, clip):
    """30 positions of a clip of 8 at stride 4: from frame 10 up to where a clip at the last of them would end."""
    got = numbers(read(clip, lambda extent: Crop((10, 0, 0), (30, *extent[1:]), (False,) * 3), stride=4).x)
    assert got == np.linspace(10, 22 + 28, 8).round().tolist()


def test_a_rate_of_the_films_own_takes_every_frame_though_its_times_are_rounded(read, tmp_path):
    """A thirtieth of a second is 33 ms in a container that counts milliseconds, and 33 + 33 + 33 is not 100."""
    for rate in (24, 30, 60):
        path = write(tmp_path / f"{rate}.mkv", 40, pts=[round(1000 * i / rate) for i in range(40)])
        for first in (0, 1, 2):
            assert numbers(read(path, at(first), fps=rate).x) == list(range(first, first + 8))
            assert numbers(read(path, at(first), fps=rate / 2).x) == list(range(first, first + 16, 2))


def test_frames_without_times_follow_each_other_at_the_rate_of_the_stream(tmp_path, read):
    """A raw stream says how fast it is meant to be, and of no frame when."""
    path = tmp_path / "raw.mpg"
    with av.open(str(path), "w", format="mpeg2video") as container:
        stream = container.add_stream("mpeg2video", rate=10, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for i in range(30):
            frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert numbers(read(path, at(2), stride=3).x) == list(range(2, 26, 3))
    assert numbers(read(path, at(0), fps=5).x) == list(range(0, 16, 2))


def test_what_is_cached_is_asked_for_by_the_size_of_frames_and_keeps_their_times(tmp_path, clip):
    size, cache = (8, 36, 64), str(tmp_path / "cache")
    for arguments in ({"short_side": 40}, {"short_side": 60}, {"short_side": 0}, {"decoder": "pyav"}):
        crops = [at(3), crop_sampler(AugmentConfig(fixed=(0,)), size, rng(1))]
        cached, plain = (VideoReader(size, fps=5, **arguments, **more) for more in ({"cache": cache}, {}))
        for _ in range(2):  # built, then found
            for a, b in zip(cached.read(clip, crops), plain.read(clip, crops), strict=True):
                assert torch.equal(a.x, b.x)
    entry = cached.prepared(clip)
    assert entry.meta["times"] == pytest.approx([i / 25 for i in range(60)])
    assert len(list((tmp_path / "cache").rglob("*.array"))) == 4
