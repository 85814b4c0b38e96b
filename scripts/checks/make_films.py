"""Seventy small films of the kinds that are out there, made with the ffmpeg on the PATH.

    python scripts/checks/make_films.py --out films                 # some seconds each, 6 MB together
    python scripts/checks/make_films.py --out films --only open     # those whose name holds the word

Codecs and containers; B-frames or none; open and closed groups of pictures; pictures refreshed in strips without a key
frame; times that are not even; edit lists; streams copied or cut in their midst; frames that are decoded and not shown;
rotated and mirrored ones. A kind that this ffmpeg has no encoder for is left out, and said.
"""

import argparse
import struct
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av

SCENE = "testsrc2=size=128x96:rate=25:duration=6"
"""150 frames with a running clock; every one differs from every other."""

OPEN = "open-gop=1:keyint=25:min-keyint=25:scenecut=0:bframes=3"
CLOSED = "keyint=25:bframes=3"
HEVC = "keyint=25:log-level=none"

ENCODED = {
    "h264.mp4": "-c:v libx264 -x264-params " + CLOSED,
    "h264_no_b.mp4": "-c:v libx264 -bf 0 -g 25",
    "h264_open.mp4": "-c:v libx264 -x264-params " + OPEN,
    "h264_open_no_pyramid.mp4": "-c:v libx264 -x264-params " + OPEN + ":b-pyramid=none",
    "h264_open.mkv": "-c:v libx264 -x264-params " + OPEN,
    "h264_open.ts": "-c:v libx264 -x264-params " + OPEN,
    "h264_open.avi": "-c:v libx264 -x264-params " + OPEN,
    "h264_refresh.mp4": "-c:v libx264 -x264-params intra-refresh=1:keyint=25:bframes=0",
    "h264_refresh.ts": "-c:v libx264 -x264-params intra-refresh=1:keyint=25",
    "h264_refresh.mkv": "-c:v libx264 -x264-params intra-refresh=1:keyint=25:bframes=2",
    "h264.mov": "-c:v libx264 -g 25",
    "h264.flv": "-c:v libx264 -g 25",
    "h264.3gp": "-c:v libx264 -g 25 -profile:v baseline",
    "h264.ts": "-c:v libx264 -g 25",
    "h264.m2ts": "-c:v libx264 -g 250",
    "h264.avi": "-c:v libx264 -bf 3 -g 25",
    "h264_no_b.avi": "-c:v libx264 -bf 0 -g 25",
    "h264_vfr.mkv": r"-vf setpts=(N+0.4*mod(N*7\,3))/25/TB -vsync passthrough -c:v libx264 -g 25",
    "h264_vfr.mp4": "-vf select='not(eq(mod(n*n\\,7)\\,2))' -vsync vfr -c:v libx264 -g 25",
    "h264_interlaced.mp4": "-c:v libx264 -flags +ildct+ilme -g 25",
    "h264_10bit.mkv": "-c:v libx264 -pix_fmt yuv420p10le -g 25",
    "h264_444.mp4": "-c:v libx264 -pix_fmt yuv444p -g 25",
    "h264_fragments.mp4": "-c:v libx264 -g 25 -movflags frag_keyframe+empty_moov+default_base_moof",
    "h264_intra.mp4": "-c:v libx264 -g 1",
    "hevc.mp4": "-c:v libx265 -x265-params " + HEVC,
    "hevc_closed.mp4": "-c:v libx265 -x265-params open-gop=0:" + HEVC,
    "hevc_long_gop.mp4": "-c:v libx265 -x265-params log-level=none",
    "hevc.mkv": "-c:v libx265 -x265-params " + HEVC,
    "hevc.ts": "-c:v libx265 -x265-params bframes=8:" + HEVC,
    "hevc_10bit.mp4": "-c:v libx265 -pix_fmt yuv420p10le -x265-params " + HEVC,
    "mpeg4.avi": "-c:v mpeg4 -bf 2 -g 25",
    "mpeg4_no_b.avi": "-c:v mpeg4 -g 25",
    "mpeg4.mp4": "-c:v mpeg4 -bf 2 -g 25",
    "mpeg4.mkv": "-c:v mpeg4 -bf 2 -g 25",
    "mpeg4_quarter_pixels.avi": "-c:v mpeg4 -flags +qpel+mv4 -bf 2 -g 25",
    "xvid.avi": "-c:v libxvid -bf 2 -g 25",
    "msmpeg4v2.avi": "-c:v msmpeg4v2 -g 25",
    "msmpeg4v3.avi": "-c:v msmpeg4 -g 25",
    "wmv1.wmv": "-c:v wmv1 -g 12",
    "wmv2.wmv": "-c:v wmv2 -g 12",
    "h263.3gp": "-c:v h263 -g 25",
    "flv1.flv": "-c:v flv -g 25",
    "mpeg1.mpg": "-c:v mpeg1video -bf 2 -g 12",
    "mpeg2.mpg": "-c:v mpeg2video -bf 2 -g 12",
    "mpeg2.ts": "-c:v mpeg2video -bf 2 -g 12",
    "mpeg2_closed.mkv": "-c:v mpeg2video -bf 2 -g 12 -flags +cgop -sc_threshold 1000000000",
    "mpeg2_interlaced.ts": "-c:v mpeg2video -bf 2 -g 12 -flags +ildct+ilme",
    "vp8.webm": "-c:v libvpx -b:v 200k -g 50",
    "vp8_hidden.webm": "-c:v libvpx -b:v 200k -g 50 -auto-alt-ref 1 -lag-in-frames 16",
    "vp9.webm": "-c:v libvpx-vp9 -b:v 200k -g 50 -auto-alt-ref 1 -lag-in-frames 16",
    "vp9.mp4": "-c:v libvpx-vp9 -b:v 200k -g 50",
    "av1.mp4": "-c:v libsvtav1 -g 50 -preset 10",
    "av1.mkv": "-c:v libsvtav1 -g 50 -preset 8",
    "mjpeg.avi": "-c:v mjpeg -pix_fmt yuvj420p",
    "mjpeg.mov": "-c:v mjpeg -pix_fmt yuvj420p",
    "theora.ogv": "-c:v libtheora -g 25",
    "prores.mov": "-c:v prores_ks",
    "ffv1.mkv": "-c:v ffv1 -g 25",
    "huffyuv.avi": "-c:v huffyuv",
    "cinepak.avi": "-c:v cinepak",
    "gif.gif": "-c:v gif",
    "rawvideo.avi": "-c:v rawvideo",
}  # fmt: skip

