"""Commands that say what there is: configs, plugins."""

from typing import Annotated

import typer

from mae_ext.cli.app import app
from mae_ext.config import builtin_dir, json_schema


@app.command()
def configs(
    schema: Annotated[bool, typer.Option(help="Print the JSON schema instead, for editors.")] = False,
) -> None:
    """List the recipes that ship with the package.

    Example: mae-ext configs
    """
    if schema:
        print(json_schema())
        return
    for file in sorted(builtin_dir("configs").glob("*.yaml")):
        first = file.read_text(encoding="utf-8").splitlines()[0]
        print(f"{file.stem:28} {first.lstrip('# ').removeprefix('what:').strip()}")


@app.command()
def plugins() -> None:
    """List embedders, positions, maskers, readers, targets, tasks, observers and loggers, and where each comes from.

    Example: mae-ext plugins
    """
    from mae_ext.plugins import ALL

    for group, registry in ALL.items():
        print(group)
        for name, source in registry.sources().items():
            print(f"  {name:20} {source}")
