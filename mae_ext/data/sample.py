"""What readers return and what the model is fed: Sample, Batch, Crop, and the Reader contract."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae_ext.data.room import stacked
from mae_ext.errors import BadSample, RunError, UserError
from mae_ext.model.units import in_units

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Crop:
    """A box and flips in the source's own voxels, one entry per spatial axis, slowest first. Data, not an action.

    A box of fixed length may reach beyond a source that is shorter; the reader pads, and marks it in `valid`.

    >>> from mae_ext import Crop
    >>> Crop(start=(0, 40), stop=(100, 140), flip=(False, True))  # 100 rows, 100 columns from the 40th on, mirrored
    Crop(start=(0, 40), stop=(100, 140), flip=(False, True))
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]
    flip: tuple[bool, ...]


CropSampler = Callable[[tuple[int, ...]], Crop]
"""Size of a source's extent (one int per axis) -> Crop. Carries its own randomness, already bound to a key."""


def whole(size: tuple[int, ...]) -> Crop:
    """The crop sampler that takes all of a source."""
    return Crop((0,) * len(size), tuple(size), (False,) * len(size))


@dataclass(frozen=True)
class Extent:
    """What crops are drawn from: the voxels (pixels, positions) of a source, or a lattice over them at another spacing.

    size: along each axis, slowest first. stored: the source's own. step: stored voxels from one voxel of the lattice to
    the next; the first of both coincide. stored_spacing: mm between stored voxels; None where that has no meaning.
    """

    size: tuple[int, ...]
    stored: tuple[int, ...]
    step: tuple[float, ...]
    stored_spacing: tuple[float, ...] | None = None

    @staticmethod
    def as_stored(size: tuple[int, ...]) -> "Extent":
        """Of a source whose own voxels are what crops are drawn from, and lie at no spacing."""
        return Extent(tuple(size), tuple(size), (1.0,) * len(size))

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """mm between the voxels that crops are drawn from."""
        if self.stored_spacing is None:
            return None
        return tuple(mm * step for mm, step in zip(self.stored_spacing, self.step, strict=True))

    @property
    def places(self) -> tuple[NDArray[np.float64], ...]:
        """For each axis, (n,): where the stored voxels lie, in voxels of `size`, whose first has its middle at 0."""
        return tuple(np.arange(n) / step for n, step in zip(self.stored, self.step, strict=True))


@dataclass(frozen=True)
class Sample:
    """One decoded view of a file.

    x: (C, *S), uint8 (0..255, meaning 0..1) or float32 in the reader's units. With levels, (C, 6), it is as its file
    stores it, (C or 1, *S) of one of STORED, and `in_units(x, levels=levels)` is (C, *S) in the reader's units.
    valid: (1, *S) bool, where the loss counts; None is everywhere.
    spacing: mm (or seconds) per voxel along each axis after resizing; None where it has no meaning.
    targets: what a task wants answered of x, by name: of one shape and type in every sample. Readers give none.
    extent, box: of the source, and what of it was cut out and flipped to be x. Readers that have `extent` give both.

    >>> import torch
    >>> from mae_ext import Sample
    >>> Sample(torch.zeros(1, 8, 8, 8), "scan.nii.gz", spacing=(3.0, 1.0, 1.0)).x.dtype
    torch.float32
    """

    x: Tensor
    source: str
    valid: Tensor | None = None
    spacing: tuple[float, ...] | None = None
    targets: dict[str, Tensor] = field(default_factory=dict)
    extent: Extent | None = None
    box: Crop | None = None
    levels: Tensor | None = None


STORED = (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.float16)
"""What a sample may travel as: half of a float32 or less."""


