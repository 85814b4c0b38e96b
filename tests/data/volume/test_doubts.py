"""What a scan leaves in doubt is said: by the doctor of each, and once, with counts, before anything is computed."""

import gzip
import os

import nibabel as nib
import numpy as np
import pytest
from data.volume.placed_scans import PLACE, nifti, tilted

from mae_ext.cli import run
from mae_ext.data.loading.doctor import inspect
from mae_ext.data.sources.meant import one_sided
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.engine.outputs import warn_one_sided
from mae_ext.engine.train import train


def said(path, **options):
    return VolumeReader((4, 4, 4)).describe(nifti(path, **options)).splitlines()[1:]


def shift(x):
    affine = PLACE.copy()
    affine[0, 3] += x
    return affine


NO_SIDES = (
    "says nothing of left and right (sform and qform code 0): read as LAS, as nibabel and FSL do; "
    "software on ITK reads it as LPS"
)
TWO_PLACES = "sform and qform lie up to 10 mm apart: the sform is taken, as nibabel and FSL do; "
LEANS = "its voxel axes lean by 18.5 degrees, as under a tilted gantry"
NO_QFORM = "a sform that leans by 18.5 degrees and no qform: software on ITK opens neither it nor a prediction for it"
DAMAGED = "its qform is damaged: the sform is taken, and software on ITK may take the qform"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, []),
        ({"codes": (2, 0)}, []),
        ({"codes": (0, 3)}, []),
        ({"codes": (0, 0)}, [NO_SIDES]),
        ({"sform": tilted(18.5), "codes": (0, 0)}, [NO_SIDES]),  # a sform of code 0 is not read
        ({"sform": shift(10), "codes": (2, 1)}, [TWO_PLACES + "software on ITK takes the qform"]),
        ({"sform": shift(10), "codes": (1, 2)}, [TWO_PLACES + "as does software on ITK"]),
        (
            {"sform": tilted(0.05), "qform": shift(10), "codes": (1, 1)},
            [TWO_PLACES + "software on ITK takes the qform"],
        ),
        ({"sform": shift(0.07), "codes": (2, 1)}, []),  # less than a tenth of a voxel
        (
            {"sform": shift(0.09), "codes": (2, 1)},
            [TWO_PLACES.replace("10", "0.09") + "software on ITK takes the qform"],
        ),
        ({"sform": tilted(18.5), "codes": (0, 1)}, []),
        ({"sform": tilted(18.5), "codes": (1, 0)}, [LEANS, NO_QFORM]),
        ({"sform": tilted(-18.5), "codes": (2, 0)}, [LEANS, NO_QFORM]),
        ({"sform": tilted(0.05), "codes": (1, 0)}, [NO_QFORM.replace("18.5", "0.05")]),
        ({"sform": tilted(0.003), "codes": (1, 0)}, []),
        ({"fix": lambda h: h.__setitem__("quatern_b", 2)}, [DAMAGED]),
    ],
)
def test_a_scan_that_may_mislead_says_so_and_an_ordinary_one_says_nothing(tmp_path, options, told):
    assert said(tmp_path / "a.nii", **options) == told


