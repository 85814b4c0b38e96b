"""The task of pretraining: hide patches, and answer them."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from mae_ext.config import Config
from mae_ext.data.batch import Batch
from mae_ext.data.loading.batches import ModalityData
from mae_ext.data.loading.statistics import resolve_statistics, stated
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.held_out import check_held_apart, held_out, held_out_losses
from mae_ext.engine.meaning import check_meaning
from mae_ext.engine.start import load_start
from mae_ext.errors import ConfigError, UserError
from mae_ext.interop.origin import Report
from mae_ext.model.mae import MAE
from mae_ext.model.mask import check_masks
from mae_ext.model.modality import build_maskers
from mae_ext.progress import Progress


class Pretraining:
    chief = ("loss", "least")

    def check(self, config: Config) -> None:
        """Raises ConfigError for masks under which nothing is hidden, or nothing answered."""
        for name, m in config.modalities.items():
            try:
                check_masks(*build_maskers(m, f"modalities.{name}"), m.grid)
            except ValueError as error:
                raise ConfigError(f"modalities.{name}.{error}") from None

    def data(self, config: Config, rank: int = 0, world: int = 1) -> dict[str, ModalityData]:
        check_meaning(config)
        judged = held_out(config)
        data = {
            n: ModalityData(config.seed, n, m, rank, world, held_out=judged.get(n))
            for n, m in config.modalities.items()
        }
        check_held_apart(data)
        return data

    def settle(self, config: Config, data: dict[str, ModalityData], old: Config | None) -> Config:
        return resolve_statistics(config, data) if old is None else with_statistics(config, old)

    def model(self, config: Config) -> nn.Module:
        return MAE.from_config(config)

    def start(self, model: nn.Module, config: Config) -> Report:
        return load_start(model, config)

    def loss(self, model: nn.Module, name: str, batch: Batch) -> Tensor:
        out: Tensor = model(batch.x, batch.mask, name, batch.valid, batch.spacing, batch.files)
        return out

    def evaluate(
        self, model: nn.Module, config: Config, data: dict[str, ModalityData], ranks: Ranks
    ) -> dict[str, float]:
        return held_out_losses(self.loss, model, config, data, ranks)

    def predict(
        self, model: nn.Module, config: Config, sources: Sequence[str], out: Path, progress: Progress | None = None
    ) -> list[Path]:
        raise UserError("a run of pretraining predicts nothing; see `mae-ext reconstruct`, or fine-tune it first")


def with_statistics(config: Config, old: Config) -> Config:
    """The config with numbers: those of another where it says "measured", for the modalities that both have."""
    modalities = dict(config.modalities)
    for name, m in config.modalities.items():
        if m.data.statistics != "measured" or name in old.modalities:
            statistics = old.modalities[name].data.statistics if m.data.statistics == "measured" else stated(m)
            modalities[name] = m.model_copy(update={"data": m.data.model_copy(update={"statistics": statistics})})
    return config.model_copy(update={"modalities": modalities})
