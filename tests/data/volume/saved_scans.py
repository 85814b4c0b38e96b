"""Scans made of arrays, and the crop at their middle."""

import nibabel as nib
import numpy as np

from mae_ext.config import AugmentConfig
from mae_ext.data.crops import evaluation_sampler

FIXED = AugmentConfig(fixed=(0, 1, 2), flip=())


def middle(size):
    return evaluation_sampler(FIXED, size)


def save(path, voxels, affine=None):
    """(D, H, W[, C]) -> a NIfTI file in RAS."""
    image = nib.Nifti1Image(np.moveaxis(voxels, (0, 1, 2), (2, 1, 0)), np.eye(4) if affine is None else affine)
    image.to_filename(path)
    return str(path)
