"""A run over a store that fails is the run from the disk, bit for bit; what a list is, is asked once a run."""

import hashlib
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from data.sources.faulty_server import every, serving
from faults.kills import trajectory

from mae_ext.cli import run
from mae_ext.data.sources.path_table import PathTable
from mae_ext.data.sources.table import Items
from mae_ext.engine import resume

PASSING = ("reset", "truncated", "500", "503", "longer", "shorter", "wrong range")


@pytest.fixture
def shards(striped: Path, tmp_path: Path) -> Path:
    """36 pictures in 3 shards."""
    (tmp_path / "store").mkdir()
    pictures = sorted((striped / "train").rglob("*.png"))
    for i in range(3):
        with tarfile.open(tmp_path / "store" / f"{i}.tar", "w") as tar:
            for picture in pictures[i::3]:
                tar.add(picture, f"{picture.parent.name}-{picture.name}")
    return tmp_path / "store"


def test_a_run_over_a_store_that_fails_is_the_run_from_the_disk(tiny, shards, tmp_path) -> None:
    pytest.importorskip("aiohttp", reason="mae-ext[remote] is not installed")
    config = tiny({"train.steps": 8, "train.workers": 2})
    assert run(["pretrain", str(config), "--data", str(shards), "--out", str(tmp_path / "disk")]) == 0
    with serving(shards) as store:
        store.fault = every(5, PASSING)
        address = f"{store.url}/{{0..2}}.tar"
        assert run(["pretrain", str(config), "--data", address, "--out", str(tmp_path / "store-run")]) == 0
        assert store.injected >= 7
    disk, over = (tmp_path / name for name in ("disk", "store-run"))
    assert trajectory(over) == trajectory(disk) and len(trajectory(disk)) == 8
    assert not (over / "bad_samples.jsonl").exists() or not (over / "bad_samples.jsonl").read_text()
    newest = Path("checkpoints", "step-00000008", "model.safetensors")
    assert (over / newest).read_bytes() == (disk / newest).read_bytes()


def test_a_run_from_a_store_goes_on_from_the_disk(tiny, shards, tmp_path) -> None:
    pytest.importorskip("aiohttp", reason="mae-ext[remote] is not installed")
    with serving(shards) as store:
        address = f"{store.url}/{{0..2}}.tar"
        assert run(["pretrain", str(tiny({"train.steps": 4})), "--data", address, "--out", str(tmp_path / "run")]) == 0
    config = tiny({"train.steps": 4, "train.save_every": 4})
    assert run(["pretrain", str(config), "--data", str(shards), "--out", str(tmp_path / "run")]) == 0


def held(addresses: PathTable, identity: bytes | None = None, path: str = "d") -> SimpleNamespace:
    examples = None if identity is None else SimpleNamespace(identity=identity)
    config = SimpleNamespace(data=SimpleNamespace(path=path))
    return SimpleNamespace(items=Items(addresses), config=config, examples=examples)


@pytest.mark.parametrize(
    ("names", "identity", "value"),
    [
        (["d/a", "d/b"], None, "2 files, bf40d84a6186afb3"),
        (["d/b", "d/a"], b"labels", "2 files, 3146440f0fa1cb7d"),
        (["x/é\udcff", "y/b"], None, "2 files, 9374f8da4ba299c3"),
    ],
)
def test_the_fingerprint_of_a_list_is_that_of_runs_begun_before(names, identity, value) -> None:
    assert resume.fingerprint(held(PathTable(names), identity)) == value


def test_a_fingerprint_is_computed_once_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    data = held(PathTable([f"d/{i}" for i in range(1000)]))
    first = resume.fingerprint(data)
    monkeypatch.setattr(PathTable, "blocks", None)
    assert resume.fingerprint(data) == first
    with pytest.raises(TypeError):
        resume.fingerprint(held(data.items.addresses, b"other answers"))


def test_a_fingerprint_of_many_files_is_that_of_all_of_them_at_once() -> None:
    names = [f"d/{i:06d}/ü.png" for i in np.random.default_rng(0).permutation(40_000)]
    whole = hashlib.sha256("".join(f"{name[1:]}\0" for name in names).encode()).hexdigest()[:16]
    assert resume.fingerprint(held(PathTable(names))) == f"40000 files, {whole}"
