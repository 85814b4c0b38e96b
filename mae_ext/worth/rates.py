"""Rates for each side, chosen on a part of the training data that is held back: never on the test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Rates = Mapping[str, float]
"""Keys of a config and their values; none is what the recipe says."""

SIDES = {"pretrained": "finetuned", "scratch": "scratch", "frozen": "frozen"}
"""What is chosen for, and the arm that is tried. `random` learns its head at the rates of `frozen`."""


@dataclass(frozen=True)
class Choice:
    """What was tried for a side, and what came of it on held-back samples. why: in words."""

    side: str
    rates: Rates
    value: float | None
    taken: bool
    why: str

    def row(self) -> dict[str, Any]:
        sets = [f"{key}={value:g}" for key, value in self.rates.items()]
        return {"side": self.side, "sets": sets, "value": self.value, "taken": self.taken, "why": self.why}


def grid(side: str, lr: float) -> list[Rates]:
    """Equally many for each side, the recipe's own first: three times and a third of the rate for what begins; what
    was learned before is spared by a lower rate, or by one that falls faster with depth."""
    if side == "pretrained":
        return [{}, {"train.lr": 0.3 * lr}, {"train.layer_decay": 0.65}]
    return [{}, {"train.lr": 3 * lr}, {"train.lr": 0.3 * lr}]


def best(side: str, tried: Sequence[tuple[Rates, float | None]], held: int, labels: str) -> list[Choice]:
    """The highest score; of equal ones the first, which is the recipe's. None: the training was not finite."""
    scores = [-1.0 if value is None else value for _, value in tried]
    most = max(range(len(tried)), key=lambda i: (scores[i], -i))
    place = f"the best of {len(tried)}"
    if len({*scores}) == 1 < len(tried):
        place = f"all {len(tried)} alike" if scores[most] >= 0 else f"none of {len(tried)} finite"
    won = f"{place} with {labels}, seed 0, on {held} samples held back from the training data"
    lost = ["not finite" if value is None else "" for _, value in tried]
    return [
        Choice(side, rates, value, i == most, won if i == most else lost[i]) for i, (rates, value) in enumerate(tried)
    ]


def untried(side: str, why: str) -> Choice:
    return Choice(side, {}, None, True, why)


def side_of(arm: str) -> str:
    """The side whose rates an arm has."""
    return {tried: side for side, tried in SIDES.items()}.get(arm, "frozen")


def taken(choices: Sequence[Choice], arm: str) -> Rates:
    return next((c.rates for c in choices if c.taken and c.side == side_of(arm)), {})