TWO_PASSES = {"vp8_hidden.webm", "vp9.webm"}

COPIED = {
    "h264_copied.mkv": ("h264.mp4", "-c copy"),
    "h264_cut.mkv": ("h264_open.mp4", "-ss 2.3 -c copy"),
    "h264_edited.mp4": ("h264.mp4", "-ss 1.5 -t 3 -c copy"),
    "h264_open_edited.mp4": ("h264_open.mp4", "-ss 2.3 -c copy"),
    "h264_remuxed.avi": ("h264_open.mp4", "-c copy -bsf:v h264_mp4toannexb"),
    "hevc_cut.mkv": ("hevc.mp4", "-ss 3.3 -c copy"),
    "hevc_cut.mp4": ("hevc.mp4", "-ss 3.3 -c copy"),
    "hevc_copied.ts": ("hevc.mp4", "-c copy"),
    "mpeg2_cut.mkv": ("mpeg2.ts", "-ss 3.3 -c copy"),
    "mpeg4_cut.mp4": ("mpeg4.mp4", "-ss 2.3 -c copy"),
    "vp8_hidden.mkv": ("vp8_hidden.webm", "-c copy"),
}
"""What it is copied from, and how."""

MIDST = {
    "h264_midst.ts": ("h264.ts", 7), "h264_open_midst.ts": ("h264_open.ts", 5), "hevc_midst.ts": ("hevc.ts", 6),
    "mpeg2_midst.ts": ("mpeg2.ts", 5), "h264_refresh_midst.ts": ("h264_refresh.ts", 4),
}  # fmt: skip
"""The stream's first tables, then all from a part of it on, as when a receiver is switched on."""

TURNED = {
    "turned_90.mp4": (0, 1, -1, 0), "turned_180.mp4": (-1, 0, 0, -1), "turned_270.mp4": (0, -1, 1, 0),
    "mirrored.mp4": (-1, 0, 0, 1), "upside_down.mp4": (1, 0, 0, -1), "transposed.mp4": (0, 1, 1, 0),
}  # fmt: skip
"""a, b, c, d of the display matrix: a pixel at (x, y) is shown at (a x + c y, b x + d y)."""


ONE_B = "mpeg4_one_b.avi"