@pytest.mark.parametrize(
    ("sform", "codes"),
    [
        (shift(10), (1, 2)), (shift(10), (2, 1)), (shift(10), (4, 1)), (tilted(0.05), (1, 1)), (tilted(0.05), (1, 0)),
        (tilted(0.003), (1, 0)), (PLACE, (0, 0)),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_said_of_itk_is_what_itk_does(tmp_path, sform, codes):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed (extra dev)")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    told = " ".join(said(tmp_path / "a.nii", sform=sform, qform=shift(4), codes=codes))
    if "opens neither" in told:
        with pytest.raises(RuntimeError, match="orthonormal"):
            sitk.ReadImage(tmp_path / "a.nii")
        return
    x = -sitk.ReadImage(tmp_path / "a.nii").GetOrigin()[0]
    wanted = 0 if "LPS" in told else shift(4)[0, 3] if "takes the qform" in told else sform[0, 3]
    assert x == pytest.approx(wanted, abs=1e-4)


def test_freesurfers_format_without_its_flag_says_nothing_of_sides(tmp_path):
    path = tmp_path / "a.mgz"
    nib.MGHImage(np.random.default_rng(0).integers(0, 99, (12, 11, 10)).astype(np.int16), PLACE).to_filename(path)
    reader = VolumeReader((4, 4, 4))
    assert reader.one_sided([str(path)]) is None and reader.describe(str(path)).splitlines()[1:] == []
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[28:30] = bytes(2)
    path.write_bytes(gzip.compress(bytes(content)))
    assert reader.one_sided([str(path)]) is not None
    np.testing.assert_array_equal(
        reader.formats.declared(str(path)).affine, [[-1, 0, 0, 6], [0, 0, 1, -5], [0, -1, 0, 5.5], [0, 0, 0, 1]]
    )
    assert reader.describe(str(path)).splitlines()[1:] == [
        "says nothing of left and right (no good RAS flag): read as LIA, as FreeSurfer does"
    ]


def test_the_doctor_prints_a_doubtful_scan_among_good_ones_and_counts_it(tmp_path, capsys):
    nifti(tmp_path / "a.nii.gz", codes=(0, 0))
    nifti(tmp_path / "b.nii.gz")
    (first, second) = inspect([str(tmp_path)], "volume")
    assert first.ok and second.ok and len(first.doubts) == 1 and second.doubts == ()
    assert first.description == "NIfTI-1 int16 7x6x5, 0.8 x 0.8 x 2.5 mm, LAS"
    assert run(["doctor", str(tmp_path), "--reader", "volume"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        len(lines) == 4 and lines[2] == "good: 2 NIfTI-1 int16" and lines[1].startswith("values, of 2 files by median")
    )
    assert lines[0].startswith(
        f"{tmp_path}/a.nii.gz: NIfTI-1 int16 7x6x5, 0.8 x 0.8 x 2.5 mm, LAS; says nothing of left"
    )
    assert lines[3] == "2 files, all good; 1 of the good ones may mislead, as said above"


@pytest.fixture
def mixed(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for i, codes in enumerate([(0, 0), (1, 0), (0, 0), (0, 1)]):
        nifti(folder / f"{i}.nii{'.gz' if i < 2 else ''}", codes=codes)
    (folder / "4.nii.gz").write_bytes(b"no scan")
    return folder


def config_of(folder, **reader):
    from mae_ext.config import parse_config

    reader = {"name": "volume", "intensity": {"name": "window", "windows": [[0, 100]]}} | reader
    augment = {"fixed": [0, 1, 2], "flip": []}
    volume = {
        "size": [8, 8, 8], "patch": [4, 4, 4], "channels": 1, "batch": 2, "mask": {"name": "random", "ratio": 0.75},
        "data": {
            "path": str(folder), "statistics": "none", "reader": reader, "augment": augment, "max_bad_fraction": 0.5
        },
    }  # fmt: skip
    model = {"width": 12, "depth": 1, "heads": 1, "decoder": {"width": 12, "depth": 1, "heads": 1}}
    steps = {"steps": 1, "workers": 0, "lr": 1e-3, "lr_per": None, "precision": "fp32", "tensorboard": False}
    return parse_config({"modalities": {"volume": volume}, "model": model, "train": steps})


TOLD = "2 of 5 scans that were looked at say nothing of left and right"


def test_training_says_once_how_many_scans_say_nothing_of_sides_from_files_and_from_a_cache(mixed, tmp_path, capfd):
    for name, reader in (
        ("plain", {}),
        ("cached", {"cache": str(tmp_path / "cache")}),
        ("again", {"cache": str(tmp_path / "cache")}),
    ):
        train(config_of(mixed, **reader), tmp_path / name)
        told = capfd.readouterr().err
        assert told.count("left and right") == 1 and f"warning: volume: {TOLD}" in told
        assert f"{mixed}/0.nii.gz, {mixed}/2.nii; `mae-ext doctor` says" in told


def test_predictions_features_and_preparation_say_it_too(mixed, tmp_path, capfd, caplog):
    from mae_ext.data.loading.prepare import prepare
    from mae_ext.features.embed import embed

    config = config_of(mixed)
    warn_one_sided(config.modalities.values(), [str(mixed)])
    assert capfd.readouterr().err.count(TOLD) == 1
    prepare(config, tmp_path / "cache", 1)
    assert sum(TOLD in record.getMessage() for record in caplog.records) == 1
    train(config, tmp_path / "run")
    capfd.readouterr()
    embed(tmp_path / "run", str(mixed), tmp_path / "f.safetensors", max_bad_fraction=0.5)
    assert capfd.readouterr().err.count(TOLD) == 1


def test_nothing_is_said_of_scans_that_say_where_left_is_nor_by_readers_that_cannot_tell(mixed, tmp_path):
    reader = VolumeReader((4, 4, 4))
    assert one_sided(reader, [str(mixed / "1.nii.gz"), str(mixed / "3.nii"), str(mixed / "4.nii.gz")]) is None
    assert one_sided(object(), [str(mixed / "0.nii.gz")]) is None
    assert one_sided(reader, ["a.npz::train_images::0", "b.nrrd", f"{tmp_path}/"]) is None  # nothing is opened


def test_of_many_scans_some_are_looked_at_and_no_more_than_their_first_bytes_are_read(mixed, monkeypatch):
    read = []
    real = os.pread
    monkeypatch.setattr("mae_ext.data.sources.address.os.pread", lambda h, n, o: read.append(n) or real(h, n, o))
    told = one_sided(VolumeReader((4, 4, 4)), [str(mixed / "0.nii.gz")] * 3000)
    assert told.startswith("1024 of 1024 scans that were looked at")
    assert len(read) == 1024 and max(read) <= 1 << 16
