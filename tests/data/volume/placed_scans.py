"""NIfTI files whose voxels are numbered, with any two places in the header."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from mae_ext.data.volume.reader import VolumeReader

reader = VolumeReader((4, 4, 4), intensity="none", uneven="keep")
SHAPE = (7, 6, 5)
PLACE = np.array([[0.8, 0, 0, -25], [0, 0.8, 0, -22], [0, 0, 2.5, 10], [0, 0, 0, 1.0]])
TURN = np.array([[1, 0, 0, 3], [0, 0.995, -0.0998, 4], [0, 0.0998, 0.995, 5], [0, 0, 0, 1.0]])


def tilted(degrees):
    """PLACE with its slices stacked along an axis that leans by so much."""
    affine = PLACE.copy()
    affine[:3, 2] = 0, 2.5 * np.sin(np.deg2rad(degrees)), 2.5 * np.cos(np.deg2rad(degrees))
    return affine


def nifti(path, sform=PLACE, qform=PLACE, codes=(1, 1), version=1, order="<", fix=None, data=None):
    """codes: of the sform, of the qform."""
    data = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE) if data is None else data
    header = (nib.Nifti1Header if version == 1 else nib.Nifti2Header)(endianness=order)
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header.set_qform(qform, codes[1], strip_shears=True)
    header.set_sform(sform, codes[0])
    header.set_xyzt_units("mm")
    header["vox_offset"], header["scl_slope"] = 352 if version == 1 else 544, 1
    if fix:
        fix(header)
    data = data.astype(data.dtype.newbyteorder(order))
    content = header.binaryblock + bytes(4) + data.tobytes("F")
    path.write_bytes(gzip.compress(content, 1) if path.name.endswith(".gz") else content)
    return str(path)


def in_itk(path):
    """(4, 4) RAS, as ITK has it: direction, spacing and origin."""
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed (extra dev)")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    image = sitk.ReadImage(path)
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ affine
