"""Label maps are cut by the box that cuts their sample, and lie where their sample lies."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from mae_ext.config import AugmentConfig
from mae_ext.data.crops import crop_sampler
from mae_ext.data.image.reader import ImageReader
from mae_ext.data.labelmap import LabelReader, cut, stem, toward_foreground
from mae_ext.data.sample import Crop, whole
from mae_ext.data.video.reader import VideoReader
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import BadSample
from mae_ext.rng import rng

SHARED = Path(__file__).parents[3] / "shared" / "data" / "volume" / "orientations48"

AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])
SHAPE = (14, 10, 12)


@pytest.fixture
def scan(tmp_path):
    """A scan and a label map with every voxel's label its value, at an affine each."""

    def write(affine=AFFINE, label_affine=None, shape=SHAPE, label_shape=None, kind=np.int16):
        values = np.arange(np.prod(shape)).reshape(shape).astype(np.int16)
        labels = np.resize(values, label_shape or shape).astype(kind)
        nib.Nifti1Image(values, affine).to_filename(tmp_path / "a.nii.gz")
        nib.Nifti1Image(labels, affine if label_affine is None else label_affine).to_filename(tmp_path / "l.nii.gz")
        return str(tmp_path / "a.nii.gz"), str(tmp_path / "l.nii.gz")

    return write


def volume_reader(size=(4, 6, 8), **more):
    return VolumeReader(size, intensity="none", **more)


def test_the_readers_that_segmentation_takes_are_those_with_label_maps():
    assert isinstance(volume_reader(), LabelReader) and isinstance(ImageReader((4, 4)), LabelReader)
    assert not isinstance(VideoReader((2, 4, 4)), LabelReader)


@pytest.mark.parametrize("seed", range(8))
def test_a_crop_of_a_scan_and_of_its_labels_are_the_same_voxels(scan, seed):
    """The label of every voxel is its value, so the two agree to the last voxel; some boxes reach beyond the scan."""
    address, labels = scan()
    reader = volume_reader((4, 14, 8))
    augment = AugmentConfig(fixed=(0, 1, 2), flip=(0, 1, 2))
    found = reader.label_map(labels, address)
    sample = reader.read(address, [crop_sampler(augment, (4, 14, 8), rng(seed))])[0]
    assert sample.extent.size == found.shape
    wanted = cut(found, sample.box, (4, 14, 8))
    inside = sample.valid[0]
    assert inside.any() and not inside.all()
    assert torch.equal(sample.x[0][inside].long(), wanted[inside])
    assert not wanted[~inside].any()


