"""`train.probe` of a config: when a run is probed while it trains, and on what."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1, lt=2**31)]


class ProbeConfig(BaseModel):
    """kNN and linear probe at the start, every `every` steps and at the end. They change no loss, and take time."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    every: Count
    train: str
    """A labelled source to learn from: class folders, a list (index.csv::train), shards or .npz."""
    test: str
    modality: str | None = None
    """Which one, if the run has several."""
    pool: Literal["mean", "class"] = "mean"
    k: Count = 20

    def due(self, step: int, total: int) -> bool:
        return step % self.every == 0 or step == total
