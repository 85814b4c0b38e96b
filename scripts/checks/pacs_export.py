"""A folder as a PACS exports it, of real series and odd ones: what comes out of it, beside SimpleITK; and how long.

    python scripts/checks/pacs_export.py --data dicom_series          # the right scans come out, voxel for voxel
    python scripts/checks/pacs_export.py --files 20000                # seconds to index so many small files, and again

Needs mae-ext[dicom-codecs] and SimpleITK. The first makes one flat folder without suffixes, shuffled, of two real
series (GE, the first volume of each), all files that pydicom's wheel brings for tests, and made ones: a CT, a CT under
a tilted gantry, one in RLE, one in JPEG-LS, one in JPEG 2000, one of two echoes, an enhanced object; with copies, a
localizer, a missing slice, a SEG, a secondary capture and a report among them. A run of two steps on it names nobody.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from data.volume.dicom.compressed import save_as  # noqa: E402
from data.volume.dicom.dicom_files import classic, enhanced, frame  # noqa: E402

from mae_ext.data.sources.table import list_items  # noqa: E402
from mae_ext.data.volume.reader import VolumeReader  # noqa: E402
from mae_ext.errors import BadSample  # noqa: E402

NAME = "PLANTED^NAME"
WHO = {"PatientName": NAME, "PatientID": "PLANTED-ID-77", "StudyDate": "19770707", "AccessionNumber": "PLANTED-ACC"}
SEG, REPORT, CAPTURE = "66.4", "88.11", "7"
SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
"""98892001/CT5N is a whole series; of others there are single pictures, or some slices, or no scan at all."""

REFUSED = ["axes", "missing slices", "missing slices", "tilted gantry"]
"""pydicom's MR_small in nine encodings, some slices of its CT2; the made ones."""

SMALL = (
    "modalities.volume.size=[8,8,8]", "modalities.volume.patch=[4,4,4]", "modalities.volume.batch=4", "model.size=null",
    "model.width=12", "model.depth=1", "model.heads=2", "model.decoder={width: 12, depth: 1, heads: 2}",
    "modalities.volume.data.max_bad_fraction=1.0", "train.epochs=null",
    "train.steps=2", "train.warmup_epochs=null", "train.warmup_steps=0", "train.workers=0", "train.device=cpu",
)  # fmt: skip
"""What makes of volume_folder a run of seconds."""

FAR = 0.01
"""mm between the corners of a scan as both say them."""


