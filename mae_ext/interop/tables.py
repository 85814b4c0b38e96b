"""What tokens know of their place, as the table that other programs keep."""

import torch
from torch import Tensor

from mae_ext import plugins
from mae_ext.errors import CheckpointError
from mae_ext.interop.origin import Origin
from mae_ext.model.position import NoSpacing, coordinates_of


def table_of(origin: Origin, name: str, decoder: bool = False) -> Tensor:
    """-> (N, D), or (N, E) of the decoder: whatever kind of position it is, fixed or learned.

    Raises CheckpointError for positions in mm or seconds, which depend on the sample.
    """
    config, kind = origin.config, "decoder_position." if decoder else "position."
    modality = config.modalities[name]
    position, where = modality.position, f"modalities.{name}."
    width = config.model.decoder.width if decoder else config.model.width
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        module = plugins.positions.build(
            position.name, position.arguments, f"{where}position", grid=modality.grid, width=width
        )
        start = where + kind
        module.load_state_dict({k.removeprefix(start): v for k, v in origin.weights.items() if k.startswith(start)})
        try:
            table: Tensor = module(torch.arange(len(coordinates_of(modality.grid)))[None], None)[0]
        except NoSpacing:
            raise CheckpointError(
                f"{origin.where}: {where}position '{position.name}' is in mm or seconds ({position.arguments}); other "
                f"programs keep one table for all samples, and cannot have that"
            ) from None
    return table.clone()
