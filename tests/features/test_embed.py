import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from mae_ext.data.sample import Crop
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import UserError
from mae_ext.export.weights import export
from mae_ext.features.embed import embed
from mae_ext.features.encoder import FrozenEncoder
from mae_ext.features.sharing import opened_run
from mae_ext.probing.probe import probe
from mae_ext.probing.spec import ProbeSpec
from mae_ext.report.page import write_report

MakeRun = Callable[..., Path]


def test_row_i_of_the_tensor_is_line_i_of_the_sources(make_run: MakeRun, striped: Path, tmp_path: Path) -> None:
    run = make_run()
    out = embed(run, str(striped / "test"), tmp_path / "features.safetensors")
    features = load_file(out)["features"]
    lines = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    assert features.dtype == np.float32 and features.shape == (len(lines), 24)
    alone = opened_run(run).encoder.features(lines[6]["path"]).features[0]
    np.testing.assert_allclose(features[6], alone, atol=1e-5)
    assert [line["class"] for line in lines] == [Path(line["path"]).parent.name for line in lines]


def test_the_file_says_where_its_features_are_from(make_run: MakeRun, striped: Path, tmp_path: Path) -> None:
    out = embed(make_run(), str(striped / "test"), tmp_path / "features.safetensors", pool="class")
    with safe_open(out, "numpy") as file:
        metadata = file.metadata()
    assert (metadata["step"], metadata["pool"], metadata["bad"]) == ("7", "class", "0")
    assert json.loads(metadata["classes"]) == ["across", "down", "slanted"]


def test_unlabelled_sources_have_null_labels(make_run: MakeRun, striped: Path, tmp_path: Path) -> None:
    out = embed(make_run(), str(striped / "test" / "down"), tmp_path / "features.safetensors")
    lines = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    assert {(line["label"], line["class"]) for line in lines} == {(None, None)}


