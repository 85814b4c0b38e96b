"""Maps of anomalies lie on their own voxels, scores are what is said of them, a reference is of the same masks."""

import csv
import errno
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from restored.nothing_learned import FILMS, PICTURES, SCANS, run_of, scan
from restored.test_data import film, values_of

from mae_ext.cli import run as command
from mae_ext.errors import UserError
from mae_ext.features.encoder import load_encoder
from mae_ext.restored.anomaly import anomaly
from mae_ext.restored.reference import PRIOR
from mae_ext.restored.restorer import Masking, Restorer
from mae_ext.restored.scores import TopMean

CUBE = (slice(6, 9), slice(14, 19), slice(2, 5))


def with_cube(path, value=200, shape=(11, 23, 10)):
    voxels = np.full(shape, 100, np.float32)
    voxels[CUBE] = value
    return scan(path, voxels)


def table(folder):
    with (folder / "scores.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("spacing", [None, [2.0, 1.5, 1.2]])
def test_a_bright_cube_lands_on_its_own_voxels_in_the_map_of_an_oblique_scan(tmp_path, spacing):
    """The run expects 100 everywhere, in steps of 50: the cube is 2 off, the rest is as it should be."""
    source = with_cube(tmp_path / "scans" / "a.nii.gz")
    run = run_of(tmp_path / "run", SCANS, mean=100.0, std=50.0, reader={"spacing": spacing})
    written = anomaly(run, [source], tmp_path / "out", Masking(16))
    names = [path.name for path in written]
    assert names == ["a_error.nii.gz", "a_spread.nii.gz", "a.png", "scores.csv", "scores.json"]
    np.testing.assert_array_equal(nib.load(written[0]).affine, nib.load(source).affine)
    error, wanted = values_of(written[0]), np.zeros((11, 23, 10))
    wanted[CUBE] = 2
    if spacing is None:
        np.testing.assert_allclose(error, wanted, atol=1e-4)
    else:
        inside = np.array(np.where(error > 1)).mean(1)
        np.testing.assert_allclose(inside, [7, 16, 3], atol=0.35)  # its middle, in voxels
        assert np.corrcoef(error.ravel(), wanted.ravel())[0, 1] > 0.8
    np.testing.assert_allclose(values_of(written[1]), 0, atol=1e-2)  # it says the same whatever is hidden
    (row,) = table(tmp_path / "out")
    assert float(row["score"]) == pytest.approx(2, abs=0.3 if spacing else 1e-4) and row["standardised"] == ""
    listed = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert (listed["masks"], listed["hidden_in"]) == (16, 12) and listed["samples"][0]["files"] == names[:3]


def test_simpleitk_finds_the_bright_cube_where_the_map_of_an_oblique_scan_says(tmp_path):
    sitk = pytest.importorskip("SimpleITK", reason="pip install 'mae-ext[dev]'")
    turned = np.linalg.qr(np.eye(3) + 0.2 * np.random.default_rng(0).normal(size=(3, 3)))[0][:, [2, 0, 1]]
    affine = np.block([[turned * [1.5, -1.0, 2.0], np.array([[-30.0], [12], [7]])], [np.eye(4)[3:]]])
    voxels = np.full((11, 23, 10), 100, np.float32)
    voxels[CUBE] = 200
    source = scan(tmp_path / "scans" / "a.nii.gz", voxels, affine)
    run = run_of(tmp_path / "run", SCANS, mean=100.0, std=50.0)
    error = sitk.ReadImage(str(anomaly(run, [source], tmp_path / "out", Masking(16))[0]))
    image = sitk.ReadImage(str(source))
    assert abs(np.array(image.GetDirection()).reshape(3, 3)).max(0).min() < 0.999  # it is oblique
    over = sitk.GetArrayFromImage(sitk.Resample(error, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0))
    np.testing.assert_array_equal(over > 1, sitk.GetArrayFromImage(image) > 150)


def test_spread_is_the_deviation_over_masks_of_a_run_that_does_not_know(tmp_path):
    voxels = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    source = scan(tmp_path / "a.nii.gz", voxels, np.diag([1.0, 1, 1, 1]))
    run = run_of(tmp_path / "run", SCANS, silent=False)
    error, spread, *_ = anomaly(run, [source], tmp_path / "out", Masking(4))
    restorer = Restorer(load_encoder(run), Masking(4))
    x = torch.from_numpy(voxels.transpose(2, 1, 0).copy())[None, None]  # (D, H, W)
    said = torch.full((4, 8, 8, 8), float("nan"))
    for number, mask in enumerate(restorer.draw((0, 0, 0))):
        filled = restorer.encoder.model.reconstruct(x, mask)[0, 0]
        hidden = filled != x[0, 0]
        said[number][hidden] = filled[hidden]
    assert (said.isfinite().sum(0) == 3).all()
    said = said.numpy()
    np.testing.assert_allclose(
        values_of(error).transpose(2, 1, 0), np.abs(np.nanmean(said, 0) - x[0, 0].numpy()), atol=1e-5
    )
    np.testing.assert_allclose(values_of(spread).transpose(2, 1, 0), np.nanstd(said, 0), atol=1e-3)


def test_places_that_are_not_valid_are_0_in_maps_and_count_in_no_score(tmp_path):
    voxels = np.zeros((12, 12, 12), np.float32)
    voxels[2:10, 2:10, 2:10] = 100
    source = scan(tmp_path / "a.nii.gz", voxels, np.diag([1.0, 1, 1, 1]))
    run = run_of(tmp_path / "run", SCANS, mean=100.0, std=50.0, reader={"body": "nonzero"})
    error, *_ = anomaly(run, [source], tmp_path / "out", Masking(4))
    (row,) = table(tmp_path / "out")
    assert (int(row["places"]), float(row["score"])) == (512, pytest.approx(0, abs=1e-5))
    np.testing.assert_allclose(values_of(error), 0, atol=1e-5)


def pictures(folder, count, seed):
    folder.mkdir()
    for number in range(count):
        levels = np.random.default_rng(seed + number).integers(60, 200, (16, 16, 3))
        levels[:, :8] = 120 + (levels[:, :8] - 120) // 10  # the left half hardly varies
        Image.fromarray(levels.astype(np.uint8)).save(folder / f"{number:02d}.png")
    return folder


def errors_of(folder):
    """Of a run that expects 0.5, in steps of 0.25."""
    whole = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]) / 255
    return np.sqrt((((whole - 0.5) / 0.25) ** 2).mean(-1))