def planes(seed: int, count: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(-500, 1500, (count, 24, 20)).astype(np.int16)


def made(root: Path, name: str, uid: str, seed: int, **tags: Any) -> list[Path]:
    """Slices 2.5 mm apart."""
    paths = []
    for z, plane in enumerate(planes(seed)):
        paths.append(root / name / f"{z:03d}.dcm")
        common = {"SeriesInstanceUID": uid, "StudyInstanceUID": "1.2.3.77", "InstanceNumber": z + 1, **WHO}
        given_place = tags.get("place", lambda z: (-100.0, -90.0, 30 + 2.5 * z))
        rest = {k: v for k, v in tags.items() if k not in ("place", "orientation")}
        classic(paths[-1], plane, given_place(z), tags.get("orientation", (1, 0, 0, 0, 1, 0)), **common | rest)
    return paths


def object_of(path: Path, class_end: str, uid: str) -> None:
    classic(path, planes(9)[0], (0, 0, 0), SeriesInstanceUID=uid, **WHO)
    data = pydicom.dcmread(path)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = f"1.2.840.10008.5.1.4.1.1.{class_end}"
    data.save_as(path)


def export(data: Path, series: Path, flat: Path) -> dict[str, str]:
    """-> what ought to come of each series by its name: "read", or a word of why not."""
    expected = {}
    for folder in sorted(p for p in data.glob("*GE/*") if p.is_dir()):
        files = sorted(folder.glob("*.dcm"), key=lambda f: int(pydicom.dcmread(f, specific_tags=["InstanceNumber"],
                       stop_before_pixels=True).InstanceNumber))  # fmt: skip
        heights = [float(pydicom.dcmread(f, stop_before_pixels=True).ImagePositionPatient[2]) for f in files]
        for f in files[: len(set(heights))]:
            (series / folder.name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(f, series / folder.name / f.name)
        expected[folder.name] = "read"
    made(series, "ct", "1.2.3.1", 1, ConvolutionKernel="B30f", BodyPartExamined="CHEST")
    lean = np.tan(np.radians(15))
    made(series, "tilted", "1.2.3.2", 2, place=lambda z: (-100.0, -90 + lean * 2.5 * z, 30 + 2.5 * z))
    for n, kind in enumerate(("RLE", "JPEG-LS", "JPEG 2000")):
        for path in made(series, kind, f"1.2.3.3{n}", 30 + n):
            save_as(path, kind)
    for echo in (5, 20):
        tags = {"Modality": "MR", "EchoTime": echo, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}
        made(series, f"echo{echo}", "1.2.3.4", 10 + echo, **tags)
    enhanced(series / "enhanced" / "0.dcm", [frame(p, z) for z, p in enumerate(planes(6))],
             SeriesInstanceUID="1.2.3.6", **WHO)  # fmt: skip
    made(series, "gap", "1.2.3.5", 5)[3].unlink()
    shutil.copytree(SHIPPED / "dicomdirtests" / "98892001" / "CT5N", series / "CT5N of pydicom")
    read = ("ct", "RLE", "JPEG-LS", "JPEG 2000", "echo5", "echo20", "enhanced", "CT5N of pydicom")
    expected |= dict.fromkeys(read, "read")
    expected |= {"gap": "missing slices", "tilted": "tilted gantry"}
    others = series.parent / "others"
    object_of(others / "seg", SEG, "1.2.3.20")
    object_of(others / "report", REPORT, "1.2.3.21")
    object_of(others / "capture", CAPTURE, "1.2.3.22")
    made(others, "scout", "1.2.3.23", 7, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], Modality="CT")
    files = [p for folder in (series, others) for p in sorted(folder.rglob("*")) if p.is_file()]
    files += sorted(p for p in SHIPPED.rglob("*") if p.is_file() and p.parent.name != "CT5N")
    copies = sorted((series / "ct").iterdir())[:3]
    files += copies
    random.Random(0).shuffle(files)
    flat.mkdir()
    for n, file in enumerate(files):
        shutil.copyfile(file, flat / f"IM{n:06d}")
    again = pydicom.dcmread(copies[0])
    again.InstitutionName = "written anew"
    again.save_as(flat / "IM999999")
    return expected


def corners(shape: Iterable[int], at: Callable[[Any], Any]) -> np.ndarray:
    x, y, z = shape
    return np.array([at((i, j, k)) for i in (0, x - 1) for j in (0, y - 1) for k in (0, z - 1)])


def same(reader: VolumeReader, address: str, folder: Path) -> str:
    """What SimpleITK and the reader differ in: "" where in nothing."""
    files = sorted(map(str, folder.iterdir()))
    if len(files) > 1:
        files = list(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    image = sitk.ReadImage(files if len(files) > 1 else files[0])
    wanted = sitk.GetArrayFromImage(image).astype(np.float64)
    ours = reader.formats.declared(address)
    voxels = ours.load().astype(np.float64) * ours.slope + ours.inter
    size = ours.shape
    if voxels.shape != wanted.shape:  # nibabel's order of an enhanced object's rows
        voxels, size, swapped = voxels.swapaxes(-1, -2), (size[1], size[0], size[2]), True
    else:
        swapped = False
    order = [1, 0, 2] if swapped else [0, 1, 2]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ ours.affine
    place = affine[:, [*order, 3]]
    mine = corners(size, lambda i: (place @ [*i, 1])[:3])
    theirs = corners(image.GetSize(), image.TransformIndexToPhysicalPoint)
    if np.abs(mine - theirs).max() > FAR and np.linalg.norm(mine[0] - theirs[1]) < np.linalg.norm(mine[0] - theirs[0]):
        wanted, theirs = wanted[::-1], theirs.reshape(2, 2, 2, 3)[:, :, ::-1].reshape(8, 3)
    if voxels.shape != wanted.shape:
        return f"shapes {voxels.shape} and {wanted.shape}"
    off = float(np.abs(mine - theirs).max())
    differ = float(np.mean(voxels != wanted))
    return "" if not differ and off <= FAR else f"values differ in {differ:.2g}, corners by {off:.3f} mm"


def check(data: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["XDG_CACHE_HOME"], os.environ["XDG_CONFIG_HOME"] = str(root / "cache"), str(root / "keys")
        expected = export(data, root / "series", root / "flat")
        reader = VolumeReader((8, 8, 8), intensity="none")
        items = list_items(str(root / "flat"), reader.suffixes)
        verdicts, bad, why = {}, [], {}
        for address in items.addresses:
            try:
                reader.formats.declared(address)
            except BadSample as error:
                bad.append(error.kind)
                continue
            for name in (name for name, what in expected.items() if what == "read"):
                if differs := same(reader, address, root / "series" / name):
                    why.setdefault(name, []).append(differs)
                else:
                    verdicts[name] = address
        for name, what in expected.items():
            instead = f"expected to be {what}; each scan differs: {why.get(name)}" if what == "read" else what
            print(f"{name}: {'the same as in SimpleITK' if name in verdicts else instead}")
        print(f"{len(items)} scans, {len(verdicts)} the same, refused: {sorted(bad)}; left out: {dict(items.ignored)}")
        right = len(verdicts) == sum(what == "read" for what in expected.values()) == len(items) - len(REFUSED)
        trained = pretrained(root)
        written = [p for name in ("cache", "keys", "run") for p in (root / name).rglob("*") if p.is_file()]
        planted = [p for p in (*written, root / "printed") for v in WHO.values() if v.encode() in p.read_bytes()]
        print(f"planted names, ids and dates in {len(written)} files that were written, a run of two steps and what it "
              f"printed among them: {len(planted)}")  # fmt: skip
        raise SystemExit(0 if right and sorted(bad) == REFUSED and trained and not planted else 1)


def pretrained(root: Path) -> bool:
    """Two steps of a small model on the folder, with a cache of scans; what it prints is in `printed`."""
    changes = (*SMALL, f"modalities.volume.data.reader.cache={root / 'cache' / 'scans'}")
    done = subprocess.run(
        [sys.executable, "-m", "mae_ext", "pretrain", "volume_folder", "--data", str(root / "flat"), "--out",
         str(root / "run"), *(part for change in changes for part in ("--set", change))],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    (root / "printed").write_bytes(done.stdout)
    if done.returncode:
        print(done.stdout.decode(errors="replace")[-2000:])
    return done.returncode == 0 and (root / "run" / "metrics.jsonl").exists()


def small_files(root: Path, count: int) -> None:
    """100 slices a series, 5 series a study, 20 a patient, 1 KB each: one file, in which the numbers are others."""
    uid, patient, height = "1.2.9.90000000", "P9000000", "90000000.5"
    tags = {"SeriesInstanceUID": "1.2.3.90000000", "StudyInstanceUID": "1.2.4.90000000", "SOPInstanceUID": uid}
    classic(root / "one.dcm", np.zeros((16, 16), np.int16), (0, 0, height), **WHO | tags | {"PatientID": patient})
    template = (root / "one.dcm").read_bytes()
    for n in range(count):
        series, z = divmod(n, 100)
        content = template
        for old, new in ((uid, f"1.2.9.{n + 10**7}"), ("1.2.3.90000000", f"1.2.3.{series + 10**7}"),
                         ("1.2.4.90000000", f"1.2.4.{series // 5 + 10**7}"),
                         (patient, f"P{series // 20:07d}"), (height, f"{2.5 * z:010.1f}")):  # fmt: skip
            content = content.replace(old.encode(), new.encode())
        path = root / "flat" / f"{n // 10000:03d}" / f"IM{n:07d}"
        if n % 10000 == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(content)


def timed(count: int) -> None:
    """Processor time is of this process and of its children."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["XDG_CACHE_HOME"], os.environ["XDG_CONFIG_HOME"] = str(root / "cache"), str(root / "keys")
        small_files(root, count)
        for what in ("first", "again", "again, one file touched", "again, one file removed"):
            began, spent = time.perf_counter(), os.times()
            items = list_items(str(root / "flat"), VolumeReader.suffixes)
            processor = sum(os.times()[:4]) - sum(spent[:4])
            seconds = f"{time.perf_counter() - began:.1f} s ({processor:.1f} s of processor)"
            print(f"{what}: {seconds}, {len(items)} series of {count} files", flush=True)
            if what == "again":
                next((root / "flat").rglob("IM*")).touch()
            elif what != "first":
                next((root / "flat").rglob("IM*")).unlink()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="Real series: folders of .dcm files below *GE/.")
    parser.add_argument("--files", type=int, help="Time the index of so many files instead.")
    arguments = parser.parse_args()
    if arguments.files:
        timed(arguments.files)
    else:
        check(arguments.data)
