"""What tokens know of their place, as the table that other programs keep."""

from torch import Tensor

from mae_ext.errors import CheckpointError
from mae_ext.interop.origin import Origin
from mae_ext.interop.places import Places
from mae_ext.model.position import NoSpacing


def table_of(origin: Origin, name: str, decoder: bool = False) -> Tensor:
    """-> (N, D), or (N, E) of the decoder: whatever kind of position it is, fixed or learned.

    Raises CheckpointError for positions in mm or seconds where the distance between tokens depends on the sample.
    """
    config, modality = origin.config, origin.config.modalities[name]
    where = f"modalities.{name}.{'decoder_' * decoder}position."
    width = config.model.decoder.width if decoder else config.model.width
    weights = {k.removeprefix(where): v for k, v in origin.weights.items() if k.startswith(where)}
    try:
        return Places.of(modality, width or 0, weights).table().clone()
    except NoSpacing:
        raise CheckpointError(
            f"{origin.where}: modalities.{name}.position '{modality.position.name}' is in mm or seconds "
            f"({modality.position.arguments}), and the reader states none; other programs keep one table for all "
            f"samples, and cannot have that"
        ) from None
