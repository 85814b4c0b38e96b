"""Reconstructions that are data lie where their sources lie, as long and as large, in their units, and unseen."""

import json
import os
import subprocess

import av
import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from restored.nothing_learned import FILMS, PICTURES, SCANS, run_of, scan

from mae_ext.cli import run as command
from mae_ext.data.image import deep_png
from mae_ext.data.image.reader import ImageReader
from mae_ext.data.sample import whole
from mae_ext.data.video.written import Mp4
from mae_ext.data.volume.scan_windows import WholeScan
from mae_ext.errors import UserError
from mae_ext.restored.data import reconstruct_data
from mae_ext.restored.restorer import Masking


def values_of(path):
    return np.asarray(nib.load(path).dataobj)


def test_a_scans_reconstruction_has_its_header_its_affine_and_its_units(tmp_path):
    """Levels of an intensity rule are undone, on every axis order; the input, by the same steps, is the scan itself."""
    voxels = np.random.default_rng(0).integers(0, 1000, (11, 21, 9)).astype(np.int16)
    source = scan(tmp_path / "scans" / "a.nii.gz", voxels)
    run = run_of(tmp_path / "run", SCANS, mean=0.25, reader={"intensity": {"name": "window", "windows": [[100, 900]]}})
    written = reconstruct_data(run, [source], tmp_path / "out", "nifti", Masking(), with_input=True)
    assert [path.name for path in written] == ["a.nii.gz", "a_input.nii.gz", "reconstructed.json"]
    theirs, ours = nib.load(source).header, nib.load(written[0]).header
    for key in ("srow_x", "srow_y", "srow_z", "quatern_b", "pixdim", "sform_code", "qform_code", "xyzt_units"):
        np.testing.assert_array_equal(ours[key], theirs[key])
    assert ours.get_data_shape() == (11, 21, 9) and ours.get_data_dtype() == np.float32
    np.testing.assert_allclose(values_of(written[0]), 300, atol=0.01)  # a quarter of the window, as nothing was learned
    np.testing.assert_allclose(values_of(written[1]), voxels.clip(100, 900), atol=0.01)
    content = json.loads(written[2].read_text())
    assert (content["masks"], content["hidden_in"], content["trained_share"], content["left_out"]) == (4, 3, 0.75, [])
    assert content["samples"][0]["units"] == "the scan's own, cut off where the reader's intensity does"


def test_a_scan_at_another_spacing_and_of_several_windows_comes_back_on_its_own_voxels(tmp_path):
    ramp = np.zeros((11, 21, 9)) + np.arange(21)[None, :, None] * 10
    source = scan(tmp_path / "a.nii", ramp.astype(np.float32))
    windows = {"intensity": {"name": "window", "windows": [[0, 200], [50, 100]]}, "spacing": [2.0, 2.0, 2.0]}
    run = run_of(tmp_path / "run", SCANS, reader=windows, channels=2, target={"name": "pixel", "normalize": "mae"})
    first, second, first_input, *_ = reconstruct_data(
        run, [source], tmp_path / "o", "nifti", Masking(), with_input=True
    )
    assert (first.name, second.name, first_input.name) == ("a_0000.nii.gz", "a_0001.nii.gz", "a_input_0000.nii.gz")
    # The lattice at 2 mm ends 0.15 voxels before the scan does, which has there what the lattice has at its end.
    np.testing.assert_allclose(values_of(first_input)[:, 1:], ramp[:, 1:], atol=1e-2)
    # Without own statistics: a patch's level is what lies around it, so the ramp is there, along its own axis.
    along = values_of(first).mean((0, 2))
    assert np.corrcoef(along, ramp[0, :, 0])[0, 1] > 0.9
    assert values_of(second).min() >= 50 and values_of(second).max() <= 100


