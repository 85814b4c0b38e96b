"""ONNX and torch.export say what the encoder says, of images, clips and volumes, whatever the number of samples."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from export.tiny_runs import KINDS, saved, tiny

from mae_ext import plugins
from mae_ext.engine.task import load_task
from mae_ext.errors import UserError
from mae_ext.export.program import OPSET, SUFFIXES
from mae_ext.export.weights import export
from mae_ext.features.encoder import load_encoder

onnx = pytest.importorskip("onnx", reason="what writes ONNX, an optional library")
onnxruntime = pytest.importorskip("onnxruntime", reason="what runs ONNX, an optional library")
pytest.importorskip("onnxscript", reason="what translates to ONNX, an optional library")

KIND_OF = {**{kind: kind for kind in KINDS}, "physical": "volume", "classifier": "image"}
CLASSES = ["cat", "dog", "owl", "yak"]
each = pytest.mark.parametrize("what", KIND_OF)
both = pytest.mark.parametrize("to", SUFFIXES)


@pytest.fixture(scope="module")
def written(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory):
    """(what, to) -> (the run, what `export` said), each exported once."""
    made, folder = {}, tmp_path_factory.mktemp("programs")
    sources = dict(runs)
    sources["physical"] = saved(folder / "mm", tiny("volume", position={"name": "sincos", "unit": 4.0}))
    task = {"name": "classify", "pool": "attentive", "classes": CLASSES}
    sources["classifier"] = saved(folder / "classifier", tiny("image", task))

    def once(what: str, to: str):
        if (what, to) not in made:
            made[what, to] = export(sources[what], to, folder / f"{what}{SUFFIXES[to]}")
        return sources[what], made[what, to]

    return once


@functools.cache
def opened(path: Path):
    """As somebody without mae_ext opens it, once."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def answers(path: Path, *inputs: torch.Tensor) -> list[torch.Tensor]:
    program = opened(path)
    if path.suffix == ".pt2":
        return list(program(*inputs))
    names = [value.name for value in program.get_inputs()]
    rows = program.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
    return [torch.from_numpy(row) for row in rows]


def samples(what: str, batch: int) -> list[torch.Tensor]:
    shape, g = KINDS[KIND_OF[what]], torch.Generator().manual_seed(batch)
    x = torch.rand(batch, shape["channels"], *shape["size"], generator=g)
    return [x, 1 + torch.rand(batch, 3, generator=g)] if what == "physical" else [x]


@torch.no_grad()
def ours(what: str, run: Path, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    if what == "classifier":
        logits = load_task(run, "cpu")[1](*inputs, "image")
        return [logits, logits.softmax(1)]
    encoder = load_encoder(run, device="cpu")
    return [encoder.model.encode_all(inputs[0], encoder.name, *inputs[1:])]


@both
@each
def test_a_program_answers_as_the_model_does_for_one_two_and_seven_samples(written, what, to):
    run, exported = written(what, to)
    for batch in (1, 2, 7):
        inputs = samples(what, batch)
        for mine, theirs in zip(ours(what, run, inputs), answers(exported.path, *inputs), strict=True):
            assert mine.shape == theirs.shape and mine.shape[0] == batch
            assert mine.std() > 0.01
            torch.testing.assert_close(theirs, mine, atol=1e-4, rtol=0)


@both
def test_the_largest_difference_is_of_the_file_that_was_written(written, to):
    _, exported = written("image", to)
    assert exported.proof.holds and 0 <= exported.proof.difference < 1e-4
    package = {"onnx": f"onnxruntime {onnxruntime.__version__} (opset {OPSET})", "torch-export": "torch 2."}[to]
    assert exported.proof.words.startswith(
        f"largest difference {exported.proof.difference:.1e} over 2 x 7 x 24 and 3 x"
    )
    assert f"numbers, with {package}" in exported.proof.words


def test_an_onnx_file_says_its_opset_its_batch_and_its_classes(written):
    model = onnx.load(written("classifier", "onnx")[1].path)
    onnx.checker.check_model(model)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", OPSET)]
    (x,) = model.graph.input
    shape = [axis.dim_param or axis.dim_value for axis in x.type.tensor_type.shape.dim]
    assert (x.name, shape) == ("x", ["batch", 3, 16, 24])
    assert [value.name for value in model.graph.output] == ["logits", "probabilities"]
    held = {pair.key: pair.value for pair in model.metadata_props}
    assert json.loads(held["classes"]) == CLASSES
    beside = Path(f"{written('classifier', 'onnx')[1].path}.preprocessing.json")
    assert json.loads(held["preprocessing.json"]) == json.loads(beside.read_text())


def test_a_pt2_file_says_its_classes(written):
    inside = {"classes": "", "preprocessing.json": ""}
    torch.export.load(written("classifier", "torch-export")[1].path, extra_files=inside)
    assert json.loads(inside["classes"]) == CLASSES
    assert json.loads(inside["preprocessing.json"])["outputs"] == ["logits", "probabilities"]


@both
def test_positions_in_mm_make_the_spacing_an_input_that_counts(written, to):
    _, exported = written("physical", to)
    x, spacing = samples("physical", 2)
    near, far = answers(exported.path, x, spacing)[0], answers(exported.path, x, 2 * spacing)[0]
    assert (near - far).abs().max() > 1e-2


def test_of_a_classifier_the_encoder_alone_can_be_had(written, tmp_path):
    run, _ = written("classifier", "torch-export")
    exported = export(run, "torch-export", tmp_path / "encoder.pt2", encoder_only=True)
    assert [list(part.shape) for part in answers(exported.path, *samples("image", 1))] == [[1, 7, 24]]


@pytest.mark.parametrize(
    "task",
    [{"name": "segment", "classes": ["cell", "rest"]}, {"name": "detect", "classes": ["cell"]}],
    ids=lambda task: task["name"],
)
def test_of_other_tasks_the_encoder_goes_and_it_is_said(tmp_path, task):
    run = saved(tmp_path / "run", tiny("image", task, size=[32, 32]))
    exported = export(run, "torch-export", tmp_path / "encoder.pt2")
    assert exported.remarks == (
        f"the encoder alone: of the task '{task['name']}' nothing but the encoder can be taken along",
    )
    assert exported.proof.holds
    assert [list(part.shape) for part in answers(exported.path, torch.rand(1, 3, 32, 32))] == [[1, 17, 24]]


class Dependent(torch.nn.Module):
    """An embedder whose work depends on what it sees, which no program can hold."""

    def __init__(self, size, patch, channels, width):
        super().__init__()
        self.width = width

    def forward(self, x, keep):
        return torch.full((*keep.shape, self.width), 1.0 if x.sum() > 0 else 2.0)


def test_what_cannot_be_traced_is_refused_by_name_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(plugins.embedders.builtins, "dependent", "export.test_program:Dependent")
    run = saved(tmp_path / "run", tiny("image", embed="dependent"))
    with pytest.raises(
        UserError, match=r"cannot be traced for torch-export \(embedder 'dependent', position 'sincos'\)"
    ):
        export(run, "torch-export", tmp_path / "made" / "e.pt2")
    assert list(tmp_path.iterdir()) == [run]


def test_a_batch_of_other_sizes_than_the_models_is_refused_by_the_program(written):
    with pytest.raises(Exception, match=r"(?i)shape|dimension"):
        answers(written("image", "onnx")[1].path, torch.from_numpy(np.zeros((1, 3, 32, 24), np.float32)))