class Reader(Protocol):
    """The only code that knows a file format. Picklable; opens nothing before `read`.

    suffixes: lower case, with the dot; ".dcm/", with a slash, is a folder of such files that together are one sample.
    A reader may have `display`, the way its samples are drawn ("image", "clip", "volume"; "image" if it has none),
    `example`, what `doctor` asks of a file when no config says otherwise ({"size": (224, 224), "channels": 3} if it has
    none), `kind`, by which its files are told from those of other readers (`mae_ext.data.kind.Kind`; by suffix alone if
    it has none), and

    - `extent(address) -> Extent`, what its crop samplers will be given, from the header alone. Raises BadSample. Its
      samples then say their `extent` and `box`. Of a reader without it, `extent_of` and `read_placed` find both out.
    - `describe(address) -> str`: a line of what a file holds, then a line for each thing that may mislead.
    - `prepared(address)`, with an argument `cache`, a folder: decodes a source, keeps it there, and returns it. It is
      what `mae-ext prepare` calls.
    - `read_as_stored(address, crops)`, as `read`, of samples that may be as their file stores them: with `levels`, or
      in float16, which means itself. It is what goes to the device in training; all others ask `read`.
    - `files(address) -> list[str]`: those that a sample is made of, where they are several. Raises BadSample.
    - `read_measured(address, crops) -> (samples, dtype, numbers)`: for `doctor`, many stored values in their own units.
    - `one_sided(addresses) -> str | None`: a warning that counts the files that do not say where left and right are.
    - what `Opens`, `Placed` or `Films` have (`data/whole.py`), for whole samples that are seen window by window.

    >>> import pathlib, numpy, torch
    >>> from mae_ext import Sample, verdicts
    >>> class Raw:  # squares of bytes, a file each
    ...     suffixes = (".raw",)
    ...
    ...     def __init__(self, size, channels):
    ...         self.size = size
    ...
    ...     def read(self, address, crops):
    ...         with verdicts(address):
    ...             values = numpy.fromfile(address, "uint8")
    ...             whole = torch.from_numpy(values).view(1, *[int(len(values) ** 0.5)] * 2)
    ...         views = []
    ...         for crop in (sampler(tuple(whole.shape[1:])) for sampler in crops):
    ...             box = whole[:, crop.start[0] : crop.stop[0], crop.start[1] : crop.stop[1]]
    ...             box = box.flip([axis + 1 for axis, mirrored in enumerate(crop.flip) if mirrored])
    ...             small = torch.nn.functional.interpolate(box[None].float() / 255, self.size, mode="area")[0]
    ...             views.append(Sample(small, address))
    ...         return views
    >>> from mae_ext import Crop
    >>> _ = pathlib.Path("a.raw").write_bytes(bytes(range(256)))
    >>> (sample,) = Raw((8, 8), 1).read("a.raw", [lambda extent: Crop((0, 0), extent, (False, True))])
    >>> sample.x.shape
    torch.Size([1, 8, 8])
    """

    suffixes: tuple[str, ...]

    def read(self, address: str, crops: Sequence[CropSampler]) -> list[Sample]:
        """One Sample per crop from a single opening of the file. Raises BadSample, and nothing else, for a bad file:
        `verdicts` makes one of whatever a parser raises."""
        ...


@contextmanager
def verdicts(address: str) -> Iterator[None]:
    """Around what parses a file: whatever is raised in it is a verdict on the file.

    Parsers of other people's formats raise what nobody foresaw, and nothing that a file makes them raise may end a run.
    It becomes BadSample "unreadable", with the exception and the line that it came from, or "out of memory". BadSample
    goes through, and so do UserError, RunError and ImportError, which are no matter of the file. Crop samplers are
    called outside: one that fails is a bug.

    >>> from mae_ext import BadSample, verdicts
    >>> try:
    ...     with verdicts("a.raw"):
    ...         int.from_bytes("no bytes")
    ... except BadSample as bad:
    ...     print(bad.kind)
    unreadable
    """
    try:
        yield
    except (BadSample, UserError, RunError, ImportError):
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):  # torch's allocator raises RuntimeError
            raise BadSample(address, "out of memory", str(error)) from error
        raise BadSample(address, "unreadable", f"{_one_line(error)}, raised in {_origin(error)}") from error


