"""Files that a listing passes over: of which kinds, how many, and what to do so that they are read. Said here alone.

Whatever may hold samples is named: links, hidden files, formats that the reader does not know. Text beside the data (a
README, a table, annotations) is not.
"""

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache

from mae_ext import plugins
from mae_ext.data.sources.dicom.unwanted import REMEDIES as OF_DICOM
from mae_ext.errors import ConfigError, some

LINKS_OUT = "links that leave the folder"
LINKS_TO_FOLDERS = "links to folders"
LINKS_TO_NOTHING = "links to nothing"
NOT_REGULAR = "not regular files"
HIDDEN = "hidden"
NAMELESS = "rows without a path"
REPEATED = "members of a sample that has its data already"
LINKS_INSIDE = "links inside a shard"
BARE = "without suffix"
NO_PICTURE = "values that are no pictures"
WRITTEN = "folders that this program wrote"
NO_FIRST = "files of cases without their first file"
OF_NO_CASE = "files of no case"

REMEDIES = {
    LINKS_OUT: "no link is followed out of the folder: copy what they mean, give the folder that holds both, or a list "
    "(.txt, a path a line), which may name any file",
    LINKS_TO_FOLDERS: "their files are listed where they stand",
    LINKS_TO_NOTHING: "make them again, or remove them",
    NOT_REGULAR: "pipes, sockets and devices are never opened",
    HIDDEN: "rename them without the dot if they are samples ('._' is what macOS leaves behind)",
    NAMELESS: "fill in their path",
    REPEATED: "a sample's name ends at the first dot, and it has one file of data; to read others instead, name what "
    "follows that dot, as in x.tar::seg.png",
    LINKS_INSIDE: "pack the files that they mean: tar --dereference --hard-dereference",
    WRITTEN: "the pictures of a run and what it predicts are no samples: to read them, name the folder itself",
    NO_FIRST: "a case is known by the first file of reader.case: add it, or take the rest away",
    OF_NO_CASE: "reader.case has no pattern that they are of",
    NO_PICTURE: "an LMDB's values are read where they begin as an encoded picture does; nothing is unpickled",
    BARE: "give them the suffix of what they are: .dcm of DICOM, .jpg of JPEG",
    **OF_DICOM,
}

SAME_NAME = "members of a name that came before"
SAME_KEY = "members whose names differ after the first dot"
AS_IT_BEGINS = "files that begin as what is read"
READ = {
    AS_IT_BEGINS: "give them the suffix of what they are, and the others in their folder will be told from them",
    SAME_NAME: "pack each under a name of its own if one was to replace the other",
    SAME_KEY: "to read one kind alone, name what follows that dot, as in x.tar::rgb.jpg",
}
"""What is read, each as a sample of its own, where something else may have been meant."""

SCANS = """
.mif .mif.gz .gipl .gipl.gz .vtk .vti .nii.bz2 .nii.xz .nii.zst .mnc.gz .par .rec .v
"""
VOXELS = ".img .img.gz .raw .raw.gz .zraw"
"""Voxels of a scan whose header is a file of its own."""

HEADERS = (".hdr", ".hdr.gz", ".mhd", ".nhdr", ".nrrd")
IMAGES = """
.jxl .dng .cr2 .cr3 .nef .nrw .arw .orf .rw2 .raf .pef .srw .exr .hdr .psd .psb .svg .svgz .ico .icns .cur .xcf .ai
.eps .mrxs .czi .lif .nd2 .vsi .oir .vms .vmu .jxr .wdp .hdp .bpg .flif .jls .xbm .xpm .wmf .emf .insp
"""
VIDEOS = """
.m2v .mxf .rm .rmvb .h264 .hevc .265 .264 .dv .y4m .ogg .mjpeg .mpv .insv
"""
ARCHIVES = ".zip .gz .tgz .tar.gz .bz2 .tar.bz2 .tbz2 .xz .tar.xz .txz .zst .tar.zst .7z .rar"
FORMATS = {
    SCANS: "convert them to .nii.gz, for instance with SimpleITK: WriteImage(ReadImage('a.vtk'), 'a.nii.gz')",
    IMAGES: "convert them to PNG, JPEG or TIFF, for instance with ImageMagick: magick FILE FILE.png",
    VIDEOS: "convert them: ffmpeg -i FILE FILE.mp4",
    VOXELS: "voxels of a scan: the volume reader reads them with a header beside them (.hdr, .mhd, .nhdr)",
    ".npz": "to read arrays, name the .npz file itself; where each is a scan, use --reader volume",
    ".h5 .hdf5": "to read arrays, name one of a file, as x.h5::DATASET; where each is a scan, use --reader volume",
    ".npy .zarr": "where each is a scan, use --reader volume; of others save the arrays as one .npz",
    ".mat .pkl .tfrecord": "save their arrays as one .npz",
    ".parquet .lmdb .mdb": "name them themselves, as x.lmdb or 'train-*.parquet'",
    ".tar": "to read shards, name them, as x.tar or train-*.tar",
    ARCHIVES: "unpack the archives first",
}
BY_SUFFIX = {suffix: remedy for suffixes, remedy in FORMATS.items() for suffix in suffixes.split()}
OF_ARRAYS = (".npz", ".npy", ".h5", ".hdf5", ".zarr")
"""What is a scan for one reader, and for the others no file of theirs, but may hold samples all the same."""

PACKED = (".gz", ".bz2", ".xz", ".zst")

