"""The encoder of a run for a command: in the run's precision, and with the help of all ranks that there are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mae_ext.engine.crew import Crew
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.precision import DTYPES
from mae_ext.errors import UserError
from mae_ext.features.encoder import FrozenEncoder, View, load_encoder

T = TypeVar("T")


@dataclass(frozen=True)
class Opened:
    """What a command names, and its encoder, which computes in the precision that the run was trained in."""

    run: str | Path
    encoder: FrozenEncoder


def opened_run(
    run: str | Path | Opened, name: str | None = None, precision: str | None = None, device: str = "auto"
) -> Opened:
    """Raises as `load_encoder` does, and UserError. precision: another than the run's; weights of another program are
    of fp32. device: as of `load_encoder`."""
    if isinstance(run, Opened):
        return run
    if precision is not None and precision not in DTYPES:
        raise UserError(f"precision '{precision}': expected {', '.join(DTYPES)}, or none for the run's own")
    encoder = load_encoder(run, name, device)
    encoder.precision = precision or encoder.config.train.precision
    return Opened(run, encoder)


def helped(
    ranks: Ranks, opened: Opened, work: Callable[[Opened], T], views: Sequence[View] = (), seed: int | None = None
) -> T | None:
    """What `work` gives, on rank 0, of whose features every rank computes a share; None on the others.

    views: those that all know. seed: instead of its own weights, those that a run with it starts from.
    """
    encoder = opened.encoder if seed is None else opened.encoder.randomised(seed)
    encoder.views = tuple(views)
    if ranks.world == 1:
        return work(Opened(opened.run, encoder))
    crew = Crew(ranks)
    if not ranks.main:
        crew.serve({"": lambda wanted: encoder.share(wanted, ranks.rank, ranks.world)})
        return None
    encoder.crew = crew
    try:
        return work(Opened(opened.run, encoder))
    finally:
        crew.done()
