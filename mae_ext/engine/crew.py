"""Work that rank 0 asks of all ranks: it alone goes through a program, and each answers a share of its questions."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from mae_ext.engine.distributed import Ranks
from mae_ext.engine.stop import Interrupted, StopFlag
from mae_ext.errors import RunError, UserError

T = TypeVar("T")


class _Answer(NamedTuple):
    """left: whether a signal ended the work at it."""

    value: Any = None
    refused: UserError | RunError | None = None
    left: bool = False


class Crew:
    """All ranks, of which rank 0 asks and the others serve until it is done. Of one process it is that one.

    What rank 0 does between its questions is its own affair, whatever order they come in. name: whose questions they
    are. stop: with which a signal ends the work of a rank, and then the program of rank 0.
    """

    def __init__(self, ranks: Ranks, stop: StopFlag | None = None, name: str = "", part: str | None = None) -> None:
        self.ranks, self.stop, self.name, self._part = ranks, stop or StopFlag(), name, part

    def part(self, part: str) -> "Crew":
        """The same ranks, whose helper is asked (part, question)."""
        return Crew(self.ranks, self.stop, self.name, part)

    def ask(self, question: Any, own: Callable[[], T]) -> list[T]:
        """Every rank's answer, in the order of ranks. On rank 0, whose own answer is `own()`.

        Raises what a rank refuses (UserError, RunError), or Interrupted when a signal reached one.
        """
        with self.stop.held():
            self.ranks.from_main((self.name, question if self._part is None else (self._part, question)))
            answers = self.ranks.to_main(self._answered(own))
        if self.stop.received or any(answer.left for answer in answers):
            raise Interrupted
        for answer in answers:
            if answer.refused is not None:
                raise answer.refused
        return [answer.value for answer in answers]

    def done(self) -> None:
        """On rank 0: the others need not serve any longer."""
        with self.stop.held():
            self.ranks.from_main((self.name, None))

    def serve(self, helpers: Mapping[str, Callable[[Any], Any]]) -> None:
        """On the other ranks: answer until rank 0 is done. helpers: who answers, by name."""
        while True:
            name, question = self.ranks.from_main(("", None))
            if question is None:
                return
            self.ranks.to_main(self._answered(lambda: helpers[name](question)))  # noqa: B023 called at once

    def _answered(self, work: Callable[[], Any]) -> _Answer:
        with suppress(Interrupted):
            try:
                with self.stop.interrupts():
                    return _Answer(work())
            except (UserError, RunError) as error:
                return _Answer(refused=error)
        return _Answer(left=True)
