"""What ships beside the code: dataset cards, and the heads of recipes. Text to read and check, never code to run."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from mae_ext.config import Statistics, builtin_dir
from mae_ext.errors import ConfigError
from mae_ext.plugins import nearest
from mae_ext.sections import Section
from mae_ext.strict_yaml import read_yaml

HEAD = ("what", "command", "hardware", "time", "expect")
"""The labels that open every recipe, in this order."""

Text = Annotated[str, Field(min_length=1)]


class Card(Section):
    """One dataset, as its owner ships it. What is not known is left out, never guessed.

    layout: the owner's files. obtain: how to get them, in words. read: what to hand to `--data`, and what to do before.
    splits: items in each. classes: names in label order. statistics: in the reader's units (0..1 for images), with
    statistics_source: a file, a paper, or how they were measured.
    """

    name: Text
    what: Text
    modality: Literal["image", "video", "volume"]
    licence: Text
    owner: Text
    page: Annotated[str, Field(pattern=r"^https://")]
    obtain: Text
    layout: Text
    read: Text
    splits: dict[Text, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    num_classes: Annotated[int, Field(ge=1)] | None = None
    classes: tuple[Text, ...] = ()
    statistics: Statistics | None = None
    statistics_source: Text | None = None
    notes: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _agrees(self) -> "Card":
        if self.classes and self.num_classes != len(self.classes):
            raise ValueError(f"num_classes={self.num_classes}, but {len(self.classes)} classes are named")
        if (self.statistics is None) != (self.statistics_source is None):
            raise ValueError("statistics and statistics_source come together")
        return self


def shipped(kind: Literal["configs", "datasets"]) -> list[Path]:
    """The files that come with the package, by name."""
    return sorted(builtin_dir(kind).glob("*.yaml"))


def read_card(path: Path) -> Card:
    """One card. Raises ConfigError naming the key and what was expected."""
    values = read_yaml(path.read_text(encoding="utf-8"), path.name)
    try:
        return Card.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{path.name}: {faults}") from None


def load_card(name: str) -> Card:
    """A shipped card by its name. Raises ConfigError listing the names there are."""
    files = {path.stem: path for path in shipped("datasets")}
    if name not in files:
        raise ConfigError(f"no dataset card '{name}'{nearest(name, list(files))} (there are: {', '.join(files)})")
    return read_card(files[name])


def read_head(path: Path) -> dict[str, str]:
    """The labelled comment lines that open a recipe, as {"what": ..., "command": ...}; continued lines are joined.

    Raises ConfigError when a label is missing or out of order.
    """
    head: dict[str, str] = {}
    label = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if opened := re.match(r"# (\w+): +(\S.*)", line):
            label, text = opened[1], opened[2]
            head[label] = text
        elif label:
            head[label] += " " + line.lstrip("# ")
    if tuple(head) != HEAD:
        raise ConfigError(f"{path}: opens with comments on {', '.join(head) or 'nothing'}; expected {', '.join(HEAD)}")
    return head
