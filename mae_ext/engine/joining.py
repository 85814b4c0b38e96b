"""How ranks meet at the start of a run, also where a launcher starts them again: joining that is tried again."""

import logging
import os
import re
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from mae_ext.errors import Passing

AGAIN_S = 60.0
"""Seconds for which joining is tried again where it fails at once: Linux keeps the port of a run that ended so long."""

LOOK_S = 0.05
"""How often rank 0 looks who has come."""

HELLO, ANSWER = "mae_ext/hello", "mae_ext/answer"

log = logging.getLogger(__name__)


def meet(backend: str, rank: int, world: int, silence: timedelta) -> None:
    """init_process_group, which is tried again, after longer and longer, where it fails at once: a port that is still
    in use, a name that is not yet known. Whoever has not been started yet is waited for, for `silence`. Raises Passing,
    a RunError, with what was tried.
    """
    began, pause, tried = time.monotonic(), 1.0, 1
    while True:
        try:
            store, _, _ = next(rendezvous("env://", rank, world, timeout=silence))
            fresh = PrefixStore(_agreed(store, rank, world, silence.total_seconds()), store)
            dist.init_process_group(backend, store=fresh, rank=rank, world_size=world, timeout=silence)
            return
        except ValueError as error:  # of the environment, which does not mend
            why: Exception = error
            break
        except RuntimeError as error:
            why = error
            if time.monotonic() + pause > began + AGAIN_S:
                break
        log.warning("joining the other ranks failed (%s); it is tried again in %g s", reason(why), pause)
        time.sleep(pause)
        pause, tried = min(2 * pause, 15.0), tried + 1
    where = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
    again = f" in {tried} attempts over {time.monotonic() - began:.0f} s" if tried > 1 else ""
    raise Passing(
        f"rank {rank} of {world} could not join the others at {where}{again}: {reason(why)}. See whether all "
        f"ranks were started, and whether another run has the port"
    )


def _agreed(store: Any, rank: int, world: int, silence_s: float) -> str:
    """A word that all ranks of this start, and no others, know.

    torchrun keeps its store over restarts, with the addresses at which the ranks of before were, and a rank that reads
    one before it is written anew calls a dead one. So each says hello with a number of its own, and rank 0, which
    answers with the word, stays until all have it.
    """
    own = f"{os.getpid()}-{time.time_ns()}"
    if rank:
        store.set(f"{HELLO}/{rank}", own)
        word: str = store.get(f"{ANSWER}/{rank}/{own}").decode()
        store.set(f"{word}/{rank}", "")
        return word
    word, until, missing = f"mae_ext/{own}", time.monotonic() + silence_s, list(range(1, world))
    answered = dict[int, str]()
    while missing:
        for other in missing:
            if store.check([f"{HELLO}/{other}"]):
                hello = store.get(f"{HELLO}/{other}").decode()
                if answered.get(other) != hello:  # the first may be one of a start before
                    store.set(f"{ANSWER}/{other}/{hello}", word)
                    answered[other] = hello
        missing = [other for other in missing if not store.check([f"{word}/{other}"])]
        if missing and time.monotonic() > until:
            raise RuntimeError(f"nothing was heard of rank {', '.join(map(str, missing))} in {silence_s:g} s")
        time.sleep(LOOK_S if missing else 0.0)
    return word


def reason(error: Exception) -> str:
    """What PyTorch says of a meeting that failed, on one line and without where in its source it was."""
    line = (str(error).splitlines() or [repr(error)])[0]
    return re.sub(r"\[\S+\.(cc|cpp|h):\d+\] *", "", line.partition(". This is typically caused")[0])
