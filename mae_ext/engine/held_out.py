"""The loss of pretraining on held-out data: of the same samples under the same masks, so that only weights matter."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

from torch import nn

from mae_ext.config import Config
from mae_ext.data.batch import Batch
from mae_ext.data.crops import evaluation_sampler
from mae_ext.data.loading.ahead import read_ahead
from mae_ext.data.loading.batches import ModalityData, build_reader, valid_share
from mae_ext.data.loading.examples import HeldOut
from mae_ext.data.sample import Sample, stack, stack_optional
from mae_ext.data.sources.cache import keeping
from mae_ext.data.sources.classes import check_apart
from mae_ext.data.sources.table import list_items
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.evaluation import of_all_ranks
from mae_ext.engine.log import warn
from mae_ext.errors import BadSample, UserError, reasons
from mae_ext.model.mae import MAE
from mae_ext.rng import rng

BLOCK = 16
"""Samples encoded at once, at most, and never more than a step computes at once: without gradients they take less."""


def held_out(config: Config) -> dict[str, HeldOut]:
    """All that data.test holds, of each modality that has one. Raises UserError where it cannot be listed."""
    return {
        name: HeldOut(list_items(m.data.test, build_reader(m, f"modalities.{name}.data.reader").suffixes))
        for name, m in config.modalities.items()
        if m.data.test is not None
    }


def check_held_apart(data: Mapping[str, ModalityData]) -> None:
    """Raises UserError where a file is trained on and held out, of whichever modalities; or a patient, within one."""
    for name, judged in data.items():
        for other, trained in data.items() if judged.held_out is not None else ():
            # What names patients in one source means others in another.
            items = trained.items if other == name else replace(trained.items, patients=None)
            assert judged.held_out is not None
            check_apart(items, judged.held_out.listed, str(trained.config.data.path), str(judged.config.data.test))


def held_out_losses(
    model: nn.Module, config: Config, data: Mapping[str, ModalityData], ranks: Ranks
) -> dict[str, float]:
    """-> "loss", weighted as in training, and with several modalities "loss/NAME"; of those that have a data.test.

    {} where none has. The mean over samples as evaluation sees them, whole and unchanged, each under the mask that its
    place in the list has at every evaluation, and counted where it is valid, as in training. Neither drop path nor
    train.uniformity, which compares the samples of a batch, is in it. The same bits for any number of ranks.
    """
    assert isinstance(model, MAE)
    losses = {name: _loss(model, config, d, ranks) for name, d in data.items() if d.held_out is not None}
    if not losses:
        return {}
    total = sum(config.modalities[name].weight * loss for name, loss in losses.items())
    each = {f"loss/{name}": loss for name, loss in losses.items()} if len(config.modalities) > 1 else {}
    return {"loss": total, **each}


def _loss(model: MAE, config: Config, data: ModalityData, ranks: Ranks) -> float:
    assert data.held_out is not None
    count, source, bad = len(data.held_out.listed), data.config.data, list[Any]()
    parts, bad = of_all_ranks(ranks, list(_blocks(model, config, data, ranks, bad)), bad, count, source)
    if not parts:
        raise UserError(f"{source.test}: none of its {count} samples can be read: {reasons(bad)}")
    if bad and ranks.main:
        warn(f"{source.test}: {len(bad)} of {count} samples cannot be read and are not in its loss: {reasons(bad)}")
    return sum(size * mean for _, (size, mean) in parts) / sum(size for _, (size, _) in parts)


def _blocks(
    model: MAE, config: Config, data: ModalityData, ranks: Ranks, bad: list[Any]
) -> Iterator[tuple[int, tuple[int, float]]]:
    """(number, (samples, their mean loss)) of every `world`th block of the list. bad: gains what cannot be read.

    Blocks are the same for any number of ranks: in another company a sample's last bits may differ.
    """
    assert data.held_out is not None
    items, m = data.held_out.listed, data.config
    size = min(BLOCK, m.batch // config.train.accumulate)
    rows = [row for row in range(len(items)) if row // size % ranks.world == ranks.rank]
    crop = evaluation_sampler(m.data.augment, m.size)
    reader = keeping(build_reader(m, f"modalities.{data.name}.data.reader"), "if possible")
    read = read_ahead(reader, [items.addresses[row] for row in rows], crop)
    for number, block in groupby(zip(rows, read, strict=True), key=lambda one: one[0] // size):
        samples = dict[int, Sample]()
        for row, outcome in block:
            if isinstance(outcome, BadSample):
                bad.append(outcome.row)
            else:
                samples[row] = outcome
        if samples:
            batch = _batch(model, config.seed, data, samples).to(ranks.device)
            loss = model(batch.x, batch.mask, data.name, batch.valid, batch.spacing)
            yield number, (len(samples), float(loss))


def _batch(model: MAE, seed: int, data: ModalityData, samples: Mapping[int, Sample]) -> Batch:
    """Samples by place, with the mask that each has at every evaluation."""
    views = list(samples.values())
    x, spacing = stack(views)
    generators = [rng(seed, "held-out", data.name, row) for row in samples]
    mask = model.modality(data.name).draw_mask(generators, None, [valid_share(v, data.config.patch) for v in views])
    return Batch(x, mask, stack_optional([v.valid for v in views], "valid"), spacing)
