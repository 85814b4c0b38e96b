"""Fill the reference of docs/ with what the code says of itself: public names, keys of a config, built-ins, commands.

A page has a line `<!-- reference: WHAT -->`, and `fill` puts in its place what there is to say. WHAT is names of
`mae_ext.__all__` (or "rng.rng"), "keys", "built-ins" or "commands". Nothing is written into the pages themselves.
"""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, get_args, get_origin

import typer
from pydantic import BaseModel

from mae_ext import plugins
from mae_ext.cli import app
from mae_ext.config import Config, PlugIn

PLACE = re.compile(r"^<!-- reference: (.+) -->$", re.MULTILINE)
GIVEN = {"size", "patch", "channels", "width", "grid"}
"""Arguments of plug-ins that the framework gives and no config may."""


KINDS = {
    "integer": "whole number",
    "number": "number",
    "boolean": "`true` or `false`",
    "string": "text",
    "null": "`null`",
    "object": "sections by name",
}
NEEDED = "must be given"
BAR = "\\|"


@dataclass(frozen=True)
class Key:
    """A key of a config. name: dotted, with NAME for a modality. default: as YAML has it, "" where there is none."""

    name: str
    kind: str
    default: str
    told: str


def fill(page: str) -> str:
    """A page with every place of the reference filled."""
    return PLACE.sub(lambda place: MADE.get(place[1], lambda: names_section(place[1].split()))(), page)


def names_on(page: str) -> list[str]:
    """The public names that a page documents."""
    return [name for place in PLACE.findall(page) if place not in MADE for name in place.split()]


def names_section(names: list[str]) -> str:
    return "\n".join(_object(f"mae_ext.{name}", public(name), True) for name in names)


def public(name: str) -> Any:
    """What `mae_ext.NAME` is, or `mae_ext.module.NAME`."""
    module, _, attribute = f"mae_ext.{name}".rpartition(".")
    return getattr(import_module(module), attribute)


def _object(dotted: str, found: Any, listed: bool) -> str:
    """Sphinx's directive for what has a docstring. listed: whether it is in the index, and shown with its members."""
    is_error = isinstance(found, type) and issubclass(found, BaseException)
    kind = "autofunction" if inspect.isroutine(found) else "autoexception" if is_error else "autoclass"
    options = [] if listed else [":no-index:"]
    options += [":members:"] if listed and kind == "autoclass" else []
    return "\n".join(["```{eval-rst}", f".. {kind}:: {dotted}", *(f"    {option}" for option in options), "```", ""])


def as_rst(docstring: list[str]) -> list[str]:
    """Docstrings are plain text with `code`; Sphinx takes them for reStructuredText, where * and _ mean something."""
    start = next((i for i, line in enumerate(docstring) if line.startswith(">>>")), len(docstring))
    text = "\n".join(docstring[:start]).replace("``", "`").split("`")
    for i, part in enumerate(text):
        # What stands beside ``code`` has to be apart from it, and "\\ " is nothing.
        text[i] = f"\\ ``{part}``\\ " if i % 2 else re.sub(r"([\\*_|]|:(?=:))", r"\\\1", part)
    return [*"".join(text).split("\n"), *docstring[start:]]


def orders(index: str) -> str:
    """The tables of contents that Sphinx wants, from the headings and links of the index page."""
    made = []
    for section in index.split("\n## ")[1:]:
        pages = re.findall(r"\]\(([\w/]+)\.md\)", section)
        made += ["```{toctree}", ":hidden:", f":caption: {section.splitlines()[0]}", "", *pages, "```", ""]
    return "\n".join(made)


# Keys of a config