def test_a_reference_on_one_lattice_knows_the_mean_and_deviation_of_each_place_and_is_used_again(tmp_path, capfd):
    train, test = pictures(tmp_path / "train", 12, 0), pictures(tmp_path / "test", 2, 50)
    odd = np.asarray(Image.open(test / "00.png")).copy()
    odd[4:8, 2:6] = 160  # nothing for the right half, much for the left
    Image.fromarray(odd).save(test / "00.png")
    run = run_of(tmp_path / "run", PICTURES, mean=0.5, std=0.25)
    ask = ["anomaly", str(run), str(test), "--reference", str(train), "--masks", "4", "--out", str(tmp_path / "out")]
    assert command(ask) == 0
    usual, kept = errors_of(train), np.load(tmp_path / "out" / "reference.npz")
    np.testing.assert_allclose(kept["mean"], usual.mean(0), atol=2e-3)
    variance = (12 * usual.var(0) + PRIOR * usual.var(0).mean()) / (12 + PRIOR)
    np.testing.assert_allclose(kept["sd"], np.sqrt(variance), atol=2e-3)
    maps = np.load(tmp_path / "out" / "00_maps.npz")
    wanted = (errors_of(test)[0] - usual.mean(0)) / np.sqrt(variance)
    np.testing.assert_allclose(maps["standardised"], wanted, atol=0.05)
    first, second = table(tmp_path / "out")
    assert float(first["score"]) == pytest.approx(np.sort(wanted.ravel())[-3:].mean(), abs=0.05)
    assert float(first["share_below"]) == 1 and float(first["standardised"]) > 3 > abs(float(second["standardised"]))
    capfd.readouterr()
    before = (tmp_path / "out" / "reference.npz").read_bytes()
    assert command(ask) == 0 and "of 12 samples" in (listed := capfd.readouterr().err) and "used again" in listed
    assert (tmp_path / "out" / "reference.npz").read_bytes() == before
    by_file = [
        *ask[:3],
        "--reference",
        str(tmp_path / "out" / "reference.npz"),
        *ask[5:7],
        "--out",
        str(tmp_path / "b"),
    ]
    assert command(by_file) == 0 and table(tmp_path / "b") == table(tmp_path / "out")
    assert command([*by_file[:5], "--masks", "8", *by_file[7:]]) == 2
    assert "is of another masks, hidden_in" in capfd.readouterr().err


