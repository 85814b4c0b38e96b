"""Windows cover all of a sample, begin whole patches apart, and say where their tokens are."""

import nibabel as nib
import numpy as np
import pytest
from features.untrained import untrained

from mae_ext.data.loading.blend import Blend
from mae_ext.data.loading.windows import Tiling, read_windows, starts, tiling
from mae_ext.data.sample import Extent
from mae_ext.data.volume.reader import VolumeReader


def whole(shape, size=(16, 16), patch=(8, 8), overlap=0.25, extent=None):
    begins = tuple(tuple(starts(n, s, overlap, p)) for n, s, p in zip(shape, size, patch, strict=True))
    return Tiling(Extent.as_stored(extent or shape), shape, size, patch, begins, overlap)


@pytest.mark.parametrize(
    ("length", "overlap", "expected"),
    [(16, 0.5, [0]), (7, 0.5, [0]), (40, 0.5, [0, 8, 16, 24]), (40, 0.0, [0, 16, 24]), (41, 0.9, [0, 8, 16, 24, 25])],
)
def test_windows_begin_whole_patches_apart_and_the_last_ends_with_the_sample(length, overlap, expected):
    assert starts(length, 16, overlap, 8) == expected


def test_each_voxel_further_from_the_edge_than_the_halo_is_so_far_from_the_edge_of_a_window():
    tiles = whole((64, 100), overlap=0.5)
    assert tiles.halo == (4, 4)
    best = np.zeros(tiles.shape)
    for box in tiles.boxes:
        depth = [
            np.minimum(np.arange(b - a) + 0.5, b - a - np.arange(b - a) - 0.5)
            for a, b in zip(box.start, box.stop, strict=True)
        ]
        part = tuple(slice(a, b) for a, b in zip(box.start, box.stop, strict=True))
        best[part] = np.maximum(best[part], np.minimum(depth[0][:, None], depth[1]))
    assert best.min() > 0 and best[4:-4, 4:-4].min() >= 4


def test_a_blend_puts_each_token_where_its_window_saw_it_also_between_places_of_the_grid():
    tiles = whole(
        (45, 61), extent=(90, 61)
    )  # the first axis is shown at half its size, the last windows between patches
    blend = Blend(tiles, 2)
    for y, x in tiles.tokens():
        blend.add((y, x), np.stack(np.meshgrid(y, x, indexing="ij"), -1).astype(np.float32))
    rows, columns = np.meshgrid(np.arange(5), np.arange(7), indexing="ij")
    inner = blend.mean()[:5, :7]
    np.testing.assert_allclose(inner, np.stack([rows, columns], -1), atol=0.02)
    assert tiles.grid == (6, 8)
    np.testing.assert_allclose(tiles.lattice, [[7.5, 3.5], [16, 8]])


def test_a_scan_is_opened_once_for_all_windows_which_are_what_a_read_gives(tmp_path, monkeypatch):
    values = np.random.default_rng(0).integers(0, 900, (30, 25, 20), dtype=np.int16)
    nib.save(nib.Nifti1Image(values, np.diag([1.0, 1, 2, 1])), tmp_path / "a.nii")
    encoder, address, opened = untrained("volume"), str(tmp_path / "a.nii"), []
    scan = VolumeReader.scan
    monkeypatch.setattr(VolumeReader, "scan", lambda self, a: opened.append(a) or scan(self, a))
    tiles = tiling(encoder.modality, encoder.reader(), address, 0.5)
    groups = list(read_windows(encoder.reader(), address, tiles.boxes, (1, 16, 16, 16), 3))
    assert opened == [address] and [len(group) for group in groups] == [3] * 6
    for sample, box in zip([sample for group in groups for sample in group], tiles.boxes, strict=True):
        d, h, w = (slice(a, b) for a, b in zip(box.start, box.stop, strict=True))
        np.testing.assert_allclose(sample.x[0].numpy(), values.transpose(2, 1, 0)[d, h, w] / 1000, atol=1e-6)
