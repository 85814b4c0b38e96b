"""The sides of peers.py, each a process of its own: they train in turns, and are judged with their clocks stopped.

A line in, {"seconds": of processor time}, or {} to save and end; a line out when they are used,
{"seconds", "steps", "ended"}. Scores are in scores.jsonl of the side's folder.
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import torch
from peers_models import Boxes, MonaiMAE, Peer, Pictures, peer_of
from peers_sets import SETS, Encode, Judge, config_of, decoded, only, whole_scans
from torch import Tensor, nn

from mae_ext import FrozenEncoder, plugins, train
from mae_ext.config import Config
from mae_ext.engine.log import Journal, rows_until
from mae_ext.engine.precision import DTYPES
from mae_ext.engine.task import backbone_of
from mae_ext.errors import Stopped
from mae_ext.rng import seed_of

OURS = "ours"
SCORES, CLOCK, STATE = "scores.jsonl", "clock.jsonl", "peer.pt"
TICKS = os.sysconf("SC_CLK_TCK")
LOOK_S = 0.05
"""How often at most the clock is read between steps: it looks through /proc."""


def processor_seconds() -> float:
    """Of this process with all of its threads, and of all that it started and that these started, ended or not."""
    times = os.times()
    total = time.process_time() + times.children_user + times.children_system
    waiting = _children(os.getpid())
    while waiting:
        pid = waiting.pop()
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended since, and its parent has its time by now or will
            continue
        total += sum(map(int, fields[11:15])) / TICKS  # its own, user and system, and of children that it waited for
        waiting += _children(pid)
    return total


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, file.read_text().split())
        except OSError:
            continue
    return found


class Clock:
    """Processor seconds since it was made, and `before` that; what this process does between pause and go counts not,
    what its workers do meanwhile does."""

    def __init__(self, before: float = 0.0, used: Callable[[], float] = processor_seconds) -> None:
        self.used, self.own = used, time.process_time
        self.before, self.start, self.aside = before, used(), 0.0

    def seconds(self) -> float:
        return self.before + self.used() - self.start - self.aside

    def pause(self) -> float:
        """-> the seconds at which it stopped."""
        now, self.at = self.seconds(), self.own()
        return now

    def go(self) -> None:
        self.aside += self.own() - self.at


class Turns:
    """Asked after each step: is it time to be judged, or the other side's turn? every, budget: seconds of the clock."""

    def __init__(
        self, out: Path, every: float, budget: float, judge: Callable[[Encode], dict[str, float]],
        talk: tuple[TextIO, TextIO],
    ) -> None:  # fmt: skip
        self.out, self.every, self.budget, self.judge, self.talk = out, every, budget, judge, talk

    def begin(self, step: int, spent: float) -> None:
        """Where the side stands. The first turn has yet to be given."""
        out = self.out / SCORES
        rows = rows_until(out, step)
        self.judged = rows[-1]["step"] if rows else -1
        self.next = self.every * ((rows[-1]["seconds"] if rows else 0.0) // self.every + 1)
        self.until, self.looked, self.clock, self.scores = spent, 0.0, Clock(spent), Journal(out, step)

    def due(self, last: bool) -> bool:
        """last: no step follows."""
        now = time.monotonic()
        if not last and now < self.looked + LOOK_S:
            return False
        self.looked = now
        return last or self.clock.seconds() >= min(self.next, self.until, self.budget)

    def look(self, step: int, last: bool, encode: Encode, keep: Callable[[float], None] | None = None) -> bool:
        """-> whether to go on. keep: called with the seconds where the side is to save what it is, clock stopped."""
        spent = self.clock.pause()
        ended = last or spent >= self.budget
        goes = not ended
        if (ended or spent >= self.next) and step != self.judged:
            self.scores.write({"step": step, "seconds": round(spent, 2), "scores": self.judge(encode)})
            self.next, self.judged = self.every * (spent // self.every + 1), step
            if keep:
                keep(spent)
        if ended or spent >= self.until:
            told = self.tell({"seconds": spent, "steps": step, "ended": ended})
            if goes:
                goes, self.until = told is not None, spent + (told or 0.0)
                if keep and not goes:
                    keep(spent)
        self.clock.go()
        return goes

    def tell(self, where: dict[str, Any]) -> float | None:
        """-> seconds of the next turn; None: save and end, as also where whoever gave the turns is gone."""
        try:
            print(json.dumps(where), file=self.talk[1], flush=True)
            return None if where["ended"] else json.loads(self.talk[0].readline() or "{}").get("seconds")
        except BrokenPipeError:
            return None


TURNS: Turns | None = None
"""Of the process in which our side trains, for the observer, which a registry makes."""


class TakesTurns:
    """An observer of our engine (mae_ext.engine.observe): the only thing of the study that our side is given."""

    def __init__(self) -> None:
        assert TURNS is not None
        self.turns, self.asked, self.answer, self.used = TURNS, -1, False, processor_seconds()

    def check(self, config: Config) -> None: ...

    def due(self, step: int, total: int) -> bool:
        if self.asked != step:  # it is asked several times of a step, and the clock goes on
            self.asked, self.last = step, step == total
            self.answer = self.turns.due(self.last)
        return self.answer

    def open(self, model: nn.Module, config: Config, out: Path, start: int) -> None:
        # From scratch, what listing and measuring took counts; where a run goes on, what coming back takes does not.
        spent = processor_seconds() - self.used
        if start:
            spent = max((row["seconds"] for row in rows_until(out / CLOCK, start)), default=0.0)
        self.turns.begin(start, spent)
        self.clock = Journal(out / CLOCK, start)
        name, _ = only(config)
        self.encoder = FrozenEncoder(backbone_of(model), config, name, start, out)  # type: ignore[arg-type]
        self.precision = config.train.precision

    def __call__(self, step: int) -> dict[str, float]:
        if not self.turns.look(step, self.last, self.encode) and not self.last:
            os.kill(os.getpid(), signal.SIGTERM)  # on which the engine saves and ends
        return {}

    def encode(self, x: Tensor, spacing: Tensor | None) -> tuple[Tensor, None]:
        with torch.autocast("cpu", DTYPES[self.precision], enabled=self.precision != "fp32"):
            return self.encoder.encode(x, spacing), None

    def sync(self) -> None:
        self.clock.write({"step": self.asked, "seconds": self.turns.clock.seconds()})

    def close(self) -> None:
        self.clock.close()


def train_ours(turns: Turns, config: Config) -> None:
    """The whole engine, as `mae-ext pretrain` runs it. It goes on by itself where turns.out holds its run."""
    global TURNS  # noqa: PLW0603 a registry builds the observer from its name alone
    TURNS = turns
    plugins.observers.builtins["takes_turns"] = f"{__name__}:TakesTurns"
    with contextlib.suppress(Stopped):
        train(config, turns.out, sets=["train.observe=[{name: takes_turns}]"])


def batches_of(name: str, folder: Path, config: Config, peer: Peer) -> Callable[[int], Tensor]:
    """What a peer is fed: the files of our side, decoded by our reader, whole, in memory. Sets its mean and deviation
    where they are the data's."""
    _, modality = only(config)
    source = str(folder / SETS[name].data)
    if SETS[name].kind != "volumes":
        return Pictures(decoded(modality, source)[0], peer.recipe)
    scans = whole_scans(modality, source)
    values = torch.cat([scan.x.flatten() for scan in scans])
    peer.mean, peer.std = float(values.mean()), float(values.std())
    axes = tuple(axis % 3 for axis in modality.data.augment.flip)
    return Boxes(scans, modality.size, peer.recipe.batch, axes)


def train_peer(turns: Turns, peer: Peer, batches: Callable[[int], Tensor], side: str, precision: str) -> None:
    """Until its budget is spent, along which its rate falls. precision: fp32 all the same for MONAI, which fails in
    bf16."""
    precision = "fp32" if isinstance(peer, MonaiMAE) else precision
    optimizer = torch.optim.AdamW(
        [p for p in peer.model.parameters() if p.requires_grad], lr=0.0, betas=peer.recipe.betas,
        weight_decay=peer.recipe.weight_decay, fused=True,
    )  # fmt: skip
    step, spent, file = 0, 0.0, turns.out / STATE
    if file.exists():
        state = torch.load(file, weights_only=True)
        step, spent = state["step"], state["spent"]
        peer.model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])

    def in_precision() -> torch.autocast:
        return torch.autocast("cpu", DTYPES[precision], enabled=precision != "fp32")

    def encode(x: Tensor, spacing: Tensor | None) -> tuple[Tensor, Tensor | None]:
        with in_precision():
            return peer.encode(x, spacing)

    def keep(seconds: float) -> None:
        state = {"model": peer.model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({**state, "step": step, "spent": seconds}, file.with_suffix(".tmp"))
        file.with_suffix(".tmp").rename(file)

    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    turns.begin(step, spent)
    peer.model.train()
    while not told:
        if turns.due(last=False):
            peer.model.eval()
            goes = turns.look(step, False, encode, keep)
            peer.model.train()
            if not goes:
                return
        torch.manual_seed(seed_of(0, "peer", step))  # masks are the peer's own, from the global generator
        for group in optimizer.param_groups:
            group["lr"] = peer.recipe.rate(turns.clock.seconds() / turns.budget)
        x = batches(step)
        with in_precision():
            loss = peer.loss(x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if not torch.isfinite(loss):
            raise SystemExit(f"{side}: the loss of step {step} is {float(loss)}")
        step += 1
    keep(turns.clock.seconds())


def serve(side: str, name: str, folder: Path, out: Path, given: dict[str, Any]) -> None:
    """The life of a side. given: recipe, sets, cache, every, budget."""
    talk = (sys.stdin, sys.stdout)
    sys.stdout = sys.stderr  # whatever libraries print
    torch.set_flush_denormal(True)  # as our engine does
    config = config_of(name, folder, given["recipe"], given["sets"], given["cache"])
    judge = Judge(name, folder, config)
    out.mkdir(parents=True, exist_ok=True)
    peer = None if side == OURS else peer_of(side, config)
    grid = peer.grid if peer else only(config)[1].grid
    turns = Turns(out, given["every"], given["budget"], lambda encode: judge(encode, grid), talk)
    if peer is None:
        train_ours(turns, config)
    else:
        train_peer(turns, peer, batches_of(name, folder, config, peer), side, config.train.precision)