def test_scans_of_different_sizes_are_standardised_over_all_places(tmp_path):
    sources = [with_cube(tmp_path / "train" / f"{n}.nii.gz", 150 + n, (11 + n, 23, 10)) for n in range(3)]
    run = run_of(tmp_path / "run", SCANS, mean=100.0, std=50.0)
    strange = with_cube(tmp_path / "b.nii.gz", 300)
    anomaly(run, [strange], tmp_path / "out", Masking(4), reference=tmp_path / "train")
    usual = np.concatenate([np.abs(values_of(path) - 100).ravel() / 50 for path in sources])
    kept = np.load(tmp_path / "out" / "reference.npz")
    assert kept["mean"].shape == (1,) and kept["mean"][0] == pytest.approx(usual.mean(), abs=1e-4)
    assert kept["sd"][0] == pytest.approx(usual.std(), abs=1e-4)
    (row,) = table(tmp_path / "out")
    assert float(row["score"]) == pytest.approx((4 - usual.mean()) / usual.std(), abs=1e-2)
    assert float(row["share_below"]) == 1
    lattice = json.loads((tmp_path / "out" / "scores.json").read_text())["reference"]
    assert lattice["by"] == "all places together" and lattice["samples"] == 3


def test_the_map_of_a_film_has_its_frames_in_their_places_and_their_times(tmp_path):
    times = film(tmp_path / "a.mp4", count=12)
    run = run_of(tmp_path / "run", FILMS, mean=60 / 255, std=0.1)
    maps, picture, *_ = anomaly(run, [tmp_path / "a.mp4"], tmp_path / "out", Masking(4))
    with np.load(maps) as kept:
        error, seconds = kept["error"], kept["times"]
    assert error.shape == (12, 35, 51) and error.dtype == np.float16 and picture.suffix == ".gif"
    np.testing.assert_allclose(seconds, times, atol=1e-5)
    bars = (error > error.max() / 2).mean(1)
    middles = [np.flatnonzero(row > 0.5).mean() for row in bars]
    np.testing.assert_allclose(middles, 2 * np.arange(12) + 6.5, atol=1.5)


@pytest.mark.parametrize("parts", [1, 7])
def test_a_score_is_the_mean_of_the_highest_share_however_a_map_comes(parts):
    values, valid = (
        torch.randn(70, 9, generator=torch.Generator().manual_seed(0)),
        torch.arange(630).view(70, 9) % 3 > 0,
    )
    top = TopMean(0.1, 630)
    for value, counted in zip(values.chunk(parts), valid.chunk(parts), strict=True):
        top.add(value, counted)
    assert (top.count, top.mean) == (420, pytest.approx(float(values[valid].mean()), abs=1e-6))
    assert top.score == pytest.approx(float(values[valid].sort().values[-42:].mean()), abs=1e-6)
    assert np.isnan(TopMean(0.1, 4).score)