def test_bad_files_are_listed_beside_the_features(make_run: MakeRun, striped: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes((striped / "test" / "down" / "100.png").read_bytes())
    (folder / "b.png").write_bytes(b"")
    out = embed(make_run(), str(folder), tmp_path / "features.safetensors", max_bad_fraction=0.5)
    assert len(load_file(out)["features"]) == 1
    (bad,) = [json.loads(line) for line in out.with_suffix(".bad.jsonl").read_text().splitlines()]
    assert bad["path"].endswith("b.png") and bad["kind"] == "empty"


def test_an_embedding_that_fails_leaves_the_older_file_as_it_was(
    make_run: MakeRun, striped: Path, tmp_path: Path
) -> None:
    run = make_run()
    out = embed(run, str(striped / "test"), tmp_path / "features.safetensors")
    before = out.read_bytes()
    with pytest.raises(UserError, match="nowhere"):
        embed(run, str(tmp_path / "nowhere"), out)
    assert out.read_bytes() == before
    assert not list(tmp_path.glob("*.tmp-*"))


def test_weights_are_not_written_over_with_features(make_run: MakeRun, striped: Path, tmp_path: Path) -> None:
    run, weights = make_run(), tmp_path / "model.safetensors"
    save_file({"head.weight": np.ones((2, 3), np.float32)}, weights)
    before = weights.read_bytes()
    with pytest.raises(UserError, match=r"model\.safetensors: holds other tensors than features"):
        embed(run, str(striped / "test"), weights)
    assert weights.read_bytes() == before


def test_a_folder_with_another_program_s_config_yaml_is_no_run_to_add_pictures_to(
    make_run: MakeRun, striped: Path, tmp_path: Path
) -> None:
    run = make_run()
    foreign = tmp_path / "foreign"
    export(run, "safetensors", foreign)
    (foreign / "config.yaml").write_text("model: ours\n")
    before = sorted(file.name for file in foreign.iterdir())
    embed(str(foreign), str(striped / "test"), tmp_path / "f.safetensors", with_map=True)
    probe(str(foreign), ProbeSpec(str(striped / "train"), str(striped / "test"), k=3, epochs=1))
    assert sorted(file.name for file in foreign.iterdir()) == before
    with pytest.raises(UserError, match=r"not a run directory, but weights of another program \(model\.safetensors\)"):
        write_report(foreign)


def test_a_link_at_the_place_of_the_output_is_replaced_not_written_through(
    make_run: MakeRun, striped: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    out = tmp_path / "features.safetensors"
    out.symlink_to(precious)
    embed(make_run(), str(striped / "test"), out)
    assert precious.read_text() == "keep me" and not out.is_symlink()


def test_files_beside_the_output_that_are_not_its_own_are_left_alone(
    make_run: MakeRun, striped: Path, tmp_path: Path
) -> None:
    """As metrics.jsonl of a run, where somebody writes metrics.safetensors."""
    run = make_run()
    (tmp_path / "metrics.jsonl").write_text("somebody's")
    with pytest.raises(UserError, match=r"metrics\.jsonl: belongs to no metrics\.safetensors"):
        embed(run, str(striped / "test"), tmp_path / "metrics.safetensors")
    assert (tmp_path / "metrics.jsonl").read_text() == "somebody's"
    for _ in range(2):  # its own are replaced with it
        embed(run, str(striped / "test"), tmp_path / "f.safetensors")


def test_a_place_that_cannot_be_written_is_named(make_run: MakeRun, striped: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        embed(make_run(), str(striped / "test"), tmp_path / "missing" / "features.safetensors")
    with pytest.raises(UserError, match="safetensors"):
        embed(make_run(), str(striped / "test"), tmp_path / "features.npz")


def test_a_map_and_neighbours_are_beside_the_features_and_on_the_page_of_the_run(
    make_run: MakeRun, striped: Path, tmp_path: Path
) -> None:
    run = make_run()
    out = embed(run, str(striped / "test"), tmp_path / "features.safetensors", with_map=True, neighbours=3)
    for name in ("features.map.png", "features.neighbours.png"):
        assert (tmp_path / name).read_bytes() == (run / "maps" / name).read_bytes()
    html = write_report(run).read_text()
    assert "features.neighbours</h3>" in html and html.count("data:image/png") == 2
    assert out.is_file() and not list(tmp_path.glob("*.tmp-*"))


def test_patients_and_several_classes_stand_in_the_rows(make_run: MakeRun, striped: Path, tmp_path: Path) -> None:
    files = sorted((striped / "test" / "down").glob("*.png"))
    lines = [f"{file},{label},p{i}" for i, (file, label) in enumerate(zip(files, ("a|b", "b", "|", ""), strict=True))]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,patient", *lines]) + "\n")
    out = embed(make_run(), str(tmp_path / "list.csv"), tmp_path / "features.safetensors", with_map=True)
    rows = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    assert [row["class"] for row in rows] == [["a", "b"], ["b"], [], None]
    assert [row["patient"] for row in rows] == ["p0", "p1", "p2", "p3"]


def test_a_number_that_is_a_class_stays_itself_and_a_name_has_its_place(
    make_run: MakeRun, striped: Path, tmp_path: Path
) -> None:
    files = sorted((striped / "test" / "down").glob("*.png"))
    run, lists = make_run(), {"numbers": ("10", "2", "90210", ""), "names": ("10", "2", "x", "")}
    found = {}
    for name, labels in lists.items():
        rows = [f"{file},{label}" for file, label in zip(files, labels, strict=True)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["path,label", *rows]) + "\n")
        out = embed(run, str(tmp_path / f"{name}.csv"), tmp_path / f"{name}.safetensors")
        found[name] = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    assert [(row["label"], row["class"]) for row in found["numbers"]] == [
        (10, "10"), (2, "2"), (90210, "90210"), (None, None),
    ]  # fmt: skip
    assert [(row["label"], row["class"]) for row in found["names"]] == [(0, "10"), (1, "2"), (2, "x"), (None, None)]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which nobody can write")
def test_a_place_that_cannot_be_written_is_said_before_anything_is_read(
    make_run: MakeRun, striped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, source = make_run(), str(striped / "test")
    looked: list[str] = []
    monkeypatch.setattr(FrozenEncoder, "features", lambda *_, **__: looked.append("work"))
    with pytest.raises(UserError, match=r"/proc/self/f\.safetensors: cannot be written"):
        embed(run, source, "/proc/self/f.safetensors")
    for name in ("f.safetensors", "f.jsonl", "f.bad.jsonl"):
        (tmp_path / "f.safetensors").touch()
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).mkdir()
        with pytest.raises(UserError, match=f"{name}: is a folder"):
            embed(run, source, tmp_path / "f.safetensors")
        (tmp_path / name).rmdir()
    assert not looked and not list(tmp_path.glob("f.*tmp*"))


def test_bad_files_of_an_earlier_embedding_are_forgotten_with_it(
    make_run: MakeRun, striped: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes((striped / "test" / "down" / "100.png").read_bytes())
    (folder / "b.png").write_bytes(b"")
    run, out = make_run(), tmp_path / "f.safetensors"
    embed(run, str(folder), out, max_bad_fraction=0.5)
    assert (tmp_path / "f.bad.jsonl").exists()
    (folder / "b.png").unlink()
    embed(run, str(folder), out)
    assert not (tmp_path / "f.bad.jsonl").exists() and len((tmp_path / "f.jsonl").read_text().splitlines()) == 1


def test_embedding_reads_a_trainings_cache_and_adds_nothing_to_it(make_run: MakeRun, tmp_path: Path) -> None:
    cache, scans = tmp_path / "cache", tmp_path / "scans"
    scans.mkdir()
    for name in "ab":
        voxels = np.random.default_rng(ord(name)).normal(size=(12, 12, 12)).astype(np.float32)
        nib.Nifti1Image(voxels, np.eye(4)).to_filename(scans / f"{name}.nii.gz")
    reader = {"name": "volume", "cache": str(cache)}
    run = make_run(
        size=[8, 8, 8], patch=[4, 4, 4], channels=1,
        data={"reader": reader, "statistics": "none", "augment": {"fixed": [0, 1, 2], "flip": []}},
    )  # fmt: skip
    trained = VolumeReader((8, 8, 8), cache=str(cache))
    trained.prepared(str(scans / "a.nii.gz"))
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    out = embed(run, str(scans), tmp_path / "f.safetensors")
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before
    plain = opened_run(run).encoder
    reader_without = VolumeReader((8, 8, 8))
    samples = [reader_without.read(str(scans / f"{n}.nii.gz"), [middle])[0] for n in "ab"]
    np.testing.assert_allclose(load_file(out)["features"], plain.pooled(samples).numpy(), atol=1e-5)


def middle(extent: tuple[int, ...]) -> Crop:
    start = tuple((length - 8) // 2 for length in extent)
    return Crop(start, tuple(s + 8 for s in start), (False,) * 3)
