"""The doctor: every file gets the verdict it deserves, and none takes the others with it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from mae_ext.cli import run
from mae_ext.data.image.reader import ImageReader
from mae_ext.data.loading.doctor import Verdict, inspect, summary
from mae_ext.errors import ConfigError, UserError


def save(path: Path, side: int = 40, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(side).integers(0, 256, (side, side + 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def by_name(verdicts: Sequence[Verdict]) -> dict[str, Verdict]:
    return {Path(v.path).name: v for v in verdicts}


def test_each_file_of_a_folder_is_judged(tmp_path: Path) -> None:
    save(tmp_path / "good.png")
    cut = save(tmp_path / "deep" / "cut.jpg")
    cut.write_bytes(cut.read_bytes()[:-300])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no photo")
    found = by_name(list(inspect([str(tmp_path)])))
    assert {name: (v.ok, v.kind) for name, v in found.items()} == {
        "cut.jpg": (False, "truncated"),
        "empty.jpg": (False, "empty"),
        "good.png": (True, ""),
        "text.jpg": (False, "not an image"),
    }
    assert found["good.png"].description == "PNG RGB 48x40"
    assert "8 bytes" not in found["text.jpg"].kind and "no photo" in found["text.jpg"].detail


def test_the_command_fails_where_any_file_is_bad(tmp_path: Path, capsys) -> None:
    save(tmp_path / "good.png")
    assert run(["doctor", str(tmp_path)]) == 0
    (tmp_path / "empty.png").touch()
    assert run(["doctor", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "empty.png" in said and "good.png" not in said


def test_many_paths_are_judged_in_their_order(tmp_path: Path) -> None:
    paths = [str(save(tmp_path / name)) for name in ("b.png", "a.jpg", "c.gif")]
    assert [v.path for v in inspect(paths)] == paths


def test_a_path_with_nothing_in_it_is_refused_before_any_file_is_opened(tmp_path: Path) -> None:
    good = save(tmp_path / "good.png")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="nothing else in it"):
        next(inspect([str(good), str(tmp_path / "none")]))


def test_rows_of_arrays_may_have_any_channels_unless_some_are_asked_for(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train_images=np.zeros((2, 9, 8, 5), np.uint8))
    assert [v.ok for v in inspect([str(tmp_path / "a.npz")])] == [True, True]
    assert [v.kind for v in inspect([str(tmp_path / "a.npz")], channels=3)] == ["channels", "channels"]
    (first, _) = inspect([str(tmp_path / "a.npz")], channels=5)
    assert first.ok and first.description == "array uint8 9x8x5"


def test_an_unknown_reader_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown reader 'imag'.*did you mean 'image'"):
        next(inspect([str(tmp_path)], "imag"))


def test_an_example_that_says_no_size_and_channels_is_refused_with_the_form(tmp_path: Path, monkeypatch) -> None:
    save(tmp_path / "a.png")
    monkeypatch.setattr(ImageReader, "example", ((64, 64), 1), raising=False)
    with pytest.raises(ConfigError, match=r"reader 'image': its `example` is \(\(64, 64\), 1\); expected \{\"size\""):
        list(inspect([str(tmp_path)]))


def test_a_file_that_takes_forever_costs_its_own_verdict(tmp_path: Path) -> None:
    # The largest image allowed takes far longer to inflate than the deadline, the small file beside it far shorter.
    Image.new("RGBA", (10_000, 10_000)).save(tmp_path / "large.png", compress_level=1)
    save(tmp_path / "small.png")
    found = by_name(list(inspect([str(tmp_path)], deadline_s=0.15)))
    assert found["large.png"].kind == "hung" and found["small.png"].ok


def test_a_file_that_needs_too_much_memory_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (8_000, 8_000)).save(tmp_path / "large.png", compress_level=1)
    save(tmp_path / "small.png")
    found = by_name(list(inspect([str(tmp_path)], memory_bytes=100 << 20)))
    assert found["large.png"].kind == "out of memory" and found["small.png"].ok


def test_scans_are_judged_as_a_config_reads_them(tiny, tmp_path: Path, capsys) -> None:
    """A fourth axis is damage to one config and contrasts to another."""
    nib.Nifti1Image(np.random.default_rng(0).normal(size=(9, 10, 8, 2)), np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    assert run(["doctor", str(tmp_path / "a.nii.gz"), "--reader", "volume"]) == 1
    assert "set the reader's channel_axis or time_axis" in capsys.readouterr().out
    reader = {"name": "volume", "channel_axis": 3}
    volume = {"size": [4, 4, 4], "patch": [2, 2, 2], "channels": 2, "batch": 2, "data": {"reader": reader}}
    config = str(tiny({"modalities": {"volume": volume}}))
    assert run(["doctor", str(tmp_path / "a.nii.gz"), "--config", config, "--verbose"]) == 0
    said = capsys.readouterr().out
    assert "a.nii.gz: NIfTI" in said and said.endswith("1 files, all good\n")
    assert run(["doctor", str(tmp_path / "a.nii.gz"), "--config", config, "--set", "modalities.volume.channels=3"]) == 1
    assert run(["doctor", str(tmp_path / "a.nii.gz"), "--set", "seed=1"]) == 2


def test_the_summary_is_one_line_that_counts_by_kind() -> None:
    good, cut, empty = Verdict("a", True), Verdict("b", False, "truncated"), Verdict("c", False, "empty")
    assert summary([good, good]) == "2 files, all good"
    assert summary([good, cut, cut, empty]) == "4 files: 1 good, 3 bad (2 truncated, 1 empty)"
    assert re.fullmatch(r"1 files: 0 good, 1 bad \(1 empty\)", summary([empty]))


def test_the_summary_counts_what_the_good_ones_are() -> None:
    told = ["PNG RGB 48x40", "DICOM series int16 64x56x40, 0.8 x 0.8 x 2.5 mm, LPS", "PNG RGB 9x9", "odd"]
    good = [Verdict(str(i), True, description=text) for i, text in enumerate(told)]
    bad = Verdict("b", False, "truncated", description="PNG L 9x9")
    said = "good: 2 PNG RGB, 1 DICOM series int16\n5 files: 4 good, 1 bad (1 truncated)"
    assert summary([*good, bad]) == said


def test_a_report_and_the_list_of_the_good_are_the_same_for_any_number_of_workers(tmp_path: Path, capsys) -> None:
    names = [f"{letter}.png" for letter in "abcdefgh"]
    for name in names:
        save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "f.png").write_bytes(b"")
    told = []
    for workers in ("1", "3"):
        words = ["--json", f"{tmp_path}/all.json", "--fix-list", f"{tmp_path}/good.txt", "--workers", workers]
        assert run(["doctor", str(tmp_path / "photos"), "--verbose", *words]) == 1
        told.append((capsys.readouterr().out, json.loads((tmp_path / "all.json").read_text())))
    assert told[0] == told[1]
    report = told[0][1]
    assert [Path(row["path"]).name for row in report["samples"]] == names
    assert [row["kind"] for row in report["samples"]] == ["", "", "", "", "", "empty", "", ""]
    assert (report["files"], report["good"], report["bad"]) == (8, 7, {"empty": 1})
    values = report["samples"][0]["values"]
    assert values["dtype"] == "uint8" and 0 <= values["low"] <= values["p1"] < values["p50"] < values["high"] <= 255
    assert [Path(line).name for line in (tmp_path / "good.txt").read_text().splitlines()] == [
        name for name in names if name != "f.png"
    ]


def test_values_of_scans_are_those_of_the_file_and_a_wrapped_one_is_pointed_at(tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(0)
    for i in range(6):
        x = rng.normal(-1000, 10, (8, 9, 10)).astype(np.int16)
        x[2:6, 2:6, 2:6] = rng.normal(40, 30, (4, 4, 4))
        stored = x.astype(np.uint16) if i == 4 else x
        nib.Nifti1Image(stored, np.eye(4)).to_filename(tmp_path / f"{i}.nii")
    (_, verdict) = list(inspect([str(tmp_path / "0.nii"), str(tmp_path / "1.nii")], "volume"))
    x = np.asarray(nib.load(tmp_path / "1.nii").dataobj)
    assert verdict.values is not None
    assert (verdict.values.dtype, verdict.values.low, verdict.values.high) == ("int16", x.min(), x.max())
    assert verdict.values.p50 == pytest.approx(np.median(x), abs=1)
    assert run(["doctor", str(tmp_path), "--reader", "volume", "--workers", "2"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said if "unlike" in line] == [str(tmp_path / "4.nii")]
    assert said[-1] == "6 files, all good"
