"""Crops that travel as their files store them mean, to the bit, what `read` gives, and weigh half of it or less."""

import pickle
from itertools import product

import nibabel as nib
import numpy as np
import pytest
import torch
from data.volume.saved_scans import middle, save

from mae_ext.data.sample import Crop, Sample, read_checked, stack, stack_as_stored
from mae_ext.data.volume.kept import from_kept, kept_whole
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.data.volume.stored import meaning, packed, stored_as
from mae_ext.model.units import in_units

WINDOWS = {"name": "window", "windows": [[-160, 240], [-1350, 150], [-500, 1300]]}
INSIDE = Crop((1, 2, 0), (7, 10, 6), (True, False, True))
BEYOND = Crop((-2, 2, 3), (8, 14, 11), (False, True, False))


def same_bits(one, other):
    return one.dtype == other.dtype and one.contiguous().view(torch.int32).equal(other.contiguous().view(torch.int32))


def scan(folder, kind, slope=1.0, inter=0.0, channels=1):
    """(8, 12, 10) along D, H, W, with a slope and an intercept in its header."""
    kind = np.dtype(kind)
    info = np.iinfo(kind)
    shape = (10, 12, 8) if channels == 1 else (10, 12, 8, channels)
    voxels = np.random.default_rng(0).integers(max(info.min, -1500), min(info.max, 60000), shape).astype(kind)
    header = nib.Nifti1Header(endianness=">" if kind.byteorder == ">" else "<")
    header.set_data_dtype(kind)
    path = folder / f"{kind.name} {kind.byteorder} {slope} {inter}.nii"
    nib.Nifti1Image(voxels, np.eye(4), header).to_filename(path)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([slope, inter], ">f4" if kind.byteorder == ">" else "<f4").tobytes()  # scl_slope, inter
    path.write_bytes(content)
    return str(path)


def both(path, box, **options):
    size = tuple(b - a for a, b in zip(box.start, box.stop, strict=True))
    reader = VolumeReader(size, **options)
    crops = [lambda extent: box]
    return reader.read(path, crops)[0], reader.read_as_stored(path, crops)[0]


@pytest.mark.parametrize(("slope", "inter"), [(1, 0), (1, -1024), (0.37, 12.3), (-2, 5)])
@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", ">i2", "uint16"])
def test_a_cut_of_small_integers_travels_as_these_and_means_what_read_gives_to_the_bit(tmp_path, kind, slope, inter):
    path = scan(tmp_path, kind, slope, inter)
    for box, cache, (channels, rule) in product(
        (INSIDE, BEYOND), (None, str(tmp_path / "cache")), ((3, WINDOWS), (1, "zscore"), (1, "percentile"), (1, "none"))
    ):
        plain, stored = both(path, box, channels=channels, intensity=rule, cache=cache, body="otsu")
        assert stored.x.dtype == getattr(torch, np.dtype(kind).newbyteorder("=").name) and len(stored.x) == 1
        assert plain.levels is None and stored.levels.shape == (channels, 6)
        assert same_bits(in_units(stored.x, levels=stored.levels), plain.x)
        assert stored.valid.equal(plain.valid) and (stored.spacing, stored.box) == (plain.spacing, plain.box)


@pytest.mark.parametrize("cached", [False, True])
def test_a_voxel_of_a_size_that_nothing_measures_is_padding_also_where_its_number_is_small(tmp_path, cached):
    voxels = np.arange(960, dtype=np.int16).reshape(10, 12, 8)
    voxels[4, 5, 6] = 32000  # 3.2e12, and 1e12 is the most
    image = nib.Nifti1Image(voxels, np.eye(4))
    image.header.set_slope_inter(1e8, 0)
    path = tmp_path / "a.nii"
    content = bytearray(image.to_bytes())
    content[112:120] = np.array([1e8, 0], "<f4").tobytes()
    path.write_bytes(content)
    plain, stored = both(str(path), INSIDE, intensity="none", min_finite=0.99, cache=str(tmp_path) if cached else None)
    assert plain.x.max() < 1e12 and same_bits(in_units(stored.x, levels=stored.levels), plain.x)
    assert stored.valid.equal(plain.valid)


