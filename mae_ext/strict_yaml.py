"""Strict YAML: safe loading, no duplicate keys, no aliases, no depth or size that a config has no use for."""

import re
from typing import Any

import yaml

from mae_ext.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32


class _StrictLoader(yaml.SafeLoader):
    """Safe loading, and: no duplicate keys, no aliases (an alias bomb is short to write and long to read)."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise ConfigError(f"line {event.start_mark.line + 1}: YAML aliases are not read; write the value out")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ConfigError(f"nested more than {MAX_DEPTH} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise ConfigError(f"line {key_node.start_mark.line + 1}: key {key!r} is not text")
            if key in seen:
                raise ConfigError(f"line {key_node.start_mark.line + 1}: {key!r} is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever text the loader would take for something else."""


# YAML 1.1 reads 1e-4 as text, because it has no dot.
for _kind in (_StrictLoader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )


# PyYAML's own constructors trip over explicit tags: `!!int ""`, `!!bool perhaps`, `!!map [1]`, `!!timestamp never`.
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError, LookupError, ArithmeticError)


def read_yaml(text: str, where: str) -> dict[str, Any]:
    """A mapping from strict YAML. Raises ConfigError with the line for anything else."""
    if len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise ConfigError(f"{where}: larger than {MAX_BYTES} bytes; this is not a config")
    try:
        values = yaml.load(text, _StrictLoader)  # noqa: S506 - a SafeLoader
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except _NOT_YAML as error:
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split()) or type(error).__name__}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected keys and values, found {type(values).__name__}")
    return values


def write_yaml(values: dict[str, Any]) -> str:
    """Text that `read_yaml` reads as the same values: a class called 1e5 stays text."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
