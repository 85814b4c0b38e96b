"""Options of commands that see whole samples, window by window."""

from typing import Annotated, Any, Literal

import typer

from mae_ext.errors import UserError
from mae_ext.model_config import Pooled

Pool = Literal[Pooled, "max", "weighted"]
POOL = (
    "What becomes of a sample: the mean of its patch tokens, the first class token, or moments, the means and "
    "deviations of the last four blocks' tokens. With --windows, of its windows: their mean (also of class tokens or "
    "moments: class, moments), max, or weighted by body or by motion."
)
WindowsOption = Annotated[bool, typer.Option("--windows", help="See all of a sample, in windows, not its middle.")]
OverlapOption = Annotated[
    float | None, typer.Option("--overlap", min=0, max=0.9, help="Of neighbouring windows; by default 0.25.")
]
BatchOption = Annotated[
    int | None,
    typer.Option("--batch", min=1, help="Windows at a time; by default 4, on a GPU as many as fit, up to 64."),
]


def windows_of(pool: Pool | None, windows: bool, overlap: float | None, batch: int | None) -> Any:
    """What --windows and its companions mean: `Windows`, else the pool. pool: None leaves each window by itself."""
    from mae_ext.features.windowed import OVERLAP, Windows

    if windows:
        over = OVERLAP if overlap is None else overlap
        match pool:
            case "class" | "moments":
                return Windows(over, "mean", pool, batch)
            case _:
                return Windows(over, pool, batch=batch)
    for name, value in (("--overlap", overlap), ("--batch", batch), (f"--pool {pool}", pool in ("max", "weighted"))):
        if value not in (None, False):
            raise UserError(f"{name}: is of windows; add --windows")
    return pool or "mean"
