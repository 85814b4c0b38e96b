"""D1 to D4: films and scans that are damaged or lie about their size, and decoders that run wild."""

import ctypes
import gzip
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from data.video.numbered_clips import at, numbers, write
from data.video.test_decoder import STUB
from data.volume.test_faults import BAD, CENTRE, SIZE, nifti
from fault_list.trial import Outcome, Row, limit_memory, peak_anew, processor_s, status_bytes
from faults.conftest import png_header
from faults.test_video_faults import CODECS, DEADLINE_S, dropped, flipped, truncated, verdict, zeroed

from mae_ext.data.crops import center_sampler
from mae_ext.data.image.reader import ImageReader
from mae_ext.data.loading.sandbox import Sandbox
from mae_ext.data.video.decoder import Children
from mae_ext.data.video.reader import VideoReader
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import BadSample

Damage = Callable[[bytes, np.random.Generator], bytes]
COUNT, A_TRIAL = 60, 10


def other_tag(content: bytes, chance: np.random.Generator) -> bytes:
    """Another codec's name where the codec's stands."""
    tags = [b"hvc1", b"mp4v", b"av01", b"vp09", b"xxxx", b"\0\0\0\0", b"jpeg", b"s263"]
    other = tags[chance.integers(len(tags))]
    for tag in (b"avc1", b"V_MPEG4/ISO/AVC", b"FMP4", b"V_VP9"):
        content = content.replace(tag, other.ljust(len(tag), b" ")[: len(tag)])
    return content


def huge(content: bytes, chance: np.random.Generator) -> bytes:
    """Width and height of the container's entry: up to 65535 pixels."""
    at_entry = content.find(b"avc1") + 28
    sides = chance.integers(20_000, 65_535, 2).astype(">u2").tobytes()
    return content[:at_entry] + sides + content[at_entry + 4 :]


DAMAGE: dict[str, Damage | None] = {
    "truncated": truncated, "1 bit": flipped(1), "20 bits": flipped(20), "200 bits": flipped(200),
    "2000 bits": flipped(2000), "zeroed": zeroed, "a part missing": dropped, "codec tag": other_tag, "huge": huge,
    "edit list": None, "0 or 1 frame": None, "variable rate": None,
}  # fmt: skip
BENIGN = ("edit list", "0 or 1 frame", "variable rate")


def prepare_films(shared: Path) -> None:
    for name, codec in CODECS.items():
        write(shared / name, COUNT, codec)


def made(kind: str, draw: int, path: Path) -> Path:
    """A film that is odd and not damaged."""
    chance = np.random.default_rng([draw, len(kind)])
    if kind == "edit list":
        return write(path, COUNT, shift=-1 - draw % 20)
    if kind == "0 or 1 frame":
        return write(path, draw % 2)
    return write(path, COUNT, pts=np.cumsum(chance.integers(1, 120, COUNT)).tolist())


