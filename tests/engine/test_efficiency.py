"""How well the hardware is used: arithmetic of a step, what a device can do, and memory, without asking the device."""

import numpy as np
import pytest
import torch
from faults.kills import rows

from mae_ext.config import load_config
from mae_ext.engine.efficiency import memory_gib, peak_of
from mae_ext.engine.estimate import modality_estimates
from mae_ext.model.mae import MAE


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H100 NVL", 835), ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA A10G", 70), ("NVIDIA A10", 125), ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121), ("NVIDIA RTX 6000 Ada Generation", 364), ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA H1000", None), ("Quadro RTX 6000", None), ("", None),
    ],
)  # fmt: skip
def test_what_a_device_can_do_is_known_by_its_whole_name_or_not_at_all(name, peak):
    assert peak_of(name) == peak


def test_a_step_is_so_much_arithmetic_as_plan_says_of_its_batch(tiny, train, tmp_path):
    config = tiny({"train.steps": 3, "train.warmup_steps": 1})
    assert train(config) == 0
    loaded = load_config(config)
    (estimate,) = modality_estimates(loaded, MAE(loaded))
    for row in rows(tmp_path / "run" / "metrics.jsonl"):
        assert row["tflops"] * row["seconds"] * 1e12 == pytest.approx(8 * estimate.flops, rel=1e-6)
        assert "mfu" not in row  # nothing is known of what this processor can do


def test_what_is_partly_frozen_has_no_count_of_arithmetic_but_memory(tiny, train, tmp_path):
    assert train(tiny({"train.steps": 2, "train.warmup_steps": 1, "train.freeze": 1})) == 0
    assert {"memory"} == {"memory", "tflops", "mfu"} & rows(tmp_path / "run" / "metrics.jsonl")[-1].keys()


def test_memory_of_a_processor_is_the_most_that_was_resident():
    before = memory_gib(torch.device("cpu"))
    filled = np.ones(64 << 17)  # 64 MiB
    assert before > 0.05 and memory_gib(torch.device("cpu")) >= before and filled.nbytes == 64 << 20
