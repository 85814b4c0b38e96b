"""MINC 1 (NetCDF) and MINC 2 (HDF5), by nibabel: real values, plane by plane."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
from nibabel.minc1 import Minc1File
from nibabel.minc2 import Minc2File

from mae_ext.data.sources import hdf5
from mae_ext.data.sources.address import fetch, head, openable
from mae_ext.data.volume.scan import Array, Declared
from mae_ext.errors import BadSample

SUFFIXES = (".mnc",)
_NETCDF, _HDF5 = b"CDF", b"\x89HDF\r\n\x1a\n"
ITK = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From MINC's world, in which right and front are positive, to where ITK puts it: it takes that world for its own."""

_IMAGE = "minc-2.0/image/0/image"
_DAMAGE = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, EOFError, ArithmeticError),
    *(AssertionError, OSError, RuntimeError),
)


def declared(address: str, max_bytes: int) -> Declared:
    """Values are stored numbers in the range of their slice; as float32, unless the file stores floats.

    Raises BadSample "not a scan", "header", "axes", "truncated", "damaged".
    """
    with _opened(address, max_bytes) as minc:
        shape, affine = tuple(int(n) for n in minc.get_data_shape()), np.array(minc.get_affine(), np.float64)
        names = [name.decode() if isinstance(name, bytes) else str(name) for name in minc._dim_names]
        stored = np.dtype(minc.get_data_dtype())
    if len(shape) != 3 or sorted(names) != ["xspace", "yspace", "zspace"]:
        raise BadSample(address, "axes", f"{', '.join(names)}; a volume has xspace, yspace and zspace and no others")
    dtype = stored if stored.kind == "f" else np.dtype(np.float32)

    def load() -> Array:
        with _opened(address, max_bytes) as minc:
            values = np.empty(shape, dtype.newbyteorder("="))
            for plane in range(shape[0]):
                values[plane] = minc.get_scaled_data((plane,))
            return values

    # nibabel's affine is about the file's axes, slowest first; a Declared counts them from the fastest.
    turned = affine[:, [2, 1, 0, 3]]
    return Declared("MINC", shape[::-1], dtype, turned, load, other=ITK @ turned)


@contextmanager
def _opened(address: str, max_bytes: int) -> Iterator[Any]:
    begins = head(address, 8, max_bytes)
    if not begins.startswith((_NETCDF, _HDF5)):
        raise BadSample(address, "not a scan", f"begins with {begins!r}; MINC is NetCDF or HDF5")
    try:
        if begins.startswith(_NETCDF):
            from scipy.io import netcdf_file

            content = fetch(address, max_bytes)
            assert isinstance(content, bytes)
            with netcdf_file(BytesIO(content), mmap=False) as file:
                if "image" not in file.variables:
                    raise BadSample(address, "not a scan", "a NetCDF file without a MINC image")
                yield Minc1File(file)
            return
        with hdf5.opened(address, openable(address, max_bytes)) as file:
            if _IMAGE not in file:
                raise BadSample(address, "not a scan", "an HDF5 file without a MINC image")
            hdf5.check(address, hdf5.dataset(address, file, _IMAGE), max_bytes)
            yield Minc2File(file)
    except BadSample:
        raise
    except _DAMAGE as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise BadSample(address, "damaged", f"no MINC that can be read: {text}") from error