def test_what_a_command_cannot_do_it_says_before_it_computes(tmp_path, capfd):
    run = run_of(tmp_path / "run", SCANS)
    source = with_cube(tmp_path / "a.nii.gz")
    with pytest.raises(UserError, match="top=0: expected the share"):
        anomaly(run, [source], tmp_path / "out", Masking(4), top=0)
    with pytest.raises(UserError, match="overlap=1: expected 0 to 0"):
        Masking(overlap=1)
    assert not (tmp_path / "out").exists()
    ask = ["anomaly", str(run), str(source), "--out", str(tmp_path / "out"), "--masks", "3", "--no-maps"]
    assert command(ask) == 0
    assert "hide 0.667 of a sample, and the run was trained with 0.75" in (said := capfd.readouterr()).err
    assert [line.rpartition("/")[2] for line in said.out.split()] == ["scores.csv", "scores.json"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("scores.csv", b"mine"), ("scores.json", b"{}"), ("reference.npz", b""), ("reference.npz", None)],
)
def test_files_that_no_command_of_the_kind_wrote_are_not_written_over(tmp_path, name, content):
    run, source = run_of(tmp_path / "run", SCANS), with_cube(tmp_path / "a.nii.gz")
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / name
    if content is None:
        np.savez(mine, mine=np.arange(3))
    else:
        mine.write_bytes(content)
    before = mine.read_bytes()
    with pytest.raises(UserError, match=name):
        anomaly(run, [source], tmp_path / "out", Masking(4), source, maps=False)
    assert mine.read_bytes() == before and [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_a_reference_that_was_cut_short_is_named(tmp_path):
    run, source = run_of(tmp_path / "run", SCANS), with_cube(tmp_path / "a.nii.gz")
    anomaly(run, [source], tmp_path / "out", Masking(4), source, maps=False)
    cut = tmp_path / "cut.npz"
    cut.write_bytes((tmp_path / "out" / "reference.npz").read_bytes()[:400])
    with pytest.raises(UserError, match=r"cut\.npz: no reference that can be read"):
        anomaly(run, [source], tmp_path / "again", Masking(4), cut, maps=False)


@pytest.mark.parametrize("name", ["scores.json", "scores.csv", "reference.npz"])
def test_a_full_disk_is_said_in_one_line_whichever_file_meets_it(tmp_path, name, monkeypatch):
    run, source = run_of(tmp_path / "run", SCANS), with_cube(tmp_path / "a.nii.gz")
    opened = Path.open

    def full(path, mode="r", *rest, **options):
        if path.name.startswith(name) and "w" in mode:
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match="out: cannot be written: No space left"):
        anomaly(run, [source], tmp_path / "out", Masking(4), source)
    assert not list(tmp_path.rglob("*.tmp-*"))


def test_a_name_that_leaves_no_room_for_what_maps_are_called_is_said_before_the_work(tmp_path):
    run, source = run_of(tmp_path / "run", SCANS), with_cube(tmp_path / ("a" * 240 + ".nii.gz"))
    with pytest.raises(UserError, match=r"no file can have so long a name as .*aaa_standardised"):
        anomaly(run, [source], tmp_path / "out", Masking(4), source)
    assert not (tmp_path / "out").exists()


def test_a_reference_knows_errors_that_are_beyond_half_precision(tmp_path):
    run = run_of(tmp_path / "run", SCANS, mean=100.0, std=1e-3)
    sources = [with_cube(tmp_path / "train" / f"{number}.nii.gz", 200 + number) for number in range(10)]
    anomaly(run, sources[:1], tmp_path / "out", Masking(4), tmp_path / "train", maps=False)
    (row,) = table(tmp_path / "out")
    assert np.isfinite(float(row["score"]))
    with np.load(tmp_path / "out" / "reference.npz") as kept:
        assert np.isfinite(kept["mean"]).all() and len(kept["scores"]) == 10
