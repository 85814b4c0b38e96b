"""Three planes of a volume: the right slices, the right way up."""

import torch

from mae_ext.drawing.planes import three_planes


def test_planes_lie_as_on_a_workstation():
    x = torch.zeros(1, 5, 7, 9)
    x[0, 2, 6, 4] = 1  # in front, in the middle of the rest
    x[0, 4, 3, 4] = 2  # on top
    x[0, 2, 3, 8] = 3  # on the patient's right
    page = three_planes(x)[0]
    assert page.shape == (7 + 2 + 5 + 2 + 5, 9)
    axial, coronal, sagittal = page[:7], page[9:14], page[16:21]
    assert axial[0, 4] == 1 and axial[3, 0] == 3
    assert coronal[0, 4] == 2 and coronal[2, 0] == 3
    assert sagittal[2, 0] == 1 and sagittal[0, 3] == 2
    assert page[7:9].abs().max() == page[14:16].abs().max() == 0


def test_thick_slices_are_drawn_as_thick_as_they_are():
    page = three_planes(torch.rand(3, 4, 6, 6), (5.0, 1.0, 1.0))
    assert page.shape == (3, 6 + 2 + 20 + 2 + 20, 6)
    assert (page[:, 8:13] == page[:, 8:9]).all()
