"""What of a header is a volume to train on."""

import nibabel as nib
import numpy as np
import pytest

from mae_ext.data.volume.reader import VolumeReader
from mae_ext.data.volume.scan import Declared, check
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


def declared(**changed):
    values = {"format": "x", "shape": (4, 5, 6), "dtype": np.dtype(np.int16), "affine": np.eye(4), "load": list}
    return Declared(**values | changed)


LEANING = np.eye(4)
LEANING[0, 1] = 30.0  # the second axis lies along the first, but for two degrees


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({}, None),
        ({"slope": -2.0, "inter": -1024.0}, None),
        ({"slope": 0.9e9, "inter": -0.9e9}, None),
        ({"slope": 1.1e9}, "scaling"),
        ({"slope": -1.1e9}, "scaling"),
        ({"slope": 1e-19}, "scaling"),
        ({"slope": 0.0}, "scaling"),
        ({"slope": np.inf}, "scaling"),
        ({"inter": 1.1e9}, "scaling"),
        ({"inter": -1.1e9}, "scaling"),
        ({"inter": np.nan}, "scaling"),
        ({"shape": (4, 5)}, "axes"),
        ({"shape": (4, 5, 0)}, "axes"),
        ({"shape": (4, 1, 6)}, "axes"),
        ({"shape": (2, 2, 2)}, None),
        ({"dtype": np.dtype(np.complex64)}, "data type"),
        ({"dtype": np.dtype(">u8")}, None),
        ({"affine": np.diag([1.0, 1.0, np.nan, 1.0])}, "geometry"),
        ({"affine": np.diag([1.0, 1.0, 0.0, 1.0])}, "voxel size"),
        ({"affine": LEANING}, "geometry"),
        ({"shape": (4, 500, 500)}, "too large"),
    ],
    ids=str,
)
def test_what_a_header_may_claim(changed, kind):
    if kind is None:
        check("a", declared(**changed), 1_000_000)
        return
    with pytest.raises(BadSample) as found:
        check("a", declared(**changed), 1_000_000)
    assert found.value.kind == kind and found.value.path == "a" and found.value.detail
