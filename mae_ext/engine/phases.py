"""A run whose samples grow (`sizes`): what has to go together with that, and which sizes meet for how long."""

from mae_ext.config import Config, ModalityConfig
from mae_ext.errors import ConfigError
from mae_ext.model.grid import grid_of
from mae_ext.model.mask import check_masks
from mae_ext.model.modality import build_maskers


def check_stages(modality: ModalityConfig, where: str) -> None:
    """Raises ConfigError for masks under which nothing is hidden, or nothing answered, at a size that samples have; and
    for positions that mean other places on a smaller grid of the same picture."""
    if modality.sizes is not None and modality.position.name == "sequence":
        raise ConfigError(
            f"{where}.sizes: positions of 'sequence' number the tokens of each grid anew, and those of a smaller one "
            f"are other places of the same picture; name 'sincos', or leave sizes out"
        )
    masker, decode = build_maskers(modality, where)
    for _, size in modality.stages:
        at, grid = "" if modality.sizes is None else f" (at {list(size)} of sizes)", grid_of(size, modality.patch)
        for key, one in (("mask", masker), ("decode", decode)):
            try:
                if one is not None:
                    one.num_keep(grid)
            except ValueError as error:
                raise ConfigError(f"{where}.{key}: {error}{at}") from None
        try:
            check_masks(masker, decode, grid)
        except ValueError as error:
            raise ConfigError(f"{where}.{error}{at}") from None


def phases(config: Config) -> list[tuple[float, Config]]:
    """(share of the steps, config with the sizes of that share), in their order: one where no size changes."""
    begins = sorted({since for m in config.modalities.values() for since, _ in m.stages})
    ends = [*begins[1:], 1.0]
    return [(end - begin, _at(config, begin)) for begin, end in zip(begins, ends, strict=True)]


def _at(config: Config, share: float) -> Config:
    sized = {
        name: m.model_copy(update={"size": [size for since, size in m.stages if since <= share][-1]})
        for name, m in config.modalities.items()
    }
    return config.model_copy(update={"modalities": sized})