@pytest.mark.parametrize(
    ("start", "stop", "size", "wanted"),
    [
        (0, 8, 4, [1, 3, 5, 7]),  # two voxels in one: its middle is at the border, and the second is taken
        (0, 9, 3, [1, 4, 7]),  # three in one: the middle one
        (2, 6, 8, [2, 2, 3, 3, 4, 4, 5, 5]),  # one in two
        (1, 6, 4, [1, 2, 4, 5]),  # at 1.625, 2.875, 4.125, 5.375
        (-3, 3, 3, [0, 0, 2]),  # at -2, 0 and 2; beyond the labels there are none
        (8, 14, 3, [9, 0, 0]),
    ],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_a_resized_crop_of_labels_is_of_the_voxels_that_its_own_voxels_middles_lie_in(start, stop, size, wanted, axis):
    """The labels are 1, 2, ... but for the first, which is 0 beside its neighbour's 1."""
    labels = np.stack([np.arange(10, dtype=np.int32)] * 2, 1 - axis)
    whole = [(0, 2, 2), (0, 2, 2)]
    whole[axis] = (start, stop, size)
    a, b, n = zip(*whole, strict=True)
    found = cut(labels, Crop(a, b, (False, False)), n)
    assert (found[:, 0] if axis == 0 else found[0]).tolist() == wanted
    flip = (axis == 0, axis == 1)
    turned = cut(labels, Crop(a, b, flip), n)
    assert (turned[:, 0] if axis == 0 else turned[0]).tolist() == wanted[::-1]


def test_a_resized_crop_of_labels_lies_where_the_crop_of_its_scan_lies(tmp_path):
    """Values rise along each axis by one a voxel, so that a crop, linear between voxels, tells where it was taken."""
    for axis in range(3):
        values = np.broadcast_to(np.arange(24).reshape([24 if a == axis else 1 for a in range(3)]), (24, 24, 24))
        nib.Nifti1Image(values.astype(np.int16), np.eye(4)).to_filename(tmp_path / "a.nii")
        for size in (6, 7, 11, 24, 40):
            reader = volume_reader((size,) * 3)
            box = Crop((3, 2, 5), (21, 22, 20), (False, True, False))
            at = reader.read(str(tmp_path / "a.nii"), [lambda _, box=box: box])[0].x[0]
            labels = cut(reader.label_map(str(tmp_path / "a.nii")), box, (size,) * 3)
            inside = (at > 0) & (at < 23)
            assert ((at - labels)[inside].abs() <= 0.5 + 1e-4).all()


def test_labels_at_another_spacing_are_the_nearest_and_never_between(scan):
    address, labels = scan()
    reader = volume_reader(spacing=(1.0, 1.0, 1.0))
    found = reader.label_map(labels, address)
    assert found.shape == reader.read(address, [whole])[0].extent.size
    assert set(np.unique(found)) <= set(range(np.prod(SHAPE)))


def test_an_image_and_its_labels_are_cut_alike(tmp_path):
    pixels = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    reader = ImageReader((8, 8), channels=1)
    labels = reader.label_map(str(tmp_path / "a.png"))
    assert labels.shape == (20, 30)
    for seed in range(8):
        crop = crop_sampler(AugmentConfig(fixed=(0, 1), flip=(0, 1)), (8, 8), rng(seed))
        sample = reader.read(str(tmp_path / "a.png"), [crop])[0]
        assert torch.equal(sample.x[0].long(), cut(labels, sample.box, (8, 8)))


def test_instances_of_16_bits_keep_their_numbers_and_colours_are_refused(tmp_path):
    numbers = np.zeros((6, 6), np.uint16)
    numbers[2, 2] = 700
    Image.fromarray(numbers).save(tmp_path / "deep.png")
    assert ImageReader((4, 4)).label_map(str(tmp_path / "deep.png"))[2, 2] == 700
    Image.fromarray(np.eye(6, dtype=np.uint8)[..., None] * np.uint8([1, 2, 3])).save(tmp_path / "rgb.png")
    with pytest.raises(BadSample, match=r"label map.*mode is RGB, and its colours differ; expected one channel"):
        ImageReader((4, 4)).label_map(str(tmp_path / "rgb.png"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"label_shape": (14, 10, 11)}, r"11 x 10 x 14 voxels, and the scan .* has 12 x 10 x 14"),
        ({"label_affine": np.diag([1.0, 1.5, 2.2, 1.0])}, r"lies up to 2\.2 mm from the scan .*: another affine"),
        ({"label_affine": AFFINE + np.outer([0, 5, 0, 0], [0, 0, 0, 1])}, r"lies up to 5 mm from the scan"),
    ],
)
def test_labels_of_another_size_or_place_are_named(scan, change, told):
    address, labels = scan(**change)
    with pytest.raises(BadSample, match=told) as info:
        volume_reader().label_map(labels, address)
    assert info.value.kind == "label map"


def test_a_spacing_that_differs_in_its_last_digit_gives_labels_on_the_voxels_of_the_scan(tmp_path):
    """1.5 mm by 40 at 1 mm are 60 voxels, and a hair less are 59: labels are resampled as their scan is."""
    for name, length in (("a", 1.5), ("l", 1.5 * (1 - 1e-7))):
        affine = np.diag([length, 1.0, 1.0, 1.0])
        nib.Nifti1Image(np.eye(40, 30, dtype=np.uint8).reshape(40, 5, 6), affine).to_filename(
            tmp_path / f"{name}.nii.gz"
        )
    reader = volume_reader(spacing=(1.0, 1.0, 1.0))
    labels = reader.label_map(str(tmp_path / "l.nii.gz"), str(tmp_path / "a.nii.gz"))
    seen = VolumeReader((4, 4, 4), intensity="none", spacing=(1.0, 1.0, 1.0)).read(str(tmp_path / "a.nii.gz"), [whole])
    assert labels.shape == seen[0].extent.size == (6, 5, 60)


def test_labels_that_are_no_whole_numbers_are_named(scan, tmp_path):
    nib.Nifti1Image(np.full(SHAPE, 0.5, np.float32), AFFINE).to_filename(tmp_path / "half.nii.gz")
    with pytest.raises(BadSample, match="not whole numbers from 0 on"):
        volume_reader().label_map(str(tmp_path / "half.nii.gz"))


def test_an_empty_label_map_is_a_label_map(tmp_path):
    nib.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE).to_filename(tmp_path / "empty.nii.gz")
    assert not volume_reader().label_map(str(tmp_path / "empty.nii.gz")).any()


