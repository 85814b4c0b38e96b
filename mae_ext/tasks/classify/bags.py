"""Classes of a sample that is seen in several windows: a bag, whose windows answer together.

Each window says its probabilities, and the sample's are a mean of theirs, or the largest of each class. With how
`attentive` a gate learns which windows count (Ilse et al., 1802.04712, on answers in the place of features): where a
finding is in one window of many, the others stop speaking for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from mae_ext.data.sample import Sample, stack
from mae_ext.data.sources.table import Items
from mae_ext.errors import BadSample
from mae_ext.features.encoder import FrozenEncoder
from mae_ext.features.windowed import Windows, shown

Joining = Literal["mean", "max", "weighted", "attentive"]

HIDDEN = 128
"""Of the gate (1802.04712, section 4)."""


@dataclass(frozen=True)
class Bags:
    """how: windows become one answer. overlap: of neighbouring windows of a whole sample, 0..0.9 of a side."""

    how: Joining
    overlap: float


class Gate(nn.Module):
    """How much a window counts, as the logarithm of a share; at first all the same."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.inner = nn.Linear(width, HIDDEN)
        self.outer = nn.Linear(HIDDEN, 1)
        nn.init.normal_(self.inner.weight, std=width**-0.5, generator=generator)
        for part in (self.inner.bias, self.outer.weight, self.outer.bias):
            nn.init.zeros_(part)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, 1)."""
        return self.outer(self.inner(x).tanh())  # type: ignore[no-any-return]


def joined(answers: Tensor, gates: Tensor | None, weight: Tensor | None, how: Joining) -> Tensor:
    """(W, classes) logits, (W,) or None each -> (classes,) logarithms of probabilities. weight: 0 or more."""
    says = log_softmax(answers.float(), -1)
    if how == "max":
        return log_softmax(says.amax(0), -1)
    counts = torch.zeros_like(says[:, 0])
    if how == "attentive" and gates is not None:
        counts = gates.float()
    elif how == "weighted" and weight is not None and bool((weight > 0).any()):
        counts = weight.to(counts).log()
    return torch.logsumexp(says + log_softmax(counts, 0)[:, None], 0)


def bag_loss(answers: Tensor, targets: Tensor, files: Tensor | None, weight: Tensor | None, bags: Bags) -> Tensor:
    """(B, classes), or one more with gates; (B, classes) distributions; (B,) files -> the mean cross-entropy of bags.

    Rows of one file that follow each other are a bag. weight: (B,) what each row shows.
    """
    classes = targets.shape[1]
    gates = answers[:, classes] if answers.shape[1] > classes else None
    sizes = [1] * len(answers) if files is None else torch.unique_consecutive(files, return_counts=True)[1].tolist()
    losses, start = [], 0
    for size in sizes:
        rows = slice(start, start + size)
        says = joined(
            answers[rows, :classes],
            None if gates is None else gates[rows],
            None if weight is None else weight[rows],
            bags.how,
        )
        losses.append(-(targets[start] * says).sum())
        start += size
    return torch.stack(losses).mean()


def shown_in(x: Tensor, valid: Tensor | None) -> Tensor:
    """(B, C, *S), (B, 1, *S) -> (B,): what `features.windowed.shown` says of each row of a batch.

    Clips are what has three axes and says nothing of what is valid.
    """
    clips = valid is None and x.ndim == 5
    each = [shown(Sample(row, "", None if valid is None else valid[i]), clips) for i, row in enumerate(x)]
    return torch.tensor(each, device=x.device)


def bag_probabilities(
    model: nn.Module, encoder: FrozenEncoder, items: Items, rows: Sequence[int], device: torch.device,
    bad: list[dict[str, Any]], bags: Bags, classes: int,
) -> Iterator[tuple[list[int], Tensor]]:  # fmt: skip
    """([row], (1, classes) probabilities) of whole samples. bad: gains those that cannot be read."""

    def answer(samples: Sequence[Sample]) -> Tensor:
        x, spacing = stack(samples)
        says: Tensor = model(x.to(device), encoder.name, None if spacing is None else spacing.to(device), True)
        return says.float().cpu()

    seeing = encoder.seeing(Windows(bags.overlap, None), answer)
    clips = getattr(seeing.reader, "display", "") == "clip"
    for row in rows:
        says, weight = list[Tensor](), list[float]()
        try:
            for group in seeing.groups(items.addresses[row], seeing.tiling(items.addresses[row]).boxes):
                says.append(group.rows)
                weight.extend(shown(sample, clips) for sample in group.samples)
        except BadSample as error:
            bad.append(error.row)
            continue
        answers = torch.cat(says)
        gates = answers[:, classes] if answers.shape[1] > classes else None
        yield [row], joined(answers[:, :classes], gates, torch.tensor(weight), bags.how).exp()[None]
