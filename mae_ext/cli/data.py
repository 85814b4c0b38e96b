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
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Files at a time; default: cores.")] = None,
    json_: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write all verdicts there.")] = None,
    fix_list: Annotated[
        str | None, typer.Option("--fix-list", metavar="FILE", help="Write the list of the good (.csv or .txt) there.")
    ] = None,
) -> None:
    """Open every file in a killable child and report which are bad and why; exit 1 if any.

    Example: mae-ext doctor photos/ --json verdicts.json --fix-list good.csv
    """
    from mae_ext.cores import cores
    from mae_ext.data.loading.doctor import as_config, inspect, summary
    from mae_ext.data.loading.verdict_report import of_values, writing
    from mae_ext.data.sources.dicom.said import index_of
    from mae_ext.engine.log import say
    from mae_ext.progress import watched_by

    if config is None and (set_ or modality):
        raise UserError("--set and --modality are of --config, which is not given")
    if config is not None:
        parts = [(paths, as_config(configured(config, None, set_), modality, config))]
    else:
        readers = {reader: paths} if reader is not None else by_reader(paths)
        parts = [(some, {"reader_name": name}) for name, some in readers.items()]
    if len(parts) > 1 and (json_ or fix_list):
        kinds = ", ".join(f"{how['reader_name']}: {' '.join(some)}" for some, how in parts)
        raise UserError(f"--json and --fix-list are of one kind of samples; judge these by themselves: {kinds}")
    verdicts, lines = [], []
    with writing(paths, parts[0][1]["reader_name"], json_, fix_list) as write, watched_by(progress_bar):
        for some, how in parts:
            own = []
            for verdict in inspect(some, deadline_s=deadline, say=say, workers=workers or cores(), **how):
                own.append(verdict)
                if verbose or verdict.doubts or not verdict.ok or verdict.description.startswith("DICOM"):
                    print(verdict)
                if verbose and verdict.values:
                    print(f"{verdict.path}: values {verdict.values}")
            verdicts += own
            lines += of_values(own, verbose)
        if wrote := index_of(paths, [(v.path, v.description) for v in verdicts if v.ok], index):
            lines.append(wrote)
        for line in (*lines, summary(verdicts), *write(verdicts)):
            print(line)
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
