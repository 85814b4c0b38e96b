"""torch.compile of a step: one graph, made once; all-reduces as without it; a compiler that fails ends nothing.

Graphs of all pretraining cases and tasks, in a table: python scripts/checks/graphs.py
"""

import json
import os
from dataclasses import replace

import pytest
import torch
import torch._inductor.config
from engine.test_cpu import IMAGE, config_of, loss_and_gradients
from engine.test_distributed import start_ranks, wait_for

from mae_ext.config import ConfigError, parse_config
from mae_ext.data.batch import Batch
from mae_ext.engine import compiling
from mae_ext.engine.compiling import Compiled, compiled, extent_of
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.run import assembled
from mae_ext.engine.step import Objective, Step
from mae_ext.engine.task import backbone_of
from mae_ext.errors import RunError
from mae_ext.rng import rng

CPU, GPU = Ranks(0, 1, torch.device("cpu")), Ranks(0, 1, torch.device("cuda", 0))
SEVERAL = Ranks(0, 2, torch.device("cuda", 0))


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that were made, by a compiler that runs them as they are."""
    made = []
    monkeypatch.setattr(compiling, "BACKEND", lambda graph, inputs: made.append(graph) or graph.forward)
    torch._dynamo.reset()
    yield made
    torch._dynamo.reset()


@pytest.fixture
def broken(monkeypatch):
    def fail(graph, inputs):
        raise OSError("no compiler here")

    monkeypatch.setattr(compiling, "BACKEND", fail)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def batches_of(run, step):
    made = {}
    for name, m in run.config.modalities.items():
        generators = [rng(step, name, i) for i in range(m.batch)]
        x = torch.rand(m.batch, m.channels, *m.size, generator=generators[0])
        made[name] = Batch(x, backbone_of(run.model).modality(name).draw_mask(generators))
    return made


def losses(steps=3, **train):
    run = assembled(config_of(**train), {}, CPU)
    take, taken_losses = Step(run), []
    for step in range(steps):
        take(step, [batches_of(run, step)], stop=False)
        taken_losses += [taken.losses for taken in take.answers(everything=True)]
    return taken_losses, run


@pytest.mark.parametrize(("extent", "precision", "count"), [("whole", "fp32", 1), ("blocks", "bf16", 4)])
def test_a_step_on_a_cpu_is_one_graph_or_one_for_each_shape_of_block_made_once(graphs, extent, precision, count):
    steps, run = losses(3, compile=extent, precision=precision)
    assert len(graphs) == count
    plain, other = losses(3, compile=False, precision=precision)
    torch.testing.assert_close(torch.tensor(steps), torch.tensor(plain), atol=2e-2 if count > 1 else 1e-5, rtol=0)
    assert list(run.snapshot(0)[0]["model"]) == list(other.snapshot(0)[0]["model"])
    run.model.eval()
    loss_and_gradients(run.model, "image", torch.float32, None)
    assert len(graphs) == count  # who evaluates is given the model as it is


def test_terms_of_the_whole_batch_and_fused_blocks_are_in_the_one_graph(graphs):
    pairs = IMAGE | {"data": {"statistics": "none", "repeats": 2}}
    values = {
        "modalities": {"image": pairs},
        "model": {
            "width": 24,
            "depth": 2,
            "heads": 2,
            "decoder": {"width": 16, "depth": 1, "heads": 2, "fuse": [1]},
        },
        "train": {"steps": 2, "precision": "fp32", "uniformity": 0.1},
    }
    each = []
    for extent in ("whole", False):
        run = assembled(parse_config(values | {"train": values["train"] | {"compile": extent}}), {}, CPU)
        take = Step(run)
        for step in range(2):
            (batch,) = batches_of(run, step).values()
            take(step, [{"image": replace(batch, files=torch.arange(len(batch.x)) // 2)}], stop=False)
            each += [taken.losses for taken in take.answers(everything=True)]
    assert len(graphs) == 1
    torch.testing.assert_close(torch.tensor(each[:2]), torch.tensor(each[2:]), atol=1e-5, rtol=0)


def test_what_a_compiled_block_makes_again_is_in_its_graph_from_whose_kernels_nobody_could_tell_products(graphs):
    taken, _ = losses(1, compile="blocks", checkpointing="selective")
    within = [["checkpoint" in str(node.target) for node in graph.graph.nodes] for graph in graphs]
    assert len(graphs) == 4 and all(map(any, within))
    plain, _ = losses(1, compile=False)
    torch.testing.assert_close(torch.tensor(taken), torch.tensor(plain), atol=1e-5, rtol=0)


def test_auto_is_the_whole_step_on_a_gpu_blocks_on_several_and_in_tasks_and_nothing_on_a_cpu():
    auto = config_of()
    assert [extent_of(auto, ranks) for ranks in (CPU, GPU, SEVERAL)] == [None, "whole", "blocks"]
    task = auto.model_copy(update={"task": auto.task.model_copy(update={"name": "segment"})})
    assert extent_of(task, GPU) == "blocks"
    for asked, extent in ((True, "whole"), (False, None), ("blocks", "blocks")):
        assert {extent_of(config_of(compile=asked), ranks) for ranks in (CPU, GPU, SEVERAL)} == {extent}
    assert extent_of(config_of(compile_mode="reduce-overhead"), SEVERAL) == "whole"
    assert [extent_of(config_of(compile=True, parallel="fsdp"), ranks) for ranks in (GPU, SEVERAL)] == [
        "whole",
        "blocks",
    ]
    with pytest.raises(ConfigError, match="block by block"):
        extent_of(config_of(compile="whole", parallel="fsdp"), SEVERAL)


def test_cuda_graphs_are_refused_where_there_can_be_none():
    with pytest.raises(ConfigError, match="reduce-overhead is CUDA graphs, and this run is on a cpu"):
        extent_of(config_of(compile_mode="reduce-overhead"), CPU)
    for other in ({"accumulate": 2}, {"micro_batch": "auto"}, {"compile": "blocks"}, {"compile": False}):
        with pytest.raises(ConfigError, match="reduce-overhead"):
            config_of(compile_mode="reduce-overhead", **other)


def test_a_compiler_that_fails_is_an_error_by_name_where_it_was_asked_for(broken):
    with pytest.raises(
        RunError, match=r"train\.compile=true: .* OSError: no compiler here\. It needs a C\+\+ compiler"
    ):
        losses(1, compile=True)


def test_a_compiler_that_fails_is_a_warning_where_it_was_not(broken, monkeypatch):
    said = []
    monkeypatch.setattr(compiling, "warn", said.append)
    monkeypatch.setattr(compiling, "extent_of", lambda config, ranks: "blocks")
    steps, _ = losses(2)
    assert len(said) == 1 and "no compiler here" in said[0] and "goes on without" in said[0]
    monkeypatch.undo()
    assert steps == losses(2, compile=False)[0]


@pytest.mark.parametrize("extent", ["whole", pytest.param("blocks", marks=pytest.mark.slow)])
def test_with_ranks_and_parts_gradients_are_exchanged_once_a_step(
    tiny, photos, tmp_path, monkeypatch, test_path, extent
):
    monkeypatch.setenv("COUNTS", str(tmp_path))
    values = {"train.steps": 3, "train.accumulate": 4, "train.workers": 0, "train.compile": extent}
    started = start_ranks(tiny(values), photos, tmp_path / "run", module="engine.counted_reductions")
    assert wait_for(started, 280) == [0, 0], [log.read_text()[-3000:] for _, log in started]
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)] == [3, 3]


@pytest.mark.slow
@pytest.mark.parametrize("extent", ["whole", "blocks"])
def test_what_the_real_compiler_makes_learns_the_same_and_a_missing_one_is_told_of(extent, monkeypatch, tmp_path):
    """pytest -m slow tests/engine/test_compiling.py"""
    monkeypatch.setitem(os.environ, "TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    plain = losses(3, compile=False)[0]
    for checkpointing in (False, "selective"):
        torch._dynamo.reset()
        steps = losses(3, compile=extent, checkpointing=checkpointing)[0]
        torch.testing.assert_close(torch.tensor(steps), torch.tensor(plain), atol=1e-5, rtol=0)
    torch._dynamo.reset()
    monkeypatch.setitem(os.environ, "TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "other"))
    missing = torch._inductor.config.patch("cpp.cxx", ("/nowhere/g++",))
    with missing, pytest.raises(RunError, match=r"train\.compile=.*the compiler failed"):
        losses(1, compile=extent, precision="bf16")


def test_a_compiled_objective_is_the_objective_of_the_plain_parts_again_once_it_is_plain(graphs):
    run = assembled(config_of(compile="whole"), {}, CPU)
    objective = compiled(Objective(run.model, run.config, run.task), run.config, run.ranks)
    assert isinstance(objective, Compiled)
    objective.plain()
    objective(batches_of(run, 0))
    assert graphs == []
