"""What is installed from a wheel does what the checkout does."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest

import mae_ext

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """mae_ext from a wheel, in a folder of its own; its dependencies are those of this interpreter."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*pip, "--target", target, ROOT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def python(installed, cwd, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run([sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, text=True)


def names(kind):
    return {path.name for path in (ROOT / kind).glob("*.yaml")}


def test_a_wheel_lists_every_recipe_of_the_checkout_from_an_empty_folder(installed, tmp_path):
    done = python(installed, tmp_path, "-m", "mae_ext", "configs")
    assert done.returncode == 0, done.stderr
    assert {f"{line.split()[0]}.yaml" for line in done.stdout.splitlines()} == names("configs")


def test_a_wheel_reads_its_own_recipes_and_cards_and_not_those_of_a_checkout(installed, tmp_path):
    code = (
        "import mae_ext.cards as c, mae_ext.config as f; print(f.builtin_dir('configs'));"
        "f.load_config('image_in1k_vitb'); print(*sorted(p.name for p in c.shipped('datasets')))"
    )
    done = python(installed, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    folder, cards = done.stdout.splitlines()
    assert Path(folder) == installed / "mae_ext" / "_shipped" / "configs"
    assert set(cards.split()) == names("datasets")


def test_a_wheel_holds_the_files_that_are_not_code(installed):
    code_aside = {p.relative_to(ROOT) for p in (ROOT / "mae_ext").rglob("*") if p.is_file() and p.suffix != ".pyc"}
    lacking = {str(path) for path in code_aside if not (installed / path).is_file()}
    assert not lacking


def test_the_console_script_and_the_licence_are_in_the_metadata(installed):
    (found,) = distributions(name="mae-ext", path=[str(installed)])
    assert found.version == mae_ext.__version__
    assert found.metadata["License-Expression"] == "Apache-2.0"
    assert [point.value for point in found.entry_points.select(group="console_scripts")] == ["mae_ext.cli:main"]
    # Built-ins are literal dicts: as entry points they would be there twice.
    assert not [point for point in found.entry_points if point.group.startswith("mae_ext.")]


def test_every_dependency_is_pinned_in_the_constraints():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "scripts" / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    bare = {"".join(c for c in line.split(";")[0].split(">")[0] if c not in " ").lower() for line in wanted}
    bare = {name for name in bare if not name.startswith("mae-ext[")}
    # Of services, with a hundred packages of their own; the suite runs without.
    clients = {"wandb", "mlflow", "s3fs", "gcsfs"}
    assert bare - clients <= pinned and clients <= bare