def test_a_box_moved_to_the_foreground_holds_a_label_and_stays_inside():
    labels = np.zeros((20, 30, 25), np.int32)
    labels[3, 28, 7], labels[10:12, 5, 5] = 1, 2
    box, seen = Crop((0, 0, 0), (6, 8, 30), (False, True, False)), set()
    for seed in range(40):
        moved = toward_foreground(labels, box, rng(seed))
        assert moved.flip == box.flip
        assert [b - a for a, b in zip(moved.start, moved.stop, strict=True)] == [6, 8, 30]
        assert all(a >= 0 and b <= n for a, b, n in list(zip(moved.start, moved.stop, labels.shape, strict=True))[:2])
        held = set(np.unique(cut(labels, moved, (6, 8, 30)).numpy())) - {0}
        assert held
        seen |= held
    assert seen == {1, 2}
    assert toward_foreground(np.zeros_like(labels), box, rng(0)) == box


def test_a_voxel_that_a_box_is_moved_onto_may_be_anywhere_in_it_and_labels_are_drawn_alike_however_rare():
    labels = np.zeros((200, 60), np.int32)
    labels[100, 30], labels[150:160, 10:50] = 1, 2
    places, found = set(), []
    for seed in range(200):
        moved = toward_foreground(labels, Crop((0, 0), (8, 4), (False, False)), rng(seed))
        a, b = moved.start
        held = bool((labels[a : a + 8, b : b + 4] == 1).any())
        found.append(held)
        if held:
            places.add((100 - a, 30 - b))
    assert {p for p, _ in places} == set(range(8)) and {p for _, p in places} == set(range(4))
    assert 0.35 < np.mean(found) < 0.65


def test_a_map_without_background_has_all_its_labels_drawn_alike():
    labels = np.full((30, 30), 4, np.int32)
    labels[:3, :3] = 9
    seen = []
    for seed in range(120):
        (a, b), (c, d) = (
            (moved := toward_foreground(labels, Crop((7, 8), (8, 9), (False, False)), rng(seed))).start,
            moved.stop,
        )
        seen.append(int(labels[a:c, b:d].item()))
    assert 40 < seen.count(4) < 80 and seen.count(4) + seen.count(9) == 120
    alone = toward_foreground(np.ones((30, 30), np.int32), Crop((0, 0), (2, 2), (False, False)), rng(0))
    assert alone.start != (0, 0)


def test_where_a_box_is_moved_to_depends_on_its_length_and_not_on_where_it_was_drawn():
    labels = np.zeros((60, 40), np.int32)
    labels[50:58, 3:9], labels[20, 30] = 1, 2
    length, corners = (9, 12), ((0, 0), (17, 3), (51, 28), (-4, 35))
    for seed in range(30):
        boxes = [Crop(c, (c[0] + 9, c[1] + 12), (False, True)) for c in corners]
        (moved,) = {toward_foreground(labels, box, rng(seed)) for box in boxes}
        assert cut(labels, moved, length).any() and min(moved.start) >= 0
        assert moved.stop[0] <= 60 and moved.stop[1] <= 40


