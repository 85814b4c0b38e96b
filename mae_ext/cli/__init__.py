"""The commands. Thin: each reads its arguments, calls one function of the library, and prints what it returns.

Exit codes: 0 done, 1 failed, 2 the input is wrong (one line), 75 stopped by a signal after saving.
"""

from pathlib import Path
from typing import Annotated

import typer

from mae_ext.cli.app import (
    AllowOption,
    BadOption,
    ConfigArg,
    DataOption,
    NameOption,
    Pool,
    RunArg,
    SetOption,
    StepsOption,
    app,
    main,
    progress_bar,
    run,
)
from mae_ext.config import builtin_dir, json_schema, load_values, uncached
from mae_ext.errors import UserError
from mae_ext.overrides import configured
from mae_ext.strict_json import dumps
from mae_ext.writing import folder_for

__all__ = ["app", "main", "run"]


@app.command()
def pretrain(
    config: ConfigArg,
    data: DataOption = None,
    out: Annotated[str, typer.Option("--out", help="Run directory; a run in it goes on by itself.")] = "runs/latest",
    steps: StepsOption = None,
    set_: SetOption = None,
    allow_change: AllowOption = False,
) -> None:
    """Train; resumes by itself when --out holds a checkpoint of the same config.

    Example: mae-ext pretrain image_folder --data photos/ --out runs/photos
    """
    from mae_ext.engine.train import train

    loaded = configured(config, data, set_, steps)
    if loaded.task.name != "pretrain":
        raise UserError(f"{config}: is of the task '{loaded.task.name}'; run it with `mae-ext finetune`")
    train(loaded, Path(out), allow_change)


@app.command()
def finetune(
    config: ConfigArg,
    init: Annotated[
        str, typer.Option("--init", help="The pretrained run, or one checkpoint in it; 'none' starts from nothing.")
    ],
    data: DataOption = None,
    test: Annotated[str | None, typer.Option("--test", help="Held-out data that the task is judged on.")] = None,
    out: Annotated[str, typer.Option("--out", help="Run directory; a run in it goes on by itself.")] = "runs/finetuned",
    steps: StepsOption = None,
    set_: SetOption = None,
    allow_change: AllowOption = False,
) -> None:
    """Train a pretrained encoder for a task; resumes as pretrain does. Scores go to OUT/evaluations.jsonl.

    Example: mae-ext finetune finetune_cifar10_vitt --init runs/cifar10 --data train --test test --out runs/ft
    """
    from mae_ext.engine.train import train
    from mae_ext.tasks.start import check_task, from_run, from_scratch

    values, where = load_values(config, list(set_ or []))
    loaded = from_scratch(values, where) if init == "none" else from_run(values, init, where)
    train(configured(check_task(loaded, where), data, None, steps, test), Path(out), allow_change)


@app.command()
def predict(
    run: RunArg,
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files, folders, lists, shards or .npz.")],
    out: Annotated[str, typer.Option("--out", help="Folder for what is predicted.")] = "predictions",
) -> None:
    """Write what a fine-tuned run says of new data: of classes, a line of probabilities for each sample.

    The same command again leaves what is there and goes on with the rest.

    Example: mae-ext predict runs/ft photos/ --out predictions
    """
    from mae_ext.engine.outputs import warn_one_sided
    from mae_ext.engine.step import as_evaluated
    from mae_ext.engine.task import load_task

    with folder_for(out) as folder, progress_bar("predicting") as progress:
        task, model, config, _ = load_task(run)
        warn_one_sided(config.modalities.values(), inputs)
        with as_evaluated(model, config):
            paths = task.predict(model, uncached(config), inputs, folder, progress)
    for path in paths:
        print(path)


@app.command()
def plan(
    config: ConfigArg,
    data: DataOption = None,
    set_: SetOption = None,
    world: Annotated[int, typer.Option("--world", min=1, help="Ranks to plan for.")] = 1,
) -> None:
    """Print tokens, parameters, FLOPs, memory, batch, learning rate and steps, without training.

    Example: mae-ext plan image_in1k_vitb --data imagenet/train --world 8
    """
    from mae_ext.data.loading.loader import build_reader
    from mae_ext.data.sources.meant import odd, opening
    from mae_ext.data.sources.table import list_items
    from mae_ext.engine.estimate import describe
    from mae_ext.engine.log import say, warn

    loaded = configured(config, data, set_)
    if loaded.task.name != "pretrain":
        raise UserError(f"{config}: is of the task '{loaded.task.name}'; plan knows the cost of pretraining alone")
    files = {}
    for name, m in loaded.modalities.items():
        if m.data.path:
            items = list_items(m.data.path, build_reader(m, name).suffixes)
            files[name] = len(items)
            say(opening(items, m.data.path, name))
            for remark in odd(items, m.data.path):
                warn(remark)
    print(describe(loaded, files, world))


