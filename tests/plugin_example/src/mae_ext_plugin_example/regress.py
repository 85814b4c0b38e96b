"""A task: a number for each sample (an age, a size), from the mean of its tokens."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mae_ext import MAE, BadSample, Batch, Config, ConfigError, FineTuning, FrozenEncoder, HeldOut, Items, UserError
from mae_ext.data.loading.batches import build_reader
from mae_ext.data.sample import read_checked, stack
from mae_ext.data.sources.classes import check_apart
from mae_ext.data.sources.table import list_items
from mae_ext.engine.outputs import Results, addresses_of
from mae_ext.rng import rng
from mae_ext.strict_json import dumps

BATCH = 64


class Regressor(nn.Module):
    def __init__(self, config: Config, name: str) -> None:
        super().__init__()
        self.name, width = name, config.model.width
        assert width
        self.backbone = MAE(config, decodes=False)  # the name by which load_encoder finds it
        self.norm = nn.LayerNorm(width, eps=config.model.norm_eps)
        self.head = nn.Linear(width, 1)
        nn.init.trunc_normal_(self.head.weight, std=0.01, generator=rng(config.seed, "init", "head"))
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, spacing: Tensor | None) -> Tensor:
        """(B, C, *S) in reader units -> (B,) float32, in deviations from the mean of the training answers."""
        pooled = self.norm(self.backbone.encode(x, self.name, spacing).mean(1))
        return self.head(pooled)[:, 0].float()


class Numbers:
    """The samples of a list, with the number that it gives to each: `index.csv`, or `index.csv::label=COLUMN`."""

    def __init__(self, config: Config, name: str, source: str) -> None:
        modality = config.modalities[name]
        self.reader = build_reader(modality, f"modalities.{name}.data.reader")
        self.items = list_items(source, tuple(self.reader.suffixes))
        self.shape = (modality.channels, *modality.size)
        if self.items.labels is None or (self.items.labels < 0).any():
            raise UserError(f"{source}: a sample without a number; expected a .csv with the columns path and label")
        try:  # labels are names of classes to whoever lists; here each is a number
            self.numbers = [float(self.items.classes[label]) for label in self.items.labels]
        except ValueError as error:
            raise UserError(f"{source}: {error}; expected numbers in the column of labels") from None
        self.identity = json.dumps(self.numbers).encode()

    def read(self, index: int, keys: Sequence[Any], crops: Sequence[Any]) -> list[Any]:
        samples = read_checked(self.reader, self.items.addresses[index], crops, self.shape)
        return [replace(sample, targets={"number": torch.tensor(self.numbers[index])}) for sample in samples]

    def finish(self, batch: Batch, keys: Sequence[Any], step: int) -> Batch:
        return batch


class Regression(FineTuning):
    """mean, std: of the training answers. They are found in the data, and a checkpoint holds them."""

    chief = ("mae", "least")  # what train.keep_best goes by

    def __init__(self, mean: float | None = None, std: float | None = None) -> None:
        self.mean, self.std = mean, std

    def examples(self, config: Config, name: str) -> tuple[Numbers, HeldOut | None]:
        data = config.modalities[name].data
        assert data.path is not None
        train = Numbers(config, name, data.path)
        if data.test is None:
            return train, None
        test = Numbers(config, name, data.test)
        check_apart(train.items, test.items, data.path, data.test)
        return train, HeldOut(test.items, test)

    def settle(self, config: Config, data: dict[str, Any], old: Config | None) -> Config:
        config = super().settle(config, data, old)  # statistics of the inputs
        if old is not None:
            return config.model_copy(update={"task": old.task})
        numbers = torch.tensor(next(iter(data.values())).examples.numbers, dtype=torch.float64)
        if not numbers.std() > 0:
            raise UserError("the training data has one number for all samples; there is nothing to learn")
        found = {"mean": float(numbers.mean()), "std": float(numbers.std())}
        return config.model_copy(update={"task": config.task.model_copy(update=found)})

    def model(self, config: Config) -> nn.Module:
        if self.mean is None or self.std is None:
            raise ConfigError("task.mean and task.std are empty; they are found in the data when a run is started")
        return Regressor(config, self.modality_of(config)[0])

    def loss(self, model: nn.Module, name: str, batch: Batch) -> Tensor:
        wanted = (batch.targets["number"] - self.mean) / self.std
        return (model(batch.x, batch.spacing) - wanted).square().mean()

    def said(
        self, model: Any, config: Config, addresses: Sequence[str], device: torch.device, bad: list[Any]
    ) -> Iterator[tuple[int, float]]:
        """(place in addresses, number) of each that can be read; whole samples, as every evaluation sees them."""
        encoder = FrozenEncoder(model.backbone, config, model.name, 0, Path(), keeps=True)
        good = list[tuple[int, Any]]()
        for place, outcome in enumerate(encoder.decode(Items(addresses))):
            if isinstance(outcome, BadSample):
                bad.append(outcome.row)
            else:
                good.append((place, outcome))
            if good and (len(good) == BATCH or place == len(addresses) - 1):
                x, spacing = stack([sample for _, sample in good])
                answer = model(x.to(device), None if spacing is None else spacing.to(device))
                yield from zip([at for at, _ in good], (answer * self.std + self.mean).tolist(), strict=True)
                good.clear()

    def answers(
        self, model: nn.Module, config: Config, examples: Numbers, rows: Sequence[int], device: torch.device,
        bad: list[Any],
    ) -> Iterator[tuple[int, float]]:  # fmt: skip
        addresses = [examples.items.addresses[row] for row in rows]
        for place, number in self.said(model, config, addresses, device, bad):
            yield rows[place], number

    def scores(self, examples: Numbers, answers: list[tuple[int, float]], bad: list[Any]) -> dict[str, float]:
        said = torch.tensor([number for _, number in answers], dtype=torch.float64)
        wanted = torch.tensor([examples.numbers[row] for row, _ in answers], dtype=torch.float64)
        off, spread = said - wanted, (wanted - wanted.mean()).square().sum()
        scores = {"samples": float(len(answers)), "mae": float(off.abs().mean())}
        return scores | ({"r2": float(1 - off.square().sum() / spread)} if spread > 0 else {})

    def predict(
        self, model: nn.Module, config: Config, sources: Sequence[str], out: Path, progress: Any = None
    ) -> list[Path]:
        reader = build_reader(next(iter(config.modalities.values())), "data.reader")
        addresses = addresses_of(sources, tuple(reader.suffixes))
        file, ledger, bad = out / "predictions.jsonl", out / "predictions.bad.jsonl", list[Any]()
        device = next(model.parameters()).device
        with Results(out, model, config) as results:  # the same command again does what is left
            left = [addresses[row] for row in results.open(addresses, summaries=[file, ledger])]
            for done, (place, number) in enumerate(self.said(model, config, left, device, bad), 1):
                results.record({left[place]: number})
                if progress is not None:
                    progress(done + len(bad), len(left))
            if len(bad) == len(addresses):
                raise UserError(f"{', '.join(sources)}: none of the {len(addresses)} samples can be read")
            lines = [{"path": a, "number": n} for a in addresses if (n := results.row(a)) is not None]
            results.summary(file, "".join(dumps(line) + "\n" for line in lines))
            results.summary(ledger, "".join(dumps(row) + "\n" for row in bad))
        return [file, *([ledger] if bad else [])]
