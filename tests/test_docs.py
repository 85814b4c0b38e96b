"""What the documentation tells people to type exists, and so do the files that it points at."""

import re
from pathlib import Path

import pytest
import typer

from mae_ext.cards import read_head, shipped
from mae_ext.cli import app
from mae_ext.config import load_config

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "tests" / "plugin_example" / "README.md"]
COMMANDS = typer.main.get_command(app).commands
USE = re.compile(r"(?:mae-ext|-m mae_ext) ([a-z][\w-]*)([^`#\n|&]*)")


def uses():
    """(where, command, its arguments) for every call of mae-ext in a page or in the head of a recipe."""
    texts = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES}
    texts |= {path.name: read_head(path)["command"] for path in shipped("configs")}
    for where, text in texts.items():
        for command, rest in USE.findall(text.replace("\\\n", " ")):
            yield where, command, rest


def test_the_pages_call_every_command_of_daily_use():
    assert {"pretrain", "plan", "doctor", "reconstruct", "embed", "probe", "report", "configs", "plugins"} <= {
        command for _, command, _ in uses()
    }


def test_every_command_and_option_in_the_documentation_exists():
    wrong = []
    for where, command, rest in uses():
        if command not in COMMANDS:
            wrong.append(f"{where}: {command}")
            continue
        known = {
            name for parameter in COMMANDS[command].params for name in (*parameter.opts, *parameter.secondary_opts)
        }
        wrong += [f"{where}: {command} {o}" for o in re.findall(r"--[a-z][\w-]*", rest) if o not in known | {"--help"}]
    assert not wrong


def test_the_readme_table_lists_every_command():
    listed = set(re.findall(r"^\| `(\w+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert listed == set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_another_page_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#]+\.md)\)|\]\((LICENSE)\)", page.read_text())
    assert not [link for pair in links for link in pair if link and not (page.parent / link).is_file()]


def test_the_tests_that_the_architecture_page_names_exist():
    named = re.findall(r"`(tests/[\w/.]+)`", (ROOT / "docs" / "architecture.md").read_text())
    named = [path for path in named if path != "tests/x/test_y.py"]
    assert named
    assert not [path for path in named if not (ROOT / path).exists()]


def test_the_layout_names_every_module_and_none_that_is_gone():
    page = (ROOT / "docs" / "architecture.md").read_text()
    (layout,) = re.findall(r"```\n(mae_ext/.*?)^scripts/.*?```", page, re.DOTALL | re.MULTILINE)
    modules = {path.stem for path in (ROOT / "mae_ext").rglob("*.py")} - {"__init__", "__main__"}
    assert not modules - set(re.findall(r"\w+", layout))
    assert not set(re.findall(r"(\w+)\.py", layout)) - modules


OF_OTHERS = re.compile(
    r"https?:|(?:main|models|modeling|engine_for|masking)_\w+\.py|\butil/|configs/mae/|"
    r"(?:rwightman|facebookresearch|OpenGVLab|MCG-NJU|cvlab-stonybrook)/|\bMONAI \d|\blosses/|IMAGENET_INCEPTION|"
    r"conversion_mapping|vision_transformer\.py|_hub\.py"
)
"""Lines of the package that say where in another project a constant is from."""


def test_every_file_that_the_package_speaks_of_is_there():
    tops = ("mae_ext", "docs", "tests", "scripts")
    there = {"/" + path.relative_to(ROOT).as_posix() for top in tops for path in (ROOT / top).rglob("*.*")}
    spoken = [
        (path.relative_to(ROOT).as_posix(), name)
        for path in (ROOT / "mae_ext").rglob("*.py")
        for line in path.read_text().splitlines()
        if not OF_OTHERS.search(line)
        for name in re.findall(r"(?<![\w/.-])[\w/-]+\.(?:py|md)\b", line)
    ]
    assert len(spoken) > 10
    assert not [(where, name) for where, name in spoken if not any(file.endswith("/" + name) for file in there)]


def test_every_override_in_the_pages_on_images_is_one_the_config_takes():
    page = "".join((ROOT / "docs" / f"{name}.md").read_text() for name in ("start", "tutorial_images", "large_images"))
    overrides = [quoted or bare for quoted, bare in re.findall(r"--set (?:'([^']+)'|([\w.]+=[^\s`]+))", page)]
    assert len(overrides) > 5
    for override in overrides:
        load_config("image_folder", [override])