def ffmpeg(*arguments: str) -> None:
    """Raises subprocess.CalledProcessError where ffmpeg fails."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True)


def encode(name: str, out: Path) -> None:
    words = ["-f", "lavfi", "-i", SCENE, *ENCODED[name].replace("'", "").split()]
    if "-pix_fmt" not in words:
        words += ["-pix_fmt", _pixels(name)]
    if name in TWO_PASSES:
        log = ["-passlogfile", str(out / f".{name}")]
        ffmpeg(*words, "-pass", "1", *log, "-f", "null", "-")
        words += ["-pass", "2", *log]
    ffmpeg(*words, "-threads", "1", str(out / name))
    for left in out.glob(f".{name}*"):
        left.unlink()


def _pixels(name: str) -> str:
    if name.startswith(("cinepak", "gif")):
        return "rgb24" if name.startswith("cinepak") else "rgb8"
    return "yuv422p10le" if name.startswith("prores") else "yuv422p" if name.startswith("huffyuv") else "yuv420p"


def midst(name: str, out: Path) -> None:
    source, part = MIDST[name]
    data = (out / source).read_bytes()
    (out / name).write_bytes(data[: 188 * 3] + data[188 * (len(data) // 188 // part) :])


def turned(name: str, out: Path) -> None:
    """The display matrix in the track's header, overwritten: nine numbers of 16.16, the last column's of 2.30."""
    a, b, c, d = TURNED[name]
    data = bytearray((out / "h264.mp4").read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    (out / name).write_bytes(data)


def packed(name: str, out: Path) -> None:
    """DivX's way with B-frames in AVI: two pictures in a packet, then a packet that says "nothing new"."""
    with av.open(str(out / ONE_B)) as source:
        stream = source.streams.video[0]
        packets = [bytes(packet) for packet in source.demux(stream) if packet.size]
        header = packets[0]
        with av.open(str(out / name), "w") as target:
            made = target.add_stream_from_template(stream)
            made.codec_context.codec_tag = "DX50"
            chunks, i = [], 0
            while i < len(packets):
                kind = packets[i][packets[i].index(b"\0\0\1\xb6") + 4] >> 6
                following = packets[i + 1] if i + 1 < len(packets) else b""
                is_pair = kind != 2 and following and following[following.index(b"\0\0\1\xb6") + 4] >> 6 == 2
                if is_pair:
                    chunks += [packets[i] + following, b"\0\0\1\xb6\x50\x7f"]
                else:
                    chunks.append(packets[i])
                i += 2 if is_pair else 1
            at = header.index(b"\0\0\1\xb6")
            at = header.index(b"\0\0\1\xb2") if b"\0\0\1\xb2" in header else at
            end = header.index(b"\0\0\1\xb6")
            chunks[0] = header[:at] + b"\0\0\1\xb2DivX503b1393p\0" + header[end:] + chunks[0][len(header) :]
            for number, chunk in enumerate(chunks):
                packet = av.Packet(chunk)
                packet.stream, packet.pts, packet.dts, packet.duration = made, number, number, 1
                packet.time_base = Fraction(1, 25)
                packet.is_keyframe = chunk[chunk.index(b"\0\0\1\xb6") + 4] >> 6 == 0
                target.mux(packet)


def make(out: Path, only: str = "") -> list[Path]:
    """All films that this ffmpeg can make, in order. only: of those the ones whose name holds it."""
    out.mkdir(parents=True, exist_ok=True)
    steps: list[tuple[str, Callable[[str, Path], None]]] = [
        *((name, encode) for name in ENCODED),
        *((name, copied) for name in COPIED),
        *((name, midst) for name in MIDST),
        *((name, turned) for name in TURNED),
        ("mpeg4_packed.avi", packed),
    ]
    made = []
    for name, step in steps:
        if not (out / name).exists():
            try:
                if step is packed:
                    ffmpeg("-f", "lavfi", "-i", SCENE, "-c:v", "mpeg4", "-bf", "1", "-g", "25", str(out / ONE_B))
                step(name, out)
            except (subprocess.CalledProcessError, FileNotFoundError) as error:
                told = getattr(error, "stderr", "") or str(error)
                print(f"left out: {name} ({' '.join(told.split())[:120]})")
                continue
        if only in name:
            made.append(out / name)
    return made


def copied(name: str, out: Path) -> None:
    source, how = COPIED[name]
    words = how.split()
    seek = words[: words.index("-c")] if "-ss" in words else []
    ffmpeg(*seek, "-i", str(out / source), *words[len(seek) :], str(out / name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="a word of the name")
    args = parser.parse_args()
    found = make(args.out, args.only)
    print(f"{len(found)} films, {sum(path.stat().st_size for path in found) / 1e6:.1f} MB in {args.out}")


if __name__ == "__main__":
    main()
