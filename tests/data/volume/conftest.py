"""A scan of a head."""

import numpy as np
import pytest
from data.volume.saved_scans import save


@pytest.fixture
def head(tmp_path):
    """A bright ball with a dark hole in faint noise, 1 x 1 x 2 mm: body, enclosed air, and air."""
    chance = np.random.default_rng(0)
    z, y, x = np.mgrid[-12:12, -20:20, -18:18]
    distance = np.sqrt((1.6 * z) ** 2 + y**2 + x**2)
    voxels = np.where(distance < 15, 1000, 20) + chance.normal(0, 10, distance.shape)
    voxels[distance < 5] -= 975
    return save(tmp_path / "head.nii.gz", voxels.astype(np.float32), np.diag([1.0, 1.0, 2.0, 1.0])), distance
