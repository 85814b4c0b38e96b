"""MINC has the values and the place that nibabel gives it; ITK turns its world."""

import nibabel as nib
import numpy as np
import pytest
from data.volume.formats.written import SHAPE, itk, numbered, write_itk
from data.volume.placed_scans import in_itk
from scipy.io import netcdf_file

from mae_ext.data.volume.doubts import doubts
from mae_ext.data.volume.formats.known import Formats, Taken
from mae_ext.data.volume.geometry import apart
from mae_ext.errors import BadSample

formats = Formats(Taken(1 << 20))


def write_minc1(path, scale=True):
    """As MNI's tools write: slices with a range of their own."""
    voxels = numbered(np.int16).T
    with netcdf_file(path, "w") as file:
        for name, length in zip(("zspace", "yspace", "xspace"), voxels.shape, strict=True):
            file.createDimension(name, length)
            axis = file.createVariable(name, "i", ())
            axis.spacing, axis.step, axis.start = b"regular__", 1.5, -10.0
        image = file.createVariable("image", "h", ("zspace", "yspace", "xspace"))
        image.signtype, image.valid_range = b"signed__", np.array([0.0, 300.0])
        image[:] = voxels
        for name, least in (("image-max", 600.0), ("image-min", -7.0)):
            file.createVariable(name, "d", ("zspace",))[:] = least + np.arange(voxels.shape[0]) * 11
    return str(path)


def test_slices_of_minc_1_have_the_real_values_of_their_own_ranges(tmp_path):
    path = write_minc1(tmp_path / "a.mnc")
    scan, theirs = formats.declared(path), nib.load(path)
    values = scan.load()
    np.testing.assert_allclose(values, theirs.get_fdata(), rtol=1e-6)
    assert values.dtype == np.float32 and scan.shape == SHAPE
    np.testing.assert_allclose(scan.affine[:, [2, 1, 0, 3]], theirs.affine)


def test_minc_2_is_where_nibabel_puts_it_and_where_itk_does_not(tmp_path):
    pytest.importorskip("h5py", reason="h5py is not installed (extra hdf5)")
    path = write_itk(itk(), tmp_path / "a.mnc")
    scan = formats.declared(path)
    np.testing.assert_allclose(scan.load(), numbered().T, rtol=1e-6)
    np.testing.assert_allclose(scan.affine[:, [2, 1, 0, 3]], nib.load(path).affine)
    assert apart(in_itk(path), np.diag([-1, -1, 1, 1]) @ scan.affine, SHAPE).mm < 0.01
    assert "software on ITK turns it by 180 degrees" in doubts(scan)[0]


def test_a_minc_that_is_none_is_named(tmp_path):
    path = tmp_path / "a.mnc"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(BadSample, match="not a scan"):
        formats.declared(str(path))
    write_minc1(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadSample, match="damaged"):
        formats.declared(str(path)).load()
