"""What a task reads: files with answers, to learn from and to be judged on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mae_ext.data.batch import Batch
from mae_ext.data.plan import Key
from mae_ext.data.sample import CropSampler, Sample
from mae_ext.data.sources.table import Items


class Examples(Protocol):
    """Files with answers: what a task that is not pretraining reads. Picklable; a function of (config, key) alone.

    items: the files to train on. identity: whatever of the answers is not in the files' names (labels, say), for the
    comparison that a resume makes. They may have `summary`, a line on their answers that is said at the start, and
    `together`, how many neighbours `finish` has to see at once (1 where it is not said).

    >>> import dataclasses, numpy, torch, mae_ext
    >>> class Brightness:  # the answer is the mean of what is seen
    ...     identity = b"brightness"
    ...
    ...     def __init__(self, reader, items):
    ...         self.reader, self.items = reader, items
    ...
    ...     def read(self, index, keys, crops):
    ...         samples = self.reader.read(self.items.addresses[index], crops)
    ...         return [dataclasses.replace(s, targets={"mean": s.x.float().mean()}) for s in samples]
    ...
    ...     def finish(self, batch, keys, step):
    ...         return batch
    >>> class Gives:
    ...     def read(self, address, crops):
    ...         return [mae_ext.Sample(torch.ones(1, 4, 4), address) for _ in crops]
    >>> examples = Brightness(Gives(), mae_ext.Items(["a", "b"]))
    >>> examples.read(1, keys=[None], crops=[None])[0].targets
    {'mean': tensor(1.)}
    """

    items: Items
    identity: bytes

    def read(self, index: int, keys: Sequence[Key], crops: Sequence[CropSampler]) -> list[Sample]:
        """One sample, with its targets, for each crop of one file. Raises BadSample.

        A crop applied twice gives the same box, so an answer that is a picture itself is cut by the same one.
        """
        ...

    def finish(self, batch: Batch, keys: Sequence[Key], step: int) -> Batch:
        """What is done to samples that are stacked: mixup, say. Or nothing.

        The batch is a rank's, or a part of it (`train.accumulate`), that begins and ends between groups of `together`
        slots: 2 for what mixes slots 2i and 2i + 1. A part that does not, as one of a single sample, is made with its
        neighbours and cut afterwards, so what becomes of a sample must not depend on those outside of its group.
        """
        ...


@dataclass(frozen=True)
class HeldOut:
    """What a run is judged on, made once for it. listed: all that its source holds, of which a task's `examples` may be
    a part: samples without a label cannot be judged. Pretraining has no examples, and is judged on all.

    >>> import mae_ext
    >>> class Named:  # examples of which nothing is read here
    ...     items, identity = mae_ext.Items(["a", "b"]), b""
    >>> mae_ext.HeldOut(listed=mae_ext.Items(["a", "b", "without a label"]), examples=Named()).listed.addresses[2]
    'without a label'
    """

    listed: Items
    examples: Examples | None = None