def test_what_is_said_of_a_patch_does_not_depend_on_what_is_in_it(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    run = run_of(tmp_path / "run", PICTURES, silent=False)
    other = pixels.copy()
    other[4:8, 8:12] = 255 - other[4:8, 8:12]
    for name, content in (("a", pixels), ("b", other)):
        Image.fromarray(content).save(tmp_path / f"{name}.png")
    sources = [tmp_path / "a.png", tmp_path / "b.png"]
    one, two, _ = reconstruct_data(run, sources, tmp_path / "out", "png", Masking(8))
    one, two = (np.asarray(Image.open(path)).astype(int) for path in (one, two))
    np.testing.assert_array_equal(one[4:8, 8:12], two[4:8, 8:12])
    assert (one != two).any()


@pytest.mark.parametrize("sixteen", [False, True])
def test_a_picture_keeps_its_odd_size_and_its_bits(tmp_path, sixteen):
    levels = np.random.default_rng(0).integers(0, 65536 if sixteen else 256, (23, 37, 3))
    source = tmp_path / "a.png"
    if sixteen:
        deep_png.write(levels.astype(np.uint16), source)
    else:
        Image.fromarray(levels.astype(np.uint8)).save(source)
    run = run_of(tmp_path / "run", PICTURES, mean=0.5)
    path, shown, listed = reconstruct_data(run, [source], tmp_path / "out", "png", Masking(), with_input=True)
    (made, at_scale) = (ImageReader((23, 37)).read(str(p), [whole])[0].x for p in (path, shown))
    assert made.dtype == (torch.float32 if sixteen else torch.uint8)
    np.testing.assert_allclose(made, 0.5 if sixteen else 127.5, atol=1e-4 if sixteen else 0.6)
    small = ImageReader((16, 26)).read(str(source), [whole])[0].x.float()  # the short side as the model sees it
    back = torch.nn.functional.interpolate(small[None], (23, 37), mode="bilinear")[0]
    np.testing.assert_allclose(at_scale.float(), back, atol=2e-5 if sixteen else 1)
    assert json.loads(listed.read_text())["samples"][0]["units"].startswith("0 to 65535" if sixteen else "0 to 255")


def film(path, size=(35, 51), count=11):
    """A bright bar at column 2n + 4 of frame n, at times that are not even."""
    times = np.cumsum([0, *np.tile([0.04, 0.02], count)])[:count]
    with Mp4(path, size, times) as written:
        for n in range(count):
            frame = np.full((*size, 3), 60, np.uint8)
            frame[:, 2 * n + 4 : 2 * n + 10] = 240
            written.write(frame)
    return times


def test_a_film_keeps_its_odd_size_its_length_and_its_times(tmp_path):
    times = film(tmp_path / "a.mp4")
    run = run_of(tmp_path / "run", FILMS, mean=0.5)
    path, shown, _ = reconstruct_data(run, [tmp_path / "a.mp4"], tmp_path / "out", "mp4", Masking(), with_input=True)
    for file, spread in ((path, 3), (shown, 255)):
        with av.open(str(file)) as made:
            frames = list(made.decode(video=0))
        assert [(frame.height, frame.width) for frame in frames] == [(35, 51)] * 11
        np.testing.assert_allclose([float(frame.pts * frame.time_base) for frame in frames], times, atol=1e-5)
        pixels = np.stack([frame.to_ndarray(format="rgb24") for frame in frames]).astype(int)
        assert np.ptp(pixels) <= spread
    bars = pixels.mean((1, 3)).argmax(1)  # each frame is in its place, of the two rows of frames that stride 2 makes
    assert np.abs(bars - (2 * np.arange(11) + 6.5)).max() <= 3


def test_what_an_earlier_command_made_of_the_same_input_does_not_stay_beside_new_results(tmp_path):
    source = scan(tmp_path / "scans" / "a.nii.gz", np.arange(1000.0).reshape(10, 10, 10).astype(np.float32))
    other = scan(tmp_path / "scans" / "b.nii.gz", np.ones((10, 10, 10), np.float32))
    run, out = run_of(tmp_path / "run", SCANS), tmp_path / "out"
    reconstruct_data(run, [source], out, "nifti", Masking(), with_input=True)
    listed = json.loads((out / "reconstructed.json").read_text())
    listed["samples"] += [{"source": str(source), "files": ["../scans/b.nii.gz"]}, {"source": "else", "files": ["c"]}]
    (out / "reconstructed.json").write_text(json.dumps(listed))
    (out / "c").write_text("of another input")
    reconstruct_data(run, [source], out, "nifti", Masking())
    assert sorted(path.name for path in out.iterdir()) == ["a.nii.gz", "c", "reconstructed.json"] and other.exists()


def test_inputs_are_not_written_over_and_what_cannot_be_read_is_left_out_by_name(tmp_path, capfd):
    source = scan(tmp_path / "scans" / "a.nii.gz", np.arange(1000.0).reshape(10, 10, 10).astype(np.float32))
    (tmp_path / "scans" / "b.nii.gz").write_bytes(source.read_bytes()[:200])
    run = run_of(tmp_path / "run", SCANS)
    before = source.read_bytes()
    with pytest.raises(UserError, match="is an input, and not written over"):
        reconstruct_data(run, [source], source.parent, "nifti", Masking())
    assert source.read_bytes() == before
    ask = ["reconstruct", str(run), str(tmp_path / "scans"), "--as", "nifti", "--out", str(tmp_path / "out")]
    assert command(ask) == 0 and command(ask) == 0  # its own files are written anew
    assert "left out:" in (said := capfd.readouterr()).err and str(tmp_path / "out" / "a.nii.gz") in said.out
    assert json.loads((tmp_path / "out" / "reconstructed.json").read_text())["left_out"][0]["path"].endswith("b.nii.gz")
    (tmp_path / "out" / "reconstructed.json").unlink()
    assert command(ask) == 2 and "nothing is written over" in capfd.readouterr().err
    assert command([*ask[:-1], str(tmp_path / "other"), "--limit", "1"]) == 0
    assert "1 of 2 inputs are left out by --limit 1" in capfd.readouterr().err
    assert command([*ask[:3], "--as", "mp4", "--out", str(tmp_path / "x")]) == 2
    assert "ask for --as nifti" in capfd.readouterr().err and not (tmp_path / "x").exists()
    assert command([*ask[:3], "--masks", "4", "--out", str(tmp_path / "x")]) == 2
    assert "add --as" in capfd.readouterr().err


def test_of_two_commands_at_once_into_one_folder_the_second_is_refused_and_the_first_is_whole(tmp_path, monkeypatch):
    run, source = (
        run_of(tmp_path / "run", SCANS),
        scan(tmp_path / "a.nii.gz", np.arange(576, dtype=np.float32).reshape(9, 8, 8)),
    )

    def meanwhile(self, *rest, write=WholeScan.write):
        with pytest.raises(UserError, match="another command is writing there"):
            reconstruct_data(run, [source], tmp_path / "out", "nifti", Masking(4))
        write(self, *rest)

    monkeypatch.setattr(WholeScan, "write", meanwhile)
    first, listed = reconstruct_data(run, [source], tmp_path / "out", "nifti", Masking(4))
    assert values_of(first).shape == (9, 8, 8) and "unfinished" not in json.loads(listed.read_text())


def test_a_result_that_would_be_of_two_inputs_is_refused_before_the_work(tmp_path):
    run, voxels = run_of(tmp_path / "run", SCANS), np.arange(512, dtype=np.float32).reshape(8, 8, 8)
    sources = [scan(tmp_path / "scans" / name, voxels) for name in ("a.nii.gz", "a_input.nii.gz")]
    with pytest.raises(UserError, match=r"a_input\.nii\.gz would be of two inputs"):
        reconstruct_data(run, sources, tmp_path / "out", "nifti", Masking(4), with_input=True)
    assert not (tmp_path / "out").exists()
    assert len(reconstruct_data(run, sources, tmp_path / "out", "nifti", Masking(4))) == 3


def test_what_a_killed_command_was_writing_goes_with_the_next_one_and_nothing_else_does(tmp_path):
    run, out = run_of(tmp_path / "run", SCANS), tmp_path / "out"
    source = scan(tmp_path / "scans" / "a.nii.gz", np.arange(512, dtype=np.float32).reshape(8, 8, 8))
    reconstruct_data(run, [source], out, "nifti", Masking(4))
    listed = json.loads((out / "reconstructed.json").read_text())
    listed["samples"] += [{"source": "else", "files": ["../scans/a.nii.gz"]}]
    (out / "reconstructed.json").write_text(json.dumps(listed))
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = [out / f"a.nii.gz.tmp-{gone.pid}", out / f"reconstructed.json.tmp-{gone.pid}"]
    alive, notes = out / f"a.nii.gz.tmp-{os.getppid()}", out / "a.nii.gz.tmp-notes"
    theirs, elsewhere = out / f"b.nii.gz.tmp-{gone.pid}", tmp_path / "scans" / f"a.nii.gz.tmp-{gone.pid}"
    for path in (*left, alive, notes, theirs, elsewhere):
        path.write_text("half")
    reconstruct_data(run, [source], out, "nifti", Masking(4))
    assert not any(path.exists() for path in left)
    assert all(path.read_text() == "half" for path in (alive, notes, theirs, elsewhere))
