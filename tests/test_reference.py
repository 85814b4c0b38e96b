"""The reference leaves nothing out: public names, each with an example that runs, keys, built-ins and commands."""

import doctest
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import reference
import typer

import mae_ext
from mae_ext import plugins
from mae_ext.cli import app
from mae_ext.config import Config

PAGES = {page.stem: page.read_text() for page in (Path(__file__).parent.parent / "docs" / "reference").glob("*.md")}
NAMES = [name for page in PAGES.values() for name in reference.names_on(page)]


def test_every_public_name_stands_in_the_reference_once() -> None:
    assert sorted(NAMES) == sorted([*mae_ext.__all__, "rng.rng"])


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_has_a_docstring_whose_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = reference.public(name)
    text = inspect.cleandoc(vars(found)["__doc__"] if isinstance(found, type) else found.__doc__)
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert len(test.examples) >= 2, f"{name}: its docstring shows no example, with the import that it needs"
    assert test.examples[0].source.startswith(("import ", "from ")) and "mae_ext" in text.partition(">>>")[2]
    told: list[str] = []
    result = doctest.DocTestRunner().run(test, out=told.append)
    assert not result.failed, "".join(told)


def test_a_public_name_is_no_module_which_would_take_its_place() -> None:
    # `mae_ext.rng` is the module once anything imported it, whatever __getattr__ says.
    assert not [name for name in mae_ext.__all__ if find_spec(f"mae_ext.{name}")]


def test_names_for_type_checkers_and_names_at_run_time_are_the_same() -> None:
    text = inspect.getsource(mae_ext).partition("if TYPE_CHECKING:")[2].partition("\n\n")[0]
    homes = {
        name: home
        for home, names in re.findall(r"from ([\w.]+) import (.+)", text)
        for name in names.split(", ")
    }  # fmt: skip
    assert homes == mae_ext._HOME and sorted(homes) == sorted(mae_ext.__all__)


def test_importing_the_package_imports_neither_torch_nor_any_other_library() -> None:
    code = "import mae_ext, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pydantic", "PIL", "monai", "yaml"} & set(done.stdout.split())


@pytest.mark.parametrize(
    "words", [["--help"], ["pretrain", "--help"], ["configs"], ["pretrain", "image_folder", "--so"]]
)
def test_what_needs_no_tensor_is_answered_without_importing_torch(words: list[str]) -> None:
    """Importing it takes seconds."""
    code = f"import sys; from mae_ext.cli import run; code = run({words}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


def test_dir_names_what_is_loaded_at_its_first_use() -> None:
    assert {*mae_ext.__all__, "__version__"} <= set(dir(mae_ext))


def test_the_index_leads_to_every_page() -> None:
    docs = Path(__file__).parent.parent / "docs"
    listed = reference.orders((docs / "index.md").read_text()).split()
    pages = [page.relative_to(docs).with_suffix("").as_posix() for page in docs.rglob("*.md")]
    assert sorted([word for word in listed if word in pages]) == sorted(set(pages) - {"index"})


def test_text_of_a_docstring_means_to_sphinx_what_it_says_and_examples_are_left_alone() -> None:
    rst = reference.as_rst(["(B, C, *S), a_b_ or a::b: `x_*`..`y`s", "", ">>> print('*_')"])
    assert rst == [r"(B, C, \*S), a\_b\_ or a\::b: \ ``x_*``\ ..\ ``y``\ s", "", ">>> print('*_')"]


def keys_of_schema(schema: dict[str, Any], node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every dotted key that a JSON schema allows, with NAME for one of the user's own."""
    parts = [node, *node.get("anyOf", [])]
    parts = [part.get("oneOf", [part])[0] for part in parts]  # several by name have the keys of one
    parts = [schema["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part for part in parts]
    for part in (part for part in parts if part.get("title") != "PlugIn"):
        for name, inner in part.get("properties", {}).items():
            yield f"{prefix}{name}"
            yield from keys_of_schema(schema, inner, f"{prefix}{name}.")
        if isinstance(inner := part.get("additionalProperties"), dict):
            yield from keys_of_schema(schema, inner, f"{prefix}NAME.")


def test_every_key_of_a_config_is_in_the_reference_with_its_default_and_its_meaning() -> None:
    rows = [key for _, _, keys in reference.config_keys() for key in keys]
    schema = Config.model_json_schema()
    assert sorted(key.name for key in rows) == sorted(keys_of_schema(schema, schema)) and len(rows) > 60
    assert not [key.name for key in rows if not key.told], "a key has its meaning in the string below it"
    page = reference.fill(PAGES["config"])
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page, flags=re.M | re.S))
    for key in rows:
        prefix, _, name = key.name.rpartition(".")
        (row,) = re.findall(rf"^\| `{name}` \| (.+) \|$", sections[f"`{prefix}`" if prefix else "The top"], flags=re.M)
        takes, default, means = re.split(r"(?<!\\) \| ", row)
        assert takes and default in ("must be given", f"`{key.default}`") and means.replace("\\|", "|") == key.told


def test_kinds_ranges_and_defaults_are_those_of_the_schema() -> None:
    rows = {key.name: key for _, _, keys in reference.config_keys() for key in keys}
    assert (rows["train.layer_decay"].kind, rows["train.layer_decay"].default) == ("number, above 0 to 1", "1")
    assert rows["train.betas"].kind == "[number, from 0 below 1, number, from 0 below 1]"
    assert rows["train.freeze"].kind == "`none` or `encoder` or whole number, from 1"
    assert rows["modalities.NAME.mask"].default == "{name: random, ratio: 0.75}"
    assert rows["modalities.NAME.data.augment.scale"].default == "[0.2, 1]"
    assert rows["modalities.NAME.size"].default == ""


def test_every_built_in_is_in_the_reference_with_its_arguments() -> None:
    page = reference.fill(PAGES["builtins"])
    for registry in plugins.ALL.values():
        for name in registry.builtins:
            assert page.count(f"### `{name}`\n\n`{{name: {name}") == 1, (registry.kind, name)
    assert "`{name: tube, ratio: 0.9, axis: 0}`" in page
    assert "`{name: pixel, normalize: mae, floor: 0, loss: mse, planes: null}`" in page


def test_every_command_and_option_is_in_the_reference() -> None:
    page = reference.fill(PAGES["commands"])
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page, flags=re.M | re.S))
    commands = typer.main.get_command(app).commands
    assert set(sections) == set(commands)
    for name, command in commands.items():
        for parameter in command.params:
            for option in (*parameter.opts, *parameter.secondary_opts) if parameter.param_type_name == "option" else ():
                assert re.search(rf"`{option}[` ]", sections[name]), (name, option)
            assert parameter.help and parameter.help.replace("|", "\\|") in sections[name], (name, parameter.name)
    assert "| `--out` | Folder for what is predicted. | `predictions` |" in sections["predict"]
