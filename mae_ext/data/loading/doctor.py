"""Open every file in a child that may die of it, and say of each whether it can be trained on."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from mae_ext import plugins
from mae_ext.config import Config, one_modality, uncached
from mae_ext.data.crops import center_sampler
from mae_ext.data.loading.sandbox import Sandbox
from mae_ext.data.loading.side_by_side import in_order
from mae_ext.data.loading.values import Values, valid_of, values_of
from mae_ext.data.sample import Reader, held, read_checked
from mae_ext.data.sources.meant import odd, opening
from mae_ext.data.sources.table import list_items
from mae_ext.errors import BadSample, ConfigError, RunError, StoreError, some
from mae_ext.progress import phase

MEMORY_BYTES = 4 << 30
DEADLINE_S = 20.0


@dataclass(frozen=True)
class Verdict:
    """One file. kind and detail say what is wrong; description says what a good one holds, doubts what may mislead,
    values which numbers were read of it."""

    path: str
    ok: bool
    kind: str = ""
    detail: str = ""
    description: str = ""
    doubts: tuple[str, ...] = ()
    values: Values | None = None

    def __str__(self) -> str:
        if self.ok:
            return f"{self.path}: {'; '.join([self.description or self.detail, *self.doubts])}"
        return f"{self.path}: {self.kind}" + (f" ({self.detail})" if self.detail else "")


def inspect(
    paths: list[str],
    reader_name: str = "image",
    channels: int | None = None,
    deadline_s: float = DEADLINE_S,
    size: tuple[int, ...] | None = None,
    memory_bytes: int = MEMORY_BYTES,
    arguments: Mapping[str, Any] = MappingProxyType({}),
    say: Callable[[str], None] | None = None,
    workers: int = 1,
) -> Iterator[Verdict]:
    """A verdict on every sample behind `paths`, in order, as each is known. say: is told first what each path holds,
    and what of that can hardly be meant. workers: files at a time, each in a child of its own; verdicts are the same.

    paths: what `list_items` takes. channels=None accepts any count. size: what the reader is asked to return, a length
    for each axis; None is the reader's own example. arguments: of the reader, as in a config. A file that hangs,
    crashes or swallows memory costs its own verdict and nothing else. Raises UserError for a path that holds nothing,
    before any file is opened; StoreError where a shard at an address cannot be read any more.
    """
    example = getattr(plugins.readers.get(reader_name, "doctor"), "example", {"size": (224, 224), "channels": 3})
    if not isinstance(example, Mapping) or not {"size", "channels"} <= example.keys():
        raise ConfigError(
            f"doctor: reader '{reader_name}': its `example` is {example!r}; expected "
            '{"size": (224, 224), "channels": 3}, a length for each axis'
        )
    size = size or example["size"]
    reader: Reader = plugins.readers.build(
        reader_name, dict(arguments), "doctor", size=size, channels=channels or example["channels"]
    )
    sources = [list_items(path, reader.suffixes) for path in paths]
    if say is not None:
        for path, items in zip(paths, sources, strict=True):
            for line in (opening(items, path, reader_name), *(f"warning: {remark}" for remark in odd(items, path))):
                say(line)
    judge = partial(_judged, reader, size, channels)
    addresses = (address for items in sources for address in items.addresses)
    total = sum(map(len, sources))
    with phase("opening") as progress:
        for done, verdict in enumerate(in_order(addresses, judge, workers, deadline_s, memory_bytes), start=1):
            progress(done, total)
            yield verdict


def _judged(reader: Reader, size: tuple[int, ...], channels: int | None, sandbox: Sandbox, address: str) -> Verdict:
    """channels: that were asked for."""
    try:
        description, values = sandbox.call(_open, reader, size, address, name=address)
    except StoreError:
        raise
    except RunError as error:  # of every file its verdict, and the reader's mistakes are one as well
        return Verdict(address, False, "reader broke", str(error))
    except BadSample as error:
        unasked = error.kind == "channels" and channels is None
        if not unasked:
            return Verdict(address, False, error.kind, error.detail)
        described = sandbox.call(_described, reader, address, name=address)
        return Verdict(address, True, "", error.detail, described, (error.detail,) if described else ())
    said, *doubts = description.splitlines()
    return Verdict(address, True, description=said, doubts=tuple(doubts), values=values)


def as_config(config: Config, name: str | None, where: str) -> dict[str, Any]:
    """What `inspect` is given to read files as a modality of the config does, though never from a cache."""
    modality = uncached(config).modalities[one_modality(name, config, where)]
    reader = modality.data.reader
    return {
        "reader_name": reader.name, "arguments": reader.arguments, "size": modality.size, "channels": modality.channels
    }  # fmt: skip


def summary(verdicts: Sequence[Verdict]) -> str:
    """How many are good, and how many are bad of which kind, in the last line; before it, what the good ones are."""
    kinds = Counter("" if verdict.ok else verdict.kind for verdict in verdicts)
    good = kinds.pop("", 0)
    forms = Counter(form for v in verdicts if v.ok and (form := _form(v.description)))
    good_forms = some([f"{count} {form}" for form, count in forms.most_common()])
    held_by = f"good: {good_forms}\n" if good_forms else ""
    doubtful = sum(bool(verdict.doubts) for verdict in verdicts)
    misleading = f"; {doubtful} of the good ones may mislead, as said above" if doubtful else ""
    if not kinds:
        return f"{held_by}{good} files, all good{misleading}"
    bad = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return f"{held_by}{good + kinds.total()} files: {good} good, {kinds.total()} bad ({bad}){misleading}"


def _form(description: str) -> str:
    """What a description says before the size: "DICOM series int16", "JPEG CMYK"."""
    match = re.match(r"(\D.*?) \d+x\d+", description)
    return match[1] if match else ""


def _described(reader: Reader, address: str) -> str:
    """The first line of what a reader says of a file; "" where it says nothing."""
    describe = getattr(reader, "describe", None)
    with held(reader, address):
        return describe(address).partition("\n")[0] if describe else ""


def _open(reader: Reader, size: tuple[int, ...], address: str) -> tuple[str, Values | None]:
    """What a reader's `describe` says, a line of what there is, then a line for each thing that may mislead; and which
    values there are, in the file where the reader can say, else in what it gives."""
    crops, measured = [center_sampler(size)], getattr(reader, "read_measured", None)
    if measured is None:
        (sample,) = read_checked(reader, address, crops)
        values = values_of(str(sample.x.dtype).removeprefix("torch."), valid_of(sample))
    else:
        with held(reader, address):
            (sample,), *numbers = measured(address, crops)
            values = values_of(*numbers)
    describe = getattr(reader, "describe", None)
    with held(reader, address):
        said = describe(address) if describe else f"{sample.x.dtype} {list(sample.x.shape)}"
    return said, values
