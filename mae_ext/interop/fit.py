"""Weights of one model for another: of other sizes, patches, channels and axes. Said once, for every start."""

from torch import Tensor

from mae_ext.config import Config
from mae_ext.interop.origin import Origin, Report
from mae_ext.model.mae import MAE


def fitted(origin: Origin, model: MAE, config: Config) -> tuple[dict[str, Tensor], Report]:
    """Every tensor of `model`, from the origin as far as it has them, and what became of each.

    Parts of the origin: config.init_parts. What is new keeps the value that `model` has.
    """
    own = model.state_dict()
    rows = {name: ("taken", "") if name in origin.weights else ("new", "not there") for name in own}
    return {**own, **{k: origin.weights[k] for k in own if k in origin.weights}}, Report(origin.where, rows)  # type: ignore[arg-type]
