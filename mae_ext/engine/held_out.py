"""The loss of pretraining on held-out data: of the same samples under the same masks, so that only weights matter."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from torch import Tensor, nn

from mae_ext.config import Config
from mae_ext.data.batch import Batch
from mae_ext.data.crops import evaluation_sampler
from mae_ext.data.loading.ahead import read_ahead
from mae_ext.data.loading.batches import ModalityData, build_reader, valid_share
from mae_ext.data.loading.examples import HeldOut
from mae_ext.data.sample import Sample, stack, stack_valid
from mae_ext.data.sources.cache import keeping
from mae_ext.data.sources.classes import check_apart
from mae_ext.data.sources.table import list_items
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.evaluation import of_all_ranks
from mae_ext.engine.log import warn
from mae_ext.engine.task import backbone_of
from mae_ext.errors import BadSample, UserError, reasons
from mae_ext.model.mae import MAE
from mae_ext.rng import rng

Loss = Callable[[nn.Module, str, Batch], Tensor]
"""`Task.loss`."""

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
    loss: Loss, model: nn.Module, config: Config, data: Mapping[str, ModalityData], ranks: Ranks
) -> dict[str, float]:
    """-> "loss", weighted as in training, and with several modalities "loss/NAME"; of those that have a data.test.

    {} where none has. The mean over samples as evaluation sees them, whole and unchanged, each under the mask that its
    place in the list has at every evaluation, and counted where it is valid, as in training. Neither drop path nor
    train.uniformity, which compares the samples of a batch, is in it. The same bits for any number of ranks.

    loss: the task's, a mean over the samples of a batch.
    """
    losses = {name: _of_all(loss, model, config, d, ranks) for name, d in data.items() if d.held_out is not None}
    if not losses:
        return {}
    total = sum(config.modalities[name].weight * mean for name, mean in losses.items())
    each = {f"loss/{name}": mean for name, mean in losses.items()} if len(config.modalities) > 1 else {}
    return {"loss": total, **each}


def _of_all(loss: Loss, model: nn.Module, config: Config, data: ModalityData, ranks: Ranks) -> float:
    assert data.held_out is not None
    count, source, bad = len(data.held_out.listed), data.config.data, list[Any]()
    size = min(BLOCK, data.config.batch // config.train.accumulate)
    rows = [row for row in range(count) if row // size % ranks.world == ranks.rank]
    mine = []
    # Blocks are the same for any number of ranks: in another company a sample's last bits may differ.
    for number, block in groupby(_readable(data, rows, bad), key=lambda pair: pair[0] // size):
        samples = dict(block)
        batch = _batch(backbone_of(model), config.seed, data, samples).to(ranks.device)
        mine.append((number, (len(samples), loss(model, data.name, batch).item())))
    parts, bad = of_all_ranks(ranks, mine, bad, count, source)
    if not parts:
        raise UserError(f"{source.test}: none of its {count} samples can be read: {reasons(bad)}")
    if bad and ranks.main:
        warn(f"{source.test}: {len(bad)} of {count} samples cannot be read and are not in its loss: {reasons(bad)}")
    return sum(size * mean for _, (size, mean) in parts) / sum(size for _, (size, _) in parts)


def _readable(data: ModalityData, rows: Sequence[int], bad: list[Any]) -> Iterator[tuple[int, Sample]]:
    """Those of the held-out samples at `rows` that can be read, as encoders see them. bad: gains the others."""
    assert data.held_out is not None
    items, m = data.held_out.listed, data.config
    reader = keeping(build_reader(m, f"modalities.{data.name}.data.reader"), "if possible")
    crop = evaluation_sampler(m.data.augment, m.size)
    for row, outcome in zip(rows, read_ahead(reader, [items.addresses[row] for row in rows], crop), strict=True):
        if isinstance(outcome, BadSample):
            bad.append(outcome.row)
        else:
            yield row, outcome


def _batch(model: MAE, seed: int, data: ModalityData, samples: Mapping[int, Sample]) -> Batch:
    """Samples by place, with the mask that each has at every evaluation."""
    views = list(samples.values())
    x, spacing = stack(views)
    generators = [rng(seed, "held-out", data.name, row) for row in samples]
    shares = [valid_share(view, data.config.patch) for view in views]
    mask = model.modality(data.name).draw_mask(generators, None, shares)
    return Batch(x, mask, stack_valid(views), spacing)