def test_three_windows_of_a_ct_are_one_int16_and_a_sixth_of_the_bytes(tmp_path):
    plain, stored = both(scan(tmp_path, "int16"), INSIDE, channels=3, intensity=WINDOWS)
    assert plain.x.nbytes == 6 * stored.x.nbytes


def test_channels_that_are_stored_one_by_one_have_levels_of_their_own(tmp_path):
    path = scan(tmp_path, "int16", channels=2)
    plain, stored = both(path, BEYOND, channels=2, channel_axis=3)
    assert stored.x.shape == plain.x.shape and not stored.levels[0].equal(stored.levels[1])
    assert same_bits(in_units(stored.x, levels=stored.levels), plain.x)


def test_half_floats_that_are_finite_travel_as_they_are(tmp_path):
    rows = np.random.default_rng(0).normal(0, 90, (2, 8, 12, 10)).astype(np.float16)
    rows[1, 3, 4, 5] = np.nan
    np.savez(tmp_path / "a.npz", train_images=rows)
    for row, kind in ((0, torch.float16), (1, torch.float32)):
        options = {"intensity": WINDOWS, "channels": 3, "min_finite": 0.9}
        plain, stored = both(f"{tmp_path}/a.npz::train_images::{row}", INSIDE, **options)
        assert stored.x.dtype == kind
        assert same_bits(in_units(stored.x, levels=stored.levels), plain.x)


@pytest.mark.parametrize("cache", [False, True])
def test_what_is_resized_or_resampled_travels_in_float32_as_read_gives_it(tmp_path, cache):
    path, cache = scan(tmp_path, "int16"), str(tmp_path / "cache") if cache else None
    for spacing, box in (([1.5, 1.0, 1.0], Crop((0, 0, 0), (4, 4, 4), (False,) * 3)), (None, INSIDE)):
        reader = VolumeReader((4, 4, 4), spacing=spacing, cache=cache)
        (plain,), (stored,) = (read(path, [lambda extent, b=box: b]) for read in (reader.read, reader.read_as_stored))
        assert stored.levels is None and same_bits(stored.x, plain.x)


def test_a_crop_that_is_resized_from_a_prepared_scan_is_so_at_the_models_levels(tmp_path):
    """As it was when prepared scans were kept in float32: windows are not linear, so the order counts."""
    path = scan(tmp_path, "int16")
    reader = VolumeReader((5, 5, 5), channels=3, intensity=WINDOWS, cache=str(tmp_path / "cache"))
    read = reader.scan(path)
    x, valid = read.cut(Crop((0, 0, 0), (8, 12, 10), (False,) * 3), (8, 12, 10))
    prepared = reader.prepared(path)
    assert prepared.voxels.dtype == np.int16
    for box in (INSIDE, BEYOND):
        floats = from_kept(
            type(kept_whole(read)[0])(x, {"spacing": (1, 1, 1), "fill": prepared._fill().ravel().tolist()}), valid
        )
        for one, other in zip(floats.cut(box, (5, 5, 5)), prepared.cut(box, (5, 5, 5)), strict=True):
            np.testing.assert_array_equal(one, other)


