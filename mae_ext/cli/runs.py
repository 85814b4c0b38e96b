"""Commands that use a run: reconstruct, embed, probe, predict, report."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mae_ext.cli.app import BadOption, NameOption, PrecisionOption, RunArg, app, progress_bar
from mae_ext.cli.choosing import modality_for
from mae_ext.cli.whole import POOL, BatchOption, OverlapOption, Pool, WindowsOption, windows_of
from mae_ext.config import uncached
from mae_ext.errors import UserError
from mae_ext.launcher import alone
from mae_ext.strict_json import dumps
from mae_ext.writing import folder_for

TunedArg = Annotated[str, typer.Argument(metavar="RUN", help="A run that is fine-tuned, or a checkpoint of one.")]


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
    as_: Annotated[
        Literal["nifti", "mp4", "png"] | None,
        typer.Option("--as", help="Data in the inputs' own geometry, size and length, in the place of pictures."),
    ] = None,
    masks: Annotated[
        int | None,
        typer.Option("--masks", min=2, help="With --as: each place hidden in equally many; by default the fewest."),
    ] = None,
    overlap: Annotated[
        float | None, typer.Option("--overlap", help="With --as: of neighbouring windows, 0 to 0.9; by default 0.25.")
    ] = None,
    with_input: Annotated[bool, typer.Option(help="With --as: write what the model was shown beside it.")] = False,
) -> None:
    """Write pictures: input, masked input, reconstruction; or, with --as, reconstructions that are data.

    Example: mae-ext reconstruct runs/photos photos/ --out pictures; mae-ext reconstruct runs/ct scan.nii.gz --as nifti
    """
    if as_ is not None:
        from mae_ext.features.windowed import OVERLAP
        from mae_ext.restored.data import reconstruct_data
        from mae_ext.restored.restorer import Masking

        alone(f"reconstruct --as {as_}")
        masking = Masking(masks, OVERLAP if overlap is None else overlap, seed, own_statistics)
        with progress_bar("reconstructing") as progress:
            for path in reconstruct_data(run, inputs, Path(out), as_, masking, limit, with_input, modality, progress):
                print(path)
        return
    if masks is not None or overlap is not None or with_input:
        raise UserError(
            "--masks, --overlap and --with-input are of reconstructions that are data; add --as nifti, mp4 or png"
        )
    from mae_ext.report.pictures import reconstruct as draw

    with progress_bar("reconstructing") as progress:
        paths = draw(
            run,
            inputs,
            Path(out),
            own_statistics=own_statistics,
            seed=seed,
            limit=limit,
            name=modality_for(run, modality, inputs),
            progress=progress,
        )
    for path in paths:
        print(path)


@app.command()
def embed(
    run: RunArg,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Folder, list, shards or .npz.")],
    out: Annotated[str, typer.Option("--out", help="The .safetensors file to write; of --dense, a folder.")],
    pool: Annotated[Pool | None, typer.Option("--pool", help=POOL)] = None,
    windows: WindowsOption = False,
    overlap: OverlapOption = None,
    batch: BatchOption = None,
    dense: Annotated[bool, typer.Option("--dense", help="A map of features for each sample, where it lies.")] = False,
    components: Annotated[
        int | None, typer.Option("--components", min=1, help="Of --dense: so many principal components a token.")
    ] = None,
    modality: NameOption = None,
    max_bad_fraction: BadOption = None,
    map_: Annotated[bool, typer.Option("--map", help="Also a picture of the features as points in a plane.")] = False,
    neighbours: Annotated[
        int | None, typer.Option("--neighbours", min=1, help="Also a picture: samples and so many nearest to each.")
    ] = None,
    precision: PrecisionOption = None,
) -> None:
    """Write features as safetensors (`features`, (n, D) float32) with a JSONL of sources beside it. Under torchrun each
    rank computes a share; the file is that of one process. With --windows and no --pool a row is a window, with its
    place; with --dense features are maps: NIfTI of scans, .npz of films and pictures.

    Example: mae-ext embed runs/photos photos/ --out photos.safetensors --map --neighbours 6; of whole scans: mae-ext
    embed runs/ct scans/ --windows --pool weighted --out scans.safetensors, or --dense --components 8 --out maps
    """
    from mae_ext.engine.distributed import joined
    from mae_ext.features.embed import embed as write
    from mae_ext.features.sharing import helped, opened_run

    if dense:
        if windows or pool or map_ or neighbours:
            raise UserError("--dense: writes maps of features; leave out --windows, --pool, --map and --neighbours")
        _dense(run, source, out, (overlap, batch, components), modality, max_bad_fraction, precision)
        return
    if components is not None:
        raise UserError("--components: is of --dense")
    become = windows_of(pool, windows, overlap, batch)
    with joined() as ranks, progress_bar("embedding", ranks.main) as progress:
        opened = opened_run(run, modality_for(run, modality, [source]), precision, str(ranks.device))
        path = helped(ranks, opened, lambda own: write(
            own, source, Path(out), become, max_bad_fraction=max_bad_fraction, progress=progress, with_map=map_,
            neighbours=neighbours,
        ))  # fmt: skip
    if path is not None:
        print(path)


def _dense(
    run: str, source: str, out: str, settings: tuple[float | None, int | None, int | None], modality: str | None,
    max_bad_fraction: float | None, precision: str | None,
) -> None:  # fmt: skip
    """settings: overlap, batch, components."""
    from mae_ext.engine.outputs import warn_one_sided
    from mae_ext.features.dense import embed_dense
    from mae_ext.features.sharing import opened_run

    alone("embed --dense")
    overlap, batch, components = settings
    windows = windows_of(None, True, overlap, batch)
    with folder_for(out) as folder, progress_bar("embedding") as progress:
        encoder = opened_run(run, modality_for(run, modality, [source]), precision).encoder
        warn_one_sided([encoder.modality], [source])
        for path in embed_dense(encoder, [source], folder, windows, components, max_bad_fraction, progress):
            print(path)


@app.command()
def probe(
    run: RunArg,
    train: Annotated[str, typer.Option("--train", help="Labelled source to learn from.")],
    test: Annotated[str | None, typer.Option("--test", help="Labelled source to judge on.")] = None,
    folds: Annotated[int | None, typer.Option("--folds", min=2, help="Instead of --test: cross-validate.")] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Neighbours of the kNN probe.")] = 20,
    pool: Annotated[Pool, typer.Option("--pool", help=POOL)] = "mean",
    windows: WindowsOption = False,
    overlap: OverlapOption = None,
    batch: BatchOption = None,
    modality: NameOption = None,
    max_bad_fraction: BadOption = None,
    random_weights: Annotated[bool, typer.Option(help="The same probe on untrained weights, to compare with.")] = False,
    attentive: Annotated[bool, typer.Option(help="Also a probe that attends over all tokens (more time).")] = False,
    mirror: Annotated[
        bool, typer.Option(help="Learn from mirror images too, and judge by both; not where labels are left or right.")
    ] = False,
    precision: PrecisionOption = None,
) -> None:
    """kNN and linear probe on frozen features; prints one JSON object. Under torchrun each rank computes a share.

    Example: mae-ext probe runs/photos --train labelled/train --test labelled/test; with patients and a split in a list:
    --train index.csv::train --test index.csv::test, or --train index.csv --folds 5, which keeps a patient together.
    """
    from mae_ext.engine.distributed import joined
    from mae_ext.features.sharing import helped, opened_run
    from mae_ext.probing.probe import Baseline
    from mae_ext.probing.probe import probe as probe_run
    from mae_ext.probing.spec import ProbeSpec

    become = windows_of(pool, windows, overlap, batch)
    spec = ProbeSpec(
        train, test, folds, k=k, pool=become, attentive=attentive, mirror=mirror, max_bad_fraction=max_bad_fraction
    )
    with joined() as ranks, progress_bar("embedding", ranks.main) as bar:
        name, seed = modality_for(run, modality, spec.sources), spec.seed if random_weights else None
        opened = opened_run(run, name, precision, str(ranks.device))
        baseline: Baseline | None = "random" if random_weights else None
        result = helped(ranks, opened, lambda own: probe_run(
            own, spec, baseline=baseline, progress=lambda _, done, total: bar(done, total),
        ), spec.views, seed)  # fmt: skip
    if result is not None:
        print(dumps(result))


@app.command()
def predict(
    run: TunedArg,
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files, folders, lists, shards or .npz.")],
    out: Annotated[str, typer.Option("--out", help="Folder for what is predicted.")] = "predictions",
    windows: WindowsOption = False,
    pool: Annotated[
        Literal["mean", "max", "weighted"] | None,
        typer.Option("--pool", help="What the probabilities of a sample's windows become; by default the run's own."),
    ] = None,
    overlap: OverlapOption = None,
) -> None:
    """Write what a fine-tuned run says of new data: of classes, a line of probabilities for each sample.

    The same command again leaves what is there and goes on with the rest.

    Example: mae-ext predict runs/ft photos/ --out predictions; of whole scans: mae-ext predict runs/ft scans/ --windows
    """
    from mae_ext.engine.outputs import warn_one_sided
    from mae_ext.engine.precision import as_evaluated
    from mae_ext.engine.task import in_windows, load_task

    if not windows and (pool or overlap is not None):
        raise UserError("--pool and --overlap are of windows: add --windows")
    with folder_for(out) as folder, progress_bar("predicting") as progress:
        task, model, config, _ = load_task(run)
        if windows:
            task, config = in_windows(config, pool, overlap)
        warn_one_sided(config.modalities.values(), inputs)
        with as_evaluated(model, config):
            paths = task.predict(model, uncached(config), inputs, folder, progress)
    for path in paths:
        print(path)


@app.command()
def report(run: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run.")]) -> None:
    """Write report.html: curves, reconstructions, probes, loader health, bad samples.

    Example: mae-ext report runs/photos
    """
    from mae_ext.report.page import write_report

    print(write_report(Path(run)))
