"""Compressed DICOM, for tests: the pixels of a file that was written raw, in another transfer syntax."""

from io import BytesIO

import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import encapsulate

SYNTAX = {
    "RLE": "1.2.840.10008.1.2.5",
    "deflated": "1.2.840.10008.1.2.1.99",
    **{
        name: f"1.2.840.10008.1.2.4.{n}"
        for name, n in {
            "JPEG": 50, "JPEG of 12 bits": 51, "lossless JPEG": 70, "lossless JPEG of any predictor": 57, "JPEG-LS": 80,
            "JPEG-LS, nearly": 81, "JPEG 2000": 90, "JPEG 2000, lossy": 91, "HTJ2K": 201,
        }.items()
    },
}  # fmt: skip
"""PS3.6, table A-1."""


def stream(kind, plane, bits):
    """(rows, columns) of one frame, compressed."""
    if kind == "JPEG":
        out = BytesIO()
        Image.fromarray(plane).save(out, "JPEG", quality=95)
        return out.getvalue()
    import imagecodecs as codecs

    j2k = {"codecformat": "j2k", "bitspersample": bits}
    whole = np.ascontiguousarray(plane)
    unsigned = (whole.astype(np.int64) % (1 << bits)).astype(f"u{whole.itemsize}")
    return {
        "JPEG of 12 bits": lambda: codecs.jpeg8_encode(unsigned, level=95, bitspersample=12),
        "lossless JPEG": lambda: codecs.jpeg8_encode(unsigned, lossless=True, predictor=1, bitspersample=16),
        "lossless JPEG of any predictor": lambda: codecs.jpeg8_encode(
            unsigned, lossless=True, predictor=6, bitspersample=16
        ),
        "JPEG-LS": lambda: codecs.jpegls_encode(unsigned),
        "JPEG-LS, nearly": lambda: codecs.jpegls_encode(unsigned, level=2),
        "JPEG 2000": lambda: codecs.jpeg2k_encode(whole, reversible=True, level=0, **j2k),
        "JPEG 2000, lossy": lambda: codecs.jpeg2k_encode(whole, level=60, **j2k),
        "HTJ2K": lambda: codecs.htj2k_encode(whole),
    }[kind]()  # fmt: skip


def _run_lengths(plane):
    """PS3.5, annex G: bytes of a pixel apart, the highest first, each in runs and in stretches of up to 128."""
    segments = []
    for byte in reversed(range(plane.itemsize)):
        line, packed, at = plane.view(np.uint8).reshape(-1, plane.itemsize)[:, byte].tobytes(), bytearray(), 0
        while at < len(line):
            run = 1
            while run < 128 and line[at : at + 1] == line[at + run : at + run + 1]:
                run += 1
            packed += bytes([257 - run, line[at]]) if run > 1 else bytes([0, line[at]])
            at += run
        segments.append(bytes(packed) + bytes(len(packed) % 2))
    offsets = 64 + np.cumsum([0, *map(len, segments)])
    header = np.zeros(16, "<u4")
    header[0], header[1 : len(offsets)] = len(segments), offsets[:-1]
    return header.tobytes() + b"".join(segments)


def save_as(path, kind, change=lambda frames: frames, **tags):
    """The raw file at `path` becomes one of the kind. change: what is done to its compressed frames before."""
    data = pydicom.dcmread(path)
    stored = data.pixel_array
    planes = stored if stored.ndim == 3 else stored[None]
    for key, value in tags.items():
        setattr(data, key, value)
    data.file_meta.TransferSyntaxUID = SYNTAX[kind]
    if kind != "deflated":
        frames = [_run_lengths(p) if kind == "RLE" else stream(kind, p, int(data.BitsStored)) for p in planes]
        data.PixelData = encapsulate(change(frames))
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True
    data.save_as(path, enforce_file_format=True)
