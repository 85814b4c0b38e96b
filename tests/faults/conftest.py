"""A bad file of each kind, and commands whose every word is heard."""

import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mae_ext.cli import run


def png_header(width, height):
    """A PNG that says it is that large, and is 70 bytes."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture
def bad_file(tmp_path):
    """Content of a bad file by kind."""
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(whole)
    content = whole.read_bytes()
    return {
        "truncated": ("x.png", content[: len(content) // 2]),
        "empty": ("x.png", b""),
        "too large": ("x.png", png_header(65_000, 65_000)),
        "not an image": ("x.jpg", b"This is not a photograph, it is a letter.\n"),
        "damaged": ("x.png", content[:20] + b"\xff" * 30 + content[50:]),
    }


@pytest.fixture
def said(capfd, tmp_path):
    """Run a command line; -> the one line that it complained with, after it was found to be that."""

    def call(code, *arguments):
        capfd.readouterr()
        found = run([str(a) for a in arguments])
        out, err = capfd.readouterr()
        assert found == code, err
        assert "Traceback" not in out + err
        complaints = [line for line in err.splitlines() if line.startswith("mae-ext")]
        assert len(complaints) == 1, err
        if code == 2:
            # What was found, and what is done with it, is said before it is refused: a line each, for each modality.
            before = [r"image: \d+ files? of ", "modality 'image': measuring mean and standard deviation on "]
            assert err.splitlines()[-1] == complaints[0] and err.count("\n") <= 3, err
            assert all(re.match("|".join(before), line) for line in err.splitlines()[:-1]), err
        return complaints[0] if code == 2 else err[err.index("mae-ext: ") :]

    return call


@pytest.fixture
def pretrain(said, tiny, photos, tmp_path):
    def call(code, *more, config=None, data=photos, out=tmp_path / "run"):
        return said(code, "pretrain", config or tiny(), "--data", data, "--out", out, *more)

    return call
