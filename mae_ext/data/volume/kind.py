"""What scans begin with, and which DICOM files are none."""

import re

from mae_ext.data.kind import Kind, Seen, begins_as

BEGINS = ((344, b"n+1\0"), (4, b"n+2\0"), (0, b"NRRD000"), (0, b"ObjectType"))
DICOM = (128, b"DICM")
HEADER = 1 << 14
"""Bytes in which a DICOM file's modality stands."""

_TO_IMAGES = "they are read as images from PNG or TIFF of 16 bits, not from DICOM"
FLAT = {
    **dict.fromkeys(("CR", "DX", "MG", "IO", "PX", "RG"), f"radiographs in DICOM, no volumes: {_TO_IMAGES}"),
    **dict.fromkeys(("XA", "RF"), "X-ray films in DICOM, no volumes: they are read as films from MP4 or GIF"),
    **dict.fromkeys(("US", "IVUS"), "ultrasound in DICOM, no volumes: it is read as films from MP4 or GIF"),
    **dict.fromkeys(("ES", "XC", "GM", "SM", "OP", "DOC"), f"photographs in DICOM, no volumes: {_TO_IMAGES}"),
    **dict.fromkeys(("SR", "PR", "KO"), "reports and the like in DICOM, which hold no voxels"),
}
"""By modality (DICOM PS3.3, C.7.3.1.1.1)."""


def recognise(beginning: bytes, _: str) -> Seen:
    """See `Kind.recognise`."""
    if begins_as((DICOM,), beginning):
        refused = FLAT.get(modality(beginning), "")
        return (0 if refused else 8), refused
    return begins_as(BEGINS, beginning), ""


def modality(beginning: bytes) -> str:
    """(0008,0060) of a DICOM file, as "CT"; "" where it is not among the first bytes."""
    header = beginning[:HEADER]
    for tag, size in ((rb"\x08\x00\x60\x00(?:CS(..)|(..)\x00\x00)", "little"), (rb"\x00\x08\x00\x60CS(..)", "big")):
        if match := re.search(tag, header, re.DOTALL):
            raw = next(group for group in match.groups() if group is not None)
            length = int.from_bytes(raw, "little" if size == "little" else "big")
            return header[match.end() : match.end() + length].decode("ascii", "replace").strip(" \0")
    return ""


def rows(shape: tuple[int, ...], _: str) -> int:
    """(D, H, W), or with an axis more that a config has to name; see `Kind.rows`."""
    if len(shape) == 3:
        return 2 if shape[2] > 4 else 0
    return int(len(shape) == 4)


KIND = Kind("scan", "scans", recognise=recognise, rows=rows, recipe="volume_folder", tuning="finetune_scans")
