"""Each value of a map is that of its own place, to a thousandth: seen with tokens that are means of patches.

A scan that is a ramp in mm has the ramp's value in each patch's middle, so a map of it is known in closed form.
"""

import nibabel as nib
import numpy as np
import pytest
import torch
from features.test_dense import oblique
from features.untrained import untrained

from mae_ext.data.loading.blend import Blend
from mae_ext.data.loading.windows import Tiling
from mae_ext.data.sample import Extent
from mae_ext.features.dense import embed_dense
from mae_ext.features.encoder import FrozenEncoder
from mae_ext.features.windowed import Windows

SLOPES = np.array([1.0, 2.0, -1.5])


class Means(FrozenEncoder):
    """Each of a token's numbers is the mean of its patch."""

    def tokens(self, samples):
        x = torch.stack([sample.x for sample in samples])[:, 0]
        for axis, side in enumerate(self.modality.patch):
            x = x.unfold(1 + axis, side, side)
        return x.mean((-3, -2, -1)).flatten(1)[..., None].repeat(1, 1, self.width)


def ramp(path, lean):
    """As `oblique`, of float values that are a linear function of the mm: 500 at the origin."""
    image = nib.load(oblique(path, lean))
    mm = np.moveaxis(np.indices(image.shape), 0, -1) @ image.affine[:3, :3].T + image.affine[:3, 3]
    nib.save(nib.Nifti1Image((500 + mm @ SLOPES).astype(np.float32), image.affine), path)
    return path


@pytest.mark.parametrize("reader", [{}, {"spacing": [1.2, 1.5, 1.0]}])
def test_a_ramp_in_mm_is_the_same_ramp_in_the_map_of_an_oblique_scan(tmp_path, reader):
    source, plain = ramp(tmp_path / "a.nii", 0.2), untrained("volume", patch=[4, 4, 4], **reader)
    encoder = Means(plain.model, plain.config, "volume", 0, plain.path)
    (path,) = embed_dense(encoder, [str(source)], tmp_path / "maps", Windows(0.25))
    scan, image = nib.load(source), nib.load(path)
    values = image.get_fdata()[..., 0]
    at = np.moveaxis(np.indices(values.shape), 0, -1)
    onto = np.linalg.inv(scan.affine) @ image.affine
    voxels, half = at @ onto[:3, :3].T + onto[:3, 3], np.abs(onto[:3, :3]).sum(1) / 2
    whole = ((voxels > half - 0.5 - 1e-6) & (voxels < np.array(scan.shape) - 0.5 - half + 1e-6)).all(-1)
    assert whole.mean() > 0.7  # the rest are tokens that reach beyond the scan, which repeat the last that is whole
    mm = at @ image.affine[:3, :3].T + image.affine[:3, 3]
    assert np.abs(1000 * values - (500 + mm @ SLOPES))[whole].max() < 1e-3


def test_a_window_that_ends_with_the_sample_between_two_tokens_of_the_grid_keeps_a_ramp():
    whole = Tiling(Extent.as_stored((22,)), (22,), (16,), (4,), ((0, 6),), 0.25)
    blend = Blend(whole, 1)
    for (at,) in whole.tokens():
        blend.add((at,), at.astype(np.float32)[:, None])
    np.testing.assert_allclose(blend.mean()[:, 0], [0, 1, 2, 3, 4, 4.5], atol=1e-6)
