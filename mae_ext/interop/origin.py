"""What a start gives: weights in our names, the config of the model that has them, and where they come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from mae_ext.config import Config
from mae_ext.strict_json import dumps


@dataclass(frozen=True)
class Origin:
    """Weights to start from, whoever made them.

    weights: every tensor of `MAE(config, decodes).state_dict()`, in our names, float32 on the CPU. config: as of a run,
    with numbers for statistics where they are known ("measured" where they are not). where: the path, for messages.
    kind: "run" or the name of a foreign format. decodes: whether there is a decoder. left: names of theirs that no
    tensor of ours has, and why ("a head for 1000 classes"). notes: what a user should know of how they were taken.
    step: of the run.
    """

    weights: Mapping[str, Tensor]
    config: Config
    where: str
    kind: str = "run"
    decodes: bool = True
    left: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    step: int = 0


Outcome = Literal["taken", "fitted", "new"]


@dataclass(frozen=True)
class Report:
    """What became of each tensor. rows: our name -> (outcome, how): "taken" as it is, "fitted" and how, "new" and why.

    left: names at the origin that nothing was made of, and why. where: of the origin.
    """

    where: str
    rows: Mapping[str, tuple[Outcome, str]]
    left: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def count(self, outcome: Outcome) -> int:
        return sum(kind == outcome for kind, _ in self.rows.values())

    def to_json(self) -> str:
        rows = {name: {"outcome": outcome, "how": how} for name, (outcome, how) in self.rows.items()}
        whole = {"where": self.where, "tensors": rows, "left": dict(self.left), "notes": list(self.notes)}
        return dumps(whole, indent=1) + "\n"

    def summary(self) -> str:
        """One line: how many tensors were taken, fitted (and how) and are new (and why), and what was left over."""
        parts = [f"{self.count('taken')} tensors as they are"]
        for outcome, word in (("fitted", "fitted"), ("new", "new")):
            ways: dict[str, int] = {}
            for kind, how in self.rows.values():
                if kind == outcome:
                    ways[how] = ways.get(how, 0) + 1
            parts += [f"{count} {word} ({how})" for how, count in ways.items()]
        if self.left:
            names = ", ".join(list(self.left)[:3]) + (", ..." if len(self.left) > 3 else "")
            parts.append(f"{len(self.left)} left over ({names})")
        return f"{self.where}: " + "; ".join([*parts, *self.notes])