@app.command()
def doctor(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, folders, lists, shards or .npz.")],
    reader: Annotated[str, typer.Option("--reader", help="A name from `mae-ext plugins`.")] = "image",
    deadline: Annotated[float, typer.Option("--deadline", min=0.1, help="Seconds one file may take.")] = 20.0,
    config: Annotated[str | None, typer.Option("--config", help="Instead of --reader: as this config reads.")] = None,
    set_: SetOption = None,
    modality: NameOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Also say what the good ones hold.")] = False,
) -> None:
    """Open every file in a killable child and report which are bad and why; exit 1 if any.

    Example: mae-ext doctor photos/ --reader image
    """
    from mae_ext.data.loading.doctor import as_config, inspect, summary
    from mae_ext.engine.log import say

    if config is None and (set_ or modality):
        raise UserError("--set and --modality are of --config, which is not given")
    how = {"reader_name": reader} if config is None else as_config(configured(config, None, set_), modality, config)
    verdicts = []
    with progress_bar("opening") as progress:
        for verdict in inspect(paths, deadline_s=deadline, say=say, **how):
            verdicts.append(verdict)
            progress(len(verdicts), None)
            if verbose or verdict.doubts or not verdict.ok:
                print(verdict)
    print(summary(verdicts))
    if not all(v.ok for v in verdicts):
        raise typer.Exit(1)


@app.command()
def prepare(
    config: ConfigArg,
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

    loaded = configured(config, data, set_)
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


@app.command()
def reconstruct(
    run: RunArg,
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files or folders.")],
    out: Annotated[str, typer.Option("--out", help="Folder for the pictures.")] = "pictures",
    own_statistics: Annotated[
        bool, typer.Option(help="Use the hidden patches' own mean and contrast (a leak; the picture says so).")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many inputs.")] = 16,
    seed: Annotated[int, typer.Option("--seed", help="Of the masks.")] = 0,
    modality: NameOption = None,
) -> None:
    """Write pictures: input, masked input, reconstruction.

    Example: mae-ext reconstruct runs/photos photos/ --out pictures
    """
    from mae_ext.report.pictures import reconstruct as draw

    with progress_bar("reconstructing") as progress:
        paths = draw(
            run,
            inputs,
            Path(out),
            own_statistics=own_statistics,
            seed=seed,
            limit=limit,
            name=modality,
            progress=progress,
        )
    for path in paths:
        print(path)


@app.command()
def embed(
    run: RunArg,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Folder, list, shards or .npz.")],
    out: Annotated[str, typer.Option("--out", help="The .safetensors file to write.")],
    pool: Annotated[Pool, typer.Option("--pool", help="Mean of the patch tokens, or the class token.")] = "mean",
    modality: NameOption = None,
    max_bad_fraction: BadOption = None,
    map_: Annotated[bool, typer.Option("--map", help="Also a picture of the features as points in a plane.")] = False,
    neighbours: Annotated[
        int | None, typer.Option("--neighbours", min=1, help="Also a picture: samples and so many nearest to each.")
    ] = None,
) -> None:
    """Write features as safetensors (`features`, (n, D) float32) with a JSONL of sources beside it.

    Example: mae-ext embed runs/photos photos/ --out photos.safetensors --map --neighbours 6
    """
    from mae_ext.features.embed import embed as write

    with progress_bar("embedding") as progress:
        path = write(
            run, source, Path(out), pool, modality, max_bad_fraction=max_bad_fraction, progress=progress,
            with_map=map_, neighbours=neighbours,
        )  # fmt: skip
    print(path)


@app.command()
def probe(
    run: RunArg,
    train: Annotated[str, typer.Option("--train", help="Labelled source to learn from.")],
    test: Annotated[str | None, typer.Option("--test", help="Labelled source to judge on.")] = None,
    folds: Annotated[int | None, typer.Option("--folds", min=2, help="Instead of --test: cross-validate.")] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Neighbours of the kNN probe.")] = 20,
    pool: Annotated[Pool, typer.Option("--pool", help="Mean of the patch tokens, or the class token.")] = "mean",
    modality: NameOption = None,
    max_bad_fraction: BadOption = None,
    random_weights: Annotated[bool, typer.Option(help="The same probe on untrained weights, to compare with.")] = False,
    attentive: Annotated[bool, typer.Option(help="Also a probe that attends over all tokens (more time).")] = False,
    mirror: Annotated[
        bool, typer.Option(help="Learn from mirror images too; not where labels are left or right.")
    ] = False,
) -> None:
    """kNN and linear probe on frozen features; prints one JSON object.

    Example: mae-ext probe runs/photos --train labelled/train --test labelled/test; with patients and a split in a list:
    --train index.csv::train --test index.csv::test, or --train index.csv --folds 5, which keeps a patient together.
    """
    from mae_ext.probing.probe import probe as judge

    with progress_bar("embedding") as progress:
        result = judge(
            run, train, test, k, pool, baseline="random" if random_weights else None, name=modality,
            max_bad_fraction=max_bad_fraction, progress=lambda _, done, total: progress(done, total),
            attentive=attentive, folds=folds, mirror=mirror,
        )  # fmt: skip
    print(dumps(result))


@app.command()
def report(run: RunArg) -> None:
    """Write report.html: curves, reconstructions, probes, loader health, bad samples.

    Example: mae-ext report runs/photos
    """
    from mae_ext.report.page import write_report

    print(write_report(Path(run)))


@app.command()
def replay(
    failure: Annotated[str, typer.Argument(metavar="FAILURE", help="A failure-XXXXXXXX folder of a run.")],
) -> None:
    """Repeat the step that stopped a run with a non-finite loss; prints one JSON object.

    Example: mae-ext replay runs/photos/failure-00000123
    """
    from mae_ext.engine.train import replay as repeat

    print(dumps(repeat(failure)))


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
    """List embedders, positions, maskers, readers, targets and tasks, and where each comes from.

    Example: mae-ext plugins
    """
    from mae_ext.plugins import ALL

    for group, registry in ALL.items():
        print(group)
        for name, source in registry.sources().items():
            print(f"  {name:20} {source}")
