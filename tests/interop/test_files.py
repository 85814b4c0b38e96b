"""Files that are not what they say: each is refused by its name, nothing in it runs, and nothing is read in silence."""

import argparse
import io
import json
import os
import pickle
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from mae_ext.errors import CheckpointError
from mae_ext.interop.files import read_foreign

WEIGHTS = {"cls_token": torch.arange(6.0).view(1, 1, 6), "norm.weight": torch.ones(6)}


class Gadget:
    """Unpickled, it would call `what` with `arguments`."""

    def __init__(self, what, *arguments):
        self.what, self.arguments = what, arguments

    def __reduce__(self):
        return self.what, self.arguments


class Stateful:
    """Unpickled, it would have its state set by code of its own."""

    def __setstate__(self, state):
        Path(state["canary"]).unlink()


def stateful(canary):
    made = Stateful()
    made.canary = str(canary)
    return made


def torch_file(values, new=True):
    out = io.BytesIO()
    torch.save(values, out, _use_new_zipfile_serialization=new)
    return out.getvalue()


def script():
    """As far as one of TorchScript is told from tensors."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        for name in ("constants.pkl", "data.pkl", "code/__torch__.py"):
            target.writestr(f"model/{name}", b"x")
    return out.getvalue()


def rezipped(content, **changes):
    """A file of torch.save, packed again: with `compress`, or with members left out or in place of others."""
    source, out = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    how = zipfile.ZIP_DEFLATED if changes.get("compress") else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", how) as target:
        for entry in source.infolist():
            data = source.read(entry)
            if changes.get("without", "-") not in entry.filename:
                target.writestr(entry.filename, changes.get("pickle", data) if "data.pkl" in entry.filename else data)
    return out.getvalue()


def header(values, body=b"", declared=None):
    """A safetensors file by hand."""
    text = values if isinstance(values, bytes) else json.dumps(values).encode()
    return (len(text) if declared is None else declared).to_bytes(8, "little") + text + body


F32 = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


def hostile(canary):
    """name -> (content, what the refusal says). The first part would remove the canary if anything in it ran."""
    remove = f"rm -f {canary}"
    good, plain = save(WEIGHTS), torch_file(WEIGHTS)
    return {
        "os_system.pth": (torch_file({"model": Gadget(os.system, remove)}), r"asks for posix\.system"),
        "legacy_tar.pth": (torch_file({"model": Gadget(os.system, remove)}, new=False), r"asks for posix\.system"),
        "bare_pickle.bin": (pickle.dumps(Gadget(os.system, remove)), r"asks for posix\.system"),
        "subprocess.pt": (torch_file(Gadget(subprocess.call, ["rm", str(canary)])), r"asks for \w+\.call"),
        "exec.ckpt": (torch_file({"a": Gadget(exec, f"import os; os.remove({str(canary)!r})")}), r"asks for .*exec"),
        "eval.pth": (torch_file([Gadget(eval, f"__import__('os').remove({str(canary)!r})")]), r"asks for .*eval"),
        "remove.pth": (torch_file({"x": Gadget(os.remove, str(canary))}), r"asks for posix\.remove"),
        "path.pth": (torch_file({"x": Gadget(Path.unlink, Path(canary))}), r"asks for "),
        "setstate.pth": (torch_file({"x": stateful(canary)}), r"asks for .*Stateful"),
        "in_a_namespace.pth": (
            torch_file({"model": WEIGHTS, "args": argparse.Namespace(x=Gadget(os.system, remove))}),
            r"asks for posix\.system",
        ),
        "whole_module.pth": (torch_file(torch.nn.Linear(2, 2)), r"asks for torch\.nn\.modules\.linear\.Linear"),
        "pickle_in_zip.pt": (
            rezipped(plain, pickle=pickle.dumps(Gadget(os.system, remove))),
            r"asks for posix\.system",
        ),
        "packed.pth": (
            rezipped(torch_file({"x": torch.zeros(1 << 20)}), compress=True),
            "declares .* of tensors",
        ),
        "without_data.pth": (rezipped(plain, without="data/0"), "cannot be read as weights"),
        "cut.pth": (plain[: len(plain) // 2], "is a pickle|cannot be read|is damaged"),
        "flipped.pth": (plain[:100] + bytes([plain[100] ^ 255]) + plain[101:200], "is a pickle|cannot be read|damaged"),
        "empty.pth": (b"", "is empty: it has 0 bytes"),
        "empty.safetensors": (b"", "is empty: it has 0 bytes"),
        "list.pth": (torch_file([torch.ones(3)]), "expected names and tensors, found list"),
        "no_tensors.pth": (torch_file({"epoch": 3, "args": argparse.Namespace(lr=1)}), "holds no tensors, but epoch"),
        "cut.safetensors": (good[:-7], "cannot be read as safetensors"),
        "cut_in_header.safetensors": (good[:40], r"header declares \d+ bytes and the file has 40"),
        "huge_header.safetensors": (header({}, declared=1 << 62), f"header declares {1 << 62} bytes"),
        "beyond.safetensors": (header({"a": {**F32, "data_offsets": [0, 1 << 40]}}, bytes(16)), "as safetensors"),
        "overlap.safetensors": (header({"a": F32, "b": F32}, bytes(16)), "as safetensors"),
        "shape.safetensors": (header({"a": {**F32, "shape": [1 << 60, 1 << 60]}}, bytes(16)), "as safetensors"),
        "negative.safetensors": (header({"a": {**F32, "shape": [-4]}}, bytes(16)), "as safetensors"),
        "dtype.safetensors": (header({"a": {**F32, "dtype": "F33"}}, bytes(16)), "as safetensors"),
        "no_json.safetensors": (header(b"{" * 4096, bytes(16)), "as safetensors"),
        "a_pickle.safetensors": (plain, r"torch\.save wrote it; name it a_pickle\.pth"),
        "nothing.safetensors": (save({}), "holds no tensors"),
        "pointer.safetensors": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"),
        "a_picture.pth": (b"\x89PNG\r\n\x1a\n" + bytes(64), r"begins with b'.x89PNG.*', as no file of torch\.save"),
        "safe.pth": (good, "as no file of torch.save does; it may be safetensors"),
        "script.pt": (script(), r"a program of TorchScript; expected its weights: save its state_dict\(\)"),
        "meta.pth": (torch_file({"x.weight": torch.ones(2, device="meta")}), "'x.weight' is a name and a shape"),
        "sparse.pth": (torch_file({"x": torch.eye(2).to_sparse()}), "'x' is of the layout torch.sparse_coo; expected"),
        "page.pth": (b"\n<!DOCTYPE html><html>404</html>", "is a web page"),
        "weights.h5": (b"\x89HDF\r\n\x1a\n", r"expected a file of weights \(\.safetensors"),
        "weights.onnx": (b"\x08\x07", r"expected a file of weights"),
    }


@pytest.mark.parametrize("name", list(hostile("canary")))
def test_a_file_that_is_no_plain_weights_is_refused_by_its_name_and_nothing_in_it_runs(name, tmp_path):
    canary = tmp_path / "canary"
    canary.write_text("alive")
    content, told = hostile(canary)[name]
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=told) as info:
        read_foreign(file)
    assert str(file) in str(info.value) and "\n" not in str(info.value)
    assert canary.read_text() == "alive"


def test_the_gadgets_would_do_harm_if_they_were_opened_as_python_opens_them(tmp_path):
    """Else the test above could not fail."""
    canary = tmp_path / "canary"
    canary.write_text("alive")
    pickle.loads(hostile(canary)["bare_pickle.bin"][0])
    assert not canary.exists()


@pytest.mark.parametrize(
    ("map_", "told"),
    [
        ({"norm.weight": "../secret.safetensors"}, "no file of weights in the same folder"),
        ({"norm.weight": "/etc/passwd"}, "no file of weights in the same folder"),
        ({"norm.weight": "absent.safetensors"}, "absent.safetensors"),
        ({"norm.weight": "part.safetensors", "head.weight": "part.safetensors"}, "in no file: head.weight"),
        ({"norm.weight": 3}, "expected a 'weight_map'"),
        ({}, "expected a 'weight_map'"),
    ],
)
def test_an_index_of_parts_names_files_beside_it_and_no_others(map_, told, tmp_path):
    save_file(WEIGHTS, tmp_path / "secret.safetensors")
    folder = tmp_path / "weights"
    folder.mkdir()
    save_file({"norm.weight": torch.ones(6)}, folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": map_}))
    with pytest.raises(CheckpointError, match=told):
        read_foreign(folder)


def test_parts_of_an_index_are_one_set_of_weights(tmp_path):
    for number, (name, value) in enumerate(WEIGHTS.items()):
        save_file({name: value}, tmp_path / f"part-{number}.safetensors")
    map_ = {name: f"part-{number}.safetensors" for number, name in enumerate(WEIGHTS)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": map_}))
    assert {name: value.tolist() for name, value in read_foreign(tmp_path).weights.items()} == {
        name: value.tolist() for name, value in WEIGHTS.items()
    }


@pytest.mark.parametrize(
    "wrapped",
    [
        WEIGHTS,
        {"model": WEIGHTS, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        {"state_dict": {f"module.{name}": value for name, value in WEIGHTS.items()}},
        {"module": WEIGHTS, "optimizer": {"state": {}}},
        {"student": {"x": torch.ones(1)}, "teacher": {f"backbone.{name}": value for name, value in WEIGHTS.items()}},
        {"model.module." + name: value for name, value in WEIGHTS.items()},
        {"model_state_dict": WEIGHTS, "optimizer_state_dict": {"state": {}}},
        {"model_ema": {f"module.{name}": value for name, value in WEIGHTS.items()}},
        {"state_dict_ema": WEIGHTS},
    ],
    ids=["bare", "facebookresearch", "distributed", "deepspeed", "dino", "wrapped twice", "pytorch", "ema", "timm"],
)
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_weights_are_found_in_what_training_scripts_save(wrapped, new, tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(torch_file(wrapped, new))
    read = read_foreign(file).weights
    assert read.keys() == WEIGHTS.keys() and all(torch.equal(read[name], WEIGHTS[name]) for name in WEIGHTS)


def test_which_of_several_sets_of_weights_was_taken_is_said(tmp_path):
    torch.save({"model": WEIGHTS, "model_ema": WEIGHTS, "optimizer": {"state": {}}}, tmp_path / "two.pth")
    torch.save({"model": WEIGHTS, "optimizer": {"state": {}}}, tmp_path / "one.pth")
    note = "the weights under 'model' are taken, and those under 'model_ema' are not"
    assert read_foreign(tmp_path / "two.pth").notes == (note,) and read_foreign(tmp_path / "one.pth").notes == ()


@pytest.mark.parametrize("name", ["pipe.safetensors", "pipe.pth"])
def test_a_pipe_is_no_file_of_weights_and_is_not_waited_for(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match="is no file, but a folder, a pipe or a device"):
        read_foreign(tmp_path / name)


@pytest.mark.parametrize("name", [b"w\xff.safetensors", b"W.SAFETENSORS"], ids=["no text", "capitals"])
def test_weights_are_read_whatever_the_file_is_called(name, tmp_path):
    file = tmp_path / os.fsdecode(name)
    file.write_bytes(save(WEIGHTS, {"made": "by hand"}))
    read = read_foreign(file)
    assert read.weights.keys() == WEIGHTS.keys() and read.metadata == {"made": "by hand"}


def test_a_folder_whose_weights_have_a_name_of_their_own_is_told_to_name_it(tmp_path):
    save_file(WEIGHTS, tmp_path / "best.safetensors")
    with pytest.raises(CheckpointError, match=r"names of their own \(here best\.safetensors\) name the one"):
        read_foreign(tmp_path)


def test_a_folder_is_read_safetensors_first_with_what_lies_beside(tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"not looked at")
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5]}')
    read = read_foreign(tmp_path)
    assert read.config == {"model_type": "vit"} and read.processor == {"image_mean": [0.5]}
    assert read_foreign(tmp_path / "model.safetensors").config == read.config
    (tmp_path / "mine.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes())
    assert read_foreign(tmp_path / "mine.safetensors").config == {}


@pytest.mark.parametrize("text", ["{", "[1]", "\xff", '{"a": ' * 3000])
def test_a_broken_config_beside_weights_is_named(text, tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_foreign(tmp_path)


def test_a_folder_without_weights_and_a_path_that_is_not_there_are_said(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no weights; expected one of model\.safetensors"):
        read_foreign(tmp_path)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        read_foreign(tmp_path / "none.pth")
