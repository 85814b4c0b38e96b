"""What a command needs not be told: the reader, the recipe or the modality that suits what a source holds."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from mae_ext.config import find_config, load_config
from mae_ext.errors import ConfigError, NothingToRead, UserError, some

if TYPE_CHECKING:
    from mae_ext.data.sources.kinds import Taker
    from mae_ext.data.sources.survey import Held, Survey

    Typed = Callable[[Held], str]
    """What to type so that a kind is read."""


def by_reader(paths: Sequence[str]) -> dict[str, list[str]]:
    """The paths by the reader that each of them needs. Raises UserError where one needs several, or none helps."""
    readers: dict[str, list[str]] = {}
    for path in paths:
        taker = _only(path, lambda one: f"--reader {one.taker.name}", "doctor reads one kind at a time: type ")
        readers.setdefault(taker.name, []).append(path)
    return readers


def chosen(command: str, config: str | None, data: str | None, tuning: bool = False) -> str:
    """The config that is named, or the general recipe of what `data` holds, which is said.

    tuning: to fine-tune. Raises UserError where there is nothing to go by, or several recipes could be meant.
    """
    if config is not None:
        if os.path.isdir(config):  # noqa: PTH112 it raises for no name
            raise ConfigError(f"config '{config}': is a folder; data are named by --data {quote(config)}")
        return config
    if data is None:
        raise UserError(f"{command}: give CONFIG (`mae-ext configs` lists recipes), or --data PATH to have one chosen")

    def recipe(taker: "Taker") -> str:
        return taker.kind.tuning if tuning else taker.kind.recipe

    def typed(one: "Held") -> str:
        return f"`mae-ext {command} {recipe(one.taker) or 'CONFIG'} --data {quote(data)}` for the {one.taker.kind.many}"

    joint = "; for several in one run, a config with several modalities, and "
    taker = _only(data, typed, "type ", joint)
    if not (name := recipe(taker)):
        raise UserError(
            f"data path '{data}': holds {taker.kind.many}, and no recipe is general enough for them here: "
            f"name a CONFIG; `mae-ext configs` lists recipes"
        )
    _say(
        f"recipe: {name}, as {data} holds {taker.kind.many}: the same as `mae-ext {command} {name} ...`; what to "
        f"change is marked in {find_config(name)}, and --set changes it"
    )
    return name


def modality_for(run: str, modality: str | None, sources: Sequence[str]) -> str | None:
    """The modality of a run with several whose reader takes what `sources` hold; None where that is not to be seen.

    Raises UserError where a source holds samples of several of them.
    """
    file = Path(run) / "config.yaml"
    if modality is not None or not file.is_file():
        return modality
    try:
        modalities = load_config(file).modalities
    except ConfigError:
        return None  # what is wrong with it is said where the run is opened
    names = {name: m.data.reader.name for name, m in modalities.items()}
    if len(names) < 2 or len(set(names.values())) < len(names):
        return None
    of = {reader: name for name, reader in names.items()}
    readers = {
        _only(path, lambda one: f"--modality {of.get(one.taker.name, '?')}", "one is used at a time: type ").name
        for path in sources
    }
    if len(readers) > 1 or not readers <= of.keys():
        return None
    name = of[readers.pop()]
    _say(f"modality: {name}, whose reader takes what {some(sources)} holds")
    return name


def explained(error: NothingToRead) -> str:
    """The error, and what the source holds instead of what the reader takes, with a recipe for it."""
    from mae_ext.data.sources.kinds import takers
    from mae_ext.data.sources.survey import survey

    try:
        seen = survey(error.path)
    except UserError:
        return str(error)
    others = [one for one in seen.kinds if one.taker.suffixes != error.suffixes]
    if not others:
        return f"{error}{''.join(f'; {text}' for text in _refused(seen))}"
    mine = next((taker.kind.many for taker in takers() if taker.suffixes == error.suffixes), "something else")
    recipes = [one.taker.kind.recipe for one in others if one.taker.kind.recipe]
    fitting = f"; recipes for that: {', '.join(recipes)}" if recipes else ""
    return f"{error}; this reads {mine}, and {error.path} holds {_counted(others)}{fitting}"


def _only(path: str, typed: "Typed", ways: str, joint: str = "") -> "Taker":
    """The one reader that a source needs. Raises UserError, with what to type for each of several."""
    from mae_ext.data.sources.kinds import takers
    from mae_ext.data.sources.survey import survey

    seen = survey(path)
    for remark in seen.remarks:
        _say(f"warning: {path}: {remark}")
    if not seen.kinds:
        raise UserError(f"data path '{path}': {'; '.join(_refused(seen)) or _nothing(seen, takers())}")
    for text in _refused(seen):
        _say(f"warning: {path}: {text}")
    if len(seen.kinds) == 1:
        return seen.kinds[0].taker
    pairs = ",".join(f"{one.taker.name}={quote(path)}" for one in seen.kinds)
    raise UserError(
        f"data path '{path}': holds {_counted(seen.kinds)}: which are meant? {ways}"
        f"{' or '.join(map(typed, seen.kinds))}{f'{joint}--data {pairs}' if joint else ''}"
    )


def _say(message: str) -> None:
    """Once, of all ranks."""
    from mae_ext.engine.log import say

    if os.environ.get("RANK", "0") == "0":
        say(message)


def _counted(kinds: "Sequence[Held]") -> str:
    *first, last = map(str, kinds)
    return f"{', '.join(first)} and {last}" if first else last


def _refused(seen: "Survey") -> list[str]:
    return [f"{count} {why}" for why, count in seen.refused.most_common()]


def _nothing(seen: "Survey", known: "Sequence[Taker]") -> str:
    suffixes = "; ".join(f"{taker.name}: {some(taker.ending, ' ', 12)}" for taker in known)
    return f"nothing that a reader takes, at any depth ({suffixes}); {seen.passed.instead()}"