def test_prepared_scans_of_whole_numbers_that_16_bits_hold_are_kept_in_16_bits(tmp_path):
    box, cache = INSIDE, str(tmp_path / "cache")
    whole = np.random.default_rng(0).integers(-1024, 3000, (8, 12, 10))
    off, zero = whole + 0.0, whole + 0.0
    off[3, 3, 3] += 0.5
    zero[3, 3, 3] = -0.0
    for number, (voxels, kind) in enumerate(
        ((whole.astype(np.int32), "int16"), (whole.astype(np.float32), "int16"), (whole.astype(np.float64), "int16"),
         ((whole + 50000).astype(np.uint16), "uint16"), ((whole + 2000).astype(np.uint16), "int16"),
         ((whole * 100).astype(np.int32), "float32"), (off, "float32"), (zero, "float32"))
    ):  # fmt: skip
        path = save(tmp_path / f"{number}.nii", voxels)
        reader = VolumeReader((6, 8, 6), channels=3, intensity=WINDOWS, cache=cache)
        assert reader.prepared(path).voxels.dtype == kind, number
        plain = VolumeReader((6, 8, 6), channels=3, intensity=WINDOWS).read(path, [lambda extent: box])[0]
        (stored,) = reader.read_as_stored(path, [lambda extent: box])
        assert same_bits(in_units(stored.x, levels=stored.levels), plain.x)
        assert same_bits(reader.read(path, [lambda extent: box])[0].x, plain.x)


def test_numbers_that_no_small_type_holds_are_not_packed():
    for values in ([np.nan, 1.0], [np.inf, 1.0], [70000.0, 1.0], [0.25, 1.0], [-0.0, 1.0]):
        assert packed(np.array(values, np.float32).reshape(1, 1, 1, 2)) is None
    assert packed(np.array([-1, 65535], np.int64).reshape(1, 1, 1, 2)) is None
    assert packed(np.array([0, 65535], np.int64).reshape(1, 1, 1, 2)).dtype == np.uint16


def test_padding_is_the_stored_number_that_means_it_or_nothing_is_sent_as_stored():
    assert stored_as(np.array([-1024.0], np.float32), 1.0, -1024.0, np.dtype(np.uint16)).tolist() == [0]
    assert stored_as(np.array([0.1], np.float32), 1.0, 0.0, np.dtype(np.int16)) is None


def test_levels_are_reckoned_in_float32_where_that_is_exact_and_else_in_float64():
    class Levels:
        shift, scale, low, high = (0.1,), (3.0,), -np.inf, np.inf

    assert meaning(1.0, -1024.0, Levels).dtype == np.float32 == meaning(200.0, 0.0, Levels).dtype
    assert meaning(300.0, 0.0, Levels).dtype == np.float64 == meaning(0.5, 0.0, Levels).dtype


def samples_of(tmp_path, kinds, **options):
    size, crop = (6, 8, 6), [lambda extent: INSIDE]
    reader = VolumeReader(size, channels=3, intensity=WINDOWS, **options)
    paths = [save(tmp_path / f"{i}.nii", np.random.default_rng(i).normal(0, 90, (8, 12, 10)).astype(kind))
             for i, kind in enumerate(kinds)]  # fmt: skip
    read = [read_checked(reader, path, crop, (3, *size), as_stored)[0] for as_stored in (False, True) for path in paths]
    return read[: len(kinds)], read[len(kinds) :]


@pytest.mark.parametrize(
    ("kinds", "travels"),
    [("i2 i2", torch.int16), ("u1 i2", torch.int16), ("u1 i1", torch.int16), ("u2 u2", torch.uint16),
     ("u2 i2", torch.float32), ("i2 f4", torch.float32), ("f4 f4", torch.float32)],
)  # fmt: skip
def test_a_batch_of_scans_that_differ_has_the_same_bits_whatever_it_travels_as(tmp_path, kinds, travels):
    plain, stored = samples_of(tmp_path, kinds.split())
    x, levels, spacing = stack_as_stored(stored)
    assert x.dtype == travels and (levels is None) == (travels == torch.float32)
    assert same_bits(in_units(x, levels=levels), stack(plain)[0])
    assert spacing.equal(stack(plain)[1])
    assert same_bits(stack(stored)[0], stack(plain)[0])


def test_a_batch_in_which_one_scan_needs_float64_has_levels_in_float64(tmp_path):
    paths = [scan(tmp_path, "int16", slope, -3.25) for slope in (1.0, 0.37)] + [scan(tmp_path, "int16")]
    pairs = [both(path, INSIDE, channels=3, intensity=WINDOWS) for path in paths]
    x, levels, _ = stack_as_stored([stored for _, stored in pairs])
    assert levels.dtype == torch.float64
    assert same_bits(in_units(x, levels=levels), torch.stack([plain.x for plain, _ in pairs]))


