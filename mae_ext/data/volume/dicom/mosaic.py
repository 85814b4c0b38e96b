"""Siemens mosaics: the slices of a volume side by side in one image, as its private header says (nibabel reads it)."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.sources.address import fetch
from mae_ext.data.volume.dicom.frames import only_one
from mae_ext.data.volume.dicom.header import IDENTITY, dataset, parsing
from mae_ext.data.volume.scan import Array, Declared
from mae_ext.errors import BadSample

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

SAME_MM = 0.01
"""Volumes of one series whose corners are farther apart are not of one place."""


def declared(address: str, files: Sequence[str], headers: Sequence[Any], max_bytes: int) -> Declared:
    """Each file a volume; several are time, in the order of their numbers. Raises BadSample."""
    for name in (*IDENTITY, "ImageType", "Rows", "Columns", "EchoTime"):
        only_one(address, name, [None if (v := h.get(name)) in (None, "") else str(v) for h in headers])
    stored = sum(int(h.Rows) * int(h.Columns) * int(h.BitsAllocated) // 8 for h in headers)
    if stored > max_bytes:
        raise BadSample(address, "too large", f"{stored} bytes of pixels, the limit is {max_bytes}")
    images = [str(h.get("SOPInstanceUID") or file) for h, file in zip(headers, files, strict=True)]
    if len(set(images)) < len(images):
        raise BadSample(address, "repeated slices", f"{len(images) - len(set(images))} images are there twice")
    order = sorted(range(len(files)), key=lambda i: (int(headers[i].get("InstanceNumber") or 0), files[i]))
    shape, affine = _place(files[order[0]], _wrapped(files[order[0]], max_bytes))

    def load() -> Array:
        volumes = []
        for i in order:
            wrapped = _wrapped(files[i], max_bytes)
            here, affine_here = _place(files[i], wrapped)
            if here != shape:
                raise BadSample(files[i], "mixed series", f"a volume of {here}, the first is {shape}")
            far = np.array([*here, 1.0])
            apart = max(np.abs((affine_here - affine)[:3, 3]).max(), np.abs(((affine_here - affine) @ far)[:3]).max())
            if not apart <= SAME_MM:
                raise BadSample(files[i], "mixed series", f"lies {apart:.2f} mm from the first volume: another place")
            with parsing(files[i]):
                volumes.append(np.asarray(wrapped.get_data(), dtype=np.float32).T)
        return np.stack(volumes) if len(volumes) > 1 else np.ascontiguousarray(volumes[0])

    times = (len(files),) if len(files) > 1 else ()
    return Declared("DICOM mosaic", shape + times, np.dtype(np.float32), RAS_FROM_LPS @ affine, load)


def _place(file: str, wrapped: Any) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Shape, and affine in LPS."""
    with parsing(file):
        shape = tuple(int(n) for n in wrapped.image_shape or ())
        if len(shape) != 3:
            detail = "a mosaic whose private header (CSA) is gone: how many slices it shows is not known"
            raise BadSample(file, "axes", detail)
        return shape, np.array(wrapped.affine, dtype=float)


def _wrapped(file: str, max_bytes: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is experimental, and for Siemens above all
        from nibabel.nicom import dicomwrappers
    content = fetch(file, max_bytes)
    assert isinstance(content, bytes)
    with parsing(file):
        return dicomwrappers.wrapper_from_data(dataset(content))
