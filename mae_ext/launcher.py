"""What an elastic launcher (torchrun) hears of how a rank ended: one message of all, and what a restart cannot mend.

torchrun starts all ranks again after any exit code but 0, as long as `--max-restarts` lasts, so an end that would only
come again (a stop by signal, wrong input, a NaN) is remembered in the launcher's own folder, where the ranks that it
starts again see it and leave at once, with the same code. Imports nothing that is slow.
"""

import hashlib
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mae_ext.errors import UserError
from mae_ext.strict_json import dumps

ENDED = "mae_ext-ended.json"
"""In the folder that a launcher makes for all of its attempts: what ended for good."""


class End(NamedTuple):
    """code: the exit code. message: a line. attempt: how many restarts had been used by then."""

    code: int
    message: str
    attempt: int


def alone(what: str) -> None:
    """Refuses a launcher's ranks, each of which would do all of it and write over the others' files. Raises UserError.

    what: the command that is one process, as a user types it.
    """
    if Launcher.here() is not None or os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(f"{what} is done by one process; start it without torchrun")


@dataclass(frozen=True)
class Launcher:
    """torchrun, as its environment shows it to a rank. attempt: restarts used so far. last: whether none is left.

    error_file: where the launcher looks for the reason of a rank's end: ATTEMPTS/attempt_N/RANK/error.json. Its folders
    are new for each launch, on each node, and its own.
    """

    error_file: Path
    attempt: int
    last: bool

    @classmethod
    def here(cls) -> "Launcher | None":
        """None where this process is no rank of torchrun's, or one whose launcher keeps no folder."""
        file = Path(os.environ.get("TORCHELASTIC_ERROR_FILE", ""))
        used, most = (os.environ.get(f"TORCHELASTIC_{name}", "") for name in ("RESTART_COUNT", "MAX_RESTARTS"))
        if len(file.parents) < 3 or not file.parents[1].name.startswith("attempt_") or not file.parent.is_dir():
            return None
        if not (used.isdecimal() and most.isdecimal()):
            return None
        return cls(file, int(used), int(used) >= int(most))

    def ended(self) -> End | None:
        """What ended for good before this start. Ranks that are started again since a node came or went (which uses no
        restart) were only asked to make room, so what they said then is forgotten."""
        try:
            end = End(**json.loads(self._ended.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return end if end.attempt < self.attempt else None

    def end(self, code: int, message: str) -> None:
        """Remember an end that a restart would not change; of those of one attempt, the last."""
        with suppress(OSError):  # a full disk: then it is started again, and ends again
            beside = self.error_file.with_name(f"{ENDED}.{os.getpid()}")
            beside.write_text(dumps(End(code, message, self.attempt)._asdict()), encoding="utf-8")
            before = self.ended()
            if before is None:
                beside.replace(self._ended)

    def first_to_say(self, message: str) -> bool:
        """Whether no other rank of this node has said the same in this attempt."""
        name = hashlib.sha256(message.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        try:
            (self.error_file.parents[1] / f"mae_ext-{name}.said").touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError:
            return True
        return True

    def report(self, message: str) -> None:
        """The reason of this rank's end, for the launcher's own last words."""
        with suppress(OSError):
            text = message.encode("utf-8", "backslashreplace").decode()
            self.error_file.write_text(dumps({"message": text, "timestamp": int(time.time())}), encoding="utf-8")

    @property
    def _ended(self) -> Path:
        return self.error_file.parents[2] / ENDED