def film(number: int, folder: Path, shared: Path) -> Outcome:
    kind = list(DAMAGE)[number % len(DAMAGE)]
    reader, lost, note, slowest = VideoReader((16, 36, 64), stride=1, deadline_s=DEADLINE_S), [], {}, 0.0
    for k in range(A_TRIAL):
        draw, name = A_TRIAL * (number // len(DAMAGE)) + k, list(CODECS)[k % len(CODECS)]
        damage = DAMAGE[kind]
        if damage is None or kind == "huge":
            name = "h264.mp4"
        path = folder / f"{draw}-{name}"
        if damage is None:
            made(kind, draw, path)
        else:
            chance = np.random.default_rng([draw, len(kind), len(name)])
            path.write_bytes(damage((shared / name).read_bytes(), chance))
        began = time.monotonic()
        result = odd_verdict(reader, path) if kind in BENIGN else verdict(reader, path)[0]
        slowest = max(slowest, time.monotonic() - began)
        note[f"count {result}"] = note.get(f"count {result}", 0) + 1
        if result in ("wrong pixels", "a frame twice", "crashed", "out of memory") or slowest > 3 * DEADLINE_S + 5:
            lost.append(f"{kind}, {path.name}: {result} after {slowest:.1f} s")
    return Outcome(A_TRIAL, tuple(lost), {**note, "slowest s": round(slowest, 1)})


def odd_verdict(reader: VideoReader, path: Path) -> str:
    """Of a film that is whole: each clip counts on by one, or holds its last frame; else a kind of BadSample."""
    try:
        x = reader.read(str(path), [at(0, (16, 36, 64))])[0].x
    except BadSample as error:
        return error.kind
    shown = numbers(x)
    wanted = [min(shown[0] + i, max(shown)) for i in range(len(shown))]
    return "right" if shown == wanted else "wrong pixels"


def in_c(kind: str) -> tuple[Any, ...]:
    """What runs wild in C, with the interpreter's lock held."""
    return {
        "spins": (re.match, "(a+)+$", "a" * 60 + "b"),
        "segfaults": (ctypes.string_at, 0),
        "allocates 100 GB": (bytearray, 100 << 30),
    }[kind]


VERDICTS = {"spins": "hung", "segfaults": "crashed", "allocates 100 GB": "out of memory"}
FATES = {
    "spins": "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')",
    "segfaults": "import ctypes; ctypes.string_at(0)",
    "allocates 100 GB": "import ctypes; ctypes.memset(ctypes.CDLL(None).malloc(100 << 30), 1, 100 << 30)",
}
"""Of a decoding child, which ends by it: of its memory nobody is told but the kernel."""


def wild(number: int, folder: Path, _: Path) -> Outcome:
    """Ten of a kind, in the sandbox of loaders (the first half) or in a decoder of films."""
    kind, lost = list(VERDICTS)[number % 3], []
    if number < 9:
        with Sandbox(deadline_s=0.3, memory_bytes=1 << 30) as box:
            for k in range(A_TRIAL):
                try:
                    box.call(*in_c(kind), name=f"{k}.mp4")
                    lost.append(f"{kind}: no verdict")
                except BadSample as error:
                    lost += [] if (error.path, error.kind) == (f"{k}.mp4", VERDICTS[kind]) else [str(error)]
            lost += [] if box.call(len, "alive") == 5 else ["the next call failed"]
        return Outcome(A_TRIAL, tuple(lost))
    program = folder / "stub.py"
    program.write_text(STUB.replace("FATE", FATES[kind]))
    children = Children(0.5, 1 << 30, 1 << 20, child=program)
    for k in range(A_TRIAL):
        path = folder / f"{k}.mp4"
        path.write_bytes(b"\0\0\0\x18ftypisom")
        try:
            VideoStub(children).frames(str(path))
            lost.append(f"{kind}: no verdict")
        except BadSample as error:
            fits = error.path == str(path) and error.kind in (VERDICTS[kind], "crashed")
            lost += [] if fits else [str(error)]
    return Outcome(A_TRIAL, tuple(lost))


class VideoStub:
    """Asks a decoding child for frames, as the reader does."""

    def __init__(self, children: Children) -> None:
        self.reader = VideoReader((2, 2, 3), stride=1)
        self.reader.children = children

    def frames(self, path: str) -> None:
        self.reader.read(path, [at(0, (2, 2, 3))])


SEEDS = 25


def scan(number: int, folder: Path, _: Path) -> Outcome:
    """A kind of damage, 25 times, in 1.5 GB of address space."""
    kind = list(BAD)[number]
    name, make, expected = BAD[kind]
    reader, lost = VolumeReader(SIZE), []
    sound = folder / "sound.nii"
    sound.write_bytes(nifti(0))
    reader.read(str(sound), [CENTRE])  # what is imported for it is not counted
    limit_memory(3 << 29)
    for seed in range(SEEDS):
        path = folder / name
        path.write_bytes(make(seed))
        try:
            reader.read(str(path), [CENTRE])
            lost.append(f"{kind}, seed {seed}: believed")
        except BadSample as error:
            lost += [] if error.kind == expected else [f"{kind}, seed {seed}: {error.kind}, expected {expected}"]
    return Outcome(SEEDS, tuple(lost))


BOMB_LIMIT = 64 << 20
QUICK_S = 1.0
"""Of a processor."""


def film_bomb(draw: int, path: Path) -> bytes:
    write(path, 8)
    return huge(path.read_bytes(), np.random.default_rng(draw))


def nifti_bomb(draw: int, _: Path) -> bytes:
    sides = [3, 1024 + 64 * draw, 1024, 512, 1, 1, 1, 1]
    block = nifti(draw, fix=lambda header: header.__setitem__("dim", sides))[:352]
    return gzip.compress(block, 9, mtime=0)


def gzip_bomb(draw: int, _: Path) -> bytes:
    """A thousand bytes for one, and a stream that goes on far past the voxels of its header."""
    side = 40 + 4 * draw
    block = nifti(draw, fix=lambda header: header.__setitem__("dim", [3, side, 512, 512, 1, 1, 1, 1]))[:352]
    return gzip.compress(block + bytes(4 * BOMB_LIMIT), 9, mtime=0)


BOMBS: dict[str, tuple[str, Callable[[int, Path], bytes]]] = {
    "NIfTI of 61 bytes": ("x.nii.gz", nifti_bomb),
    "PNG of 65 000 x 65 000": ("x.png", lambda draw, _: png_header(65_000 - draw, 65_000)),
    "gzip 1000 : 1": ("x.nii.gz", gzip_bomb),
    "mp4 of 20 000 to 65 535 pixels": ("x.mp4", film_bomb),
}


def bomb(number: int, folder: Path, _: Path) -> Outcome:
    kind = list(BOMBS)[number % len(BOMBS)]
    name, make = BOMBS[kind]
    readers = {
        "x.nii.gz": (VolumeReader(SIZE, max_bytes=BOMB_LIMIT), CENTRE),
        "x.png": (ImageReader((16, 16)), center_sampler((16, 16))),
        "x.mp4": (VideoReader((2, 16, 16), stride=1), at(0, (2, 16, 16))),
    }
    (reader, crop), lost, slowest, most, path = readers[name], [], 0.0, 0, folder / name
    for warm in (True, False):  # imports and a decoding child are not counted
        for draw in range(1 if warm else 5):
            path.write_bytes(make(draw + 5 * (number // len(BOMBS)), path))
            before, began = peak_anew(), processor_s()
            try:
                reader.read(str(path), [crop])
                result = "believed"
            except BadSample as error:
                result = error.kind
            seconds, peak = processor_s() - began, status_bytes("VmHWM") - before
            if warm:
                continue
            slowest, most = max(slowest, seconds), max(most, peak)
            # A film whose entry lies is decoded at the size that its packets say: right, and of no size to speak of.
            fine = result != "believed" or name == "x.mp4"
            if not fine or seconds > QUICK_S or peak > 2 * BOMB_LIMIT:
                lost.append(f"{kind}: {result} after {seconds:.2f} s, {peak >> 20} MiB")
    return Outcome(5, tuple(lost), {"slowest processor s": round(slowest, 2), "peak MiB": most >> 20})


ROWS = (
    Row(
        "D1",
        "films: cut, 1 to 2000 bits flipped, zeroed, parts missing, other codec tags, huge sizes, edit lists, 0 or 1 "
        "frame, variable rate: right, or named in the ledger; none crashes or hangs, no frame twice",
        {"quick": 12, "full": 108}, film, 1800, prepare_films,
    ),
    Row(
        "D2",
        "decoders that spin in C, segfault, or allocate 100 GB, in the sandbox and in decoding children: the child is "
        "killed, the file named, the parent goes on",
        {"quick": 6, "full": 18}, wild, 300,
    ),
    Row(
        "D3", f"{len(BAD)} kinds of damaged NIfTI, {SEEDS} times each, in 1.5 GB: the verdict of its kind",
        {"quick": 4, "full": len(BAD)}, scan, 300,
    ),
    Row(
        "D4",
        "NIfTI, PNG, gzip and mp4 that promise gigabytes: refused in 1 s of a processor, in less than twice the limit",
        {"quick": 4, "full": 8}, bomb, 300,
    ),
)  # fmt: skip
