"""What a machine for GPU work has as a rule, and what of mae_ext's dependencies has to be brought to it as wheels."""

import importlib.util
import re
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]

PRESENT = {
    "torch": "torch", "numpy": "numpy", "scipy": "scipy", "einops": "einops", "pyyaml": "yaml", "typer": "typer",
    "rich": "rich", "safetensors": "safetensors", "pillow": "PIL", "tifffile": "tifffile", "matplotlib": "matplotlib",
    "tensorboard": "tensorboard",
}  # fmt: skip
"""Dependencies that are taken to be there, by the names that they are imported by; `missing` looks."""

CARRIED = {"monai": "monai", "nibabel": "nibabel", "pydantic": "pydantic"}
"""Those that are not, with what they need in turn: `wheels`."""

NOT_NEEDED = {"decord": "decord", "av": "av"}
"""Decoders of films. The check's clips are arrays, whose reader has no use for them."""

TARGET = {"python_version": "3.12", "python_full_version": "3.12.3", "sys_platform": "linux", "extra": "",
          "platform_machine": "x86_64", "platform_system": "Linux", "os_name": "posix",
          "implementation_name": "cpython", "platform_python_implementation": "CPython"}  # fmt: skip

PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def dependencies() -> list[str]:
    """Of pyproject.toml, by canonical name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [canonical(Requirement(text).name) for text in project["dependencies"]]


def closure(names: Iterable[str], without: Iterable[str] = ()) -> set[str]:
    """The distributions and all that they need on the machine, as far as they are installed here to be asked.

    without: is not followed: a newer release of one that is there may need what that machine's has no use for.
    """
    seen = set(without)
    pending = [canonical(name) for name in names]
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate(TARGET):
                pending.append(canonical(need.name))  # noqa: PERF401 a generator here would hide the condition
    return seen


def wheels() -> list[str]:
    """NAME==VERSION of each wheel to carry, as scripts/constraints.txt pins it."""
    pins = {}
    for line in (ROOT / "scripts" / "constraints.txt").read_text().splitlines():
        name, equals, version = line.partition("==")
        if equals and not line.startswith("#"):
            pins[canonical(name)] = version
    return [f"{name}=={pins[name]}" for name in sorted(closure(CARRIED) - (closure(PRESENT, CARRIED) - {*CARRIED}))]


def instructions() -> str:
    """How to fetch the wheels where there is a network, and to install them where there is none."""
    fetch = "python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp"
    platforms = " ".join(f"--platform {platform}" for platform in PLATFORMS)
    return "\n".join(
        (
            "# where there is a network:",
            f"{fetch} {platforms} -d wheels {' '.join(wheels())}",
            "# on the machine with the GPU:",
            "python3 -m pip install --no-index --no-deps --target site wheels/*.whl && export PYTHONPATH=$PWD/site",
            "scripts/gpu_check",
        )
    )


def missing() -> list[str]:
    """Dependencies that cannot be imported here, by canonical name; decoders of films are no part of it."""
    return [name for name, module in {**PRESENT, **CARRIED}.items() if importlib.util.find_spec(module) is None]
