"""One cache folder for all ways of reading: no option of a reader is served what another value of it left there."""

import inspect
from pathlib import Path

import av
import nibabel as nib
import numpy as np
import pytest
import torch

pytest.importorskip("pydicom", reason="DICOM is an optional extra: pip install 'mae-ext[dicom]'")

from data.volume.dicom.dicom_files import series

from mae_ext.config import AugmentConfig
from mae_ext.data.crops import evaluation_sampler
from mae_ext.data.video.reader import VideoReader
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import BadSample

SIZE = (8, 10, 12)
CLIP = (4, 16, 20)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A ball in faint noise, the same with few voxels that are not finite, two in time, and one as an array's row."""
    root = tmp_path_factory.mktemp("scans")
    z, y, x = np.mgrid[-8:8, -10:10, -11:11]
    ball = np.where(z**2 + y**2 + x**2 < 40, 900, 10) + np.random.default_rng(0).normal(0, 5, (16, 20, 22))
    holes, later = ball.copy(), np.roll(ball, 3, axis=2)
    holes[0, 0, :15] = np.nan
    files = {"scan": ball, "scan_b": later, "holes": holes, "twice": np.stack([ball, later, ball / 2], -1)}
    for name, voxels in files.items():
        image = nib.Nifti1Image(np.moveaxis(voxels, (0, 1, 2), (2, 1, 0)).astype(np.float32), np.diag([1, 1, 2, 1.0]))
        image.to_filename(root / f"{name}.nii.gz")
    np.savez(root / "rows.npz", train_images=ball[None].astype(np.float32))
    np.savez(root / "two.npz", one=ball.astype(np.float32), other=(ball / 3).astype(np.float32))
    leaning = [1, 0, 0, 0, np.cos(0.2), np.sin(0.2)]
    series(root / "tilted", ball.astype(np.int16), ImageOrientationPatient=leaning)
    made = {name: str(root / f"{name}.nii.gz") for name in files} | {"tilted": f"{root}/tilted/"}
    return made | {"row": f"{root}/rows.npz::train_images::0", "two": f"{root}/two.npz"}


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("films") / "a.mp4")
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(16):
            pixels = np.random.default_rng(i // 2).integers(0, 255, (64, 96, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


VOLUME_WAYS = {
    "spacing": ("scan", {}, {"spacing": [1.5, 2, 2]}),
    "intensity": ("scan", {}, {"intensity": "percentile"}),
    "bands": ("twice", {"channel_axis": 3, "bands": [0]}, {"channel_axis": 3, "bands": [1]}),
    "the numbers of an intensity": (
        "scan",
        {"intensity": {"name": "window", "windows": [[0, 100]]}},
        {"intensity": {"name": "window", "windows": [[0, 900]]}},
    ),
    "channels": (
        "scan",
        {"intensity": {"name": "window", "windows": [[0, 100]]}},
        {"intensity": {"name": "window", "windows": [[0, 100], [0, 900]]}, "channels": 2},
    ),
    "body": ("scan", {}, {"body": 400.0}),
    "the threshold of a body": ("scan", {"body": 400.0}, {"body": 12.0}),
    "body by name": ("scan", {"body": 12.0}, {"body": "otsu"}),
    "time": ("twice", {"time_axis": 3, "time": "first"}, {"time_axis": 3, "time": "middle"}),
    "the mean over time": ("twice", {"time_axis": 3, "time": "first"}, {"time_axis": 3, "time": "mean"}),
    "time_axis": ("twice", {"channel_axis": 3, "channels": 3}, {"time_axis": 3, "time": "first"}),
    "channel_axis": ("twice", {"time_axis": 3, "time": "first"}, {"channel_axis": 3, "channels": 3}),
    "array_spacing": ("row", {"spacing": [1, 1, 1]}, {"spacing": [1, 1, 1], "array_spacing": [2, 1, 1]}),
    "resampled": ("scan", {"spacing": [1.5, 2, 2]}, {"spacing": [1.5, 2, 2], "resampled": "float16"}),
    "dataset": ("two", {"dataset": "one"}, {"dataset": "other"}),
    "case": ("scan", {"case": "{case}.nii.gz"}, {"case": ["{case}.nii.gz", "{case}_b.nii.gz"], "channels": 2}),
    "uneven": ("tilted", {"uneven": "keep"}, {"uneven": "resample"}),
    "size": ("scan", {}, {"size": (6, 8, 10)}),
    "min_body": ("scan", {"body": 400.0}, {"body": 400.0, "min_body": 0.5}),
}
VIDEO_WAYS = {
    "short_side": ({}, {"short_side": 30}),
    "frames as they are stored": ({}, {"short_side": 0}),
    "the short side that follows from the size": ({}, {"size": (4, 24, 24)}),
    "size": ({}, {"size": (2, 16, 20)}),
    "channels": ({}, {"channels": 1}),
    "stride": ({}, {"stride": 1}),
    "fps": ({}, {"fps": 12.5}),
    "short": ({"stride": 9}, {"stride": 9, "short": "spread"}),
    "decoder": ({"decoder": "pyav"}, {"decoder": "decord"}),
}
LIMITS = {"max_bytes", "deadline_s", "max_pixels", "memory_bytes", "keep_bytes", "segments"}
"""Of these a file is refused or read: what is read does not depend on them. Segments are of label maps, which no cache
holds."""
SAME = {"decoder", "min_body"}
"""Decoders give the same bytes; of one box that all evaluation asks for there is no choice."""


def look(make, options, address, cache=None):
    options = dict(options)
    size = options.pop("size", CLIP if make is VideoReader else SIZE)
    augment = AugmentConfig(fixed=(0,) if make is VideoReader else (0, 1, 2), flip=())
    (sample,) = make(size, **options, cache=cache).read(address, [evaluation_sampler(augment, size)])
    return sample


def alike(a, b):
    if (a.valid is None) != (b.valid is None) or a.x.shape != b.x.shape or a.spacing != b.spacing:
        return False
    return torch.equal(a.x, b.x) and (a.valid is None or torch.equal(a.valid, b.valid))


def check(make, name, address, before, after, folder):
    cache = str(folder / "cache")
    first, second = look(make, before, address), look(make, after, address)
    assert alike(first, second) == (name in SAME)
    for options, wanted in ((before, first), (after, second), (before, first), (after, second)):
        assert alike(look(make, options, address, cache), wanted)


@pytest.mark.parametrize("name", VOLUME_WAYS)
def test_a_scan_from_the_cache_is_what_the_reader_would_read_now(scans, name, tmp_path):
    which, before, after = VOLUME_WAYS[name]
    check(VolumeReader, name, scans[which], before, after, tmp_path)


@pytest.mark.parametrize("name", VIDEO_WAYS)
def test_a_clip_from_the_cache_is_what_the_reader_would_read_now(film, name, tmp_path):
    check(VideoReader, name, film, *VIDEO_WAYS[name], tmp_path)


def test_a_scan_that_is_refused_is_refused_with_the_cache_too(scans, tmp_path):
    """Its entry is there: of a reader that put up with it."""
    cache = str(tmp_path / "cache")
    look(VolumeReader, {"min_finite": 0.5}, scans["holes"], cache)
    with pytest.raises(BadSample, match="non-finite"):
        look(VolumeReader, {"min_finite": 0.999}, scans["holes"], cache)


@pytest.mark.parametrize(
    ("make", "ways"), [(VolumeReader, {*VOLUME_WAYS, "min_finite"}), (VideoReader, set(VIDEO_WAYS))]
)
def test_no_option_of_a_reader_is_forgotten_here(make, ways):
    """A new one has to say which of the two it is: one that changes what is read, or a limit."""
    assert set(inspect.signature(make).parameters) - {"cache"} <= ways | LIMITS


def test_a_file_that_changed_is_read_again(scans, tmp_path):
    cache, path = str(tmp_path / "cache"), tmp_path / "a.nii.gz"
    path.write_bytes(Path(scans["scan"]).read_bytes())
    before = look(VolumeReader, {}, str(path), cache)
    path.write_bytes(Path(scans["holes"]).read_bytes())
    after = look(VolumeReader, {"min_finite": 0.5}, str(path), cache)
    assert not alike(before, after) and alike(after, look(VolumeReader, {"min_finite": 0.5}, str(path)))
