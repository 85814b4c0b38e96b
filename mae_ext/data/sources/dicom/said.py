"""What is said of a DICOM scan: in the words of who runs the scanner, and as a row of an `index.csv`."""

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from mae_ext.data.sources.dicom import keyed
from mae_ext.data.sources.dicom.export import difference, files_of, is_series
from mae_ext.data.sources.dicom.glance import Glance, glance
from mae_ext.data.sources.dicom.grouping import SUFFIXES
from mae_ext.errors import UserError
from mae_ext.writing import blamed_on, staged


@dataclass(frozen=True)
class Row:
    """patient, study, series: keyed hashes, for splits that keep them whole. volume: what
    tells it from others of its series. files: how many. said: all the rest."""

    path: str
    patient: str
    study: str
    series: str
    modality: str
    body: str
    how: str
    volume: str
    files: int
    said: str


def clause(address: str) -> str:
    """ "patient 3fa9c12e, CT CHEST, kernel B30f". Raises BadSample, OSError."""
    seen = _first(address)
    if not seen.of:
        return ""
    what = " ".join(filter(None, (seen.of["modality"], seen.of["body"])))
    parts = [f"patient {seen.of['patient'][: keyed.SHOWN]}", what, how(seen.of), difference(address)]
    return ", ".join(filter(None, parts))


def how(of: dict[str, str]) -> str:
    """The kernel of a CT, the sequence of an MR, in the scanner's own code."""
    if kernel := of["kernel"].replace("\\", " "):
        return f"kernel {kernel}"
    if sequence := of["sequence"] or of["scanning"].replace("\\", "+"):
        return f"sequence {sequence}"
    return ""


def write_index(path: Path, scans: Iterable[tuple[str, str]]) -> str:
    """A list that every command takes, of (address, what was said of it); -> how many of how many patients.

    Raises UserError where it cannot be written, or `path` is another file than such a list.
    """
    header = [field.name for field in fields(Row)]
    if path.exists() and path.read_text(errors="replace").partition("\n")[0].strip() != ",".join(header):
        raise UserError(f"{path}: is there, and no list that doctor wrote; name another by --index, or move it")
    rows = []
    for address, said in scans:
        of = _first(address).of
        if of:
            count = len(files_of(address, SUFFIXES)) if address.endswith("/") or is_series(address) else 1
            rows.append(
                Row(_seen_from(path, address), of["patient"], of["study"], of["series"], of["modality"], of["body"],
                    how(of), difference(address), count, said)
            )  # fmt: skip
    with staged(path) as (beside,), blamed_on(path), beside.open("w", newline="", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(astuple(row) for row in rows)
    patients = len({row.patient for row in rows})
    return f"{len(rows)} scans of {patients} patient{'s' * (patients != 1)}"


def _seen_from(path: Path, address: str) -> str:
    """As a list names it: from its own folder, or from the root."""
    folder, sign, rest = address.partition("::")
    whole, here = os.path.abspath(folder), os.path.abspath(path.parent)  # noqa: PTH100 follows no link
    if whole.startswith(here.rstrip(os.sep) + os.sep):
        whole = os.path.relpath(whole, here)
    return f"{whole}/" if folder.endswith("/") and not sign else f"{whole}{sign}{rest}"


def _first(address: str) -> Glance:
    files = files_of(address, SUFFIXES) if address.endswith("/") or is_series(address) else [address]
    return glance(files[0], keyed.key())


def index_of(paths: Sequence[str], scans: Sequence[tuple[str, str]], wanted: str | None) -> str:
    """Write the list of DICOM scans, if there are any and it is wanted, or any has an ID for an address; -> what was
    written, "" where nothing was. paths: of the data, into which nothing is written that was not asked for."""
    everything = len(scans)
    scans = [scan for scan in scans if scan[1].startswith("DICOM")]
    if not scans or (wanted is None and not any(is_series(address) for address, _ in scans)):
        return "" if wanted is None else f"{wanted} is not written: none of the good ones is DICOM"
    path = Path("index.csv" if wanted is None else wanted)
    inside = [p for p in map(Path, paths) if p.is_dir() and p.resolve() in path.resolve().parents]
    if wanted is None and inside:
        return f"no index.csv is written into the data folder; to have it, add --index {path}"
    counts = write_index(path, scans)
    others = f" (without the {everything - len(scans)} good ones that are no DICOM)" * (everything > len(scans))
    takes = f"which every command takes: --data {path}; with splits by patient, or {path}::patient=study"
    return f"{path}: {counts}{others}, {takes}"
