"""Commands that take weights away: export, convert."""

from typing import Annotated

import typer

from mae_ext.cli.app import NameOption, RunArg, app
from mae_ext.errors import RunError

WhatArg = Annotated[
    str, typer.Argument(metavar="WHAT", help="A run, a checkpoint, a file or folder of weights, FORMAT:PATH.")
]
ToOption = Annotated[
    str, typer.Option("--to", metavar="FORMAT", help="torch-export, onnx, safetensors, hf-vitmae, timm, ...")
]
OutOption = Annotated[str, typer.Option("--out", help="The file or folder to write; it must not be there yet.")]
SampleOption = Annotated[
    str | None, typer.Option("--sample", metavar="FILE", help="Compare the two on this file, and not on noise.")
]


@app.command()
def export(
    run: RunArg,
    to: ToOption,
    out: OutOption,
    sample: SampleOption = None,
    encoder_only: Annotated[bool, typer.Option(help="Of a classifier, the encoder without its head.")] = False,
    modality: NameOption = None,
) -> None:
    """Write an encoder for another program, run it there, print the largest difference; exit 1 where they differ.

    Example: mae-ext export runs/photos --to onnx --out photos.onnx --sample photos/cat.jpg
    """
    _take(run, to, out, modality, sample, encoder_only)


@app.command()
def convert(
    what: WhatArg, to: ToOption, out: OutOption, sample: SampleOption = None, modality: NameOption = None
) -> None:
    """Weights of one program for another, with no run in between: as export, from any weights that can be read.

    Example: mae-ext convert mae_pretrain_vit_base.pth --to hf-vitmae --out vitmae
    """
    _take(what, to, out, modality, sample, encoder_only=False)


def _take(what: str, to: str, out: str, modality: str | None, sample: str | None, encoder_only: bool) -> None:
    from mae_ext.engine.log import warn
    from mae_ext.export.weights import export as write

    exported = write(what, to, out, modality, sample, encoder_only)
    for remark in exported.remarks:
        warn(remark)
    for file in exported.files:
        print(file)
    if not exported.proof.holds:
        raise RunError(
            f"{out}: {exported.proof.words}, more than {exported.proof.limit:.1e}: it does not say the "
            f"same; nothing was removed"
        )
    print(exported.proof.words)
