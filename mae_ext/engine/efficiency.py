"""How well the hardware is used: arithmetic a second, its share of what the device can do, and the most memory."""

import resource
import sys

import torch

from mae_ext.engine.estimate import modality_estimates, step_flops
from mae_ext.engine.run import Run
from mae_ext.model.mae import MAE

PEAKS = {
    "H200 NVL": 836, "H200": 989, "H100 NVL": 835, "H100 PCIe": 756, "H100": 989, "GH200": 990, "H800": 989,
    "H20": 148, "B200": 2250, "A100": 312, "A800": 312, "A40": 150, "A30": 165, "A10G": 70, "A10": 125,
    "L40S": 362, "L40": 181, "L4": 121, "RTX 6000 Ada": 364, "RTX A6000": 155, "RTX 4090": 165, "RTX 3090": 71,
}  # fmt: skip
"""TFLOP/s of dense bf16 and fp16 products with sums in fp32, by what the device's name has in it; the longest counts.
From NVIDIA's data sheets, whose numbers "with sparsity" are twice as high; of GeForce cards from the white papers of
their architectures (Ampere GA102, Ada). A card that is limited in power or clock has less."""

HALVES = ("bf16", "fp16")


def peak_of(name: str) -> float | None:
    """TFLOP/s of one device in half precision, or None where it is not known."""
    words = name.replace("-", " ")
    fitting = [known for known in PEAKS if f" {known} " in f" {words} "]
    return float(PEAKS[max(fitting, key=len)]) if fitting else None


def flops_per_step(run: Run) -> float | None:
    """Of the forward and backward pass over all ranks, as `mae-ext plan` has them; None where that knows nothing: of
    another task than pretraining, or where a part of the encoder is frozen. What activation checkpointing computes
    again is not counted."""
    if run.config.task.name != "pretrain" or not isinstance(run.model, MAE) or run.config.train.freeze != "none":
        return None
    return step_flops(run.config, modality_estimates(run.config, run.model))


def memory_gib(device: torch.device) -> float:
    """The most that tensors took on this rank's GPU; on a CPU the most that this process had resident, without workers.

    Neither waits for a device.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage: bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class Efficiency:
    """Of a run, on rank 0, whose device stands for those of all ranks."""

    def __init__(self, run: Run) -> None:
        self.device, self.world = run.ranks.device, run.ranks.world
        self.flops = flops_per_step(run)
        gpu = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else ""
        self.peak = peak_of(gpu) if run.config.train.precision in HALVES else None

    def row(self, seconds: float) -> dict[str, float]:
        """Of a step that took so long. tflops: a second and a device; mfu: the share of its peak, where that is known
        (half precision on a GPU); memory: GiB at most until now."""
        row = {"memory": memory_gib(self.device)}
        if self.flops is not None:
            row["tflops"] = self.flops / self.world / max(seconds, 1e-9) / 1e12
            if self.peak is not None:
                row["mfu"] = row["tflops"] / self.peak
        return row
