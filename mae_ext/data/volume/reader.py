"""The volume reader: CT, MRI and other scans in three dimensions, many crops from one reading of a file.

Samples are (C, D, H, W) with D from the feet to the head, H from back to front and W from left to right of the
patient (geometry.py), at the spacing of the config or as the scanner left them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mae_ext.data.labelmap import Labels
from mae_ext.data.picked import check_picks, picked
from mae_ext.data.sample import Crop, CropSampler, Extent, Sample, judged
from mae_ext.data.sources.cache import MAPPED, Cache, Entry, source_identity
from mae_ext.data.sources.dicom.export import FOURTH_AXIS
from mae_ext.data.sources.path_table import PathTable
from mae_ext.data.volume import labels as label_volume
from mae_ext.data.volume.crops import Scan, owned
from mae_ext.data.volume.dicom import segments as dicom_segments
from mae_ext.data.volume.dicom.even import Uneven, check_uneven
from mae_ext.data.volume.dicom.line import described
from mae_ext.data.volume.dicom.referring import maps_referring
from mae_ext.data.volume.doubts import doubts, one_sided
from mae_ext.data.volume.foreground import body_mask, measured, survey, without_padding
from mae_ext.data.volume.formats.arrays import Taken
from mae_ext.data.volume.formats.known import SUFFIXES, Formats, patterns_of
from mae_ext.data.volume.geometry import canonical, lattice, orientation
from mae_ext.data.volume.intensity import AsStored, build_intensity, check_body, check_lengths
from mae_ext.data.volume.kept import Known, from_kept, kept_whole
from mae_ext.data.volume.kind import KIND
from mae_ext.data.volume.measure import read_measured
from mae_ext.data.volume.scan import Array, Declared, Time, channels_first, instant, pick_axis
from mae_ext.data.volume.stored import packed
from mae_ext.data.volume.whole import WholeScans
from mae_ext.errors import BadSample

MAX_BYTES = 2 << 30
"""Of a file, and of the voxels it declares: four times a CT of 1000 slices with 512 x 512 pixels of 16 bits."""

VERSION = 4
"""Of what the cache holds. Raise it with every change of what `read` returns."""

KNOWN = MAPPED // 2
"""Prepared scans that a process keeps at hand, two entries of the cache each: finding one anew takes ten times as long
as to ask whether its source is as it was."""

Resampled = Literal["float32", "float16"]


class VolumeReader(WholeScans):
    """NIfTI, MGH, NRRD, MetaImage, Analyze, MINC, DICOM, arrays -> (C, D, H, W) float32, `valid`, and spacing in mm.

    spacing: mm along D, H, W to resample to (trilinear), or None to keep each scan's own. intensity: see intensity.py;
    {name: window, windows: [[-175, 250]]} for CT, zscore or percentile for MRI. channel_axis, time_axis: which axis of
    the file, counted as nibabel shows it, holds the channels, or time, of which the `time` one is taken; without them a
    scan with a fourth axis is refused. body: what is not air: a threshold in the scan's units (CT: -500), "otsu",
    "nonzero" (skull-stripped or de-faced MRI), or None when everything counts. Air that is seen from outside carries no
    loss and enters no mean. min_body: the least share of a crop that is valid, where one of the sampler's boxes has it.
    min_finite: a scan with a smaller share of finite voxels is refused; with a larger, the others carry no loss.
    cache: a folder for prepared scans. max_bytes: of a file and of its voxels. resampled: what a crop becomes that
    is no cut of 16-bit numbers, in the cache and on its way to the device; float16, half the bytes, has three digits.
    array_spacing: mm along D, H, W of arrays that say nothing of it. dataset: which array of a .npz, HDF5 or zarr that
    holds several; of OME-Zarr a level, by its path or number. case: patterns of the files of one case, as
    ["{case}_t1.nii.gz", "{case}_t2.nii.gz"], whose voxels are at the same places and become its channels in this order.
    uneven: DICOM slices at uneven distances or under a tilted gantry are refused, resampled linearly at right angles,
    or (tilted ones) kept with their lean. segments: what says which class one of a DICOM SEG or RTSTRUCT is.
    bands: which of the channels, in this order, by number from 0, or by name: those of OME-Zarr's omero channels, of
    the attribute `channel_names` of HDF5, and what the files of a case are called beside it ("t1").

    Kinds of BadSample besides those of `fetch`: "not a scan", "header", "truncated", "damaged" (a wrong checksum,
    among others), "axes", "data type", "RGB", "complex", "scaling", "geometry", "voxel size", "channels", "non-finite",
    "constant", "no body", "mixed series", "missing slices", "repeated slices", "split series", "tilted gantry",
    "out of memory", "unreadable", "compression", "no such array", "missing file" and "lattice" (of a case).
    """

    suffixes: tuple[str, ...] = SUFFIXES
    kind = KIND
    display = "volume"
    label_suffix = ".nii.gz"
    classes: tuple[str, ...] | None = None
    example = {"size": (64, 64, 64), "channels": 1}  # noqa: RUF012 read by the doctor, changed by nobody
    read_measured = read_measured

    def __init__(
        self,
        size: tuple[int, ...],
        channels: int = 1,
        spacing: Sequence[float] | None = None,
        intensity: str | Mapping[str, Any] = "zscore",
        channel_axis: int | None = None,
        time_axis: int | None = None,
        time: Time = "mean",
        body: float | str | None = None,
        min_body: float = 0.0,
        min_finite: float = 0.999,
        array_spacing: Sequence[float] = (1.0, 1.0, 1.0),
        cache: str | None = None,
        max_bytes: int = MAX_BYTES,
        resampled: Resampled = "float32",
        case: str | Sequence[str] | None = None,
        dataset: str | None = None,
        uneven: Uneven = "refuse",
        segments: dicom_segments.By = "name",
        bands: Sequence[int | str] | None = None,
    ) -> None:
        if len(size) != 3 or min(size) < 1:
            raise ValueError(f"size={list(size)}: a volume has three axes, D, H and W")
        if time not in ("first", "middle", "mean"):
            raise ValueError(f"time={time!r}: expected 'first', 'middle' or 'mean'")
        if channel_axis is not None and time_axis is not None:
            raise ValueError("give channel_axis or time_axis, not both: a scan has one axis besides the three of space")
        for name, share in (("min_body", min_body), ("min_finite", min_finite)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name}={share} must be a share, 0 to 1")
        if min_body and body is None:
            raise ValueError("min_body needs body: a threshold, 'otsu' or 'nonzero'")
        if resampled not in ("float32", "float16"):
            raise ValueError(f"resampled={resampled!r}: expected 'float32' or 'float16'")
        if not max_bytes > 0:
            raise ValueError(f"max_bytes={max_bytes} must be above 0")
        self.size, self.channels, self.max_bytes = tuple(size), channels, max_bytes
        self.spacing = check_lengths("spacing", spacing)
        self.array_spacing = check_lengths("array_spacing", array_spacing) or (1.0, 1.0, 1.0)
        taken = Taken(max_bytes, self.array_spacing, channel_axis, time_axis, dataset)
        self.formats = Formats(taken, patterns_of(case), check_uneven(uneven))
        fourth = channel_axis is not None or time_axis is not None
        self.suffixes = self.formats.patterns or ((*SUFFIXES, FOURTH_AXIS) if fourth else SUFFIXES)
        self.intensity, self.described = build_intensity(intensity), intensity
        if resampled == "float16" and isinstance(self.intensity, AsStored):
            raise ValueError("resampled: float16 ends at 65504, and intensity 'none' does not; name another intensity")
        self.resampled: Resampled = resampled
        self.stored_channels = self.intensity.sources(channels)
        self.bands = check_picks(bands, self.stored_channels, "channels that the model has of the scan")
        self.channel_axis, self.time_axis, self.time = channel_axis, time_axis, time
        self.body, self.min_body, self.min_finite = check_body(body), min_body, min_finite
        self.uneven, self.segments = check_uneven(uneven), dicom_segments.check_by(segments)
        self.cache = Cache(cache) if cache else None
        self._known: dict[str, Known] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": {}}

    def read(self, address: str, crops: Sequence[CropSampler]) -> list[Sample]:
        with self.opened(address) as cut:
            return cut(crops)

    def read_as_stored(self, address: str, crops: Sequence[CropSampler]) -> list[Sample]:
        """As `read`; where a crop is a cut of voxels that a file stores in 16 bits or less, these, with their `levels`.

        The values are the same to the bit, in half the bytes or less: three windows of a CT are one int16.
        """
        with self.opened(address, as_stored=True) as cut:
            return cut(crops)

    @judged
    def extent(self, address: str) -> Extent:
        """(D, H, W) at the spacing of the config, in mm, and the stored voxels, from the header alone."""
        return label_volume.extent(self.header(address), self.spacing)

    @judged
    def describe(self, address: str) -> str:
        """Format, type, shape, voxel size and axis directions, of DICOM also whose and what; then what is in doubt."""
        scan = self.header(address)
        return "\n".join([described(address, scan), *doubts(scan)])

    @judged
    def files(self, address: str) -> list[str]:
        """The files that a sample is made of, its own first: several of a series, a pair, a case. Raises BadSample."""
        return self.formats.files(address)

    def one_sided(self, addresses: PathTable | Sequence[str]) -> str | None:
        """A warning that counts the scans that say nothing of left and right, or None."""
        return one_sided(self._sided, addresses)

    @judged
    def _sided(self, address: str) -> bool:
        """Whether the file says where left is, of which its first bytes are read. Raises BadSample."""
        return self.formats.sided(address)

    @judged
    def label_map(self, address: str, like: str | None = None, as_stored: bool = False) -> Labels:
        """(D, H, W), see LabelReader. Raises BadSample, such as "label map"."""
        scan = None if like is None else (like, self.header(like))
        labels = dicom_segments.declared(address, scan, self.classes, self.max_bytes) or self.formats.declared(address)
        return label_volume.on_lattice(address, labels, None if as_stored else self.spacing, scan)

    def maps_referring(self, folder: str, addresses: Sequence[str]) -> dict[str, list[str]]:
        """The DICOM label objects (SEG, RTSTRUCT) in a folder that refer to these scans; see `ReferringLabels`."""
        return maps_referring(folder, addresses, self.header, self.max_bytes)

    def name_classes(self, classes: Sequence[str]) -> None:
        """The names of the labels 1, 2, ..., by which segments of DICOM are known."""
        self.classes = tuple(classes) if self.segments == "name" else None

    def write_labels(self, labels: Labels, like: str, path: Path, as_stored: bool = False) -> None:
        """(D, H, W) -> NIfTI with the voxels and the place of the scan `like`. Raises OSError, and BadSample."""
        label_volume.write(labels, self.header(like), None if as_stored else self.spacing, path)

    @judged
    def prepared(self, address: str) -> Scan:
        """The whole scan at the model's spacing and levels, from the cache, where it is put if need be."""
        assert self.cache is not None
        source = []
        for file in self.files(address):
            try:
                source.append(source_identity(file))
            except BadSample as error:
                raise BadSample(address, error.kind, f"{file}: {error.detail}") from error
        known = self._known.get(address)
        if known is not None and known.source == source and all(map(self.cache.holds, known.paths, known.entries)):
            return known.scan
        key = {"reader": "volume", "version": VERSION, "source": source, **self._rule()}
        keys = [{**key, "part": part} for part in ("voxels", "valid")]
        made: list[tuple[Entry, Entry]] = []

        def build() -> tuple[Entry, Entry]:
            if not made:  # both entries come from one reading
                made.append(kept_whole(self.scan(address), self.resampled))
            return made[0]

        voxels = self.cache.get_or_build(keys[0], lambda: build()[0])
        valid = self.cache.get_or_build(keys[1], lambda: build()[1])
        scan = from_kept(voxels, valid.array)
        if len(self._known) >= KNOWN:
            self._known.clear()  # and not one by one: threads share it
        self._known[address] = Known(source, [self.cache.path(k) for k in keys], [voxels, valid], scan)
        return scan

    def _rule(self) -> dict[str, Any]:
        """All that changes a prepared scan."""
        return {
            "channels": self.channels,
            "spacing": self.spacing,
            "intensity": self.described,
            "axes": [self.channel_axis, self.time_axis, self.time],
            "body": self.body,
            "min_finite": self.min_finite,
            "array_spacing": self.array_spacing,
            "resampled": self.resampled,
            **({"case": self.formats.patterns} if self.formats.patterns else {}),
            **({} if self.formats.arrays.dataset is None else {"dataset": self.formats.arrays.dataset}),
            **({} if self.uneven == "refuse" else {"uneven": self.uneven}),
            **({"bands": self.bands} if self.bands else {}),
        }

    def box(self, scan: Scan, crop: CropSampler) -> Crop:
        """The sampler's box, or the first of its alternatives that holds enough of the body, or the fullest of them."""
        alternatives: Callable[[tuple[int, ...]], Iterator[Crop]] | None = getattr(crop, "alternatives", None)
        if alternatives is None or not self.min_body:
            return crop(scan.grid.shape)
        best, most = None, -1.0
        for box in alternatives(scan.grid.shape):
            share = scan.share(box, self.size)
            if share >= self.min_body:
                return box
            if share > most:
                best, most = box, share
        assert best is not None
        return best

    def sample(self, scan: Scan, box: Crop, address: str, as_stored: bool) -> Sample:
        """(C, *size) of a box of a scan that was read; as_stored: as `read_as_stored` has it. Raises MemoryError."""
        half = self.resampled == "float16"
        stored = scan.cut_as_stored(box, self.size) if as_stored or half else None
        x, valid, *meaning = stored if stored and as_stored else scan.cut(box, self.size)
        if half and stored is None:
            x = x.astype(np.float16)
            x = x if as_stored else x.astype(np.float32)
        turned = tuple(axis - 3 for axis, flip in enumerate(box.flip) if flip)
        extent = scan.extent
        assert extent.spacing is not None
        spacing = tuple(
            mm * (b - a) / n for mm, a, b, n in zip(extent.spacing, box.start, box.stop, self.size, strict=True)
        )
        return Sample(
            *(owned(x, turned), address, owned(valid, turned)[None], spacing),
            extent=extent, box=box, levels=torch.from_numpy(meaning[0]) if meaning else None,
        )  # fmt: skip

    @judged
    def header(self, address: str) -> Declared:
        """What a scan says of itself, without its voxels: of one file no more than the first bytes are read."""
        return self.formats.declared(address, header_alone=True)

    @judged
    def _declared(self, address: str) -> Declared:
        """The header, checked in the order of its own claims; not a voxel read."""
        return self.formats.declared(address)

    @judged
    def scan(self, address: str) -> Scan:
        """The whole scan: its stored voxels, and how they become the model's levels and spacing. Raises BadSample."""
        declared = self._declared(address)
        extra = pick_axis(address, declared, self.channel_axis, self.time_axis)
        stored = self._channels(address, declared, declared.load(), extra)
        place = orientation(declared.affine)
        voxels, present = without_padding(address, canonical(stored, declared.spatial, place), declared.slope)
        ends, valid = survey(address, voxels, declared.slope, declared.inter, self.min_finite)
        if present is not None:
            valid &= present
        if self.body is not None:
            valid &= body_mask(voxels, declared.slope, declared.inter, valid, self.body)
        if not valid.any():
            raise BadSample(address, "no body", f"nothing but air at body={self.body}")
        levels = self.intensity.fit(len(voxels), lambda: measured(voxels, declared.slope, declared.inter, valid, ends))
        grid = lattice(voxels.shape[1:], place.spacing, self.spacing)
        size_bytes = 4 * self.channels * int(np.prod(grid.shape, dtype=np.int64))
        if self.cache and size_bytes > 4 * self.max_bytes:
            raise BadSample(address, "too large", f"{size_bytes} bytes at the wanted spacing of {self.spacing} mm")
        if self.resampled == "float16" and (small := packed(voxels)) is not None:
            voxels = small  # so that the same crops are rounded without a cache as with one
        return Scan(voxels, declared.slope, declared.inter, place.spacing, ends[:, 0], valid, levels, grid)

    def _channels(self, address: str, declared: Declared, stored: Array, extra: int | None) -> Array:
        """(*reversed file shape) -> (C, three spatial axes in the reverse of their order in the file)."""
        stored = channels_first(declared, stored, extra)
        if extra is not None and self.time_axis is not None and extra != declared.channel:
            stored = instant(stored, self.time)
        if self.bands is not None:
            names = declared.names if len(declared.names) == len(stored) else ()
            stored = stored[picked(address, self.bands, len(stored), names)]
        if len(stored) != self.stored_channels:
            raise BadSample(address, "channels", f"the scan has {len(stored)}, the config wants {self.stored_channels}")
        return stored
