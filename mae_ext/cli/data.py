"""Commands that look at data before a run: doctor, prepare."""

from pathlib import Path
from typing import Annotated

import typer

from mae_ext.cli.app import ConfigArg, DataOption, NameOption, SetOption, app, progress_bar
from mae_ext.cli.choosing import by_reader, chosen
from mae_ext.errors import UserError
from mae_ext.overrides import configured


@app.command()
def doctor(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, folders, lists, shards or .npz.")],
    reader: Annotated[
        str | None, typer.Option("--reader", help="A name from `mae-ext plugins`; by default, what the files ask for.")
    ] = None,
    deadline: Annotated[float, typer.Option("--deadline", min=0.1, help="Seconds one file may take.")] = 20.0,
    config: Annotated[str | None, typer.Option("--config", help="Instead of --reader: as this config reads.")] = None,
    set_: SetOption = None,
    modality: NameOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Also say what the good ones hold.")] = False,
    index: Annotated[
        str | None, typer.Option("--index", help="A list of the good DICOM scans; else index.csv, of series by ID.")
    ] = None,
) -> None:
    """Open every file in a killable child and report which are bad and why; exit 1 if any.

    Example: mae-ext doctor photos/
    """
    from mae_ext.data.loading.doctor import as_config, inspect, summary
    from mae_ext.data.sources.dicom.said import index_of
    from mae_ext.engine.log import say

    if config is None and (set_ or modality):
        raise UserError("--set and --modality are of --config, which is not given")
    if config is not None:
        parts = [(paths, as_config(configured(config, None, set_), modality, config))]
    else:
        readers = {reader: paths} if reader is not None else by_reader(paths)
        parts = [(some, {"reader_name": name}) for name, some in readers.items()]
    verdicts = []
    with progress_bar("opening") as progress:
        for some, how in parts:
            for verdict in inspect(some, deadline_s=deadline, say=say, **how):
                verdicts.append(verdict)
                progress(len(verdicts), None)
                if verbose or verdict.doubts or not verdict.ok or verdict.description.startswith("DICOM"):
                    print(verdict)
    if wrote := index_of(paths, [(v.path, v.description) for v in verdicts if v.ok], index):
        print(wrote)
    print(summary(verdicts))
    if not all(v.ok for v in verdicts):
        raise typer.Exit(1)


@app.command()
def prepare(
    *,
    config: ConfigArg = None,
    out: Annotated[str, typer.Option("--out", help="Folder for the cache; what is there and good is left alone.")],
    data: DataOption = None,
    set_: SetOption = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Files at a time; default: cores.")] = None,
    modality: NameOption = None,
) -> None:
    """Decode everything once into a cache that makes training decode-free; exit 1 if any file is bad.

    Example: mae-ext prepare video_k400_vitb --data kinetics/train --out cache
    """
    from mae_ext.data.loading.prepare import prepare as fill

    loaded = configured(chosen("prepare", config, data), data, set_)
    with progress_bar("preparing") as progress:
        prepared = fill(loaded, Path(out), workers, progress=progress, modality=modality)
    print(prepared)
    for name in prepared.without:
        reader = loaded.modalities[name].data.reader.name
        print(f"modality '{name}' is not prepared: reader '{reader}' keeps no cache, and reads its files as they are")
    for name in prepared.modalities:
        print(f"train from it with --set modalities.{name}.data.reader.cache={prepared.out.absolute()}")
    if prepared.bad:
        raise typer.Exit(1)