TEXT = """
.csv .tsv .txt .json .jsonl .ndjson .xml .yaml .yml .toml .md .rst .html .htm .css .js .pdf .log .py .ipynb .sh .m .r .c
.cpp .db .sqlite .ini .cfg .conf .doc .docx .xls .xlsx .ppt .pptx .odt .ods .md5 .sha1 .sha256 .lock .tmp .bak .cls .srt
.vtt .bval .bvec .sql .safetensors .pt .pth .ckpt .onnx .bib .tex .url .lnk .exe
"""
BESIDE = frozenset(TEXT.split())
"""Suffixes of what lies beside data, and is no sample."""

NAMES = """
readme license licence changes changelog dicomdir manifest copying authors version makefile md5sums sha256sums checksums
notice citation .mae_ext .ds_store .gitignore .gitattributes .gitkeep .keep .git .lock .nomedia
"""
BESIDE_NAMES = frozenset(NAMES.split())
MOST = 8
"""Kinds named in one message."""


@dataclass
class PassedOver:
    """counts: of each kind that is named. suffixes: each one that was not asked for, text included. read: of kinds
    that are read after all, and may not have been meant to be."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    suffixes: Counter[str] = field(default_factory=Counter)
    read: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, name: str, times: int = 1) -> None:
        """name: of a file, seen from what is listed."""
        self.counts[kind] += times
        self.examples.setdefault(kind, name)

    def add_read(self, kind: str, name: str, times: int = 1) -> None:
        self.read[kind] += times
        self.examples.setdefault(kind, name)

    def other(self, name: str) -> None:
        """A file of another kind than what is listed."""
        suffix = suffix_of(name)
        self.suffixes[suffix] += 1
        if not beside(name):
            self.add(suffix, name)

    def hidden(self, name: str) -> None:
        if os.path.basename(name).lower() not in BESIDE_NAMES:  # noqa: PTH119 a name, not a file
            self.add(HIDDEN, name)

    def join(self, other: "PassedOver") -> None:
        """What another listing passed over, after this one."""
        for mine, its in ((self.counts, other.counts), (self.suffixes, other.suffixes), (self.read, other.read)):
            mine.update(its)
        self.examples = other.examples | self.examples

    def __str__(self) -> str:
        """How many of which kind, one by name, and the remedy; "" where nothing is to be said. One line."""
        return self._message(self.counts)

    def doubtful(self) -> str:
        """As above, of what is read."""
        return self._message(self.read)

    def _message(self, counts: Counter[str]) -> str:
        by_remedy: dict[str, list[str]] = {}
        for kind, count in counts.most_common():
            example = " ".join(self.examples[kind].splitlines())
            such_as = f" (such as {example})" if example else ""
            by_remedy.setdefault(remedy(kind), []).append(f"{count} {kind}{such_as}")
        return some([f"{', '.join(kinds)}: {what}" for what, kinds in by_remedy.items()], "; ", MOST)

    def instead(self) -> str:
        """For a source that holds nothing of what was asked for."""
        most_common = [f"{count} {suffix}" for suffix, count in self.suffixes.most_common(5)]
        text = f"found instead: {', '.join(most_common)}" if most_common else "there is nothing else in it"
        return text + (f"; passed over: {self}" if self.counts else "")


def suffix_of(name: str) -> str:
    """In lower case, with what lies inside a packed file: ".nii.gz". What is a number or long is part of the name."""
    if "." not in name:
        return BARE
    stem, last = os.path.splitext(name.lower())  # noqa: PTH122 of "a.b/c" it takes the name's alone, as it should
    if not re.fullmatch(r"\.(?!\d+$)\S{1,11}", last):
        return BARE
    inner = suffix_of(stem) if last in PACKED else BARE
    return last if inner == BARE else inner + last


def beside(name: str) -> bool:
    """Whether a file is what lies beside data, by its name."""
    return _beside(suffix_of(name), name)


def _beside(suffix: str, name: str) -> bool:
    return suffix in BESIDE or name.rpartition(os.sep)[2].lower() in BESIDE_NAMES


def may_be_dicom(name: str, single: tuple[str, ...], joined: tuple[str, ...]) -> bool:
    """Whether a file's content is to be asked if it is DICOM. name: in lower case. single, joined: suffixes of what is
    listed anyway, and of DICOM. Exports leave the suffix out, or give numbers, or one that others have as well."""
    if name.endswith(joined):
        return True
    if name.endswith(single) and not name.endswith(".img"):
        return False
    suffix = suffix_of(name)
    return not _beside(suffix, name) and _may_be_dicom(suffix)


@lru_cache(maxsize=4096)
def _may_be_dicom(suffix: str) -> bool:
    return suffix not in ARCHIVES.split() and not (set(readers_of(suffix)) - {"volume"})


def remedy(kind: str) -> str:
    if text := {**REMEDIES, **READ}.get(kind.partition(" (")[0]):
        return text
    if kind not in OF_ARRAYS and (readers := readers_of(kind)):
        one = " or ".join(readers)
        return f"they are for another reader: use --reader {one}, in a config data.reader: {one}"
    return BY_SUFFIX.get(kind, "this reader does not know the suffix; convert them, or rename what is named amiss")


def readers_of(suffix: str) -> list[str]:
    """The readers that read files of a suffix."""
    names = []
    for name in plugins.readers.sources():
        try:
            suffixes = getattr(plugins.readers.get(name), "suffixes", ())
        except ConfigError:  # a plug-in that fails is nobody's concern who does not name it
            continue
        if suffix.endswith(tuple(s.removesuffix("/") for s in suffixes)):
            names.append(name)
    return names
