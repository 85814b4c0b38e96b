"""Nothing that a run reads is ever executed: pickles, YAML tags and plug-ins under any name (FAULTS S1, S4)."""

import io
import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from mae_ext.cli import run
from mae_ext.engine import checkpoint


class Payload:
    """Unpickled, it makes the canary."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), "w")


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


@pytest.fixture
def gadgets(canary):
    """Files that execute when they are unpickled, by the form they have."""
    payload = Payload(canary)
    forms = {f"protocol {n}": pickle.dumps(payload, protocol=n) for n in range(6)}
    zipped, flat, array, archive = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"model": payload}, zipped)
    torch.save({"model": payload}, flat, _use_new_zipfile_serialization=False)
    np.save(array, np.array([payload], dtype=object), allow_pickle=True)
    np.savez(
        archive, train_images=np.array([payload] * 4, dtype=object), train_labels=np.array([payload] * 4, dtype=object)
    )
    forms |= {
        "torch": zipped.getvalue(),
        "old torch": flat.getvalue(),
        "npy": array.getvalue(),
        "npz": archive.getvalue(),
    }
    return forms


def test_the_gadgets_are_live(gadgets, canary):
    for name in ("protocol 0", "protocol 5"):
        pickle.loads(gadgets[name]).close()
        assert canary.exists()
        canary.unlink()
    torch.load(io.BytesIO(gadgets["torch"]), weights_only=False)["model"].close()
    assert canary.exists()


@pytest.fixture
def refuse(canary, capfd):
    def call(*arguments, codes=(1, 2)):
        capfd.readouterr()
        code = run([str(a) for a in arguments])
        said = capfd.readouterr().err
        assert code in codes, said
        assert "Traceback" not in said
        assert not canary.exists()
        return said

    return call


@pytest.fixture
def trained(tiny, photos, tmp_path):
    config = tiny({"train.steps": 4, "train.save_every": 4})
    assert run(["pretrain", str(config), "--data", str(photos), "--out", str(tmp_path / "run")]) == 0
    return config, tmp_path / "run"


def sign(path):
    """The manifest of a checkpoint as if all its files were meant."""
    manifest = json.loads((path / "manifest.json").read_text())
    for name in manifest["files"]:
        file = path / name
        manifest["files"][name] = {"bytes": file.stat().st_size, "sha256": checkpoint.sha256(file)}
    (path / "manifest.json").write_text(checkpoint.sealed(manifest))


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_a_pickle_in_the_place_of_any_file_of_a_checkpoint_is_not_executed(trained, gadgets, photos, refuse, signed):
    config, out = trained
    (path,) = checkpoint.steps_of(out / "checkpoints")
    whole = {file: file.read_bytes() for file in path.iterdir()}
    for content in gadgets.values():
        for file in whole:
            file.write_bytes(content)
            if signed and file.name != "manifest.json":
                sign(path)
            commands = [["pretrain", config, "--data", photos, "--out", out]]
            if file.name in ("model.safetensors", "manifest.json", "config.yaml", "state.json"):
                commands += [["embed", out, photos, "--out", out / "f.safetensors"], ["reconstruct", path, photos]]
            for command in commands:
                refuse(*command)
            for other, good in whole.items():
                other.write_bytes(good)


def test_a_pickle_named_as_weights_is_not_executed(gadgets, photos, tmp_path, refuse):
    for suffix in (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pkl"):
        for content in gadgets.values():
            file = tmp_path / f"weights{suffix}"
            file.write_bytes(content)
            refuse("embed", file, photos, "--out", tmp_path / "f.safetensors", codes=(2,))
            refuse("probe", file, "--train", photos, "--test", photos, codes=(2,))


def test_a_pickle_named_as_data_is_not_executed(gadgets, tiny, tmp_path, refuse):
    config = tiny({"train.steps": 2, "modalities.image.data.statistics": "none"})
    for number, content in enumerate(gadgets.values()):
        folder = tmp_path / f"data{number}"
        folder.mkdir()
        (folder / "x.jpg").write_bytes(content)
        (folder / "x.npz").write_bytes(content)
        shard = tmp_path / f"shard{number}.tar"
        with tarfile.open(shard, "w") as tar:
            tar.add(folder / "x.jpg", "0.jpg")
            tar.add(folder / "x.npz", "0.cls")
        for source in (folder, folder / "x.npz", folder / "x.jpg", shard):
            refuse("pretrain", config, "--data", source, "--out", folder / f"run-{source.name}")
            refuse("doctor", source, codes=(1, 2))


def test_an_npz_whose_labels_are_objects_is_refused(tiny, canary, tmp_path, refuse):
    images = np.zeros((8, 20, 20, 3), np.uint8)
    file = tmp_path / "medical.npz"
    np.savez(file, train_images=images, train_labels=np.array([Payload(canary)] * 8, dtype=object))
    refuse("pretrain", tiny({"train.steps": 2}), "--data", file, "--out", tmp_path / "run", codes=(2,))


def test_a_zip_that_hides_a_pickle_in_an_npz_is_refused(tiny, gadgets, tmp_path, refuse):
    file = tmp_path / "x.npz"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("train_images.npy", gadgets["npy"])
        archive.writestr("data.pkl", gadgets["protocol 4"])
    refuse("pretrain", tiny({"train.steps": 2}), "--data", file, "--out", tmp_path / "run", codes=(2,))


TAGS = [
    "!!python/object/apply:builtins.open [CANARY, w]",
    "!!python/object/new:builtins.open {args: [CANARY, w]}",
    "!!python/name:builtins.open",
    "!!python/module:os",
    "!!python/object:pathlib.Path {}",
    "!<tag:yaml.org,2002:python/object/apply:builtins.open> [CANARY, w]",
]


@pytest.mark.parametrize("tag", TAGS)
def test_a_yaml_tag_is_not_executed_in_a_config_an_override_or_a_checkpoint(
    trained, photos, tmp_path, canary, refuse, tag
):
    config, out = trained
    value = tag.replace("CANARY", str(canary))
    start = ["--data", photos, "--out", out]
    assert "python" in refuse("pretrain", config, *start, "--set", f"seed={value}", codes=(2,))
    (path,) = checkpoint.steps_of(out / "checkpoints")
    (path / "config.yaml").write_text(f"seed: {value}\n")
    sign(path)
    assert "python" in refuse("pretrain", config, *start, codes=(2,))
    config.write_text(config.read_text() + f"\nother: {value}\n")
    assert "python" in refuse("pretrain", config, "--data", photos, "--out", tmp_path / "new", codes=(2,))


BROKEN = {
    "raises at import": "raise RuntimeError('no licence')\n",
    "has no such attribute": "Other = 1\n",
    "is no callable": "Reader = 3\n",
    "takes no size": "class Reader:\n    def __init__(self, channels): ...\n",
    "raises when built": "class Reader:\n    def __init__(self, size, channels): raise ValueError('too small')\n",
    "has no read": "class Reader:\n    suffixes = ('.png', '.jpg')\n    def __init__(self, size, channels): ...\n",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plug_in_is_one_line_for_the_run_that_names_it_and_nothing_for_others(
    tiny, photos, tmp_path, monkeypatch, refuse, kind
):
    site = tmp_path / "site"
    info = site / "broken-0.3.dist-info"
    info.mkdir(parents=True)
    module = f"broken_{list(BROKEN).index(kind)}"
    (site / f"{module}.py").write_text(BROKEN[kind])
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text(f"[mae_ext.readers]\nbroken = {module}:Reader\n")
    monkeypatch.syspath_prepend(site)
    config = tiny({"train.steps": 2, "modalities.image.data.reader": {"name": "broken"}})
    said = refuse("pretrain", config, "--data", photos, "--out", tmp_path / "run")
    assert len([line for line in said.splitlines() if line.startswith("mae-ext")]) == 1
    assert "broken" in said or "Reader" in said
    sound = tiny({"train.steps": 2}, name="sound")
    assert run(["pretrain", str(sound), "--data", str(photos), "--out", str(tmp_path / "sound")]) == 0
    assert run(["plugins"]) == 0
