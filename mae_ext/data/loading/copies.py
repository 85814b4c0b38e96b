"""The parts of a step on their way to a device: the next one's copy runs beside the kernels of this one.

Copies have a stream of their own, and memory of its pool. Nothing here waits on the host, but for copies that are more
than a step behind: what follows what is said to the device, by events.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from mae_ext.data.batch import Batch

Part = dict[str, Batch]


class Lane(Protocol):
    """A stream of copies beside the stream that computes. Events are of either; Any is what `torch.cuda.Event` is."""

    def send(self, part: Part) -> tuple[Part, Any, Any]:
        """Begins to copy, behind all that was sent -> the part there, and the events of its beginning and end."""
        ...

    def computed(self) -> Any:
        """-> the event of all that was computed so far."""
        ...

    def compute_after(self, event: Any) -> None:
        """What is computed from now on comes after the event, of a copy."""
        ...

    def send_after(self, event: Any) -> None:
        """What is sent from now on comes after the event, of the computing stream."""
        ...


@dataclass
class Sent:
    """A part on its way. source: where it is copied from; it must stay until `end`."""

    source: Part | None
    moved: Part
    began: Any
    end: Any
    used: Any = None


class Copies:
    """parts -> the same parts on a device, one after the other.

    A part may be used from when it is given until the next one is asked for; its memory is the next but one's. At most
    three are on the device: the one that is computed, the one that is copied, and the one that was computed before.
    """

    def __init__(self, device: torch.device, lane: Lane | None = None) -> None:
        self.lane = CudaLane(device) if lane is None and device.type == "cuda" else lane
        self._seconds = 0.0
        self._flying: deque[Sent] = deque()  # whose source is still read
        self._used: deque[Sent] = deque()  # whose memory is still read, by what was computed

    def __call__(self, parts: Sequence[Part]) -> Iterator[Part]:
        if self.lane is None:  # they are where they are computed
            yield from parts
            return
        coming = self._send(parts[0])
        for number in range(len(parts)):
            here = coming
            if number + 1 < len(parts):
                coming = self._send(parts[number + 1])
            self._land(len(parts) + 1)
            self.lane.compute_after(here.end)
            yield here.moved
            here.used = self.lane.computed()
            self._used.append(here)

    def taken(self) -> float:
        """Seconds that copies took which have ended since this was last asked."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _send(self, part: Part) -> Sent:
        assert self.lane is not None
        # Memory that is let go is the next copy's. Of what was sent before, all but the newest is computed when the
        # newest is, so the copy that comes now waits for nothing that is still to be computed.
        while len(self._used) > 1 or (self._used and self._used[0].used.query()):
            self.lane.send_after(self._used.popleft().used)
        sent = Sent(part, *self.lane.send(part))
        self._flying.append(sent)
        return sent

    def _land(self, most: int) -> None:
        """Lets go of the sources whose copies have ended; waits for those that are more than `most` behind."""
        while self._flying and (len(self._flying) > most or self._flying[0].end.query()):
            sent = self._flying.popleft()
            sent.end.synchronize()
            self._seconds += sent.began.elapsed_time(sent.end) / 1000
            sent.source = None


class CudaLane:
    """A `Lane` of CUDA streams."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)

    def send(self, part: Part) -> tuple[Part, torch.cuda.Event, torch.cuda.Event]:
        began, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.stream(self.stream):  # memory is of this stream's pool, so it is reused in this stream's order
            began.record()
            moved = {name: batch.to(self.device) for name, batch in part.items()}
            end.record()
        return moved, began, end

    def computed(self) -> torch.cuda.Event:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return event

    def compute_after(self, event: torch.cuda.Event) -> None:
        torch.cuda.current_stream(self.device).wait_event(event)

    def send_after(self, event: torch.cuda.Event) -> None:
        self.stream.wait_event(event)
