"""What golden values depend on besides the code: fixed where it can be, and recorded with the values.

Tried one by one on a machine with AVX-512: ATen's kernels, MKL, oneDNN and the number of threads each change the last
bits. With the variables below all of them take code that every x86-64 processor has. NumPy's own kernels, OpenBLAS and
glibc's choice of instructions changed nothing (OpenBLAS is fixed all the same, it is free).
"""

import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import Any

PINNED = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Prescott",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "CUDA_VISIBLE_DEVICES": "",
}

LIBRARIES = ("torch", "numpy", "monai", "scipy", "pillow", "av", "nibabel", "matplotlib", "pycocotools")
"""Those that a value passes through."""


def made_with() -> dict[str, Any]:
    """The record of this process, whose environment is pinned."""
    import torch

    return {
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        "torch": torch.__version__,  # with its build
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "platform": f"{platform.system()} {platform.machine()} {' '.join(platform.libc_ver())}",
        # MKL and oneDNN know vendors and caches; whether that shows in bits was tried on one processor alone.
        "processor": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "pinned": PINNED,
    }


def processor() -> str:
    """AuthenticAMD, GenuineIntel, ..."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.is_file() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), platform.processor()
    )