def orders():
    """All 48 ways to store axes: permutations and directions."""
    from itertools import permutations, product

    for order in permutations(range(3)):
        for signs in product((1, -1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = 0
            for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
                affine[world, axis] = sign * (1.0, 1.5, 2.0)[axis]
            affine[:3, 3] = (7, -3, 11)
            yield affine


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data")
def test_labels_overlay_a_real_brain_in_all_48_axis_orders(tmp_path):
    reader, files = volume_reader(), sorted(SHARED.glob("*.nii.gz"))
    assert len(files) == 48
    for file in files:
        source = nib.load(file)
        voxels = np.asarray(source.dataobj)
        bright = (voxels > voxels.mean()).astype(np.uint8)
        nib.Nifti1Image(bright, source.affine).to_filename(tmp_path / "bright.nii.gz")
        labels = reader.label_map(str(tmp_path / "bright.nii.gz"), str(file))
        reader.write_labels(labels, str(file), tmp_path / "written.nii.gz")
        written = nib.load(tmp_path / "written.nii.gz")
        assert np.array_equal(np.asarray(written.dataobj), bright), file.name
        np.testing.assert_allclose(written.affine, source.affine, atol=1e-4)


def oblique():
    affine = AFFINE.copy()
    turn = np.array([[0.9553, -0.2955, 0], [0.2955, 0.9553, 0], [0, 0, 1]])
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = (-20, 4, 9)
    return affine


@pytest.mark.parametrize("affine", [*orders(), oblique()], ids=str)
def test_labels_read_and_written_again_overlay_their_scan_voxel_by_voxel(scan, tmp_path, affine):
    address, labels = scan(affine)
    reader = volume_reader()
    out = tmp_path / "out"
    out.mkdir()
    reader.write_labels(reader.label_map(labels, address), address, out / "a.nii.gz")
    written, source = nib.load(out / "a.nii.gz"), nib.load(labels)
    assert written.shape == source.shape
    np.testing.assert_allclose(written.affine, nib.load(address).affine, atol=1e-5)
    assert np.array_equal(np.asarray(written.dataobj), np.asarray(source.dataobj))
    assert [p.name for p in out.iterdir()] == ["a.nii.gz"]


def test_labels_from_another_spacing_come_back_on_the_voxels_of_the_scan(tmp_path):
    """A ball, at half the voxel size and back: all but a few voxels of its surface."""
    z, y, x = np.mgrid[:20, :24, :22]
    ball = ((z - 10) ** 2 + (y - 12) ** 2 + (x - 11) ** 2 < 49).astype(np.uint8)
    nib.Nifti1Image(ball, np.diag([2.0, 2.0, 2.0, 1.0])).to_filename(tmp_path / "ball.nii.gz")
    address = str(tmp_path / "ball.nii.gz")
    reader = volume_reader(spacing=(1.0, 1.0, 1.0))
    (tmp_path / "out").mkdir()
    reader.write_labels(reader.label_map(address), address, tmp_path / "out" / "ball.nii.gz")
    back = np.asarray(nib.load(tmp_path / "out" / "ball.nii.gz").dataobj)
    assert (back != ball).mean() < 0.01


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("scans/a.nii.gz", "a"),
        ("b.PNG", "b"),
        ("x/series/", "series"),
        ("c.npz::x::17", "c.npz_x_17"),
    ],
)
def test_a_sample_is_named_by_its_file(address, name):
    assert stem("a.nii.gz", (".gz", ".nii.gz")) == "a"
    assert stem(address, (".nii", ".nii.gz", ".png", ".dcm/")) == name


def test_a_label_of_a_resized_crop_is_that_of_the_voxel_in_its_middle():
    """8 voxels as 4: their middles are at 1, 3, 5 and 7, the borders of 0|1 and so on; 3 as 6: each twice."""
    labels = np.arange(8, dtype=np.int32)
    assert cut(labels, Crop((0,), (8,), (False,)), (4,)).tolist() == [1, 3, 5, 7]
    assert cut(labels, Crop((1,), (7,), (False,)), (2,)).tolist() == [2, 5]
    assert cut(labels, Crop((2,), (5,), (True,)), (6,)).tolist() == [4, 4, 3, 3, 2, 2]
    assert cut(labels, Crop((-2,), (10,), (False,)), (4,)).tolist() == [0, 2, 5, 0]


def test_at_another_spacing_a_label_is_that_of_the_nearest_stored_voxel(tmp_path):
    """At 1.6 mm voxels lie at 0, 1.6, 3.2, 4.8 .. of stored ones: the nearest are 0, 2, 3, 5 .. ."""
    values = np.broadcast_to(np.arange(11, dtype=np.uint8), (4, 4, 11))
    nib.Nifti1Image(np.ascontiguousarray(values), np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    reader, address = volume_reader(spacing=(1.6, 1.0, 1.0)), str(tmp_path / "a.nii.gz")
    found = reader.label_map(address)
    assert found[:, 0, 0].tolist() == [0, 2, 3, 5, 6, 8, 10]
    reader.write_labels(found, address, tmp_path / "b.nii.gz")
    assert np.asarray(nib.load(tmp_path / "b.nii.gz").dataobj)[0, 0].tolist() == [0, 2, 2, 3, 3, 5, 6, 6, 8, 10, 10]
    assert np.array_equal(reader.label_map(address, as_stored=True)[:, 0, 0], np.arange(11))
    extent = reader.extent(address)
    assert extent.size == found.shape == (7, 4, 4) and extent.spacing == (1.6, 1.0, 1.0)
    assert extent.stored == (11, 4, 4) and extent.stored_spacing == (1.0, 1.0, 1.0)
    np.testing.assert_allclose(extent.places[0], np.arange(11) / 1.6)
    assert extent.places[1].tolist() == [0, 1, 2, 3]
