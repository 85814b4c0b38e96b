"""Windows over whole samples: MONAI's inferer to the bit, in the memory of one row of windows, and lines in between."""

import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference

from mae_ext.data.loading import blend, rows
from mae_ext.data.loading.blend import room_for, weights
from mae_ext.data.loading.rows import blended, taps
from mae_ext.data.loading.slabs import Slabs
from mae_ext.data.loading.windows import starts
from mae_ext.tasks.segment.windows import segment

CPU = torch.device("cpu")
CASES = [
    ((37, 30, 29), (16, 12, 8), 3, 0.5),
    ((9, 20, 5), (16, 12, 8), 4, 0.25),  # shorter than a window on two axes, by odd numbers of voxels
    ((50, 41), (16, 16), 5, 0.6),
    ((16, 16), (16, 16), 2, 0.0),
]


def of_windows(slabs, size, answer):
    whole = Slabs(slabs)
    return lambda corners: answer(torch.stack([whole.window(corner, size)[0] for corner in corners]))


def identity(shape):
    return [np.arange(n, dtype=np.float64) for n in shape]


@pytest.mark.parametrize(("held", "chunk"), [(1 << 40, 1 << 30), (0, 1), (0, 1000)], ids=["whole", "rows", "disk"])
@pytest.mark.parametrize(("shape", "size", "classes", "overlap"), CASES)
@torch.no_grad()
def test_labels_are_those_of_monais_inferer_to_the_bit_however_little_is_held(
    monkeypatch, tmp_path, shape, size, classes, overlap, held, chunk
):
    monkeypatch.setattr(blend, "HELD", held)
    monkeypatch.setattr(rows, "CHUNK", chunk)
    x = torch.rand(1, 2, *shape, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    layer = {2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[len(shape)](2, classes, 3, padding=1)

    def classes_first(x):
        return (6 * layer(x)).softmax(1)

    def answer(x):
        return classes_first(x).movedim(1, -1)

    wanted = sliding_window_inference(x, size, 4, classes_first, overlap=overlap, mode="gaussian", cval=x.min().item())
    wanted = wanted[0].movedim(0, -1)
    slabs = [x[0, :, :4], x[0, :, 4:]]
    parts = list(blended(shape, size, overlap, of_windows(slabs, size, answer), tmp_path))
    assert torch.equal(torch.cat(parts), wanted)
    found = segment(slabs, size, overlap, answer, identity(shape), CPU, tmp_path)
    assert found.dtype == np.int32 and np.array_equal(found, wanted.argmax(-1).numpy())
    assert not list(tmp_path.iterdir())


@torch.no_grad()
def test_what_is_held_is_as_many_rows_as_a_window_has_however_long_the_sample_is():
    for length in (16, 400):
        said = of_windows([torch.zeros(1, length, 9)], (8, 9), ramp)
        parts = blended((length, 9), (8, 9), 0.5, said)
        assert next(parts).shape[1:] == (9, 2)
        assert tuple(parts.gi_frame.f_locals["held"].sums.shape) == (8, 9, 2)


def test_windows_overlap_by_the_share_that_is_asked_for_and_the_last_ends_with_the_sample():
    assert starts(40, 16, 0.5) == [0, 8, 16, 24]
    assert starts(42, 16, 0.5) == [0, 8, 16, 24, 26]
    assert starts(40, 16, 0.0) == [0, 16, 24]
    assert starts(16, 16, 0.5) == starts(9, 16, 0.5) == [0]
    assert starts(5, 2, 0.9) == [0, 1, 2, 3]


def test_the_middle_of_a_window_has_more_say_than_its_edge():
    found = weights((17, 9), CPU)
    assert found.shape == (17, 9) and found[8, 4] == 1 == found.max()
    # exp(-x^2 / 2 s^2) with s an eighth of the side.
    assert found[8, 5].item() == pytest.approx(np.exp(-(1**2) / (2 * (9 / 8) ** 2)))
    assert found[10, 4].item() == pytest.approx(np.exp(-(2**2) / (2 * (17 / 8) ** 2)))
    assert found.min().item() == pytest.approx(1e-3)


def ramp(x):
    """Two classes: the second as likely as the voxel is bright."""
    return torch.cat([1 - x, x], 1).movedim(1, -1)


@torch.no_grad()
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("chunk", [1, 50, 1 << 22])
def test_between_voxels_probabilities_lie_on_a_line(monkeypatch, axis, chunk):
    """0, 0.4, 0.8: half is passed a quarter of the way from the second to the third, and so at 1.25."""
    monkeypatch.setattr(rows, "CHUNK", chunk)
    x = (
        torch.tensor([0.0, 0.4, 0.8])
        .view([-1 if a == axis else 1 for a in range(3)])
        .expand(*[3 if a == axis else 2 for a in range(3)])
    )
    places = identity(x.shape)
    places[axis] = np.array([-0.5, 0.0, 0.9, 1.2, 1.3, 1.8, 2.0, 2.4])
    found = segment([x[None]], (2, 2, 2), 0.5, ramp, places, CPU)
    along = np.moveaxis(found, axis, 0).reshape(8, -1)
    assert (along == along[:, :1]).all() and along[:, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_places_beyond_the_sample_are_at_its_end():
    found = taps(np.array([-3.0, 0.25, 4.0, 9.0]), 5)
    assert found.low.tolist() == [0, 0, 4, 4] and found.high.tolist() == [0, 1, 4, 4]
    assert found.weight.tolist() == [0, 0.25, 0, 0]


@torch.no_grad()
def test_eight_bit_levels_mean_what_they_mean_in_training():
    x = torch.arange(0, 256, 5, dtype=torch.uint8).view(1, 13, 4)
    seen = []
    segment([x], (16, 4), 0.5, lambda w: seen.append(w) or ramp(w), identity((13, 4)), CPU)
    assert seen[0].shape == (1, 1, 16, 4) and torch.equal(seen[0][0, :, 1:14], x / 255)
    assert seen[0][0, 0, 0].tolist() == seen[0][0, 0, 15].tolist() == [0.0] * 4


def test_where_the_disk_has_no_room_for_what_is_held_nothing_dies_of_it(tmp_path, monkeypatch):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="large"):
            room_for((3, 4, 1000), tmp_path, aside=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
    assert room_for((3, 4, 5), tmp_path, aside=True).tolist() == np.zeros((3, 4, 5)).tolist()


@pytest.mark.parametrize(
    ("likely", "label"),
    [([0.25] * 4, 0), ([0.0, 0.5, 0.5, 0.0], 1), ([0.2, 0.2, 0.3, 0.3], 2), ([0.1, 0.2, 0.3, 0.4], 3)],
)
@torch.no_grad()
def test_of_classes_that_are_as_likely_the_first_is_taken_as_by_argmax(likely, label):
    def answer(x):
        return torch.tensor(likely).expand(len(x), *x.shape[2:], 4).clone()

    slabs = [torch.rand(1, 9, 10, generator=torch.Generator().manual_seed(0))]
    for places in (identity((9, 10)), [np.arange(0, 8, 0.5), np.arange(0, 9, 0.3)]):
        assert (segment(slabs, (8, 8), 0.0, answer, places, CPU) == label).all()
