"""A film of sixty frames, and one way to read any."""

import pytest
from data.video.numbered_clips import FIXED, write

from mae_ext.data.crops import evaluation_sampler
from mae_ext.data.video.reader import VideoReader


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(write(tmp_path_factory.mktemp("clips") / "sixty.mp4"))


@pytest.fixture(scope="module")
def read():
    """One reader's children serve many tests; (path, sampler or none, **arguments) -> Sample."""
    readers = {}

    def call(path, *crops, size=(8, 36, 64), **arguments):
        key = (size, *sorted(arguments.items()))
        reader = readers.setdefault(key, VideoReader(size, **arguments))
        samples = reader.read(str(path), crops or [evaluation_sampler(FIXED, size)])
        return samples[0] if len(samples) == 1 else samples

    return call
