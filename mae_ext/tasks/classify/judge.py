"""What a trained classifier says of samples, and how right it is."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import nll_loss

from mae_ext.data.sample import Sample, stack
from mae_ext.data.sources.path_table import PathTable
from mae_ext.data.sources.table import Items
from mae_ext.engine.log import warn
from mae_ext.engine.outputs import Results, addresses_of
from mae_ext.errors import BadSample, UserError, reasons
from mae_ext.features.encoder import FrozenEncoder
from mae_ext.probing.ranking import auroc
from mae_ext.probing.scores import scores
from mae_ext.progress import Progress
from mae_ext.strict_json import dumps
from mae_ext.tasks.classify.bags import Bags, bag_probabilities

BATCH = 64
PREDICTIONS = "predictions.jsonl"


def probabilities(
    model: nn.Module, encoder: FrozenEncoder, items: Items, rows: Sequence[int], device: torch.device,
    bad: list[dict[str, Any]], classes: int, bags: Bags | None = None,
) -> Iterator[tuple[list[int], Tensor]]:  # fmt: skip
    """Batches of (rows, (len(rows), classes) float32) of the samples at `rows`, each seen whole, centred, unchanged; of
    `bags` in windows over all of it.

    encoder: of the model, for it knows how samples are read. bad: gains those that cannot be.
    """
    if bags is not None:
        yield from bag_probabilities(model, encoder, items, rows, device, bad, bags, classes)
        return
    chosen = Items(PathTable(items.addresses[i] for i in rows))

    def readable() -> Iterator[tuple[int, Sample]]:
        for row, outcome in zip(rows, encoder.decode(chosen), strict=True):
            if isinstance(outcome, BadSample):
                bad.append(outcome.row)
                continue
            yield row, outcome

    for part in _batches(readable()):
        x, spacing = stack([sample for _, sample in part])
        spacing = None if spacing is None else spacing.to(device)
        logits = model(x.to(device), encoder.name, spacing)
        yield [row for row, _ in part], logits.float().softmax(1).cpu()


def _batches(samples: Iterator[tuple[int, Sample]]) -> Iterator[list[tuple[int, Sample]]]:
    waiting: list[tuple[int, Sample]] = []
    for pair in samples:
        waiting.append(pair)
        if len(waiting) == BATCH:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def class_scores(values: Tensor, wanted: Tensor) -> dict[str, float]:
    """(n, classes) probabilities, (n,) int64 -> samples, loss, accuracy, balanced_accuracy, and auroc where defined.

    auroc: each class against the rest, the mean over the classes that occur and are not all there is.
    """
    areas = [
        float(auroc(values[:, c], wanted == c, torch.ones(1, len(wanted))))
        for c in range(values.shape[1])
        if 0 < int((wanted == c).sum()) < len(wanted)
    ]
    means = {"samples": float(len(wanted)), "loss": float(nll_loss(values.clamp(min=1e-12).log(), wanted))}
    means |= scores(values.argmax(1), wanted)
    return means | ({"auroc": sum(areas) / len(areas)} if areas else {})


def write_predictions(
    model: nn.Module, encoder: FrozenEncoder, classes: Sequence[str], sources: Sequence[str], out: Path,
    progress: Progress | None = None, bags: Bags | None = None,
) -> list[Path]:  # fmt: skip
    """`out`/predictions.jsonl, a line for each sample in order: path, class, probabilities by class.

    Samples that cannot be read go to predictions.bad.jsonl, with a warning. The same command again goes on; see
    `Results`.
    """
    device = next(model.parameters()).device
    addresses = addresses_of(sources, tuple(encoder.reader().suffixes))
    written = [out / PREDICTIONS]
    ledger = out / PREDICTIONS.replace(".jsonl", ".bad.jsonl")
    try:
        with Results(out, model, encoder.config) as results:
            left = results.open(addresses, summaries=[*written, ledger])
            bad, done, items = list[dict[str, Any]](), 0, Items(PathTable(addresses))
            for rows, values in probabilities(model, encoder, items, left, device, bad, len(classes), bags):
                results.record({addresses[row]: v for row, v in zip(rows, values.tolist(), strict=True)})
                done += len(rows)
                if progress is not None:
                    progress(done + len(bad), len(left))
            if len(bad) == len(addresses):
                raise UserError(
                    f"{', '.join(sources)}: none of the {len(addresses)} samples can be read: {reasons(bad)}"
                )
            answers = [(address, results.row(address)) for address in addresses]
            lines = [_line(address, values, classes) for address, values in answers if values is not None]
            results.summary(written[0], _jsonl(lines))
            results.summary(ledger, _jsonl(bad))
            if bad:
                written.append(ledger)
                warn(f"{len(bad)} of {len(addresses)} samples could not be read; they are listed in {ledger}")
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from None
    return written


def _line(path: str, values: Sequence[float], classes: Sequence[str]) -> dict[str, Any]:
    return {
        "path": path,
        "class": classes[max(range(len(classes)), key=values.__getitem__)],
        "probabilities": {c: round(p, 6) for c, p in zip(classes, values, strict=True)},
    }


def _jsonl(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(dumps(row) + "\n" for row in rows)