def judged(parse: Callable[Concatenate[Any, str, P], T]) -> Callable[Concatenate[Any, str, P], T]:
    """`verdicts` for a whole method, whose first argument is the address."""

    @wraps(parse)
    def judge(reader: Any, address: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with verdicts(address):
            return parse(reader, address, *args, **kwargs)

    return judge


def _one_line(error: Exception) -> str:
    return " ".join(repr(error).split())[:300]


def _origin(error: Exception) -> str:
    """The last line of this package that an exception came through: "nifti.py:88"; of a plug-in's, its own."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.name not in ("verdicts", "judge")]
    lines = [(Path(f.filename), f.lineno) for f in frames]
    ours = [(file, line) for file, line in lines if Path(__file__).parents[1] in file.parents] or lines[:1]
    file, line = ours[-1]
    return f"{file.name}:{line}"


@contextmanager
def held(reader: object, address: str) -> Iterator[None]:
    """A reader's method, held to its contract: BadSample goes through, anything else is its bug, a RunError."""
    try:
        yield
    except (BadSample, UserError, RunError):
        raise
    except MemoryError as error:
        raise BadSample(address, "out of memory", str(error)) from error
    except Exception as error:
        detail = f"(it may raise nothing but BadSample): {_one_line(error)}"
        raise RunError(f"reader {type(reader).__name__} broke on {address} {detail}") from error


def read_checked(
    reader: Reader, address: str, crops: Sequence[CropSampler], shape: tuple[int, ...] | None = None,
    as_stored: bool = False,
) -> list[Sample]:  # fmt: skip
    """Reader.read, held to its contract. shape: (C, *S) of a sample. Raises BadSample; RunError for a reader's bug.

    as_stored: read_as_stored, of a reader that has it: `stack_as_stored` takes what that gives.
    """
    with held(reader, address):
        read = getattr(reader, "read_as_stored", reader.read) if as_stored else reader.read
        samples: list[Sample] = read(address, crops)
        shapes = [(_shape(sample), sample.x.dtype) for sample in samples]
    types = (torch.float32, *STORED) if as_stored else (torch.uint8, torch.float32)
    if len(shapes) != len(crops) or any(
        dtype not in types or (shape is not None and given_shape != shape) for given_shape, dtype in shapes
    ):
        wanted = f"{len(crops)} x {'' if shape is None else shape}"
        detail = f"gave {shapes} for {address}; expected {wanted} in uint8 or float32"
        raise RunError(f"reader {type(reader).__name__} {detail}")
    return samples


def _shape(sample: Sample) -> tuple[int, ...]:
    """(C, *S) of its x in units."""
    if sample.levels is not None and len(sample.x) == 1:
        return (len(sample.levels), *sample.x.shape[1:])
    return tuple(sample.x.shape)


@dataclass
class _Noted:
    """A crop sampler that notes what it was asked and what it said."""

    inner: CropSampler
    extent: Extent | None = None
    box: Crop | None = None

    def __call__(self, size: tuple[int, ...]) -> Crop:
        self.extent, self.box = Extent.as_stored(size), self.inner(size)
        return self.box


def extent_of(reader: Reader, address: str) -> Extent:
    """The reader's `extent`; of one that has none, the size that it asks a crop sampler for, which reads the source.

    Raises BadSample; RunError for a reader's bug.
    """
    ask: Callable[[str], Extent] | None = getattr(reader, "extent", None)
    if ask is None:
        (sample,) = read_placed(reader, address, [whole])
        assert sample.extent is not None
        return sample.extent
    with held(reader, address):
        return ask(address)


def read_placed(
    reader: Reader, address: str, crops: Sequence[CropSampler], shape: tuple[int, ...] | None = None,
    as_stored: bool = False,
) -> list[Sample]:  # fmt: skip
    """`read_checked`, with `extent` and `box` in every sample, whether the reader gives them or not."""
    if hasattr(reader, "extent"):
        return read_checked(reader, address, crops, shape, as_stored)
    noted = [_Noted(crop) for crop in crops]
    samples = read_checked(reader, address, noted, shape, as_stored)
    return [replace(sample, extent=note.extent, box=note.box) for sample, note in zip(samples, noted, strict=True)]


def stack(samples: Sequence[Sample]) -> tuple[Tensor, Tensor | None]:
    """B samples -> (B, C, *S) and, where they have one, the spacing (B, n) float32.

    Where 8-bit and float samples meet, 0..255 becomes the 0..1 that it means.
    """
    x, levels, spacing = stack_as_stored(samples)
    return x if levels is None else in_units(x, levels=levels), spacing


def stack_as_stored(samples: Sequence[Sample]) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """B samples -> x (B, C, *S), its levels (B, C, 6) or None, and the spacing as `stack`.

    As they are stored where all are so and one type holds them; else all in units, so that a batch has the same values
    whatever it travels as.
    """
    views, levels = [sample.x for sample in samples], [sample.levels for sample in samples]
    types = {x.dtype for x in views}
    if types <= _INT16 and len(types) > 1 and None not in levels:
        views, types = [x.to(torch.int16) for x in views], {torch.int16}
    if len(types) > 1 or (None in levels and any(one is not None for one in levels)):
        views = [in_units(sample.x, levels=sample.levels) for sample in samples]
        levels = []
    spacing = [None if sample.spacing is None else torch.tensor(sample.spacing) for sample in samples]
    return stacked(views), _meanings(levels), stack_optional(spacing, "spacing")


_INT16 = {torch.int8, torch.uint8, torch.int16}
"""What int16 holds."""


def _meanings(levels: Sequence[Tensor | None]) -> Tensor | None:
    """In one dtype: that in which all of them are exact."""
    present = [one for one in levels if one is not None]
    wide = any(one.dtype == torch.float64 for one in present)
    return torch.stack([one.double() if wide else one for one in present]) if present else None


def stack_optional(parts: Sequence[Tensor | None], what: str) -> Tensor | None:
    """One tensor, or None if no sample has one; a reader has to give it always or never."""
    present = [part for part in parts if part is not None]
    if present and len(present) < len(parts):
        raise RunError(f"the reader gave '{what}' for {len(present)} of {len(parts)} samples of a batch")
    return stacked(present) if present else None


def stack_valid(samples: Sequence[Sample]) -> Tensor | None:
    """(B, 1, *S) bool, or None where all of all samples is valid; of one that says nothing all is."""
    masks = [sample.valid for sample in samples]
    shape = next((valid.shape for valid in masks if valid is not None), None)
    if shape is None:
        return None
    return stacked([torch.ones(shape, dtype=torch.bool) if valid is None else valid for valid in masks])
