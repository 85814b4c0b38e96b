"""The command anomaly: what is unlike the data that a run was trained on, and where."""

from pathlib import Path
from typing import Annotated

import typer

from mae_ext.cli.app import NameOption, RunArg, app, progress_bar
from mae_ext.launcher import alone


@app.command()
def anomaly(
    run: RunArg,
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files, folders, lists, shards or .npz.")],
    out: Annotated[str, typer.Option("--out", help="Folder for maps, pictures and scores.")],
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference", help="Training data to standardise against, or the reference.npz of such a command."
        ),
    ] = None,
    masks: Annotated[int, typer.Option("--masks", min=2, help="So many, each place hidden in equally many.")] = 16,
    overlap: Annotated[float, typer.Option("--overlap", help="Of neighbouring windows, 0 to 0.9.")] = 0.25,
    top: Annotated[float, typer.Option("--top", help="Share of the places whose mean is the score, 0 to 1.")] = 0.01,
    maps: Annotated[bool, typer.Option(help="Write maps and pictures too, not scores alone.")] = True,
    own_statistics: Annotated[
        bool, typer.Option(help="Use the hidden patches' own mean and contrast, which the model was not told.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the masks.")] = 0,
    modality: NameOption = None,
) -> None:
    """Write how unlike the training data each place of a sample is: maps in its own geometry, a picture, and a score.

    Example: mae-ext anomaly runs/ct scans/ --reference train.txt --out anomalies
    """
    from mae_ext.restored.anomaly import anomaly as look
    from mae_ext.restored.restorer import Masking

    alone("anomaly")
    masking = Masking(masks, overlap, seed, own_statistics)
    with progress_bar("looking") as progress:
        paths = look(run, inputs, Path(out), masking, reference, top=top, maps=maps, name=modality, progress=progress)
    for path in paths:
        print(path)