def test_a_reader_that_stores_nothing_is_asked_as_ever_and_its_bytes_are_0_to_1():
    class Plain:
        def read(self, address, crops):
            return [Sample(torch.full((1, 2, 2, 2), 255, dtype=torch.uint8), address) for _ in crops]

    samples = read_checked(Plain(), "a", [middle((2, 2, 2))], (1, 2, 2, 2), as_stored=True)
    x, levels, _ = stack_as_stored(samples)
    assert levels is None and x.dtype == torch.uint8 and in_units(x).unique().tolist() == [1.0]


def test_a_prepared_scan_that_counts_everywhere_says_so_in_a_byte_and_its_valid_is_that_of_the_scan(tmp_path):
    path, cache = scan(tmp_path, "int16"), str(tmp_path / "cache")
    for box in (INSIDE, BEYOND):
        _, plain = both(path, box)
        _, kept = both(path, box, cache=cache)
        assert kept.valid.equal(plain.valid) and kept.valid.shape == plain.valid.shape


def test_a_prepared_scan_at_hand_is_let_go_of_when_its_source_or_its_entry_changes(tmp_path):
    path, crop = tmp_path / "a.nii", [lambda extent: INSIDE]
    voxels = np.random.default_rng(0).integers(0, 99, (8, 12, 10)).astype(np.int16)
    save(path, voxels)
    reader = VolumeReader((6, 8, 6), intensity="none", cache=str(tmp_path / "cache"))
    (first,) = reader.read(str(path), crop)
    assert reader.prepared(str(path)) is reader.prepared(str(path))
    assert pickle.loads(pickle.dumps(reader))._known == {}
    for entry in (tmp_path / "cache").rglob("*.array"):
        data = bytearray(entry.read_bytes())
        data[-1] ^= 1
        entry.unlink()
        entry.write_bytes(data)
    assert reader.read(str(path), crop)[0].x.equal(first.x)
    save(path, voxels + np.int16(5))
    assert reader.read(str(path), crop)[0].x.equal(first.x + 5)


@pytest.mark.parametrize("spacing", [[1.5, 1.0, 1.0], None])
@pytest.mark.parametrize("kind", [np.int16, np.int32, np.float32])
def test_resampled_crops_are_rounded_to_half_floats_where_that_is_asked_for_and_cuts_never(tmp_path, spacing, kind):
    """A cut of a scan whose numbers 16 bits hold is what it was; another is the nearest float16, read in any way."""
    voxels = np.random.default_rng(0).integers(-900, 900, (8, 12, 10)).astype(kind)
    path, crop = save(tmp_path / "a.nii", voxels), [lambda extent: Crop((0, 1, 2), (4, 7, 8), (False, True, False))]
    options = {"size": (4, 6, 6), "channels": 3, "intensity": WINDOWS, "spacing": spacing}
    (whole,) = VolumeReader(**options).read(path, crop)
    wanted = whole.x.half().float() if spacing else whole.x
    assert not spacing or not wanted.equal(whole.x)
    for cache in (None, str(tmp_path / "cache"), str(tmp_path / "cache")):
        reader = VolumeReader(**options, resampled="float16", cache=cache)
        (plain,), (stored,) = reader.read(path, crop), reader.read_as_stored(path, crop)
        assert stored.x.dtype == (torch.float16 if spacing else torch.int16)
        assert same_bits(plain.x, wanted) and same_bits(in_units(stored.x, levels=stored.levels), wanted)
        if cache:
            assert reader.prepared(path).voxels.dtype == (np.float16 if spacing else np.int16)


def test_half_floats_are_refused_by_name_where_they_may_end_too_soon():
    with pytest.raises(ValueError, match="65504"):
        VolumeReader((4, 4, 4), intensity="none", resampled="float16")
    with pytest.raises(ValueError, match="resampled='int8'"):
        VolumeReader((4, 4, 4), resampled="int8")
