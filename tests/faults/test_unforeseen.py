"""A file that breaks a parser costs its own verdict, in every command and for every built-in reader."""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from data.video.numbered_clips import write as write_clip
from faults.kills import rows, trajectory
from PIL import Image

from mae_ext import plugins
from mae_ext.cli import run
from mae_ext.data.crops import center_sampler
from mae_ext.data.image import box_files, picture
from mae_ext.data.image import labels as label_image
from mae_ext.data.video import decoder
from mae_ext.data.volume import labels as label_volume
from mae_ext.data.volume import nifti
from mae_ext.errors import BadSample

BYTES = b"caf\xe9".decode("utf-8", "surrogateescape")


class Odd(Exception):
    """What a parser raises that nobody thought of."""


def odd(*_, **__):
    raise Odd("no such thing was foreseen")


@pytest.fixture
def files(tmp_path):
    """A good file for each reader, under a name that is no UTF-8."""
    noise = np.random.default_rng(0)
    Image.fromarray(noise.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(tmp_path / f"{BYTES}.png")
    nib.Nifti1Image(noise.normal(size=(9, 10, 8)), np.eye(4)).to_filename(tmp_path / f"{BYTES}.nii.gz")
    Path(write_clip(tmp_path / "clip.mp4", 12, "libx264")).rename(tmp_path / f"{BYTES}.mp4")
    return {"image": f"{BYTES}.png", "volume": f"{BYTES}.nii.gz", "video": f"{BYTES}.mp4"}


SIZES = {"image": (8, 8), "volume": (4, 4, 4), "video": (4, 8, 8)}
BREAKS = {
    ("image", "read"): (picture, "_planes"),
    ("image", "describe"): (picture, "_orientation"),
    ("image", "label_map"): (label_image, "numbers"),
    ("volume", "read"): (nifti, "voxels"),
    ("volume", "describe"): (nifti, "declared_nifti"),
    ("volume", "label_map"): (label_volume, "on_lattice"),
    ("volume", "prepared"): (nifti, "voxels"),
    ("video", "describe"): (decoder, "Clip"),
    ("video", "prepared"): (decoder, "Clip"),
}


@pytest.mark.parametrize(("name", "method"), BREAKS, ids="-".join)
def test_what_a_parser_raises_is_a_verdict_in_every_method_that_reads(files, tmp_path, monkeypatch, name, method):
    extra = {"cache": str(tmp_path / "cache")} if method == "prepared" else {}
    reader = plugins.readers.build(name, extra, "test", size=SIZES[name], channels=1 if name == "volume" else 3)
    address = str(tmp_path / files[name])
    arguments = [[center_sampler(SIZES[name])]] if method == "read" else []
    getattr(reader, method)(address, *arguments) if method != "label_map" else None
    module, broken = BREAKS[name, method]
    monkeypatch.setattr(module, broken, odd)
    if method == "prepared":  # what was kept is not parsed again
        reader = plugins.readers.build(
            name, {"cache": str(tmp_path / "c")}, "test", size=SIZES[name], channels=1 if name == "volume" else 3
        )
    with pytest.raises(BadSample, match=r"Odd.*no such thing") as found:
        getattr(reader, method)(address, *arguments)
    assert (found.value.path, found.value.kind) == (address, "unreadable")


def test_predictions_for_a_scan_that_broke_a_parser_are_a_verdict_as_well(files, tmp_path, monkeypatch):
    reader = plugins.readers.build("volume", {}, "test", size=(4, 4, 4), channels=1)
    monkeypatch.setattr(nifti, "declared_nifti", odd)
    with pytest.raises(BadSample, match="Odd"):
        reader.write_labels(np.zeros((8, 10, 9), np.int32), str(tmp_path / files["volume"]), tmp_path / "out.nii.gz")


def test_a_crop_that_fails_is_a_bug_and_no_fault_of_the_file(files, tmp_path):
    for name, file in files.items():
        reader = plugins.readers.build(name, {}, "test", size=SIZES[name], channels=1 if name == "volume" else 3)
        with pytest.raises(Odd):
            reader.read(str(tmp_path / file), [odd])


@pytest.fixture
def scans(tmp_path):
    """Four scans and a series whose first slice says 0,8 where a number belongs."""
    pydicom = pytest.importorskip("pydicom")
    from data.volume.dicom.dicom_files import series
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    folder, noise = tmp_path / "scans", np.random.default_rng(0)
    series(folder / "bad", noise.integers(0, 99, (4, 8, 8)).astype(np.int16))
    data, where = pydicom.dcmread(folder / "bad" / "000.dcm"), Tag("PixelSpacing")
    data._dict[where] = RawDataElement(where, "DS", 8, b"0,8\\0,8 ", 0, False, True)
    data.save_as(folder / "bad" / "000.dcm")
    for i in range(4):
        nib.Nifti1Image(noise.normal(size=(9, 10, 8)), np.eye(4)).to_filename(folder / f"{i}.nii.gz")
    return folder


def test_one_malformed_series_among_scans_costs_itself_and_no_more(scans, tiny, tmp_path, capsys):
    volume = {
        "size": [8, 8, 8], "patch": [4, 4, 4], "channels": 1, "batch": 2, "mask": {"name": "random", "ratio": 0.5},
        "data": {"reader": "volume", "augment": {"fixed": [0, 1, 2]}, "max_bad_fraction": 0.5},
    }  # fmt: skip
    config = str(tiny({"modalities": {"volume": volume}, "train.steps": 6}))
    out = tmp_path / "run"
    assert run(["pretrain", config, "--data", str(scans), "--out", str(out)]) == 0
    assert len(trajectory(out)) == 6
    (bad,) = rows(out / "bad_samples.jsonl")
    assert bad["kind"] == "header" and bad["path"] == f"{scans / 'bad'}/"
    assert bad["detail"].startswith("000.dcm: ") and "PixelSpacing" in bad["detail"]
    features = tmp_path / "f.safetensors"
    capsys.readouterr()
    assert run(["embed", str(out), str(scans), "--out", str(features)]) == 0
    assert re.search(r"1 header \(such as .*bad/: .*000\.dcm: ", capsys.readouterr().err)
    assert len(features.with_suffix(".jsonl").read_text().splitlines()) == 4
    assert json.loads(features.with_suffix(".bad.jsonl").read_text())["kind"] == "header"
    assert run(["doctor", str(scans), "--reader", "volume"]) == 1
    assert capsys.readouterr().out.endswith("5 files: 4 good, 1 bad (1 header)\n")
    assert run(["prepare", config, "--data", str(scans), "--out", str(tmp_path / "cache"), "--workers", "1"]) == 1
    assert json.loads((tmp_path / "cache" / "bad_samples.jsonl").read_text())["kind"] == "header"


@pytest.fixture
def plugin(tiny, photos, faulty):
    reader = {"name": "faulty", "fault": "exception", "match": r"07\.jpg"}
    return str(tiny({"modalities.image.data.reader": reader, "modalities.image.data.path": str(photos)})), photos


def test_a_plug_ins_bug_is_one_of_doctors_verdicts_and_ends_a_run(plugin, tmp_path, capsys):
    config, photos = plugin
    assert run(["doctor", str(photos), "--config", config]) == 1
    out = capsys.readouterr().out
    assert "07.jpg: reader broke (reader FaultyReader broke on" in out and "a mistake" in out
    assert out.endswith("1 bad (1 reader broke)\n")
    assert run(["pretrain", config, "--out", str(tmp_path / "run")]) == 1
    assert "reader FaultyReader broke on" in capsys.readouterr().err


MALFORMED_BOXES = (
    b"", b"[]", b"{}", b"{", b"\xff\xfe", b"nul", b'{"images": 3}',
    b'{"images": [1], "annotations": [], "categories": []}',
    b'{"images": [{"id": 1}], "annotations": [], "categories": []}',
    b'{"images": [{"id": 1, "file_name": "a", "height": "x", "width": 3}], "annotations": [], "categories": []}',
    b'{"images": [{"id": 1, "file_name": "a", "height": 1e999, "width": 3}], "annotations": [], "categories": []}',
    b'{"images": [{"id": [], "file_name": "a"}], "annotations": [], "categories": []}',
    b'{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": {}}], "categories": []}',
    b'{"images": [{"id": 1, "file_name": "a"}], "categories": [], "annotations": [{"image_id": 1}]}',
    b"[" * 100_000, b'{"images": ' + b"9" * 5000 + b"}",
)  # fmt: skip


@pytest.mark.parametrize("content", MALFORMED_BOXES, ids=range(len(MALFORMED_BOXES)))
def test_a_malformed_label_file_of_boxes_is_the_users_error_that_names_it(tmp_path, content):
    file = tmp_path / "boxes.json"
    file.write_bytes(content)
    with pytest.raises(box_files.UserError, match=r"boxes\.json"):
        box_files.read_annotations(str(file))
