"""A checkpoint is made in two parts: copies that training waits for, and files that it does not wait for."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mae_ext.engine import checkpoint
from mae_ext.engine.commit import NAMES, Staged, commit, save, stage


def one_of_each():
    """A tensor of every kind that safetensors has a name for, among them a number and nothing at all."""
    numbers = torch.arange(1, 12)
    tensors = {str(dtype): numbers.to(dtype) for dtype in NAMES}
    return {"model": tensors | {"number": torch.tensor(3.5)}, "optimizer": {"none": torch.zeros(0, 4)}}


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def test_copies_are_those_of_the_moment_whatever_becomes_of_the_tensors(tmp_path, make_config):
    weights = {"w": torch.arange(6.0).reshape(2, 3), "turned": torch.arange(6.0).reshape(2, 3).T}
    staged = stage({"model": weights})
    for tensor in weights.values():
        tensor.zero_()
    path = commit(tmp_path, 4, make_config(), staged, {"skipped": 2})
    assert path == tmp_path / "step-00000004"
    read = checkpoint.read_tensors(path / "model.safetensors")
    assert read["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert checkpoint.read_state(path) == {"step": 4, "skipped": 2}
    assert checkpoint.verify(path)["step"] == 4


def test_memory_for_copies_is_taken_once_and_again_only_for_other_tensors():
    first = stage({"model": {"w": torch.ones(5)}})
    memory = first.tensors["model"]["w"].data_ptr()
    again = stage({"model": {"w": torch.full((5,), 2.0)}}, first)
    assert again is first and again.tensors["model"]["w"].tolist() == [2.0] * 5
    assert again.tensors["model"]["w"].data_ptr() == memory
    longer = stage({"model": {"w": torch.ones(5), "v": torch.zeros(1)}}, first)
    assert longer is not first and first.tensors["model"]["w"].tolist() == [2.0] * 5


def test_copies_are_a_save_of_the_same_bytes_as_the_tensors_themselves(tmp_path, make_config):
    tensors = one_of_each()
    one = commit(tmp_path / "copied", 1, make_config(), stage(tensors), {})
    other = save(tmp_path / "straight", 1, make_config(), tensors, {})
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in other.iterdir()}


def test_the_library_reads_every_kind_of_tensor_that_is_written(tmp_path, make_config):
    tensors = one_of_each()
    path = save(tmp_path, 1, make_config(), tensors, {})
    for name, group in tensors.items():
        read = load_file(path / f"{name}.safetensors")
        assert {k: (t.dtype, t.shape, bits(t)) for k, t in read.items()} == {
            k: (t.dtype, t.shape, bits(t)) for k, t in group.items()
        }


def test_data_lie_in_a_file_as_in_one_of_the_library(tmp_path, make_config):
    weights = {f"w{i}": torch.full((3, i + 1), float(i)) for i in range(12)}
    path = save(tmp_path, 1, make_config(), {"model": weights}, {}) / "model.safetensors"
    save_file(weights, tmp_path / "theirs")
    ours, theirs = (file.read_bytes() for file in (path, tmp_path / "theirs"))
    ends = [8 + int.from_bytes(file[:8], "little") for file in (ours, theirs)]
    assert ends[0] % 8 == 0 and ours[ends[0] :] == theirs[ends[1] :]
    assert json.loads(ours[8 : ends[0]]) == json.loads(theirs[8 : ends[1]])


def test_two_names_of_one_tensor_are_written_twice(tmp_path, make_config):
    shared = torch.arange(3.0)
    path = save(tmp_path, 1, make_config(), {"model": {"a": shared, "b": shared}}, {})
    assert checkpoint.read_tensors(path / "model.safetensors")["b"].tolist() == [0, 1, 2]


def test_the_copies_of_one_group_share_pieces_of_memory_without_touching():
    staged = stage({"model": {f"w{i}": torch.full((i,), float(i), dtype=torch.float16) for i in range(40)}})
    assert all(t.tolist() == [float(i)] * i for i, t in enumerate(staged.tensors["model"].values()))
    assert staged.bytes == sum(2 * i for i in range(40))


@pytest.mark.parametrize("group", ["model", "optimizer"])
def test_a_kind_of_tensor_that_no_file_can_hold_is_named(tmp_path, make_config, group):
    with pytest.raises(TypeError, match=r"'w' is of torch\.complex128"):
        save(tmp_path, 1, make_config(), {group: {"w": torch.zeros(2, dtype=torch.complex128)}}, {})
    assert not list(tmp_path.iterdir())


def test_staged_tensors_know_how_many_bytes_they_are():
    assert (
        Staged({"model": {"w": torch.zeros(3, 5)}, "optimizer": {"m": torch.zeros(2, dtype=torch.float64)}}).bytes == 76
    )
