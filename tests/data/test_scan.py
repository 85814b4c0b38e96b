"""What of a header is a volume to train on."""

import nibabel as nib
import numpy as np
import pytest

from mae_ext.data.volume import VolumeReader
from mae_ext.errors import BadSample


@pytest.mark.parametrize(("mm", "good"), [(0.009, False), (0.011, True), (49.0, True), (51.0, False)])
def test_voxels_are_a_hundredth_of_a_millimetre_to_five_centimetres(tmp_path, mm, good):
    path = str(tmp_path / "a.nii")
    nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([1.0, mm, 1.0, 1.0])).to_filename(path)
    reader = VolumeReader((4, 4, 4))
    if good:
        assert f"{mm:g}" in reader.describe(path)
        return
    with pytest.raises(BadSample, match=rf"voxel size.*axis 1 has voxels of {mm:g} mm; expected 0\.01 to 50"):
        reader.describe(path)
