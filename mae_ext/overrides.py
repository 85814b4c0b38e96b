"""A config with what a command line, or a call from Python, says beside it."""

from collections.abc import Sequence
from pathlib import Path

from mae_ext.config import Config, load_config, parse_config, set_value
from mae_ext.errors import UserError


def configured(
    config: str | Config, data: str | None, sets: Sequence[str] | None, steps: int | None = None,
    test: str | None = None,
) -> Config:  # fmt: skip
    """The config with the command line applied, validated as a whole. config: one, or a file or recipe by name."""
    loaded = load_config(config, list(sets or [])) if isinstance(config, str) else config
    values = loaded.model_dump(mode="json")
    for assignment in (sets or []) if isinstance(config, Config) else ():
        set_value(values, assignment)
    if steps is not None:
        values["train"] |= {"steps": steps, "epochs": None}
        if values["train"]["warmup_epochs"] is not None or (values["train"]["warmup_steps"] or 0) >= steps:
            values["train"] |= {"warmup_epochs": None, "warmup_steps": steps // 10}
    for option, key, paths in (("--data", "path", data), ("--test", "test", test)):
        for name, path in _paths(option, paths, list(values["modalities"])).items() if paths is not None else ():
            values["modalities"][name]["data"][key] = path
    for modality in values["modalities"].values():
        if cache := modality["data"]["reader"].get("cache"):
            # It stays with the run, whose later commands may be given elsewhere.
            modality["data"]["reader"]["cache"] = str(Path(cache).absolute())
    return parse_config(values, config if isinstance(config, str) else "config")


def _paths(option: str, paths: str, names: list[str]) -> dict[str, str]:
    if len(names) == 1:
        return {names[0]: paths}
    pairs = dict(part.partition("=")[::2] for part in paths.split(","))
    if not pairs.keys() <= set(names) or "" in pairs.values():
        raise UserError(f"{option} {paths}: with several modalities, give NAME=PATH,NAME=PATH with names from {names}")
    return pairs
