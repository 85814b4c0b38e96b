"""What predict leaves: the samples that were answered, whatever was cut short, cannot be read or does not fit."""

import numpy as np
import pytest
import torch
from PIL import Image
from tasks.segment.small_runs import IMAGE, VOLUME, complaint, nuclei

from mae_ext.cli import run
from mae_ext.data.loading import blend
from mae_ext.data.loading.slabs import within_memory
from mae_ext.errors import BadSample


def test_samples_of_one_name_keep_their_folders_when_they_are_answered(fine_tune, blobs, tmp_path):
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images") == 0
    for name in ("s1", "s2"):
        (tmp_path / "new" / name).mkdir(parents=True)
        (tmp_path / "new" / name / "slice.png").write_bytes((blobs / "test" / "images" / "0.png").read_bytes())
    assert run(["predict", str(tmp_path / "ft"), str(tmp_path / "new"), "--out", str(tmp_path / "out")]) == 0
    written = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png"))
    assert written == ["s1/slice.png", "s2/slice.png"]


def cut_short(out, name):
    """As a kill leaves it: the file is not there, a line of the manifest is half written, and so is a file beside."""
    (out / name).unlink()
    manifest = out / "predict.manifest.jsonl"
    whole = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join(line for line in whole if name.encode() not in line) + b'{"source": "x')
    (out / ".unfinished").mkdir()
    (out / ".unfinished" / name).write_text("half")


def test_a_prediction_that_was_cut_short_goes_on_and_leaves_what_is_whole(fine_tune, blobs, tmp_path, capfd):
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images") == 0
    command = ["predict", str(tmp_path / "ft"), str(blobs / "test" / "images"), "--out", str(tmp_path / "out")]
    assert run(command) == 0
    first = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "out").glob("*.png")}
    cut_short(tmp_path / "out", "1.png")
    capfd.readouterr()
    assert run(command) == 0
    said = capfd.readouterr()
    assert "2 of 3 samples are done, by this model" in said.err
    assert said.out.splitlines() == [str(tmp_path / "out" / f"{n}.png") for n in range(3)]
    again = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "out").glob("*.png")}
    assert {name: content for name, (content, _) in again.items()} == {n: content for n, (content, _) in first.items()}
    assert [again[n] == first[n] for n in ("0.png", "1.png", "2.png")] == [True, False, True]
    assert not (tmp_path / "out" / ".unfinished").exists()


def test_a_sample_that_changed_is_answered_anew_and_another_model_is_refused(fine_tune, blobs, tmp_path, capfd):
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images") == 0
    images, out = blobs / "test" / "images", tmp_path / "out"
    assert run(["predict", str(tmp_path / "ft"), str(images), "--out", str(out)]) == 0
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    Image.fromarray(np.full((30, 40, 3), 99, np.uint8)).save(images / "2.png")
    assert run(["predict", str(tmp_path / "ft"), str(images), "--out", str(out)]) == 0
    assert Image.open(out / "2.png").size == (40, 30)
    changed = [name for name, at in before.items() if (out / name).stat().st_mtime_ns != at]
    assert changed == ["2.png"]
    earlier = sorted((tmp_path / "ft" / "checkpoints").iterdir())[0]
    assert run(["predict", str(earlier), str(images), "--out", str(out)]) == 2
    assert "holds predictions of another model or checkpoint; name another folder" in complaint(capfd)


def test_predict_goes_past_what_cannot_be_read_and_says_at_the_end_what_is_missing(fine_tune, blobs, tmp_path, capfd):
    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images") == 0
    (blobs / "test" / "images" / "1.png").write_bytes(b"\x89PNG and no more")
    command = ["predict", str(tmp_path / "ft"), str(blobs / "test" / "images"), "--out", str(tmp_path / "out")]
    assert run(command) == 0
    last = complaint(capfd)
    assert "1 of 3 samples are missing in" in last and last.endswith("images/1.png")
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == ["0.png", "2.png"]
    Image.new("RGB", (36, 28)).save(blobs / "test" / "images" / "1.png")
    assert run(command) == 0
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == ["0.png", "1.png", "2.png"]
    alone = ["predict", str(tmp_path / "ft"), str(blobs / "x.png"), "--out", str(tmp_path / "none")]
    (blobs / "x.png").write_text("no picture")
    assert run(alone) == 2
    assert "none of the 1 samples can be read" in complaint(capfd)


def test_what_does_not_fit_costs_its_own_sample_alone(fine_tune, blobs, tmp_path, capfd, monkeypatch):
    """A limit on the size of files stands in for a disk without room."""
    import resource

    assert fine_tune({"image": IMAGE}, nuclei(blobs), blobs / "train" / "images") == 0
    Image.new("RGB", (2000, 20)).save(blobs / "test" / "images" / "1.png")
    monkeypatch.setattr(blend, "HELD", 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        out = str(tmp_path / "out")
        assert run(["predict", str(tmp_path / "ft"), str(blobs / "test" / "images"), "--out", out]) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capfd.readouterr().err
    assert "1.png: out of memory (and no room on disk: File too large)" in said and "1 of 3 samples are missing" in said
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == ["0.png", "2.png"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 19.2 GiB"),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_whatever_memory_says_is_about_one_sample(error):
    with pytest.raises(BadSample, match=r"a\.png: out of memory"), within_memory("a.png"):
        raise error
    with pytest.raises(RuntimeError, match="shapes"), within_memory("a.png"):
        raise RuntimeError("shapes do not match")


def test_answers_add_nothing_to_the_cache_of_the_training(fine_tune, organs, tmp_path):
    reader = {"name": "volume", "intensity": "zscore", "cache": str(tmp_path / "kept")}
    (tmp_path / "train.txt").write_text("scans/0.nii.gz\nscans/1.nii.gz\n")
    task = {"classes": ["one", "two"], "masks": str(organs / "labels")}
    assert (
        fine_tune({"volume": VOLUME | {"data": VOLUME["data"] | {"reader": reader}}}, task, tmp_path / "train.txt") == 0
    )
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*.array")}
    assert len(kept) == 4  # voxels, and what of them counts, of two scans
    assert run(["predict", str(tmp_path / "ft"), str(organs / "scans"), "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 4
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*.array")} == kept