def sections(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section of a config and its dotted name, "" for the top, each before those in it."""
    yield prefix, model
    for name, field in model.model_fields.items():
        many = ".NAME" if get_origin(field.annotation) is dict else ""
        for inner in dict.fromkeys(_models(field.annotation)):
            yield from sections(inner, f"{prefix}.{name}{many}".lstrip("."))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation is not PlugIn:
            yield annotation
        return
    for part in get_args(annotation):
        yield from _models(part)


def config_keys() -> Iterator[tuple[str, type[BaseModel], list[Key]]]:
    """The sections of a config with their keys; kinds and ranges are those of the JSON schema."""
    schema = Config.model_json_schema()
    for prefix, model in sections():
        stated = schema if model is Config else schema["$defs"][model.__name__]
        rows = []
        for name, field in model.model_fields.items():
            default = "" if field.is_required() else _value(field.default)
            kind, told = _kind(stated["properties"][name]), " ".join((field.description or "").split())
            rows.append(Key(f"{prefix}.{name}".lstrip("."), kind, default, told))
        yield prefix, model, rows


def _kind(schema: dict[str, Any]) -> str:
    """A JSON schema in words: "whole number, from 1", "`mean` or `class`"."""
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(dict.fromkeys(_kind(part) for part in schema[union]))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum") or [schema["const"]])
    if "$ref" in schema:
        return "plug-in" if schema["$ref"].endswith("/PlugIn") else "section"
    if "prefixItems" in schema:
        return f"[{', '.join(_kind(part) for part in schema['prefixItems'])}]"
    if schema["type"] == "array":
        return f"list of: {_kind(schema['items'])}"
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    # That a whole number is below 2^31 everywhere is not worth a word.
    said = [f"{word} {schema[key]:g}" for key, word in bounds.items() if schema.get(key, 2**31) != 2**31]
    return ", ".join([KINDS[schema["type"]], *([" ".join(said)] if said else [])])


def _value(value: Any) -> str:
    """As YAML has it."""
    match value:
        case PlugIn():
            given = "".join(f", {key}: {_value(argument)}" for key, argument in value.arguments.items())
            return f"{{name: {value.name}{given}}}" if given else value.name
        case BaseModel():
            return "{}"
        case list() | tuple():
            return f"[{', '.join(map(_value, value))}]"
        case None | bool():
            return str(value).lower().replace("none", "null")
        case float():
            return f"{value:.4g}"
    return str(value)


def keys_section() -> str:
    parts = []
    for prefix, model, rows in config_keys():
        own = inspect.cleandoc(model.__doc__ or "")
        parts += [f"## `{prefix}`" if prefix else "## The top", "", own.partition(">>>")[0].strip(), ""]
        told = [
            (f"`{k.name.rpartition('.')[2]}`", k.kind, f"`{k.default}`" if k.default else NEEDED, k.told) for k in rows
        ]
        parts += _table(("key", "takes", "default", "means"), told)
    return "\n".join(parts)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [head, ("---",) * len(head), *rows]
    return [f"| {' | '.join(cell.replace('|', BAR) for cell in line)} |" for line in lines] + [""]


# What a config can name


def builtins_section() -> str:
    parts = []
    for registry in plugins.ALL.values():
        parts += [f"## {registry.group.removeprefix('mae_ext.').capitalize()}", ""]
        for name, home in registry.builtins.items():
            found = registry.get(name)
            takes = [p for p in inspect.signature(found).parameters.values() if p.name not in GIVEN]
            given = "".join(f", {p.name}{'' if p.default is p.empty else f': {_value(p.default)}'}" for p in takes)
            parts += [
                f"### `{name}`",
                "",
                f"`{{name: {name}{given}}}`",
                "",
                _object(home.replace(":", "."), found, False),
            ]
    return "\n".join(parts)


# Commands


def commands_section() -> str:
    parts = []
    for name, command in typer.main.get_command(app).commands.items():
        told, _, example = inspect.cleandoc(command.help).partition("Example: ")
        arguments = [p.metavar for p in command.params if p.param_type_name == "argument"]
        parts += [f"## {name}", "", told.strip(), "", f"`{' '.join(['mae-ext', name, *arguments, '[OPTIONS]'])}`", ""]
        rows = []
        for p in command.params:
            written = [f"`{option}{f' {p.metavar}' * bool(p.metavar)}`" for option in (*p.opts, *p.secondary_opts)]
            written = [f"`{p.metavar}`"] if p.param_type_name == "argument" else written
            default = NEEDED if p.required else "" if p.default is None else f"`{_value(p.default)}`"
            rows.append((", ".join(written), p.help or "", default))
        parts += _table(("argument", "means", "default"), rows) if rows else []
        parts += [f"For example: {' '.join(example.split())}", ""] if example else []
    return "\n".join(parts)


MADE = {"keys": keys_section, "built-ins": builtins_section, "commands": commands_section}
"""What a place can ask for besides names."""
